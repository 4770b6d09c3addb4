//! Golden messages: what upstream peers were seen to send, read and written.

use proptest::prelude::*;

use super::*;
use crate::id::IdSource;

fn decode(text: &str) -> Envelope {
    Envelope::decode(text.as_bytes()).unwrap()
}

fn id() -> MessageId {
    MessageId::parse("d0c4f1b2-7a3e-4b9c-8d21-5e6f70819203").unwrap()
}

const DEVICE_INSERT: &str = concat!(
    r#"{"header":{"msg_id":"d0c4f1b2-7a3e-4b9c-8d21-5e6f70819203","timestamp":1754463539123,"resourceversion":"4711"},"#,
    r#""route":{"source":"devicecontroller","group":"resource","operation":"insert","resource":"default/device/t1"},"#,
    r#""content":{"kind":"Device","apiVersion":"devices.kubeedge.io/v1beta1","metadata":{"name":"t1","namespace":"default","#,
    r#""uid":"0b3c1f9e","resourceVersion":"4711"},"spec":{"nodeName":"edge-1"}}}"#,
    "\n"
);

#[test]
fn a_device_insert_reads_and_writes_to_the_byte() {
    let received = ToEdge::decode(&decode(DEVICE_INSERT)).unwrap();
    let ToEdge::Object(change) = &received.message else { panic!("{:?}", received.message) };
    assert_eq!(change.key.to_string(), "Device default/t1");
    assert_eq!(change.uid.as_deref(), Some("0b3c1f9e"));
    assert_eq!(change.revision, Some(Revision(4711)));
    assert!(matches!(change.change, Change::Upsert { create: true, .. }));
    let written = received.message.encode(&received.id, 1_754_463_539_123).encode();
    assert_eq!(written, DEVICE_INSERT);
}

#[test]
fn the_upstream_repair_forms_from_edgecontroller_are_the_same_changes() {
    let repaired =
        DEVICE_INSERT.replace("devicecontroller", "edgecontroller").replace("insert", "update");
    let ToEdge::Object(change) = ToEdge::decode(&decode(&repaired)).unwrap().message else {
        panic!("not an object")
    };
    assert!(matches!(change.change, Change::Upsert { create: false, .. }));

    let deleted = r#"{"header":{"msg_id":"x","timestamp":1},"route":{"source":"edgecontroller","group":"resource",
        "operation":"delete","resource":"default/device/t1"},"content":{"metadata":{"name":"t1","namespace":"default","uid":"u"}}}"#;
    let ToEdge::Object(change) = ToEdge::decode(&decode(deleted)).unwrap().message else {
        panic!("not an object")
    };
    assert!(matches!(change.change, Change::Delete));
    assert_eq!(change.uid.as_deref(), Some("u"));
}

#[test]
fn content_that_names_another_object_than_the_path_is_refused() {
    let other = DEVICE_INSERT.replace("default/device/t1", "default/device/t2");
    let error = ToEdge::decode(&decode(&other)).unwrap_err();
    assert!(matches!(error, MessageError::WrongObject { .. }), "{error}");
}

#[test]
fn the_device_list_carries_an_empty_twin_for_every_device() {
    let devices = vec![DeviceId::parse("default/t1").unwrap()];
    let envelope = ToEdge::Devices(devices.clone()).encode(&id(), 7);
    assert_eq!(envelope.route.resource, "membership/detail");
    assert_eq!(envelope.route.group, "twin");
    assert_eq!(
        envelope.content.get(),
        r#"{"event_id":"d0c4f1b2-7a3e-4b9c-8d21-5e6f70819203","timestamp":7,"devices":[{"id":"default/t1","name":"t1","twin":{}}]}"#
    );
    let ToEdge::Devices(read) = ToEdge::decode(&envelope).unwrap().message else {
        panic!("not a list")
    };
    assert_eq!(read, devices);
}

#[test]
fn a_membership_update_with_null_lists_reads_as_empty() {
    let text = r#"{"header":{"msg_id":"x"},"route":{"source":"devicecontroller","group":"twin","operation":"update","resource":"membership"},
        "content":{"event_id":"a6c0","timestamp":1,"added_devices":[{"id":"default/t1","name":"t1"}],"removed_devices":null}}"#;
    let ToEdge::Membership { added, removed } = ToEdge::decode(&decode(text)).unwrap().message
    else {
        panic!("not membership")
    };
    assert_eq!((added.len(), removed.len()), (1, 0));
}

#[test]
fn a_confirmation_is_whatever_answers_in_group_twin() {
    let text = r#"{"header":{"msg_id":"x","parent_msg_id":"r1"},"route":{"source":"devicecontroller","group":"twin","operation":"response","resource":"twin"},"content":"OK"}"#;
    assert!(
        matches!(ToEdge::decode(&decode(text)).unwrap().message, ToEdge::Confirm(id) if id.as_str() == "r1")
    );
}

#[test]
fn what_carries_pods_is_acked_and_otherwise_left_alone() {
    let text = r#"{"header":{"msg_id":"x","resourceversion":"3"},"route":{"source":"edgecontroller","group":"resource","operation":"update","resource":"null/node/edge-1"},"content":{}}"#;
    let message = ToEdge::decode(&decode(text)).unwrap().message;
    assert!(matches!(message, ToEdge::Foreign { wants_ack: true }));
    let answer = text.replace(r#""msg_id":"x""#, r#""msg_id":"x","parent_msg_id":"q""#);
    let message = ToEdge::decode(&decode(&answer)).unwrap().message;
    assert!(matches!(message, ToEdge::Foreign { wants_ack: false }));
}

#[test]
fn a_minimal_ack_is_enough() {
    let text = r#"{"header":{"msg_id":"x","parent_msg_id":"p"},"route":{"operation":"response"},"content":null}"#;
    let message = ToCloud::decode(&decode(text)).unwrap().message;
    assert!(matches!(message, ToCloud::Ack { of, .. } if of.as_str() == "p"));
    let orphan = r#"{"header":{"msg_id":"x"},"route":{"operation":"response"},"content":null}"#;
    assert!(matches!(ToCloud::decode(&decode(orphan)), Err(MessageError::NoParent { .. })));
}

#[test]
fn an_ack_copies_the_route_of_what_it_acks() {
    let received = ToEdge::decode(&decode(DEVICE_INSERT)).unwrap();
    let ack = ToCloud::Ack { of: received.id.clone(), route: received.route };
    let mut ids = IdSource::new(1);
    let envelope = ack.encode(&ids.next_id(), 5);
    assert_eq!(envelope.header.parent_msg_id, received.id.as_str());
    assert_eq!(envelope.route.operation, "response");
    assert_eq!(envelope.route.resource, "default/device/t1");
    assert_eq!(envelope.content.get(), r#""OK""#);
}

/// As an upstream edgecore was seen to send it.
const TWIN_REPORT: &str = r#"{"header":{"msg_id":"e","timestamp":1795344205158},"route":{"source":"twin","group":"resource",
    "operation":"update","resource":"device/default/t1/twin/edge_updated"},"content":
    {"event_id":"0186d0dd","timestamp":1795344205158,"twin":{"temp":{
    "expected":{"value":"20","metadata":{"timestamp":1795344205156}},
    "actual":{"value":"25","metadata":{"timestamp":1795344205157}},
    "optional":true,"metadata":{"type":"string"},
    "expected_version":{"cloud":0,"edge":1},"actual_version":{"cloud":0,"edge":1}}}}}"#;

#[test]
fn an_upstream_twin_report_reads_with_its_sample_times() {
    let ToCloud::Twin(report) = ToCloud::decode(&decode(TWIN_REPORT)).unwrap().message else {
        panic!("not a report")
    };
    let values = &report.twins["temp"];
    let reported = values.reported.as_ref().unwrap();
    assert_eq!((reported.value.as_str(), reported.sampled_ms), ("25", Some(1_795_344_205_157)));
    assert_eq!(values.observed_desired.as_ref().unwrap().value, "20");
    assert_eq!(values.kind.as_deref(), Some("string"));
}

#[test]
fn a_null_twin_that_kills_an_upstream_cloud_is_nothing() {
    let text = TWIN_REPORT.replace(r#""twin":{"temp":{"#, r#""twin":{"nil":null,"temp":{"#);
    let ToCloud::Twin(report) = ToCloud::decode(&decode(&text)).unwrap().message else {
        panic!("not a report")
    };
    assert_eq!(report.twins.len(), 1);
}

#[test]
fn a_state_report_is_json_in_a_string_and_either_case_of_device_is_read() {
    let report = StateReport {
        device: DeviceId::parse("default/t1").unwrap(),
        state: "online".into(),
        last_online: Some("2026-11-22T10:43:27Z".into()),
    };
    let envelope = ToCloud::State(report.clone()).encode(&id(), 9);
    assert!(envelope.content.get().starts_with(r#""{\"event_id\""#));
    let ToCloud::State(read) = ToCloud::decode(&envelope).unwrap().message else {
        panic!("not a state")
    };
    assert_eq!(read, report);
    let capital = r#"{"header":{"msg_id":"x"},"route":{"operation":"update","resource":"device/default/t1/state/update"},
        "content":"{\"Device\":{\"name\":\"t1\",\"state\":\"offline\"}}"}"#;
    assert!(
        matches!(ToCloud::decode(&decode(capital)).unwrap().message, ToCloud::State(s) if s.state == "offline")
    );
}

#[test]
fn the_request_for_all_devices_names_its_node() {
    let node = NodeName::parse("edge-1").unwrap();
    let envelope = ToCloud::ListDevices(node.clone()).encode(&id(), 9);
    assert_eq!(envelope.route.operation, "get");
    let message = ToCloud::decode(&envelope).unwrap().message;
    assert!(matches!(message, ToCloud::ListDevices(read) if read == node));
}

fn value() -> impl Strategy<Value = Option<TwinValue>> {
    proptest::option::of(
        (".{0,20}", proptest::option::of(0..u64::MAX))
            .prop_map(|(value, sampled_ms)| TwinValue { value, sampled_ms }),
    )
}

proptest! {
    #[test]
    fn any_twin_report_reads_back_as_written(
        twins in proptest::collection::btree_map(".{1,12}", (value(), value()), 0..5)
    ) {
        let twins = twins.into_iter().map(|(name, (reported, observed_desired))| {
            (name, TwinValues { reported, observed_desired, kind: Some("float".into()) })
        }).collect();
        let report = TwinReport { device: DeviceId::parse("dev/b-1").unwrap(), twins };
        let bytes = ToCloud::Twin(report.clone()).encode(&id(), 1).encode();
        let ToCloud::Twin(read) = ToCloud::decode(&decode(&bytes)).unwrap().message else {
            panic!("not a report")
        };
        prop_assert_eq!(read, report);
    }

    #[test]
    fn no_content_panics(
        operation in "insert|update|delete|response|error|get|keepalive|x",
        resource in "default/device/t1|membership|membership/detail|twin|device/a/b/twin/edge_updated|device/a/b/state/update",
        group in "resource|twin|meta",
        content in prop_oneof![Just("null".to_owned()), Just("{}".to_owned()), Just("[]".to_owned()), Just("\"{\"".to_owned()),
            Just("{\"twin\":{\"a\":{\"actual\":{\"value\":null}}}}".to_owned()), Just("{\"devices\":[{\"id\":\"//\"}]}".to_owned())],
    ) {
        let text = format!(r#"{{"header":{{"msg_id":"x","parent_msg_id":"y"}},"route":{{"group":"{group}","operation":"{operation}","resource":"{resource}"}},"content":{content}}}"#);
        let _ = ToEdge::decode(&decode(&text));
        let _ = ToCloud::decode(&decode(&text));
    }
}
