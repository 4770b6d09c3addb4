use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode::{Format, decode};

fn yaml(text: &str) -> Value {
    decode(text.as_bytes(), Format::Yaml).unwrap().value
}

fn of_crd(crd: &Value, version: usize) -> Schema {
    Schema::parse(&crd["spec"]["versions"][version]["schema"]["openAPIV3Schema"]).unwrap()
}

/// Compiled once: its rules take milliseconds.
fn widgets() -> &'static Schema {
    static SCHEMA: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(read_widgets);
    &SCHEMA
}

fn read_widgets() -> Schema {
    of_crd(&yaml(include_str!("../../tests/fixtures/widgets-crd.yaml")), 0)
}

fn texts(causes: &[Cause]) -> Vec<String> {
    let mut out: Vec<String> =
        causes.iter().map(|c| format!("{}|{}|{}", c.reason, c.field, c.message)).collect();
    out.sort();
    out
}

/// 3-devices-raw 343–397: what the real server made of each body.
#[test]
fn widgets_are_pruned_defaulted_and_validated_as_recorded() {
    let schema = widgets();
    for line in include_str!("../../tests/fixtures/widgets-posts.jsonl").lines() {
        // Through our own reader, for its view of numbers.
        let step = decode(line.as_bytes(), Format::Json).unwrap().value;
        let (number, mut object) = (&step["step"], step["body"].clone());
        if number == "378" {
            continue; // metadata of a wrong type never reaches the schema
        }
        object.as_object_mut().unwrap().remove("status");
        schema.prune(&mut object);
        schema.default(&mut object);
        let mut causes = validate_scale(&object, &[".spec.replicas", ".status.replicas"]);
        causes.extend(schema.validate(&object, None));
        if step["status"] == 201 {
            assert_eq!(texts(&causes), Vec::<String>::new(), "{number}");
            assert_eq!(object["spec"], step["spec"], "{number}");
        } else {
            let text = |cause: &Value, key: &str| cause[key].as_str().unwrap().to_owned();
            let mut want: Vec<String> = step["causes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| {
                    format!("{}|{}|{}", text(c, "reason"), text(c, "field"), text(c, "message"))
                })
                .collect();
            want.sort();
            assert_eq!(texts(&causes), want, "{number}");
        }
    }
}

/// 3-devices-raw 383–385: a transition rule applies to changes only.
#[test]
fn an_immutable_field_can_be_set_and_removed_but_not_changed() {
    let schema = widgets();
    let widget = |immutable: Option<&str>| {
        let mut object = json!({"apiVersion":"golden.example.com/v1","kind":"Widget",
            "metadata":{"name":"w1"},"spec":{"color":"blue"}});
        if let Some(text) = immutable {
            object["spec"]["immutable"] = text.into();
        }
        schema.default(&mut object);
        object
    };
    assert!(schema.validate(&widget(Some("a")), Some(&widget(None))).is_empty());
    assert!(schema.validate(&widget(None), Some(&widget(Some("a")))).is_empty());
    assert!(schema.validate(&widget(Some("a")), Some(&widget(Some("a")))).is_empty());
    assert_eq!(
        texts(&schema.validate(&widget(Some("b")), Some(&widget(Some("a"))))),
        ["FieldValueInvalid|spec.immutable|Invalid value: \"b\": immutable is immutable"]
    );
}

#[test]
fn unknown_fields_are_named_as_in_3_raw_027() {
    let schema = Schema::parse(&json!({"type":"object","properties":{"spec":{"type":"object",
        "properties":{"nodeName":{"type":"string"},"properties":{"type":"array",
            "items":{"type":"object","properties":{"name":{"type":"string"}}}}}}}}))
    .unwrap();
    let mut object = json!({"apiVersion":"x/v1","kind":"X","metadata":{"name":"u1","foo":"bar"},
        "spec":{"nodeName":"a","nope":{"x":1},"properties":[{"name":"p","zip":1}]},"bogus":1});
    assert_eq!(schema.prune(&mut object), ["bogus", "spec.nope", "spec.properties[0].zip"]);
    assert_eq!(object["spec"], json!({"nodeName":"a","properties":[{"name":"p"}]}));
}

#[test]
fn schemas_that_are_not_structural_are_refused_as_in_2_crds_026_and_029() {
    let problems = |schema: Value| texts(&Schema::parse(&schema).unwrap_err().0);
    assert_eq!(
        problems(json!({"properties":{"spec":{"properties":{"a":{"type":"string"}}}}})),
        [
            "FieldValueRequired|.properties[spec].type|Required value: must not be empty for \
             specified object fields",
            "FieldValueRequired|.type|Required value: must not be empty at the root",
        ]
    );
    assert_eq!(
        problems(json!({"type":"object","properties":{"spec":{"type":"object",
            "properties":{"a":{"type":"string","default":5}}}}})),
        ["FieldValueTypeInvalid|.properties[spec].properties[a].default|Invalid value: \
          \"integer\":  in body must be of type string: \"integer\""]
    );
    for bad in [
        json!({"type":"object","properties":{"a":{"type":"array","x-kubernetes-list-type":"map",
            "items":{"type":"object"}}}}),
        json!({"type":"object","properties":{"a":{"type":"string","pattern":"("}}}),
        json!({"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}),
        json!({"type":"object","anyOf":[{"type":"object"}]}),
        json!({"type":"object","x-kubernetes-validations":[{"rule":"self.a =="}]}),
        json!({"type":"object","x-kubernetes-validations":[{"rule":""}]}),
        json!({"type":"object","properties":{"a":{"type":"object","$ref":"x"}}}),
        json!("schema"),
    ] {
        assert!(Schema::parse(&bad).is_err(), "{bad}");
    }
}

#[test]
fn what_was_stored_stays_acceptable_when_the_schema_got_stricter() {
    let schema = Schema::parse(&json!({"type":"object","properties":{
        "a":{"type":"string","maxLength":1},"b":{"type":"string","maxLength":1}},
        "x-kubernetes-validations":[{"rule":"!has(self.a) || self.a != 'xx'","message":"no"}]}))
    .unwrap();
    let old = json!({"a":"xx"});
    assert!(schema.validate(&old, Some(&old)).is_empty());
    assert_eq!(schema.validate(&json!({"a":"xx","b":"yy"}), Some(&old)).len(), 2);
    assert_eq!(schema.validate(&json!({"a":"zz"}), Some(&old)).len(), 2);
}

#[test]
fn rules_that_could_exhaust_the_stack_are_refused_and_the_largest_accepted_run() {
    let with = |rule: String| {
        Schema::parse(&json!({"type":"object","properties":{"a":{"type":"integer"}},
            "x-kubernetes-validations":[{"rule": rule}]}))
    };
    assert!(with(format!("{}true{}", "(".repeat(5000), ")".repeat(5000))).is_err());
    assert!(with(format!("{}true", "!".repeat(5000))).is_err());
    assert!(with(vec!["true"; 5000].join(" ? true : ")).is_err());
    let outcome = std::thread::Builder::new()
        .stack_size(2 * 1024 * 1024)
        .spawn(move || {
            for rule in [
                format!("{}true{}", "(".repeat(24), ")".repeat(24)),
                format!("{}false", "!".repeat(255)),
                format!("{} > 0", vec!["self.a"; 120].join(" + ")),
                vec!["self.a > 0"; 60].join(" && "),
                format!("{}true", "self.a < 0 ? false : ".repeat(80)),
            ] {
                let schema = with(rule.clone());
                let schema = schema.unwrap_or_else(|e| panic!("{rule}: {e}"));
                assert_eq!(schema.validate(&json!({"a":1}), None), [], "{rule}");
            }
        })
        .unwrap()
        .join();
    assert!(outcome.is_ok());
}

#[test]
fn double_negation_is_what_it_says() {
    let valid = |rule: &str| {
        Schema::parse(&json!({"type":"object","properties":{"a":{"type":"string"}},
            "x-kubernetes-validations":[{"rule": rule}]}))
        .unwrap()
        .validate(&json!({"a":"!!"}), None)
        .is_empty()
    };
    assert!(valid("!!(self.a == '!!')"));
    assert!(valid("!(self.a == \"!!!\")"));
    assert!(!valid("!!!(self.a == '!!')"));
    assert!(valid("self.a != 'it\\'s !!'"));
}

#[test]
fn a_rule_that_cannot_be_evaluated_is_a_cause() {
    let schema = Schema::parse(&json!({"type":"object","properties":{"a":{"type":"string"}},
        "x-kubernetes-validations":[{"rule":"self.a.size() > 0"}]}))
    .unwrap();
    let causes = schema.validate(&json!({}), None);
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].field, "<nil>");
}

#[test]
fn schemas_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Schema>();
}

#[test]
fn every_built_in_kind_has_a_schema() {
    for (group, kind) in [
        ("", "Namespace"),
        ("", "ConfigMap"),
        ("", "Secret"),
        ("", "Node"),
        ("", "Event"),
        ("", "ServiceAccount"),
        ("coordination.k8s.io", "Lease"),
        ("events.k8s.io", "Event"),
        ("rbac.authorization.k8s.io", "Role"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("authorization.k8s.io", "SelfSubjectAccessReview"),
    ] {
        let schema = builtin(group, kind).unwrap_or_else(|| panic!("{group}/{kind}"));
        assert!(schema.root().properties.contains_key("metadata"), "{kind}");
    }
    assert!(object_meta().properties.contains_key("ownerReferences"));
}

#[test]
fn formats_accept_and_refuse() {
    for (format, yes, no) in [
        (
            "date-time",
            vec!["2026-11-22T11:46:19Z", "2026-11-22T11:46:19.5+01:00"],
            vec!["yesterday", "2026-11-22", "2026-13-22T11:46:19Z", "2026-11-22T25:46:19Z", "é"],
        ),
        ("date", vec!["2026-02-28"], vec!["2026-02-30", "2026-13-40", "2026-2-3"]),
        ("duration", vec!["1h30m", "1.5s", "3 days", "-2ms"], vec!["5 parsecs", "", "h", "1"]),
        ("ipv4", vec!["10.0.0.1"], vec!["300.1.1.1", "::1"]),
        ("ipv6", vec!["::1"], vec!["10.0.0.1"]),
        ("cidr", vec!["10.0.0.0/8", "fd00::/64"], vec!["10.0.0.0", "10.0.0.0/33"]),
        ("email", vec!["a@b.c", "A B <a@b>"], vec!["nope", "@b", "a@"]),
        ("uri", vec!["http://x", "/abs", "urn:x:y"], vec!["::", "rel", "http://a b"]),
        ("uuid", vec!["871a8930-6720-4675-bae9-a5673fa0d3e4"], vec!["zz", ""]),
        ("byte", vec!["aGk=", ""], vec!["***"]),
        ("hostname", vec!["a.b-c"], vec!["-a", "a..b"]),
        ("mac", vec!["00:11:22:33:44:55"], vec!["00:11"]),
        ("nobody-knows", vec!["x"], vec![]),
    ] {
        for text in yes {
            assert!(formats::is_format(format, text), "{format} {text}");
        }
        for text in no {
            assert!(!formats::is_format(format, text), "{format} {text}");
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9:.]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let key = prop_oneof![
            Just("spec"),
            Just("status"),
            Just("color"),
            Just("ports"),
            Just("port"),
            Just("tags"),
            Just("nested"),
            Just("free"),
            Just("embedded"),
            Just("metadata"),
            Just("labels"),
            Just("type"),
            Just("properties"),
            Just("items"),
            Just("default"),
            Just("choice"),
            Just("x-kubernetes-list-type"),
            Just("x-kubernetes-validations"),
            Just("rule"),
            Just("additionalProperties"),
            Just("not"),
            Just("anyOf"),
            Just("required"),
        ]
        .prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_makes_a_schema_panic(object in any_json(), old in any_json()) {
        let schema = widgets();
        let _ = schema.validate(&object, Some(&old));
        let mut object = object;
        schema.prune(&mut object);
        schema.default(&mut object);
        let _ = schema.validate(&object, None);
        let _ = validate_scale(&object, &[".spec.replicas", ".x", ""]);
    }

    #[test]
    fn no_schema_makes_the_parser_panic(schema in any_json()) {
        let _ = Schema::parse(&schema);
    }

    #[test]
    fn pruning_and_defaulting_twice_changes_nothing(object in any_json()) {
        let schema = widgets();
        let mut once = object;
        schema.prune(&mut once);
        schema.default(&mut once);
        let mut twice = once.clone();
        prop_assert!(schema.prune(&mut twice).is_empty());
        schema.default(&mut twice);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn formats_never_panic(text in ".{0,30}") {
        for format in ["date-time", "date", "duration", "cidr", "email", "uri", "uuid", "hostname",
            "mac", "byte", "creditcard", "hexcolor"] {
            let _ = formats::is_format(format, &text);
        }
    }
}
