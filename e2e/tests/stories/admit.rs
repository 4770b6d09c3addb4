//! What the API takes and what it refuses, and that nothing it took can stop the rest.

use std::path::PathBuf;

use e2e::boiler::{self, cell};
use e2e::device::{Device, Table};
use e2e::setting;
use e2e::world::World;
use e2e::{port, wait};
use serde_json::{Value, json};

#[test]
fn every_manifest_that_upstream_published_is_accepted() {
    let world = World::new();
    for (name, manifest) in manifests("v1beta1") {
        // Some name a namespace of their own, which kubectl will not mix with ours.
        let manifest = manifest
            .lines()
            .filter(|line| line.trim() != "namespace: default")
            .collect::<Vec<_>>()
            .join("\n");
        let apply = |more: &[&str]| {
            let run = world.kubectl.run(&[&["apply", "-f", "-"], more].concat(), Some(&manifest));
            assert!(run.success, "{name}: {}", run.stderr);
        };
        apply(&["--dry-run=server"]);
        apply(&[]);
        apply(&["--server-side", "--force-conflicts"]);
        let run = world.kubectl.run(&["delete", "-f", "-"], Some(&manifest));
        assert!(run.success, "{name}: {}", run.stderr);
    }
}

#[test]
fn manifests_of_the_old_version_are_refused_as_of_an_unknown_kind() {
    let world = World::new();
    for (name, manifest) in manifests("v1alpha2-legacy") {
        let refusal = world.kubectl.run(&["apply", "-f", "-"], Some(&manifest)).refused();
        assert!(refusal.contains("no matches for kind"), "{name}: {refusal}");
        assert!(refusal.contains("devices.kubeedge.io/v1alpha2"), "{name}: {refusal}");
    }
}

#[test]
fn manifests_that_are_no_yaml_are_refused() {
    let world = World::new();
    for (name, manifest) in manifests("invalid") {
        let refusal = world.kubectl.run(&["apply", "-f", "-"], Some(&manifest)).refused();
        assert!(refusal.contains("yaml"), "{name}: {refusal}");
    }
}

#[test]
fn a_device_that_can_only_fail_is_refused_with_the_field_named() {
    let world = World::new();
    type Spoil = fn(&mut Value);
    let cases: [(&str, Spoil); 10] = [
        ("spec.deviceModelRef", |spec| {
            drop(spec.as_object_mut().unwrap().remove("deviceModelRef"))
        }),
        ("spec.deviceModelRef.name", |spec| spec["deviceModelRef"] = json!({})),
        ("spec.protocol", |spec| drop(spec.as_object_mut().unwrap().remove("protocol"))),
        ("spec.protocol.protocolName", |spec| spec["protocol"]["protocolName"] = json!("")),
        ("spec.properties[0].collectCycle", |spec| {
            spec["properties"][0]["collectCycle"] = json!(-1)
        }),
        ("spec.properties[1].reportCycle", |spec| spec["properties"][1]["reportCycle"] = json!(-5)),
        ("spec.properties", |spec| spec["properties"][1]["name"] = json!("setpoint")),
        ("spec.properties[0].desired.value", |spec| spec["properties"][0]["desired"] = json!({})),
        ("spec.properties[0].desired.value", |spec| {
            spec["properties"][0]["desired"]["value"] = json!(40);
        }),
        ("spec.nodename", |spec| spec["nodename"] = json!("typo")),
    ];
    for (field, spoil) in cases {
        let mut device = boiler::device("boiler-1", "gw", 502, "40");
        spoil(&mut device["spec"]);
        for how in [&["apply"][..], &["apply", "--server-side"], &["create"]] {
            let arguments = [how, &["-f", "-"]].concat();
            let refusal = world.kubectl.run(&arguments, Some(&device.to_string())).refused();
            // Server-side apply names the items of a list by their key, not by their position.
            let named = if how.contains(&"--server-side") {
                field.rsplit('.').next().unwrap().trim_end_matches(|c| "[]01".contains(c))
            } else {
                field
            };
            assert!(refusal.contains(named), "{how:?} without {named}: {refusal}");
        }
    }
    assert_eq!(world.kubectl.ok(&["get", "devices", "-o", "name"]), "");
}

#[test]
fn a_model_that_can_only_fail_is_refused_with_the_field_named() {
    let world = World::new();
    for (field, value) in [
        ("type", json!("integer")),
        ("type", json!("int")),
        ("accessMode", json!("WriteOnly")),
        ("minimum", json!("cold")),
    ] {
        let mut model = boiler::model();
        model["spec"]["properties"][0][field] = value;
        let refusal = world.kubectl.run(&["apply", "-f", "-"], Some(&model.to_string())).refused();
        assert!(refusal.contains(&format!("spec.properties[0].{field}")), "{refusal}");
    }
    let mut model = boiler::model();
    model["spec"]["properties"][1]["name"] = json!("setpoint");
    let refusal = world.kubectl.run(&["apply", "-f", "-"], Some(&model.to_string())).refused();
    assert!(refusal.contains("spec.properties[1]"), "{refusal}");
}

#[test]
fn a_bad_change_leaves_the_device_as_it_was() {
    let (world, device) = World::new().with_a_boiler();
    let patch = r#"[{"op":"replace","path":"/spec/properties/0/collectCycle","value":-1}]"#;
    let arguments = ["patch", "device", "boiler-1", "--type=json", "-p", patch];
    let refusal = world.kubectl.run(&arguments, None).refused();
    assert!(refusal.contains("collectCycle"), "{refusal}");
    world.kubectl.desire("boiler-1", "41");
    device.await_cells(Table::Holding, cell::SETPOINT, &[41]);
}

/// The API takes these: only the device and its model together show the fault.
#[test]
fn a_bad_object_never_stops_the_others_and_says_what_is_wrong() {
    let mut world = World::new();
    let device = Device::start(port::free());
    let node = world.edge.node.clone();
    let at = |name: &str| boiler::device(name, &node, device.port(), "40");
    world.kubectl.apply(&boiler::model());

    let mut orphan = at("orphan");
    orphan["spec"]["deviceModelRef"]["name"] = json!("no-such-model");
    let mut misspelt = at("misspelt");
    misspelt["spec"]["properties"][1]["name"] = json!("temprature");
    let mut wordy = at("wordy");
    wordy["spec"]["properties"][0]["desired"]["value"] = json!("very warm");
    let mut nested = at("nested");
    nested["spec"]["protocol"]["configData"]["more"] = json!({"a": [1, {"b": "c"}]});
    let mut alien = at("alien");
    alien["spec"]["protocol"]["protocolName"] = json!("telepathy");
    let mut vague = at("vague");
    vague["spec"]["properties"][0]["visitors"]["configData"] =
        json!({"register": "NoSuchRegister"});
    for bad in [&orphan, &misspelt, &wordy, &nested, &alien, &vague] {
        world.kubectl.apply(bad);
    }
    world.start_everything();
    // Last in the list and last in the alphabet: everything bad is met before it.
    world.kubectl.apply(&at("zz-good"));
    device.await_cells(Table::Holding, cell::SETPOINT, &[40]);
    world.cluster.await_condition("zz-good", "Converged", "True");

    let cluster = &world.cluster;
    let orphaned = cluster.await_condition("orphan", "ModelResolved", "False/ModelNotFound");
    assert!(orphaned.contains("no-such-model"), "{orphaned}");
    await_complaint(&world, "misspelt", "temprature");
    await_complaint(&world, "wordy", "very warm");
    // Why is known to the mapper alone, and no message of the protocol carries it up.
    await_complaint(&world, "vague", "setpoint");
    cluster.await_condition("alien", "Accepted", "False");
    // Nested configuration is legal.
    cluster.await_condition("nested", "Converged", "True");

    // Mended, each comes to life with no help.
    let mut model = boiler::model();
    model["metadata"]["name"] = json!("no-such-model");
    world.kubectl.apply(&model);
    for name in ["misspelt", "wordy", "vague"] {
        world.kubectl.apply(&at(name));
    }
    for name in ["orphan", "misspelt", "wordy", "vague"] {
        cluster.await_condition(name, "Converged", "True");
    }
}

/// A cluster that was installed by upstream: no status subresource, no rules, and objects that only
/// fail later. Such objects stopped upstream's cloudcore at every start.
#[test]
fn with_upstreams_own_definitions_everything_works_and_nothing_crashes() {
    if setting::shared_cluster().is_some() {
        return; // definitions belong to everybody on the cluster
    }
    let mut world = World::new();
    world.kubectl.ok(&["delete", "-f", &path("../crds/manifests").to_string_lossy()]);
    let definitions = path("fixtures/upstream-crds");
    wait::until("upstream's definitions are taken", || {
        let arguments = ["apply", "-f", &definitions.to_string_lossy()];
        let run = world.kubectl.run(&arguments, None);
        if run.success { Ok(()) } else { Err(run.stderr) }
    });
    world.kubectl.ok(&[
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd/devices.devices.kubeedge.io",
        "crd/devicestatuses.devices.kubeedge.io",
    ]);
    let device = Device::start(port::free());
    let node = world.edge.node.clone();
    let mut headless = boiler::device("headless", &node, device.port(), "40");
    headless["spec"].as_object_mut().unwrap().remove("deviceModelRef");
    let mut negative = boiler::device("negative", &node, device.port(), "40");
    negative["spec"]["properties"][1]["collectCycle"] = json!(-1);
    let mut double = boiler::device("double", &node, device.port(), "40");
    double["spec"]["properties"][1] = double["spec"]["properties"][0].clone();
    let bare = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": "bare"},
        "spec": {"nodeName": node},
    });
    for bad in [&headless, &negative, &double, &bare] {
        world.kubectl.apply(bad);
    }
    world.kubectl.apply(&boiler::model());
    world.start_everything();
    world.kubectl.apply(&boiler::device("zz-good", &node, device.port(), "41"));
    device.await_cells(Table::Holding, cell::SETPOINT, &[41]);
    device.set(Table::Input, cell::TEMPERATURE, &[17]);
    world.cluster.await_reported("zz-good", "temperature", "17");
    world.restart("cloudcore");
    world.kubectl.desire("zz-good", "42");
    device.await_cells(Table::Holding, cell::SETPOINT, &[42]);
    world.cluster.await_reported("zz-good", "setpoint", "42");
}

#[test]
fn the_usual_words_of_kubectl_work() {
    let world = World::new();
    world.kubectl.apply(&boiler::model());
    world.kubectl.apply(&boiler::device("boiler-1", "gw", 502, "40"));
    world.kubectl.ok(&["get", "device", "boiler-1", "-o", "yaml"]);
    let json = world.kubectl.ok(&["get", "device", "boiler-1", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["spec"]["nodeName"], "gw");
    world.kubectl.ok(&["label", "device", "boiler-1", "room=cellar"]);
    let found = world.kubectl.ok(&["get", "devices", "-l", "room=cellar", "-o", "name"]);
    assert_eq!(found.trim(), "device.devices.kubeedge.io/boiler-1");
    world.kubectl.ok(&["describe", "device", "boiler-1"]);
    world.kubectl.ok(&["explain", "device.spec.properties.visitors"]);
    let device = boiler::device("boiler-1", "gw", 502, "41");
    let run = world.kubectl.run(&["diff", "-f", "-"], Some(&device.to_string()));
    assert!(run.stdout.contains("+      value: \"41\""), "{run:?}");
    world.kubectl.run(&["replace", "-f", "-"], Some(&device.to_string())).ok();
    world.kubectl.ok(&["create", "configmap", "plan", "--from-literal=a=b"]);
    world.kubectl.ok(&["create", "secret", "generic", "key", "--from-literal=a=b"]);
    world.kubectl.ok(&["auth", "can-i", "create", "devices"]);
    world.kubectl.ok(&["api-resources", "--api-group=devices.kubeedge.io"]);
    world.kubectl.ok(&["delete", "devices,devicemodels", "--all"]);
    assert_eq!(world.kubectl.ok(&["get", "devices,devicemodels", "-o", "name"]), "");
}

/// Waits until some condition of the device is not True and says the word.
#[track_caller]
fn await_complaint(world: &World, device: &str, word: &str) {
    wait::until(&format!("a condition of {device} that speaks of {word:?}"), || {
        let found = world.cluster.device(device)?.ok_or("no Device")?;
        let conditions = found.status.map(|status| status.conditions).unwrap_or_default();
        if conditions.iter().any(|c| c.status != "True" && c.message.contains(word)) {
            Ok(())
        } else {
            let said: Vec<_> = conditions
                .iter()
                .map(|c| format!("{}={}/{}: {}", c.type_, c.status, c.reason, c.message))
                .collect();
            Err(said.join("; "))
        }
    });
}

/// The upstream's manifests, by file name.
fn manifests(folder: &str) -> Vec<(String, String)> {
    let folder = path("../crds/tests/fixtures").join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let read =
        |file: &PathBuf| (file.display().to_string(), std::fs::read_to_string(file).unwrap());
    files.iter().map(read).collect()
}

fn path(name: &str) -> PathBuf {
    setting::repository().join("e2e").join(name)
}
