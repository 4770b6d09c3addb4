use super::*;

#[test]
fn not_found_reads_as_recorded_in_3_raw_062() {
    let status = StatusError::not_found("devices.kubeedge.io", "devices", "nope");
    assert_eq!(
        status.to_value(),
        json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
            "message":"devices.devices.kubeedge.io \"nope\" not found","reason":"NotFound",
            "details":{"name":"nope","group":"devices.kubeedge.io","kind":"devices"},"code":404})
    );
}

#[test]
fn core_resources_are_named_without_a_group() {
    let status = StatusError::not_found("", "namespaces", "missing");
    assert_eq!(status.message, "namespaces \"missing\" not found");
    assert_eq!(status.details, Some(json!({"name":"missing","kind":"namespaces"})));
}

#[test]
fn forbidden_names_the_scope_as_recorded_in_3_raw_480() {
    let namespaced = StatusError::access_denied(
        "alice",
        "get",
        "devices.kubeedge.io",
        "devices",
        Some("default"),
        "x",
    );
    assert_eq!(
        namespaced.message,
        "devices.devices.kubeedge.io \"x\" is forbidden: User \"alice\" cannot get resource \
         \"devices\" in API group \"devices.kubeedge.io\" in the namespace \"default\""
    );
    let cluster = StatusError::access_denied("alice", "list", "", "nodes", None, "");
    assert_eq!(
        cluster.message,
        "nodes is forbidden: User \"alice\" cannot list resource \"nodes\" in API group \"\" at \
         the cluster scope"
    );
    assert_eq!(cluster.details, Some(json!({"kind":"nodes"})));
}

#[test]
fn several_causes_are_listed_in_brackets() {
    let causes =
        [Cause::invalid("spec.size", &json!(101), "too big"), Cause::required("spec.color", "")];
    let status = StatusError::invalid("golden.example.com", "Widget", "wb", &causes);
    assert_eq!(
        status.message,
        "Widget.golden.example.com \"wb\" is invalid: [spec.size: Invalid value: 101: too big, \
         spec.color: Required value]"
    );
}

#[test]
fn option_errors_read_as_recorded_in_3_raw_024() {
    let cause = Cause::not_supported("dryRun", &json!(["Some"]), &["All"]);
    let status = StatusError::invalid_options("CreateOptions", &[cause]);
    assert_eq!(
        status.message,
        "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: \
         supported values: \"All\""
    );
    assert_eq!(status.details.as_ref().and_then(|d| d.get("name")), None);
}

#[test]
fn a_version_from_the_future_asks_for_a_second_of_patience() {
    assert_eq!(StatusError::version_too_large(9, 4).retry_after(), Some(1));
    assert_eq!(StatusError::unauthorized().retry_after(), None);
}

#[test]
fn quoting_follows_go() {
    assert_eq!(quote("a\"b\\\n\u{1}é"), "\"a\\\"b\\\\\\n\\x01é\"");
}
