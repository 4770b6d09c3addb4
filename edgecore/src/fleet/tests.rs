use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::dmi::convert;

mod walk;

/// A mapper as the fleet should see it: it has what it was told.
#[derive(Clone, Debug, Default)]
struct Told {
    models: BTreeMap<String, dmi::DeviceModel>,
    devices: BTreeMap<String, dmi::Device>,
}

impl Told {
    fn answer(&mut self, answer: Answer) {
        *self = Self::default();
        for model in answer.models {
            self.models.insert(model.name.clone(), model);
        }
        for device in answer.devices {
            self.devices.insert(device.name.clone(), device);
        }
    }

    fn needs_model(&self, device: &dmi::Device) {
        let model = &device.spec.as_ref().unwrap().device_model_reference;
        assert!(self.models.contains_key(model), "device before its model");
    }

    /// Takes a call as a Go mapper would; panics on what would hurt one.
    fn take(&mut self, call: Call) {
        match call {
            Call::CreateModel(model) | Call::UpdateModel(model) => {
                self.models.insert(model.name.clone(), model);
            }
            Call::RemoveModel(key) => {
                self.models.remove(key.name());
            }
            Call::RegisterDevice(device) => {
                self.needs_model(&device);
                // It has it: ignored, whatever the content.
                self.devices.entry(device.name.clone()).or_insert(device);
            }
            Call::UpdateDevice(device) => {
                self.needs_model(&device);
                let old = self.devices.insert(device.name.clone(), device);
                assert!(old.is_some(), "update of what it does not have");
            }
            Call::RemoveDevice(id) => {
                self.devices.remove(id.name());
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do to start from")]
fn start() -> Instant {
    Instant::now()
}

fn row(name: &str, protocol: &str, registered_ms: u64) -> MapperRow {
    MapperRow {
        name: name.into(),
        version: String::new(),
        api_version: String::new(),
        protocol: protocol.into(),
        address: format!("/run/{name}.sock"),
        registered_ms,
    }
}

fn model(name: &str) -> ObjectKey {
    ObjectKey::new(ObjectKind::DeviceModel, "dev", name).unwrap()
}

fn device(name: &str) -> ObjectKey {
    ObjectKey::new(ObjectKind::Device, "dev", name).unwrap()
}

fn model_body(protocol: &str, default: u64, extra: bool) -> String {
    let mut properties = vec![json!({"name": "t", "type": "INT",
        "visitors": {"configData": {"offset": default}}})];
    if extra {
        properties.push(json!({"name": "x"}));
    }
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "m", "namespace": "dev"},
        "spec": {"protocol": protocol, "properties": properties}})
    .to_string()
}

fn device_body(model: &str, protocol: &str, desired: u64, property: &str) -> String {
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "d", "namespace": "dev"},
        "spec": {"deviceModelRef": {"name": model}, "protocol": {"protocolName": protocol},
            "properties": [{"name": property, "desired": {"value": desired.to_string()}}]}})
    .to_string()
}

/// A fleet with one connected mapper `v` of protocol `p` that has registered.
fn fleet_with_mapper(now: Instant) -> (Fleet, u64) {
    let mut fleet = Fleet::default();
    let (_, generation) = fleet.register(row("v", "p", 1), true, now).unwrap();
    fleet.mapper_up("v", generation);
    (fleet, generation)
}

/// Performs what is due; all of it is accepted. Returns the names of the calls.
fn perform(fleet: &mut Fleet, generation: u64, now: Instant) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(order) = fleet.poll_call(now) {
        names.push(match order.call {
            Call::CreateModel(_) => "create model",
            Call::UpdateModel(_) => "update model",
            Call::RemoveModel(_) => "remove model",
            Call::RegisterDevice(_) => "register device",
            Call::UpdateDevice(_) => "update device",
            Call::RemoveDevice(_) => "remove device",
        });
        fleet.done("v", generation, &CallOutcome::Accepted, now).unwrap();
    }
    names
}

const LATER: Duration = Duration::from_secs(1);

#[test]
fn a_device_waits_for_its_model_and_goes_after_it() {
    let now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    let now = now + LATER;
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    assert!(perform(&mut fleet, generation, now).is_empty());
    let problem = fleet.device(&device("d").device_id().unwrap()).unwrap().problem().unwrap();
    assert!(problem.contains("not here yet"), "{problem}");
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    assert_eq!(perform(&mut fleet, generation, now), ["create model", "register device"]);
    assert_eq!(fleet.accepted_by(&device("d").device_id().unwrap()), Some("v"));
}

#[test]
fn what_is_equal_is_not_told_again() {
    let now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    let now = now + LATER;
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    perform(&mut fleet, generation, now);
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    assert!(perform(&mut fleet, generation, now).is_empty());
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 2, "t"));
    assert_eq!(perform(&mut fleet, generation, now), ["update device"]);
    // A default that is merged into the device changes the device; the mapper never sees it as such.
    fleet.upsert(&model("m"), "u", &model_body("p", 9, false));
    assert_eq!(perform(&mut fleet, generation, now), ["update device"]);
    fleet.upsert(&model("m"), "u", &model_body("p", 9, true));
    assert_eq!(perform(&mut fleet, generation, now), ["update model", "update device"]);
}

#[test]
fn a_property_that_the_model_lacks_keeps_the_device_from_the_mapper() {
    let now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    let now = now + LATER;
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "typo"));
    assert_eq!(perform(&mut fleet, generation, now), ["create model"]);
    let problem = fleet.device(&device("d").device_id().unwrap()).unwrap().problem().unwrap();
    assert!(problem.contains("\"typo\""), "{problem}");
}

#[test]
fn a_call_that_fails_is_owed_and_others_go_on() {
    let mut now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    now += LATER;
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    perform(&mut fleet, generation, now);
    fleet.upsert(&device("a"), "u", &device_body("m", "p", 1, "t"));
    fleet.upsert(&device("b"), "u", &device_body("m", "p", 1, "t"));
    let failed = CallOutcome::Refused("told to fail".into());
    assert!(fleet.poll_call(now).is_some());
    fleet.done("v", generation, &failed, now).unwrap();
    assert_eq!(perform(&mut fleet, generation, now), ["register device"], "the other one");
    let retry_at = fleet.poll_timeout().unwrap();
    assert!(retry_at > now && retry_at <= now + LATER);
    now = retry_at;
    assert_eq!(perform(&mut fleet, generation, now), ["register device"]);
    assert_eq!(fleet.poll_timeout(), None);
}

#[test]
fn a_removal_is_owed_until_it_is_accepted() {
    let mut now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    now += LATER;
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    perform(&mut fleet, generation, now);
    fleet.remove(&device("d"));
    fleet.remove(&model("m"));
    for _ in 0..5 {
        let order = fleet.poll_call(now).unwrap();
        assert!(matches!(order.call, Call::RemoveDevice(_)));
        fleet.done("v", generation, &CallOutcome::Refused("no".into()), now);
        now += Duration::from_mins(1);
    }
    assert_eq!(perform(&mut fleet, generation, now), ["remove device", "remove model"]);
}

#[test]
fn a_mapper_without_models_gets_devices() {
    let now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    let now = now + LATER;
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    assert!(matches!(fleet.poll_call(now).unwrap().call, Call::CreateModel(_)));
    fleet.done("v", generation, &CallOutcome::Unimplemented, now);
    assert_eq!(perform(&mut fleet, generation, now), ["register device"]);
}

#[test]
fn the_last_mapper_to_register_serves_the_protocol() {
    let mut now = start();
    let (mut fleet, old) = fleet_with_mapper(now);
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    now += LATER;
    perform(&mut fleet, old, now);
    let (answer, new) = fleet.register(row("w", "p", 2), true, now).unwrap();
    assert_eq!((answer.models.len(), answer.devices.len()), (1, 1));
    assert_eq!(perform(&mut fleet, old, now), ["remove device", "remove model"]);
    // The old one goes away for good and is forgotten; the new one is not.
    fleet.mapper_down("v", old, now);
    fleet.mapper_up("w", new);
    now += Duration::from_secs(10);
    assert_eq!(fleet.lost(now), [("v".to_owned(), Vec::new())]);
    assert_eq!(fleet.forgotten(), ["v"]);
    assert_eq!(fleet.mappers().count(), 1);
}

#[test]
fn a_lost_mapper_names_its_devices_once_and_is_not_forgotten() {
    let mut now = start();
    let (mut fleet, generation) = fleet_with_mapper(now);
    fleet.upsert(&device("d"), "u", &device_body("m", "p", 1, "t"));
    fleet.upsert(&device("e"), "u", &device_body("m", "other", 1, "t"));
    fleet.mapper_down("v", generation, now);
    assert!(fleet.lost(now).is_empty());
    now = fleet.poll_timeout().unwrap();
    let lost = fleet.lost(now);
    assert_eq!(lost, [("v".to_owned(), vec![device("d").device_id().unwrap()])]);
    assert!(fleet.lost(now).is_empty() && fleet.forgotten().is_empty());
}

#[test]
fn an_answer_that_is_too_large_is_completed_by_calls() {
    let now = start();
    let mut fleet = Fleet::default();
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    let padding = "x".repeat(60_000);
    for index in 0..80 {
        let body = device_body("m", "p", 1, "t")
            .replace("\"value\":\"1\"", &format!("\"value\":\"{padding}\""));
        fleet.upsert(&device(&format!("d{index}")), "u", &body);
    }
    let (answer, generation) = fleet.register(row("v", "p", 1), true, now).unwrap();
    let told = answer.devices.len();
    assert!((40..60).contains(&told), "{told}");
    fleet.mapper_up("v", generation);
    assert_eq!(perform(&mut fleet, generation, now + LATER).len(), 80 - told);
}

#[test]
fn an_outcome_of_an_earlier_registration_means_nothing() {
    let now = start();
    let (mut fleet, old) = fleet_with_mapper(now);
    fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
    let now = now + LATER;
    assert!(fleet.poll_call(now).is_some());
    fleet.register(row("v", "p", 2), false, now).unwrap();
    assert_eq!(fleet.done("v", old, &CallOutcome::Accepted, now), None);
}

#[test]
fn versions_are_the_same_in_every_run_and_see_every_change() {
    let (device, _) = {
        let mut fleet = Fleet::default();
        fleet.upsert(&model("m"), "u", &model_body("p", 1, false));
        fleet.upsert(&super::tests::device("d"), "u", &device_body("m", "p", 1, "t"));
        let id = super::tests::device("d").device_id().unwrap();
        let held = fleet.device(&id).unwrap();
        (fleet.told(&id, held).unwrap().0, ())
    };
    let version = version::of_device(&device, 1);
    for _ in 0..20 {
        // Maps are in another order in each copy.
        let mut copy = device.clone();
        let spec = copy.spec.as_mut().unwrap();
        let config = spec.properties[0].visitors.as_mut().unwrap().config_data.as_mut().unwrap();
        config.data = config.data.clone().into_iter().collect();
        assert_eq!(version::of_device(&copy, 1), version);
    }
    assert_ne!(version::of_device(&device, 2), version);
    let mut other = device;
    let spec = other.spec.as_mut().unwrap();
    let config = spec.properties[0].visitors.as_mut().unwrap().config_data.as_mut().unwrap();
    let any = config.data.remove("offset").unwrap();
    config.data.insert("offsex".into(), any);
    assert_ne!(version::of_device(&other, 1), version);
}
