//! Random walks: whatever happened, every mapper ends with what it should have.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

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
