use super::*;

fn fields(causes: &[Cause]) -> Vec<&str> {
    causes.iter().map(|cause| cause.field.as_str()).collect()
}

#[test]
fn a_namespace_always_carries_its_name_as_a_label() {
    let mut new = json!({"metadata": {"name": "lab", "labels": {"a": "b"}}});
    default(BuiltIn::Namespace, &mut new);
    prepare(BuiltIn::Namespace, &mut new, None, Part::Main);
    assert_eq!(new["metadata"]["labels"]["kubernetes.io/metadata.name"], "lab");
    assert_eq!(new["status"]["phase"], "Active");
    let old = new.clone();
    let mut new = json!({"metadata": {"name": "lab"}, "spec": {}, "status": {"phase": "x"}});
    prepare(BuiltIn::Namespace, &mut new, Some(&old), Part::Main);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["status"], old["status"]);
}

#[test]
fn a_node_status_write_cannot_change_the_spec() {
    let old = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}});
    let mut new = json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "status": {"x": 1}});
    prepare(BuiltIn::Node, &mut new, Some(&old), Part::Status);
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["metadata"]["labels"]["a"], "b");
}

#[test]
fn string_data_overrides_data() {
    let mut new = json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "z"}});
    default(BuiltIn::Secret, &mut new);
    assert_eq!(new, json!({"data": {"a": "eg==", "b": "eQ=="}, "type": "Opaque"}));
}

#[test]
fn config_map_keys_are_checked_and_immutable_ones_frozen() {
    let new = json!({"data": {"bad key": "x", "a": "x"}, "binaryData": {"a": "eA=="}});
    let causes = validate(BuiltIn::ConfigMap, &new, None);
    assert_eq!(fields(&causes), ["data[bad key]", "data[a]"]);
    let old = json!({"data": {"a": "x"}, "immutable": true});
    let new = json!({"data": {"a": "y"}, "immutable": true});
    assert_eq!(fields(&validate(BuiltIn::ConfigMap, &new, Some(&old))), ["data"]);
}

#[test]
fn a_tls_secret_needs_its_keys_and_keeps_its_type() {
    let new = json!({"type": "kubernetes.io/tls", "data": {}});
    let causes = validate(BuiltIn::Secret, &new, None);
    assert_eq!(fields(&causes), ["data[tls.crt]", "data[tls.key]"]);
    let old = json!({"type": "Opaque"});
    let causes = validate(BuiltIn::Secret, &json!({"type": "other"}), Some(&old));
    assert_eq!(causes[0].message, "Invalid value: \"other\": field is immutable");
}

#[test]
fn micro_times_have_exactly_six_digits() {
    let lease = |time: &str| json!({"spec": {"renewTime": time}});
    let check = |time: &str| undecodable(BuiltIn::Lease, &lease(time));
    assert_eq!(check("2026-01-02T03:04:05.123456Z"), None);
    assert_eq!(
        check("2026-01-02T03:04:05Z").unwrap(),
        "parsing time \"2026-01-02T03:04:05Z\" as \"2006-01-02T15:04:05.000000Z07:00\": \
         cannot parse \"Z\" as \".000000\""
    );
    assert!(check("2026-01-02T03:04:05.123456789Z").unwrap().contains("\"789Z\" as \"Z07:00\""));
    assert!(check("nonsense").is_some());
    assert!(check("2026-01-02T03:04:0ü.123456Z").is_some());
}

#[test]
fn an_event_lives_where_its_object_lives() {
    let event = |ns: &str| {
        json!({"metadata": {"namespace": "default"},
               "involvedObject": {"kind": "Device", "namespace": ns}})
    };
    assert!(validate(BuiltIn::Event, &event("default"), None).is_empty());
    assert!(validate(BuiltIn::Event, &event(""), None).is_empty());
    assert_eq!(
        fields(&validate(BuiltIn::Event, &event("other"), None)),
        ["involvedObject.namespace"]
    );
}

#[test]
fn an_event_of_the_new_group_is_frozen_but_for_its_series() {
    let old = json!({"note": "a", "reason": "r", "metadata": {"namespace": "default"}});
    let mut new = old.clone();
    new["series"] = json!({"count": 2});
    assert!(validate(BuiltIn::EventsEvent, &new, Some(&old)).is_empty());
    new["note"] = json!("changed");
    let causes = validate(BuiltIn::EventsEvent, &new, Some(&old));
    assert_eq!(causes[0].to_string(), "message: Invalid value: \"changed\": field is immutable");
}

#[test]
fn a_secret_that_is_not_base64_cannot_be_decoded() {
    let secret = json!({"data": {"k": "***"}});
    let text = undecodable(BuiltIn::Secret, &secret).unwrap();
    assert_eq!(text, "illegal base64 data at input byte 0");
}
