//! The generated CRDs: never stale, and the promises they make that no type checks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use serde_json::Value;

#[test]
fn generated_manifests_are_not_stale() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let mut expected = Vec::new();
    for (name, yaml) in crds::manifests::files().unwrap() {
        let on_disk = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(on_disk == yaml, "{name} is stale: run `cargo run -p crds --bin crdgen`");
        expected.push(name);
    }
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.contains(&name), "{name} is no longer generated");
    }
}

fn schema(kind: &str) -> Value {
    let crd = crds::manifests::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    serde_json::to_value(&crd.spec.versions[0]).unwrap()
}

#[test]
fn a_device_needs_a_model_and_a_protocol() {
    let device = schema("Device");
    let spec = &device["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(spec["required"], serde_json::json!(["deviceModelRef", "protocol"]));
    assert_eq!(spec["properties"]["deviceModelRef"]["required"], serde_json::json!(["name"]));
    assert_eq!(spec["properties"]["protocol"]["required"], serde_json::json!(["protocolName"]));
}

#[test]
fn lists_are_maps_by_name_so_that_duplicates_are_refused_and_appliers_do_not_fight() {
    for (kind, path) in [
        ("Device", "/spec/properties/properties"),
        ("Device", "/spec/properties/methods"),
        ("DeviceModel", "/spec/properties/properties"),
        ("Device", "/status/properties/conditions"),
        ("DeviceStatus", "/status/properties/twins"),
    ] {
        let schema = schema(kind);
        let list = schema.pointer(&format!("/schema/openAPIV3Schema/properties{path}")).unwrap();
        assert_eq!(list["x-kubernetes-list-type"], "map", "{kind} {path}");
    }
}

#[test]
fn no_schema_carries_a_default_since_upstream_has_none() {
    fn walk(value: &Value, path: &str) {
        if let Value::Object(map) = value {
            assert!(!map.contains_key("default"), "default at {path}");
            for (key, child) in map {
                walk(child, &format!("{path}.{key}"));
            }
        }
    }
    for crd in crds::manifests::all() {
        walk(&serde_json::to_value(&crd.spec.versions).unwrap()[0]["schema"], &crd.spec.names.kind);
    }
}

#[test]
fn kubectl_get_device_shows_node_protocol_state_and_age() {
    let device = schema("Device");
    let columns: Vec<_> = device["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Node", "Model", "Protocol", "State", "Converged", "Last-Online", "Age"]);
}
