use std::collections::{BTreeMap, BTreeSet};

use kube::core::DynamicObject;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn model_object(name: &str, revision: u64, content: u64) -> DynamicObject {
    object(json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {
            "namespace": "dev", "name": name, "uid": format!("uid-{name}"),
            "resourceVersion": revision.to_string(), "generation": content,
            "managedFields": [{ "manager": format!("kubectl-{revision}") }],
        },
        "spec": { "protocol": "virtual", "properties": [
            { "name": "p", "type": "INT" }, { "name": format!("p{content}"), "type": "INT" },
        ] },
    }))
}

fn device_object(
    name: &str,
    node: &str,
    model: &str,
    revision: u64,
    content: u64,
) -> DynamicObject {
    object(json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {
            "namespace": "dev", "name": name, "uid": format!("uid-{name}"),
            "resourceVersion": revision.to_string(), "generation": content,
            "managedFields": [{ "manager": format!("cloudcore-{revision}") }],
        },
        "spec": {
            "deviceModelRef": { "name": model }, "nodeName": node,
            "protocol": { "protocolName": "virtual" },
            "properties": [{ "name": "p", "desired": { "value": content.to_string() } }],
        },
        "status": { "state": format!("s{revision}"), "reportToCloud": true, "conditions": [] },
    }))
}

fn id(name: &str) -> DeviceId {
    DeviceId::new("dev", name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn model_key(name: &str) -> ObjectKey {
    ObjectKey::new(ObjectKind::DeviceModel, "dev", name).unwrap()
}

impl Placement {
    fn see_model(&mut self, object: DynamicObject) -> Vec<String> {
        let (key, model) = ModelDoc::read(object).unwrap();
        said(&self.apply_model(&key, model))
    }

    fn see_device(&mut self, object: DynamicObject) -> Vec<String> {
        let (key, device) = DeviceDoc::read(object).unwrap();
        said(&self.apply_device(&key.device_id().unwrap(), device))
    }
}

fn said(changes: &Changes) -> Vec<String> {
    changes
        .iter()
        .map(|(node, change)| match change {
            Change::Upsert(desired) => {
                format!("{node}: {}@{}", desired.key.name(), desired.revision)
            }
            Change::Remove(key) => format!("{node}: -{}", key.name()),
            Change::Park(id) => format!("{node}: park {}", id.name()),
        })
        .collect()
}

#[test]
fn the_model_goes_first_with_its_first_user_and_last_with_its_last() {
    let mut placement = Placement::default();
    assert!(placement.see_model(model_object("m", 1, 1)).is_empty(), "nobody uses it");
    assert_eq!(placement.see_device(device_object("a", "gw", "m", 2, 1)), ["gw: m@1", "gw: a@2"]);
    assert_eq!(placement.see_device(device_object("b", "gw", "m", 3, 1)), ["gw: b@3"]);
    assert_eq!(said(&placement.delete_device(&id("a"))), ["gw: -a"]);
    assert_eq!(said(&placement.delete_device(&id("b"))), ["gw: -b", "gw: -m"]);
    assert!(placement.nodes.is_empty() && placement.users.is_empty(), "nothing is left behind");
}

#[test]
fn a_device_that_moves_leaves_one_node_and_joins_the_other() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw-1", "m", 2, 1));
    let moved = placement.see_device(device_object("a", "gw-2", "m", 3, 1));
    assert_eq!(moved, ["gw-1: -a", "gw-1: -m", "gw-2: m@1", "gw-2: a@3"]);
    assert_eq!(placement.see_device(device_object("a", "", "m", 4, 1)), ["gw-2: -a", "gw-2: -m"]);
}

#[test]
fn a_device_that_changes_its_model_gets_the_new_one_before_the_old_one_goes() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_model(model_object("n", 2, 1));
    placement.see_device(device_object("a", "gw", "m", 3, 1));
    let changed = placement.see_device(device_object("a", "gw", "n", 4, 1));
    assert_eq!(changed, ["gw: n@2", "gw: a@4", "gw: -m"]);
}

#[test]
fn an_edited_model_goes_to_the_nodes_that_use_it_and_takes_nothing_along() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw-1", "m", 2, 1));
    placement.see_device(device_object("b", "gw-1", "m", 3, 1));
    placement.see_device(device_object("c", "gw-2", "m", 4, 1));
    placement.see_device(device_object("d", "gw-3", "other", 5, 1));
    assert_eq!(placement.see_model(model_object("m", 6, 2)), ["gw-1: m@6", "gw-2: m@6"]);
}

#[test]
fn a_new_revision_with_the_same_content_is_nothing() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw", "m", 2, 1));
    assert!(placement.see_model(model_object("m", 7, 1)).is_empty());
    assert!(placement.see_device(device_object("a", "gw", "m", 8, 1)).is_empty());
    assert_eq!(placement.revision(&id("a")), Some(Revision(2)), "what was sent stays true");
}

#[test]
fn a_device_without_a_model_is_parked_until_the_model_comes() {
    let mut placement = Placement::default();
    assert_eq!(placement.see_device(device_object("a", "gw", "m", 1, 1)), ["gw: park a"]);
    assert_eq!(placement.parked(&id("a")), Some(Parked::ModelNotFound(model_key("m"))));
    let snapshot = placement.snapshot(&node("gw"));
    assert!(snapshot.objects.is_empty());
    assert_eq!(snapshot.parked, [id("a")]);
    assert_eq!(placement.see_model(model_object("m", 2, 1)), ["gw: m@2", "gw: a@1"]);
    assert_eq!(placement.parked(&id("a")), None);
}

#[test]
fn deleting_a_model_stops_no_device() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw", "m", 2, 1));
    assert_eq!(said(&placement.delete_model(&model_key("m"))), ["gw: park a"]);
    assert_eq!(placement.snapshot(&node("gw")).parked, [id("a")]);
    assert_eq!(placement.see_model(model_object("m", 3, 1)), ["gw: m@3", "gw: a@2"]);
}

#[test]
fn a_device_that_does_not_fit_its_model_is_parked_and_its_faults_are_named() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw", "m", 2, 1));
    let mut misspelt = device_object("a", "gw", "m", 3, 2);
    misspelt.data["spec"]["properties"] =
        json!([{ "name": "temprature" }, { "name": "p", "desired": { "value": "very warm" } }]);
    assert_eq!(placement.see_device(misspelt), ["gw: park a"]);
    let Some(Parked::Invalid(reason)) = placement.parked(&id("a")) else { panic!("not parked") };
    assert!(
        reason.contains("spec.properties[0].name: \"temprature\" is not in the model"),
        "{reason}"
    );
    assert!(reason.contains("\"very warm\" is not of type INT"), "{reason}");
    assert_eq!(placement.see_device(device_object("a", "gw", "m", 4, 1)), ["gw: a@4"]);
}

#[test]
fn an_edited_model_parks_the_devices_that_no_longer_fit_and_frees_them_again() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw", "m", 2, 1));
    let mut without = model_object("m", 3, 2);
    without.data["spec"]["properties"] = json!([{ "name": "q" }]);
    assert_eq!(placement.see_model(without), ["gw: m@3", "gw: park a"]);
    assert_eq!(placement.see_model(model_object("m", 4, 3)), ["gw: m@4", "gw: a@2"]);
}

#[test]
fn the_object_that_killed_an_upstream_cloudcore_is_parked() {
    let mut placement = Placement::default();
    let device = object(json!({
        "metadata": { "namespace": "dev", "name": "a", "uid": "u", "resourceVersion": "1" },
        "spec": { "nodeName": "gw" },
    }));
    assert_eq!(placement.see_device(device), ["gw: park a"]);
    assert_eq!(placement.parked(&id("a")), Some(Parked::NoModelReference));
}

#[test]
fn an_object_that_turns_unreadable_stays_where_it_was() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw", "m", 2, 1));
    let nonsense = object(json!({
        "metadata": { "namespace": "dev", "name": "a", "uid": "uid-a", "resourceVersion": "3" },
        "spec": { "nodeName": "gw-2", "properties": "none" },
    }));
    assert_eq!(placement.see_device(nonsense), ["gw: park a"]);
    assert!(matches!(placement.parked(&id("a")), Some(Parked::Unreadable(_))));
    assert_eq!(placement.see_device(device_object("a", "gw", "m", 4, 1)), ["gw: a@4"]);
}

#[test]
fn what_is_sent_is_whole_and_without_what_edges_do_not_need() {
    let mut placement = Placement::default();
    placement.see_model(model_object("m", 1, 1));
    placement.see_device(device_object("a", "gw", "m", 2, 1));
    let snapshot = placement.snapshot(&node("gw"));
    let sent = snapshot.objects.iter().find(|o| o.key.kind() == ObjectKind::Device).unwrap();
    let sent: Value = serde_json::from_str(sent.object.get()).unwrap();
    assert_eq!(sent["apiVersion"], "devices.kubeedge.io/v1beta1");
    assert_eq!(sent["kind"], "Device");
    assert_eq!(sent["metadata"]["resourceVersion"], "2");
    assert_eq!(sent["metadata"]["uid"], "uid-a");
    assert_eq!(sent["spec"]["properties"][0]["desired"]["value"], "1");
    assert_eq!(sent["metadata"].get("managedFields"), None);
    // The two settings that older releases kept in the status.
    assert_eq!(sent["status"], json!({ "reportToCloud": true }));
}

#[test]
fn names_that_are_no_names_are_refused() {
    for (namespace, name, version) in
        [("dev", "", "1"), ("", "a", "1"), ("dev", "a/b", "1"), ("dev", "a", "x"), ("dev", "a", "")]
    {
        let bad = object(json!({
            "metadata": { "namespace": namespace, "name": name, "resourceVersion": version },
        }));
        assert!(DeviceDoc::read(bad.clone()).is_err());
        assert!(ModelDoc::read(bad).is_err());
    }
}

#[derive(Clone, Debug)]
enum Event {
    Model(usize, u64),
    NoModel(usize),
    /// Device, node (the last one means none), model.
    Device(usize, usize, usize, u64),
    NoDevice(usize),
    Touch(usize),
}

const NODES: usize = 3;

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => (0usize..3, 0u64..3).prop_map(|(m, c)| Event::Model(m, c)),
        1 => (0usize..3).prop_map(Event::NoModel),
        5 => (0usize..6, 0..=NODES, 0usize..3, 0u64..3).prop_map(|(d, n, m, c)| Event::Device(d, n, m, c)),
        2 => (0usize..6).prop_map(Event::NoDevice),
        1 => (0usize..6).prop_map(Event::Touch),
    ];
    proptest::collection::vec(event, 0..60)
}

fn node_name(n: usize) -> String {
    if n == NODES { String::new() } else { format!("gw-{n}") }
}

/// What a node knows from changes alone.
#[derive(Debug, Default, PartialEq)]
struct View {
    objects: BTreeMap<ObjectKey, u64>,
    parked: BTreeSet<DeviceId>,
}

proptest! {
    #[test]
    fn changes_lead_where_a_naive_recomputation_does(events in events()) {
        let mut placement = Placement::default();
        let mut views: BTreeMap<NodeName, View> = BTreeMap::new();
        // The cluster: content and the revision at which the content came.
        let mut models: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        let mut devices: BTreeMap<usize, (usize, usize, u64, u64)> = BTreeMap::new();
        for (step, event) in events.iter().enumerate() {
            let revision = step as u64 + 1;
            let changes = match *event {
                Event::Model(m, content) => {
                    let known = models.get(&m).filter(|(known, _)| *known == content).copied();
                    models.insert(m, known.unwrap_or((content, revision)));
                    let object = model_object(&format!("m{m}"), revision, content);
                    let (key, doc) = ModelDoc::read(object).unwrap();
                    placement.apply_model(&key, doc)
                }
                Event::NoModel(m) => {
                    models.remove(&m);
                    placement.delete_model(&model_key(&format!("m{m}")))
                }
                Event::Device(d, n, m, content) => {
                    let same = |known: &&(usize, usize, u64, u64)| (known.0, known.1, known.2) == (n, m, content);
                    let known = devices.get(&d).filter(same).copied();
                    devices.insert(d, known.unwrap_or((n, m, content, revision)));
                    let object = device_object(&format!("t{d}"), &node_name(n), &format!("m{m}"), revision, content);
                    let (key, doc) = DeviceDoc::read(object).unwrap();
                    placement.apply_device(&key.device_id().unwrap(), doc)
                }
                Event::NoDevice(d) => {
                    devices.remove(&d);
                    placement.delete_device(&id(&format!("t{d}")))
                }
                Event::Touch(d) => {
                    let Some((n, m, content, _)) = devices.get(&d) else { continue };
                    let object = device_object(&format!("t{d}"), &node_name(*n), &format!("m{m}"), revision, *content);
                    let (key, doc) = DeviceDoc::read(object).unwrap();
                    let changes = placement.apply_device(&key.device_id().unwrap(), doc);
                    prop_assert!(changes.is_empty());
                    changes
                }
            };
            for (node, change) in changes {
                let view = views.entry(node).or_default();
                match change {
                    Change::Upsert(desired) => {
                        if let Some(model) = &desired.model {
                            prop_assert!(view.objects.contains_key(model), "model before device");
                        }
                        view.parked.retain(|id| id.object_key() != desired.key);
                        view.objects.insert(desired.key, desired.revision.0);
                    }
                    Change::Remove(key) => {
                        view.objects.remove(&key);
                        view.parked.retain(|id| id.object_key() != key);
                    }
                    Change::Park(id) => {
                        view.objects.remove(&id.object_key());
                        view.parked.insert(id);
                    }
                }
            }
        }
        for n in 0..NODES {
            let mut expected = View::default();
            let mut used = BTreeSet::new();
            for (d, (_, m, _, revision)) in devices.iter().filter(|(_, device)| device.0 == n) {
                used.insert(*m);
                let id = id(&format!("t{d}"));
                if let Some((_, model_revision)) = models.get(m) {
                    expected.objects.insert(id.object_key(), *revision);
                    expected.objects.insert(model_key(&format!("m{m}")), *model_revision);
                } else {
                    expected.parked.insert(id);
                }
            }
            let name = node(&node_name(n));
            let snapshot = placement.snapshot(&name);
            let from_snapshot = View {
                objects: snapshot.objects.iter().map(|o| (o.key.clone(), o.revision.0)).collect(),
                parked: snapshot.parked.into_iter().collect(),
            };
            prop_assert_eq!(&from_snapshot, &expected);
            // A node that follows the changes may still hold a model that was deleted under devices
            // which are parked now; nothing else.
            let mut view = views.remove(&name).unwrap_or_default();
            view.objects.retain(|key, _| {
                let gone = |m: &usize| model_key(&format!("m{m}")) == *key && !models.contains_key(m);
                !used.iter().any(gone)
            });
            prop_assert_eq!(&view, &expected);
        }
    }
}
