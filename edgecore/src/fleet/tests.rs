use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::dmi::convert;

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

#[derive(Clone, Debug)]
enum Action {
    Model {
        model: usize,
        protocol: usize,
        default: u64,
        extra: bool,
    },
    RemoveModel(usize),
    Device {
        device: usize,
        model: usize,
        protocol: usize,
        desired: u64,
        stray: bool,
    },
    RemoveDevice(usize),
    Malformed(usize),
    Register {
        mapper: usize,
        protocol: usize,
        with_data: bool,
    },
    Up(usize),
    Down(usize),
    /// The mapper answers: it took the call or not, and we learn of it or not.
    Answer {
        mapper: usize,
        takes: bool,
        learnt: bool,
    },
    Pass(u64),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..3usize, 0..2usize, 0..3u64, any::<bool>())
            .prop_map(|(model, protocol, default, extra)| Action::Model { model, protocol, default, extra }),
        1 => (0..3usize).prop_map(Action::RemoveModel),
        6 => (0..4usize, 0..3usize, 0..2usize, 0..3u64, prop::bool::weighted(0.1))
            .prop_map(|(device, model, protocol, desired, stray)| Action::Device { device, model, protocol, desired, stray }),
        2 => (0..4usize).prop_map(Action::RemoveDevice),
        1 => (0..4usize).prop_map(Action::Malformed),
        2 => (0..3usize, 0..2usize, any::<bool>())
            .prop_map(|(mapper, protocol, with_data)| Action::Register { mapper, protocol, with_data }),
        3 => (0..3usize).prop_map(Action::Up),
        1 => (0..3usize).prop_map(Action::Down),
        9 => (0..3usize, prop::bool::weighted(0.8), prop::bool::weighted(0.8))
            .prop_map(|(mapper, takes, learnt)| Action::Answer { mapper, takes, learnt }),
        3 => (1..5000u64).prop_map(Action::Pass),
        1 => Just(Action::Restart),
    ]
}

const MODELS: [&str; 3] = ["m0", "m1", "m2"];
const DEVICES: [&str; 4] = ["d0", "d1", "d2", "d3"];
const MAPPERS: [&str; 3] = ["v", "w", "x"];
const PROTOCOLS: [&str; 2] = ["p", "q"];

/// The fleet, the mappers, and a naive reading of what should be.
struct World {
    fleet: Fleet,
    now: Instant,
    clock: u64,
    objects: BTreeMap<ObjectKey, String>,
    mappers: BTreeMap<&'static str, (MapperRow, u64, Told)>,
    recorded: BTreeMap<String, BTreeMap<ObjectKey, Has>>,
    under_way: BTreeMap<String, Call>,
}

impl World {
    fn new() -> Self {
        Self {
            fleet: Fleet::default(),
            now: start(),
            clock: 0,
            objects: BTreeMap::new(),
            mappers: BTreeMap::new(),
            recorded: BTreeMap::new(),
            under_way: BTreeMap::new(),
        }
    }

    fn put(&mut self, key: ObjectKey, body: String) {
        self.fleet.upsert(&key, "u", &body);
        self.objects.insert(key, body);
    }

    fn drop_object(&mut self, key: &ObjectKey) {
        if self.objects.remove(key).is_some() {
            self.fleet.remove(key);
        }
    }

    fn take(&mut self, action: &Action) {
        match *action {
            Action::Model { model: m, protocol, default, extra } => {
                self.put(model(MODELS[m]), model_body(PROTOCOLS[protocol], default, extra));
            }
            Action::RemoveModel(m) => self.drop_object(&model(MODELS[m])),
            Action::Device { device: d, model: m, protocol, desired, stray } => {
                let property = if stray { "stray" } else { "t" };
                let body = device_body(MODELS[m], PROTOCOLS[protocol], desired, property);
                self.put(device(DEVICES[d]), body);
            }
            Action::RemoveDevice(d) => self.drop_object(&device(DEVICES[d])),
            Action::Malformed(d) => self.put(device(DEVICES[d]), "{\"spec\": 7}".into()),
            Action::Register { mapper, protocol, with_data } => {
                let name = MAPPERS[mapper];
                self.clock += 1;
                let row = row(name, PROTOCOLS[protocol], self.clock);
                let (answer, generation) =
                    self.fleet.register(row.clone(), with_data, self.now).unwrap();
                self.recorded.insert(name.into(), answer.accepted.iter().cloned().collect());
                let mut told = Told::default();
                told.answer(answer);
                self.mappers.insert(name, (row, generation, told));
                self.under_way.remove(name);
            }
            Action::Up(mapper) => {
                let name = MAPPERS[mapper];
                if let Some((_, generation, _)) = self.mappers.get(name) {
                    self.fleet.mapper_up(name, *generation);
                }
            }
            Action::Down(mapper) => {
                let name = MAPPERS[mapper];
                // The call that was cut may have been taken.
                let call = self.under_way.remove(name);
                if let Some((_, generation, told)) = self.mappers.get_mut(name) {
                    call.into_iter().for_each(|call| told.take(call));
                    self.fleet.mapper_down(name, *generation, self.now);
                }
            }
            Action::Answer { mapper, takes, learnt } => self.answer(MAPPERS[mapper], takes, learnt),
            Action::Pass(ms) => self.now += Duration::from_millis(ms),
            Action::Restart => {
                self.fleet = Fleet::default();
                // What was under way may have been taken.
                for (name, call) in std::mem::take(&mut self.under_way) {
                    if let Some((_, _, told)) = self.mappers.get_mut(name.as_str()) {
                        told.take(call);
                    }
                }
                for (key, body) in &self.objects {
                    self.fleet.upsert(key, "u", body);
                }
                for (name, (row, generation, _)) in &mut self.mappers {
                    let accepted = self.recorded.get(*name).cloned().unwrap_or_default();
                    *generation =
                        self.fleet.restore(row.clone(), accepted.into_iter().collect(), self.now);
                }
            }
        }
        self.settle();
    }

    fn answer(&mut self, name: &'static str, takes: bool, learnt: bool) {
        let Some(call) = self.under_way.remove(name) else { return };
        let Some((_, generation, told)) = self.mappers.get_mut(name) else { return };
        // A mapper refuses to remove only what it has.
        let takes = takes
            || matches!(&call, Call::RemoveDevice(id) if !told.devices.contains_key(id.name()));
        if takes {
            told.take(call);
        }
        let outcome = match (takes, learnt) {
            (true, true) => CallOutcome::Accepted,
            (false, true) => CallOutcome::Refused("told to refuse".into()),
            (_, false) => CallOutcome::Unanswered("told to be silent".into()),
        };
        if let Some(change) = self.fleet.done(name, *generation, &outcome, self.now) {
            self.record(change);
        }
    }

    fn record(&mut self, change: Accepted) {
        let recorded = self.recorded.entry(change.mapper).or_default();
        match change.has {
            Some(has) => recorded.insert(change.key, has),
            None => recorded.remove(&change.key),
        };
    }

    fn settle(&mut self) {
        self.fleet.lost(self.now);
        for name in self.fleet.forgotten() {
            self.mappers.retain(|known, _| *known != name);
            self.recorded.remove(&name);
            self.under_way.remove(&name);
        }
        while let Some(order) = self.fleet.poll_call(self.now) {
            self.record(order.meanwhile);
            let before = self.under_way.insert(order.mapper, order.call);
            assert!(before.is_none(), "one call at a time");
        }
    }

    /// Everything works for long enough.
    fn heal(&mut self) {
        for mapper in 0..3 {
            self.take(&Action::Up(mapper));
        }
        for _ in 0..60 {
            for mapper in 0..3 {
                self.take(&Action::Answer { mapper, takes: true, learnt: true });
            }
            self.take(&Action::Pass(2000));
        }
    }

    fn check(&self) {
        for (name, (row, _, told)) in &self.mappers {
            let rows = self.mappers.values().map(|(row, _, _)| row);
            let serves = rows
                .filter(|other| other.protocol == row.protocol)
                .all(|other| other.registered_ms <= row.registered_ms);
            self.check_devices(name, row, serves, told);
            self.check_models(name, row, serves, told);
        }
    }

    fn check_devices(&self, name: &str, row: &MapperRow, serves: bool, told: &Told) {
        for device_name in DEVICES {
            let key = device(device_name);
            let has = told.devices.get(device_name);
            let body = self.objects.get(&key);
            let parsed = body.and_then(|body| serde_json::from_str::<Device>(body).ok());
            if serves && body.is_some() && parsed.is_none() {
                continue; // whatever it has
            }
            let wanted = parsed.filter(|d| serves && d.spec.protocol_name() == Some(&row.protocol));
            let Some(wanted) = wanted else {
                assert!(has.is_none(), "{name} still has {device_name}");
                continue;
            };
            let model_body = self.objects.get(&model(wanted.spec.model_name().unwrap()));
            let Some(model_body) = model_body else { continue };
            let model: DeviceModel = serde_json::from_str(model_body).unwrap();
            if wanted.spec.properties.iter().any(|p| model.spec.property(&p.name).is_none()) {
                continue;
            }
            let merged = crds::merge::merge(&wanted.spec, &model.spec);
            let id = key.device_id().unwrap();
            let expected = convert::device(&id, &merged, StateReporting::default()).unwrap();
            assert_eq!(has, Some(&expected), "{name} has the wrong {device_name}");
        }
    }

    fn check_models(&self, name: &str, row: &MapperRow, serves: bool, told: &Told) {
        for model_name in MODELS {
            let key = model(model_name);
            let has = told.models.get(model_name);
            let spec = self
                .objects
                .get(&key)
                .map(|body| serde_json::from_str::<DeviceModel>(body).unwrap().spec);
            let used = self.objects.values().any(|body| {
                serde_json::from_str::<Device>(body).is_ok_and(|device| {
                    device.spec.model_name() == Some(model_name)
                        && device.spec.protocol_name() == Some(&row.protocol)
                })
            });
            let wanted = spec
                .filter(|spec| serves && (used || spec.protocol.as_deref() == Some(&row.protocol)));
            let expected = wanted.map(|spec| convert::model(&key, &spec));
            assert_eq!(has, expected.as_ref(), "{name} has the wrong {model_name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn every_mapper_ends_with_what_it_should_have(
        actions in proptest::collection::vec(action(), 1..80)
    ) {
        let mut world = World::new();
        for action in &actions {
            world.take(action);
        }
        world.heal();
        world.check();
        prop_assert!(world.under_way.is_empty());
    }
}
