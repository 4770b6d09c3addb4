use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The bodies kubectl 1.35 sent in session 4-core, by step.
fn recorded(step: &str) -> Vec<u8> {
    let lines = include_str!("../../tests/fixtures/protobuf-bodies.jsonl").lines();
    let mut steps = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = steps.find(|s| s["step"] == step).unwrap();
    STANDARD.decode(found["b64"].as_str().unwrap()).unwrap()
}

#[test]
fn every_recorded_body_is_read() {
    for line in include_str!("../../tests/fixtures/protobuf-bodies.jsonl").lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        let body = STANDARD.decode(step["b64"].as_str().unwrap()).unwrap();
        let value = decode(&body).unwrap_or_else(|e| panic!("{}: {e}", step["title"]));
        assert!(value["kind"].is_string() && value["apiVersion"].is_string(), "{value}");
    }
}

#[test]
fn recorded_objects_say_what_the_command_line_said() {
    assert_eq!(
        decode(&recorded("003")).unwrap(),
        json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"lab"}})
    );
    assert_eq!(
        decode(&recorded("016")).unwrap(),
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cfg","namespace":"lab"},
            "data":{"a":"1","b":"two"}})
    );
    assert_eq!(
        decode(&recorded("040")).unwrap(),
        json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s1","namespace":"lab"},
            "data":{"pass":"cA==","user":"dQ=="}})
    );
    assert_eq!(
        decode(&recorded("123")).unwrap(),
        json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{},
            "spec":{"expirationSeconds":600}})
    );
    assert_eq!(
        decode(&recorded("136")).unwrap(),
        json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role",
            "metadata":{"name":"reader","namespace":"lab"},"rules":[
                {"apiGroups":[""],"resources":["configmaps"],"verbs":["get","list","watch"]},
                {"apiGroups":["devices.kubeedge.io"],"resources":["devices"],
                    "verbs":["get","list","watch"]}]})
    );
    assert_eq!(
        decode(&recorded("137")).unwrap(),
        json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding",
            "metadata":{"name":"reader","namespace":"lab"},
            "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"reader"},
            "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"alice"},
                {"kind":"ServiceAccount","name":"agent","namespace":"lab"}]})
    );
    assert_eq!(
        decode(&recorded("146")).unwrap()["spec"],
        json!({"resourceAttributes":{"group":"devices.kubeedge.io","namespace":"default",
            "resource":"devices","verb":"create"}})
    );
    let approval = decode(&recorded("168")).unwrap();
    assert_eq!(approval["status"]["conditions"][0]["type"], "Approved");
    assert!(approval["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn what_is_not_such_a_body_is_refused() {
    assert_eq!(decode(b"{}").unwrap_err().code, 400);
    assert_eq!(decode(b"k8s\0\xff\xff").unwrap_err().code, 400);
    let names = k8s_pb::apimachinery::pkg::runtime::TypeMeta {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
    };
    let unknown = Unknown { type_meta: Some(names), ..Unknown::default() };
    let body = [MAGIC, &unknown.encode_to_vec()].concat();
    assert_eq!(decode(&body).unwrap_err().code, 415);
}

#[test]
fn delete_options_keep_their_zeroes() {
    let names = k8s_pb::apimachinery::pkg::runtime::TypeMeta {
        api_version: Some("v1".into()),
        kind: Some("DeleteOptions".into()),
    };
    let options = meta::DeleteOptions {
        grace_period_seconds: Some(0),
        orphan_dependents: Some(false),
        ..meta::DeleteOptions::default()
    };
    let raw = Some(options.encode_to_vec());
    let unknown = Unknown { type_meta: Some(names), raw, ..Unknown::default() };
    let body = [MAGIC, &unknown.encode_to_vec()].concat();
    assert_eq!(
        decode(&body).unwrap(),
        json!({"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0,
            "orphanDependents":false})
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&body);
        let _ = decode(&[MAGIC, &body].concat());
    }

    #[test]
    fn damaged_bodies_never_panic(at in 0..400_usize, byte in any::<u8>()) {
        let mut body = recorded("168");
        if let Some(slot) = body.get_mut(at) {
            *slot = byte;
        }
        let _ = decode(&body);
    }
}
