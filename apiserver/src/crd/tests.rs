use proptest::prelude::*;

use super::*;
use crate::decode::{Format, decode};
use crate::schema::Schema;
use crate::status::Cause;

const NOW: &str = "2026-11-22T11:16:10Z";

fn yaml(text: &str) -> Value {
    decode(text.as_bytes(), Format::Yaml).unwrap().value
}

fn widgets() -> Value {
    yaml(include_str!("../../tests/fixtures/widgets-crd.yaml"))
}

fn gadgets() -> Value {
    json!({"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
        "metadata":{"name":"gadgets.golden.example.com"},
        "spec":{"group":"golden.example.com","scope":"Namespaced",
            "names":{"kind":"Gadget","plural":"gadgets","shortNames":["gd"],
                "categories":["all","golden"]},
            "versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":
                {"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}})
}

fn problems(mut crd: Value) -> Vec<String> {
    default(&mut crd);
    validate(&crd, None).iter().map(Cause::to_string).collect()
}

#[test]
fn defaults_name_the_singular_the_list_and_the_conversion() {
    let mut crd = gadgets();
    default(&mut crd);
    assert_eq!(crd["spec"]["names"]["singular"], "gadget");
    assert_eq!(crd["spec"]["names"]["listKind"], "GadgetList");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy":"None"}));
}

#[test]
fn the_exhaustive_definition_is_accepted() {
    assert_eq!(problems(widgets()), Vec::<String>::new());
}

/// 2-crds 025–029 and 036.
#[test]
fn wrong_definitions_are_refused_as_recorded() {
    let mut wrong = widgets();
    wrong["metadata"]["name"] = "wrong.golden.example.com".into();
    assert_eq!(
        problems(wrong),
        ["metadata.name: Invalid value: \"wrong.golden.example.com\": must be \
          spec.names.plural+\".\"+spec.group"]
    );
    let mut untyped = gadgets();
    untyped["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"properties":{"spec":{"properties":{"a":{"type":"string"}}}}});
    let mut found = problems(untyped);
    found.sort();
    assert_eq!(
        found,
        [
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be \
             empty for specified object fields",
            "spec.validation.openAPIV3Schema.type: Required value: must not be empty at the root",
        ]
    );
    let mut none = gadgets();
    none["spec"]["versions"][0].as_object_mut().unwrap().remove("schema");
    assert_eq!(problems(none), ["spec.versions[0].schema.openAPIV3Schema: Required value"]);
    let mut two = gadgets();
    two["spec"]["versions"] = json!([
        {"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}},
        {"name":"v2","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]);
    assert_eq!(
        problems(two),
        [
            "spec.versions: Invalid value: [{\"Name\":\"v1\",\"Served\":true,\"Storage\":true,\
             \"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\
             \"AdditionalPrinterColumns\":null,\"SelectableFields\":null},{\"Name\":\"v2\",\
             \"Served\":true,\"Storage\":true,\"Deprecated\":false,\"DeprecationWarning\":null,\
             \"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\
             \"SelectableFields\":null}]: must have exactly one version marked as storage version",
            "status.storedVersions: Invalid value: [\"v1\"]: must have the storage version v2",
        ]
    );
    let mut default = gadgets();
    default["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type":"object",
        "properties":{"spec":{"type":"object","properties":{"a":{"type":"string","default":5}}}}});
    assert_eq!(
        problems(default),
        ["spec.validation.openAPIV3Schema.properties[spec].properties[a].default: Invalid value: \
          \"integer\":  in body must be of type string: \"integer\""]
    );
    let mut protected = gadgets();
    protected["metadata"]["name"] = "gadgets.golden.k8s.io".into();
    protected["spec"]["group"] = "golden.k8s.io".into();
    assert_eq!(
        problems(protected),
        [
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must \
          have approval annotation \"api-approved.kubernetes.io\", see \
          https://github.com/kubernetes/enhancements/pull/1111"
        ]
    );
}

#[test]
fn columns_scale_and_selectable_fields_have_paths_that_work() {
    for (pointer, value) in [
        ("/spec/versions/0/additionalPrinterColumns/0/jsonPath", json!("spec[")),
        ("/spec/versions/0/additionalPrinterColumns/0/type", json!("text")),
        ("/spec/versions/0/subresources/scale/specReplicasPath", json!(".status.x")),
        ("/spec/versions/0/selectableFields/0/jsonPath", json!(".spec.ports")),
        ("/spec/versions/0/selectableFields/0/jsonPath", json!(".metadata.name")),
        ("/spec/scope", json!("Galaxy")),
        ("/spec/names/plural", json!("Widgets")),
        ("/spec/conversion/strategy", json!("Webhook")),
    ] {
        let mut crd = widgets();
        default(&mut crd);
        *crd.pointer_mut(pointer).unwrap() = value;
        assert_ne!(problems(crd), Vec::<String>::new(), "{pointer}");
    }
}

#[test]
fn a_new_definition_is_established_as_recorded_in_2_crds_005() {
    let mut crd = gadgets();
    default(&mut crd);
    initial_status(&mut crd);
    assert_eq!(
        crd["status"],
        json!({"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":["v1"]})
    );
    assert!(establish(&mut crd, &[], NOW));
    assert!(is_established(&crd));
    assert_eq!(
        crd["status"],
        json!({"conditions":[
            {"type":"NamesAccepted","status":"True","lastTransitionTime":NOW,
                "reason":"NoConflicts","message":"no conflicts found"},
            {"type":"Established","status":"True","lastTransitionTime":NOW,
                "reason":"InitialNamesAccepted","message":"the initial names have been accepted"}],
            "acceptedNames":{"plural":"gadgets","singular":"gadget","shortNames":["gd"],
                "kind":"Gadget","listKind":"GadgetList","categories":["all","golden"]},
            "storedVersions":["v1"]})
    );
    assert!(!establish(&mut crd, &[], "2027-01-01T00:00:00Z"));
}

#[test]
fn a_taken_short_name_keeps_a_definition_from_being_served_as_in_2_crds_033() {
    let mut first = widgets();
    default(&mut first);
    initial_status(&mut first);
    establish(&mut first, &[], NOW);
    let mut second = gadgets();
    second["spec"]["names"]["shortNames"] = json!(["wd"]);
    default(&mut second);
    initial_status(&mut second);
    assert!(establish(&mut second, &[&first], NOW));
    assert_eq!(
        second["status"],
        json!({"conditions":[
            {"type":"NamesAccepted","status":"False","lastTransitionTime":NOW,
                "reason":"ShortNamesConflict","message":"\"wd\" is already in use"},
            {"type":"Established","status":"False","lastTransitionTime":NOW,
                "reason":"NotAccepted","message":"not all names are accepted"}],
            "acceptedNames":{"plural":"gadgets","singular":"gadget","kind":"Gadget",
                "listKind":"GadgetList","categories":["all","golden"]},
            "storedVersions":["v1"]})
    );
    // The name becomes free: the definition is served.
    assert!(establish(&mut second, &[], NOW));
    assert!(is_established(&second));
}

#[test]
fn an_established_definition_keeps_its_scope_and_its_stored_versions() {
    let mut old = gadgets();
    default(&mut old);
    initial_status(&mut old);
    establish(&mut old, &[], NOW);
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    let found: Vec<String> = validate(&new, Some(&old)).iter().map(Cause::to_string).collect();
    assert_eq!(found, ["spec.scope: Invalid value: \"Cluster\": field is immutable"]);
    let mut next = old.clone();
    next["spec"]["versions"] = json!([{"name":"v2","served":true,"storage":true,
        "schema":{"openAPIV3Schema":{"type":"object"}}}]);
    let found = validate(&next, Some(&old));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field, "status.storedVersions[0]");
    let mut both = old.clone();
    both["spec"]["versions"] = json!([
        {"name":"v1","served":true,"storage":false,"schema":{"openAPIV3Schema":{"type":"object"}}},
        {"name":"v2","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]);
    assert_eq!(validate(&both, Some(&old)), []);
    assert!(establish(&mut both, &[], NOW));
    assert_eq!(both["status"]["storedVersions"], json!(["v1", "v2"]));
}

/// The real definitions of upstream accept the real examples, and nothing in them is unknown.
#[test]
fn the_definitions_of_upstream_are_accepted_and_their_examples_fit() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = |dir: std::path::PathBuf| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect()
    };
    let read = |path: &std::path::PathBuf| yaml(&std::fs::read_to_string(path).unwrap());
    let mut crds: Vec<Value> = files(fixtures.clone())
        .iter()
        .map(read)
        .filter(|value| value["kind"] == "CustomResourceDefinition")
        .collect();
    crds.extend(files(fixtures.join("upstream-crds")).iter().map(read));
    assert!(crds.len() >= 11, "{}", crds.len());
    for crd in &crds {
        assert_eq!(problems(crd.clone()), Vec::<String>::new(), "{}", crd["metadata"]["name"]);
    }
    let manifests = files(fixtures.join("upstream"));
    assert!(manifests.len() >= 10);
    for path in manifests {
        let mut object = read(&path);
        let crd = crds
            .iter()
            .find(|c| c["spec"]["names"]["kind"] == object["kind"])
            .unwrap_or_else(|| panic!("{}", path.display()));
        let version = object["apiVersion"].as_str().unwrap().rsplit('/').next().unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let raw = versions.iter().find(|v| v["name"] == version).unwrap();
        let schema = Schema::parse(&raw["schema"]["openAPIV3Schema"]).unwrap();
        assert_eq!(schema.prune(&mut object), Vec::<String>::new(), "{}", path.display());
        schema.default(&mut object);
        assert_eq!(schema.validate(&object, None), [], "{}", path.display());
    }
}

proptest! {
    // Every case compiles the rules of the schema twice.
    #![proptest_config(ProptestConfig::with_cases(77))]

    #[test]
    fn no_definition_panics(
        pointer in prop::sample::select(vec![
            "", "/spec", "/spec/names", "/spec/versions", "/spec/versions/0", "/status",
            "/spec/versions/0/schema", "/spec/versions/0/schema/openAPIV3Schema", "/metadata",
            "/spec/versions/0/selectableFields", "/spec/versions/0/subresources/scale",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(1), json!("x"), json!([]), json!([1]), json!({}), json!([{}]),
        ]),
    ) {
        let mut crd = widgets();
        initial_status(&mut crd);
        if let Some(slot) = crd.pointer_mut(pointer) {
            *slot = value;
        }
        default(&mut crd);
        let _ = validate(&crd, Some(&widgets()));
        establish(&mut crd, &[&widgets()], NOW);
        initial_status(&mut crd);
        establish(&mut crd, &[&widgets()], NOW);
    }
}
