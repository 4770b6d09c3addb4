//! Manifests that upstream published, read through our types.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use crds::validate::{self, Problem, Severity};
use crds::{Device, DeviceModel, DeviceStatus};
use serde::Deserialize;
use serde_json::Value;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn read(path: &Path) -> Result<Value, serde_yaml_ng::Error> {
    Value::deserialize(serde_yaml_ng::Deserializer::from_str(
        &std::fs::read_to_string(path).unwrap(),
    ))
}

fn problems(object: &Value) -> Vec<Problem> {
    match object["kind"].as_str().unwrap() {
        "Device" => {
            validate::device(&serde_json::from_value::<Device>(object.clone()).unwrap().spec, None)
        }
        "DeviceModel" => {
            validate::model(&serde_json::from_value::<DeviceModel>(object.clone()).unwrap().spec)
        }
        kind => panic!("unexpected kind {kind}"),
    }
}

#[test]
fn every_upstream_v1beta1_manifest_is_accepted() {
    for path in files("v1beta1") {
        let problems = problems(&read(&path).unwrap());
        assert!(!validate::is_refused(&problems), "{}: {problems:?}", path.display());
    }
}

#[test]
fn manifests_with_nanosecond_cycles_are_accepted_with_a_warning_that_says_so() {
    for name in
        ["website-beta1-device-ns-cycles.yaml", "mqtt-mapper-device.yaml", "onvif-device.yaml"]
    {
        let path = files("v1beta1").into_iter().find(|path| path.ends_with(name)).unwrap();
        let problems = problems(&read(&path).unwrap());
        assert!(
            problems.iter().any(|p| p.severity == Severity::Warning
                && p.field.ends_with("Cycle")
                && p.message.contains("10000 milliseconds may be meant")),
            "{name}: {problems:?}"
        );
    }
}

/// Nothing that a user wrote is lost between reading a manifest and writing it again.
#[test]
fn every_field_of_an_upstream_manifest_survives_our_types() {
    for path in files("v1beta1") {
        let object = read(&path).unwrap();
        let again = match object["kind"].as_str().unwrap() {
            "Device" => {
                serde_json::to_value(serde_json::from_value::<Device>(object.clone()).unwrap())
            }
            _ => {
                serde_json::to_value(serde_json::from_value::<DeviceModel>(object.clone()).unwrap())
            }
        }
        .unwrap();
        assert_contained(&object["spec"], &again["spec"], &path.display().to_string());
    }
}

/// `false` may be left out; everything else must be there.
fn assert_contained(left: &Value, right: &Value, at: &str) {
    match left {
        Value::Object(map) => {
            for (key, value) in map {
                let there = &right[key];
                if *value != Value::Bool(false) || !there.is_null() {
                    assert_contained(value, there, &format!("{at}.{key}"));
                }
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                assert_contained(value, &right[index], &format!("{at}[{index}]"));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            assert_eq!(left, right, "{at}");
        }
    }
}

/// Both files that upstream published broken are no YAML: nothing behind the parser ever sees them.
#[test]
fn the_manifests_that_upstream_published_broken_are_no_yaml() {
    for path in files("invalid") {
        assert!(read(&path).is_err(), "{}", path.display());
    }
}

/// With its indentation mended, the proposal's DeviceStatus still has an object where the API has a list.
#[test]
fn the_proposed_device_status_is_refused_for_its_twins() {
    let path =
        files("invalid").into_iter().find(|p| p.ends_with("devicestatus-proposal.yaml")).unwrap();
    let mended =
        std::fs::read_to_string(path).unwrap().replace("         value:", "          value:");
    let status = serde_yaml_ng::from_str::<DeviceStatus>(&mended);
    let error = status.unwrap_err().to_string();
    assert!(error.contains("twins"), "{error}");
}

/// The legacy version has other fields; read as ours, each device lacks what v1beta1 requires.
#[test]
fn a_legacy_device_is_refused_by_the_fields_it_lacks() {
    for path in files("v1alpha2-legacy") {
        let object = read(&path).unwrap();
        if object["kind"] != "Device" {
            continue;
        }
        let Ok(device) = serde_json::from_value::<Device>(object) else { continue };
        let problems = validate::device(&device.spec, None);
        assert!(
            problems.iter().any(|p| p.field == "spec.protocol.protocolName"),
            "{}: {problems:?}",
            path.display()
        );
    }
}
