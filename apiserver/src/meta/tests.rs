use proptest::prelude::*;
use serde_json::json;

use super::*;

fn device(meta: Value) -> Value {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": meta})
}

fn messages(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(Cause::to_string).collect()
}

#[test]
fn a_generated_name_uses_the_safe_alphabet_and_fits() {
    assert_eq!(generate_name("gen-", [0, 1, 2, 26, 27]), "gen-bcd9b");
    let long = generate_name(&"x".repeat(100), [0; 5]);
    assert_eq!(long.len(), 63);
}

#[test]
fn neither_name_nor_generate_name_is_refused_as_in_3_raw_005() {
    let causes = validate(&device(json!({"namespace":"default"})), NameRule::Subdomain, true);
    assert_eq!(
        messages(&causes),
        ["metadata.name: Required value: name or generateName is required"]
    );
}

#[test]
fn label_and_annotation_keys_are_refused_as_in_3_raw_010() {
    let object = device(json!({"name":"d4","namespace":"default",
        "labels":{"bad key!":"x"},"annotations":{"a/b/c":"x"}}));
    let text = messages(&validate(&object, NameRule::Subdomain, true)).join("\n");
    assert!(text.contains("metadata.labels: Invalid value: \"bad key!\": name part must consist"));
    assert!(text.contains(
        "metadata.annotations: Invalid value: \"a/b/c\": a valid label key must consist"
    ));
}

#[test]
fn annotations_over_256_kib_are_refused_as_in_3_raw_145() {
    let object = device(json!({"name":"d1","namespace":"default",
        "annotations":{"big":"x".repeat(262_200)}}));
    assert_eq!(
        messages(&validate(&object, NameRule::Subdomain, true)),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

#[test]
fn two_controllers_are_refused_as_in_3_raw_140() {
    let object = device(json!({"name":"d1","namespace":"default","ownerReferences":[
        {"apiVersion":"v1","kind":"A","name":"o","uid":"1","controller":true},
        {"apiVersion":"v1","kind":"B","name":"p","uid":"2","controller":true}]}));
    assert_eq!(
        messages(&validate(&object, NameRule::Subdomain, true)),
        ["metadata.ownerReferences: Invalid value: \
          [{\"apiVersion\":\"v1\",\"kind\":\"A\",\"name\":\"o\",\"uid\":\"1\",\"controller\":true},\
          {\"apiVersion\":\"v1\",\"kind\":\"B\",\"name\":\"p\",\"uid\":\"2\",\"controller\":true}]: \
          Only one reference can have Controller set to true. Found \"true\" in references for A/o \
          and B/p"]
    );
}

#[test]
fn an_owner_without_uid_is_refused_as_in_3_raw_139() {
    let object = device(json!({"name":"d1","namespace":"default","ownerReferences":[
        {"apiVersion":"v1","kind":"ConfigMap","name":"o"}]}));
    assert_eq!(
        messages(&validate(&object, NameRule::Subdomain, true)),
        ["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"]
    );
}

#[test]
fn finalizers_without_domain_warn_once_as_in_3_raw_142() {
    let object = device(json!({"finalizers":["nodomain","a.b/c","orphan"]}));
    let warnings = finalizer_warnings(&object, None);
    assert_eq!(
        warnings,
        ["metadata.finalizers: \"nodomain\": prefer a domain-qualified finalizer name to avoid \
          accidental conflicts with other finalizer writers"]
    );
    assert!(finalizer_warnings(&object, Some(&object)).is_empty());
}

#[test]
fn creation_overwrites_what_the_server_owns_as_in_3_raw_009() {
    let mut object =
        device(json!({"name":"d3","uid":"1","creationTimestamp":"2001-01-01T00:00:00Z",
        "generation":99,"selfLink":"/x","deletionTimestamp":"2001-01-01T00:00:00Z"}));
    prepare_create(&mut object, Some("default"), "u", "2026-11-22T11:46:19Z", true);
    assert_eq!(
        object["metadata"],
        json!({"name":"d3","namespace":"default","uid":"u","generation":1,
            "creationTimestamp":"2026-11-22T11:46:19Z"})
    );
}

#[test]
fn an_update_keeps_server_owned_fields_and_refuses_a_new_uid_as_in_3_raw_097_and_120() {
    let old = device(json!({"name":"d1","namespace":"default","uid":"u","generation":3,
        "creationTimestamp":"2026-11-22T11:46:19Z"}));
    let mut new = device(json!({"name":"d1","generation":77,"selfLink":"/x",
        "creationTimestamp":"2001-01-01T00:00:00Z"}));
    prepare_update(&mut new, &old);
    assert_eq!(new, old);
    let mut stolen = device(json!({"name":"d1","uid":"zzz"}));
    prepare_update(&mut stolen, &old);
    assert_eq!(
        messages(&validate_update(&stolen, &old)),
        ["metadata.uid: Invalid value: \"zzz\": field is immutable"]
    );
}

#[test]
fn a_client_deletion_timestamp_is_refused_as_in_3_raw_107() {
    let old = device(json!({"name":"d1"}));
    let mut new = device(json!({"name":"d1","deletionTimestamp":"2001-01-01T00:00:00Z"}));
    prepare_update(&mut new, &old);
    assert_eq!(
        messages(&validate_update(&new, &old)),
        ["metadata.deletionTimestamp: Invalid value: \"2001-01-01T00:00:00Z\": field is immutable"]
    );
}

#[test]
fn no_finalizer_joins_an_object_being_deleted() {
    let old = device(json!({"name":"d1","deletionTimestamp":"2026-11-22T11:46:19Z",
        "finalizers":["a.b/c"]}));
    let new = device(json!({"name":"d1","deletionTimestamp":"2026-11-22T11:46:19Z",
        "finalizers":["a.b/c","a.b/d"]}));
    assert_eq!(
        messages(&validate_update(&new, &old)),
        ["metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
          deleted, found new finalizers []string{\"a.b/d\"}"]
    );
    assert!(validate_update(&old, &new).is_empty());
}

#[test]
fn generation_counts_changes_outside_metadata_and_ignored_members() {
    let old = json!({"metadata":{"generation":4},"spec":{"a":1},"status":{"x":1}});
    let next = |mut new: Value, ignored: &[&str]| {
        set_generation(&mut new, &old, ignored);
        new["metadata"]["generation"].clone()
    };
    assert_eq!(next(json!({"metadata":{"labels":{}},"spec":{"a":1},"status":{"x":1}}), &[]), 4);
    assert_eq!(next(json!({"spec":{"a":2},"status":{"x":1}}), &["status"]), 5);
    assert_eq!(next(json!({"spec":{"a":1},"status":{"x":2}}), &["status"]), 4);
    assert_eq!(next(json!({"spec":{"a":1},"status":{"x":2}}), &[]), 5);
}

#[test]
fn metadata_of_a_wrong_type_reads_as_recorded_in_3_raw_011_and_378() {
    let mut labels = json!({"name":"d4","labels":{"k":5}});
    assert_eq!(
        decode(&mut labels, "metadata").unwrap_err().0,
        "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
    );
    assert_eq!(
        decode(&mut json!("str"), "metadata").unwrap_err().0,
        "json: cannot unmarshal string into Go value of type v1.ObjectMeta"
    );
}

#[test]
fn unknown_and_empty_metadata_members_are_dropped_as_in_3_raw_027() {
    let mut meta = json!({"name":"u1","foo":"bar","labels":{},"annotations":null,
        "ownerReferences":[{"uid":"1","zip":2}]});
    assert_eq!(
        decode(&mut meta, "metadata").unwrap(),
        ["metadata.foo", "metadata.ownerReferences[0].zip"]
    );
    assert_eq!(meta, json!({"name":"u1","ownerReferences":[{"uid":"1"}]}));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z./]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof![
                    Just("labels".to_owned()),
                    Just("ownerReferences".to_owned()),
                    Just("finalizers".to_owned()),
                    "[a-z]{1,4}",
                ],
                inner,
                0..4
            )
            .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_here_panics_on_any_metadata(a in any_json(), b in any_json()) {
        let (mut new, old) = (device(a), device(b));
        let _ = validate(&new, NameRule::Label, true);
        let _ = validate_update(&new, &old);
        let _ = finalizer_warnings(&new, Some(&old));
        let _ = decode(&mut new["metadata"], "metadata");
        prepare_update(&mut new, &old);
        set_generation(&mut new, &old, &[]);
        prepare_create(&mut new, None, "u", "t", true);
    }
}
