//! Random walks: a cloud session against a small reference model of an edge, over a wire that drops,
//! repeats and is cut, with answers in any order. After some quiet the edge holds what is desired, and
//! at no time did it step back to an older revision.

#![expect(clippy::unwrap_used, reason = "a test panics on what it did not expect")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use hub_proto::Now;
use hub_proto::cloud::{CloudConfig, CloudSession, Desired, Event, Snapshot};
use hub_proto::frame::Envelope;
use hub_proto::id::{DeviceId, IdSource, MessageId, NodeName, ObjectKey, ObjectKind, Revision};
use hub_proto::message::{Change, ToCloud, ToEdge};
use proptest::prelude::*;

const MODELS: usize = 3;
const DEVICES: usize = 6;

/// What the cluster wants of the node.
#[derive(Default)]
struct World {
    revision: u64,
    models: BTreeMap<usize, u64>,
    /// Device to its model and revision; parked while the model is missing.
    devices: BTreeMap<usize, (usize, u64)>,
}

/// What an edge does, and no more.
#[derive(Default)]
struct Edge {
    store: BTreeMap<ObjectKey, u64>,
    /// Revisions in the order in which each key was stored.
    steps: BTreeMap<ObjectKey, Vec<u64>>,
    list_seen: bool,
    /// Taken but not acked: an answer waits here until it is sent, or lost.
    answers: VecDeque<ToCloud>,
}

struct Link {
    world: World,
    edge: Edge,
    cloud: CloudSession,
    wire: VecDeque<String>,
    now: Now,
    sessions: u64,
}

#[derive(Clone, Debug)]
enum Step {
    SetModel(usize),
    DropModel(usize),
    SetDevice(usize, usize),
    DropDevice(usize),
    Deliver(u8),
    LoseFromWire,
    Repeat,
    Answer(u8),
    LoseAnswer,
    Refuse,
    Wait(u16),
    Cut,
    Lag,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..MODELS).prop_map(Step::SetModel),
        1 => (0..MODELS).prop_map(Step::DropModel),
        4 => (0..DEVICES, 0..MODELS).prop_map(|(d, m)| Step::SetDevice(d, m)),
        2 => (0..DEVICES).prop_map(Step::DropDevice),
        6 => any::<u8>().prop_map(Step::Deliver),
        1 => Just(Step::LoseFromWire),
        1 => Just(Step::Repeat),
        6 => any::<u8>().prop_map(Step::Answer),
        1 => Just(Step::LoseAnswer),
        1 => Just(Step::Refuse),
        3 => (0u16..8_000).prop_map(Step::Wait),
        1 => Just(Step::Cut),
        1 => Just(Step::Lag),
    ];
    proptest::collection::vec(step, 1..120)
}

fn model_key(n: usize) -> ObjectKey {
    ObjectKey::new(ObjectKind::DeviceModel, "dev", &format!("m{n}")).unwrap()
}

fn device_id(n: usize) -> DeviceId {
    DeviceId::new("dev", &format!("t{n}")).unwrap()
}

impl World {
    fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn used(&self, model: usize) -> bool {
        self.devices.values().any(|(of, _)| *of == model)
    }

    fn model(&self, n: usize) -> Option<Desired> {
        let revision = *self.models.get(&n)?;
        Some(desired(model_key(n), revision, None))
    }

    fn device(&self, n: usize) -> Option<Desired> {
        let (model, revision) = *self.devices.get(&n)?;
        self.models.get(&model)?;
        Some(desired(device_id(n).object_key(), revision, Some(model_key(model))))
    }

    fn snapshot(&self) -> Snapshot {
        let models = (0..MODELS).filter(|n| self.used(*n)).filter_map(|n| self.model(n));
        let devices = (0..DEVICES).filter_map(|n| self.device(n));
        let objects = models.chain(devices).collect();
        let parked = self.devices.iter().filter(|(_, (model, _))| !self.models.contains_key(model));
        Snapshot { objects, parked: parked.map(|(n, _)| device_id(*n)).collect() }
    }
}

fn desired(key: ObjectKey, revision: u64, model: Option<ObjectKey>) -> Desired {
    let object = serde_json::json!({
        "metadata": { "namespace": key.namespace(), "name": key.name(), "uid": "u", "resourceVersion": revision.to_string() },
        "model": model.as_ref().map(ObjectKey::name),
    });
    let object = serde_json::value::to_raw_value(&object).unwrap().into();
    Desired { key, uid: "u".into(), revision: Revision(revision), object, model }
}

impl Edge {
    fn take(&mut self, text: &str) {
        let received = ToEdge::decode(&Envelope::decode(text.as_bytes()).unwrap()).unwrap();
        match received.message {
            ToEdge::Object(object) => {
                match object.change {
                    Change::Upsert { .. } => {
                        let revision = object.revision.unwrap().0;
                        let stored = self.store.get(&object.key);
                        if stored.is_none_or(|stored| *stored < revision) {
                            self.store.insert(object.key.clone(), revision);
                            self.steps.entry(object.key).or_default().push(revision);
                        }
                    }
                    Change::Delete => {
                        self.store.remove(&object.key);
                    }
                }
                self.answers.push_back(ToCloud::Ack { of: received.id, route: received.route });
            }
            ToEdge::Devices(list) => {
                let list: BTreeSet<ObjectKey> = list.iter().map(DeviceId::object_key).collect();
                self.store
                    .retain(|key, _| key.kind() == ObjectKind::DeviceModel || list.contains(key));
                self.list_seen = true;
            }
            ToEdge::Membership { .. } | ToEdge::Confirm(_) | ToEdge::Foreign { .. } => {}
        }
    }
}

impl Link {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant serves as the start of a test")]
        let instant = Instant::now();
        let now = Now { instant, unix_ms: 1_795_000_000_000 };
        let world = World::default();
        let cloud = connect(&world, 0, now);
        Self { world, edge: Edge::default(), cloud, wire: VecDeque::new(), now, sessions: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::SetModel(n) => {
                let revision = self.world.next();
                let appeared = self.world.models.insert(n, revision).is_none();
                if self.world.used(n) {
                    self.cloud.upsert(self.world.model(n).unwrap());
                    if appeared {
                        self.offer_users(n);
                    }
                }
            }
            Step::DropModel(n) => {
                if self.world.models.remove(&n).is_some() {
                    for (device, (model, _)) in &self.world.devices {
                        if *model == n {
                            self.cloud.park(device_id(*device));
                        }
                    }
                }
            }
            Step::SetDevice(n, model) => {
                let revision = self.world.next();
                let first = !self.world.used(model);
                let before = self.world.devices.insert(n, (model, revision));
                if first && let Some(desired) = self.world.model(model) {
                    self.cloud.upsert(desired);
                }
                match self.world.device(n) {
                    Some(desired) => self.cloud.upsert(desired),
                    None => self.cloud.park(device_id(n)),
                }
                if let Some((old, _)) = before
                    && !self.world.used(old)
                {
                    self.cloud.remove(model_key(old));
                }
            }
            Step::DropDevice(n) => {
                if let Some((model, _)) = self.world.devices.remove(&n) {
                    self.cloud.remove(device_id(n).object_key());
                    if !self.world.used(model) {
                        self.cloud.remove(model_key(model));
                    }
                }
            }
            Step::Deliver(count) => {
                self.transmit();
                for _ in 0..=count % 8 {
                    if let Some(text) = self.wire.pop_front() {
                        self.edge.take(&text);
                    }
                }
            }
            // An upstream edge drops the oldest when its queue is full. What is not acked (the list)
            // is asked for again by the edge, so the walk spares it.
            Step::LoseFromWire => {
                self.transmit();
                let object = self.wire.iter().position(|text| !text.contains("membership"));
                if let Some(at) = object {
                    self.wire.remove(at);
                }
            }
            Step::Repeat => {
                self.transmit();
                if let Some(text) = self.wire.front().cloned() {
                    self.wire.push_front(text);
                }
            }
            Step::Answer(which) => {
                let count = self.edge.answers.len();
                if count > 0
                    && let Some(answer) = self.edge.answers.remove(usize::from(which) % count)
                {
                    self.say(&answer);
                }
            }
            Step::LoseAnswer => {
                self.edge.answers.pop_front();
            }
            Step::Refuse => {
                if let Some(ToCloud::Ack { of, route }) = self.edge.answers.pop_front() {
                    self.say(&ToCloud::Refuse { of, route, reason: "no room".into() });
                }
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(u64::from(ms))),
            Step::Cut => {
                self.sessions += 1;
                self.wire.clear();
                self.edge.answers.clear();
                self.cloud = connect(&self.world, self.sessions, self.now);
            }
            Step::Lag => self.cloud.set_desired(self.world.snapshot()),
        }
    }

    fn offer_users(&mut self, model: usize) {
        for n in 0..DEVICES {
            if self.world.devices.get(&n).is_some_and(|(of, _)| *of == model) {
                self.cloud.upsert(self.world.device(n).unwrap());
            }
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now.instant += duration;
        self.now.unix_ms += u64::try_from(duration.as_millis()).unwrap();
        self.say(&ToCloud::Keepalive);
        self.cloud.handle_timeout(self.now);
    }

    fn say(&mut self, message: &ToCloud) {
        let id = MessageId::parse("edge").unwrap();
        let text = message.encode(&id, self.now.unix_ms).encode();
        self.cloud.receive(text.as_bytes(), self.now).unwrap();
    }

    fn transmit(&mut self) {
        while let Some(text) = self.cloud.poll_transmit(self.now) {
            self.wire.push_back(text);
        }
        while let Some(event) = self.cloud.poll_event() {
            assert!(!matches!(event, Event::Close(_)), "the edge kept the session alive");
        }
    }

    /// A working link: everything is delivered and answered, and time passes.
    fn settle(&mut self) {
        for _ in 0..200 {
            loop {
                self.transmit();
                while let Some(text) = self.wire.pop_front() {
                    self.edge.take(&text);
                }
                let Some(answer) = self.edge.answers.pop_front() else { break };
                self.say(&answer);
            }
            if self.cloud.owed() == 0 {
                return;
            }
            self.wait(Duration::from_secs(5));
        }
        panic!("{} objects are still owed", self.cloud.owed());
    }
}

fn connect(world: &World, session: u64, now: Now) -> CloudSession {
    let node = NodeName::parse("gw-1").unwrap();
    let config = CloudConfig { window: 4, ..CloudConfig::default() };
    let mut cloud = CloudSession::new(node, IdSource::new(session), config, now);
    cloud.set_desired(world.snapshot());
    cloud
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn after_any_walk_the_edge_holds_what_is_desired(steps in steps()) {
        let mut link = Link::new();
        for step in &steps {
            link.step(step);
            prop_assert!(link.wire.len() <= 200, "what is on the wire is bounded");
        }
        link.settle();

        for (n, (model, revision)) in &link.world.devices {
            let stored = link.edge.store.get(&device_id(*n).object_key());
            if link.world.models.contains_key(model) {
                prop_assert_eq!(stored, Some(revision), "device t{}", n);
            } else if let Some(stored) = stored {
                prop_assert!(stored <= revision, "a parked device stays as it was");
            }
        }
        for key in link.edge.store.keys().filter(|key| key.kind() == ObjectKind::Device) {
            let wanted = link.world.devices.keys().any(|n| device_id(*n).object_key() == *key);
            prop_assert!(wanted, "{} should be gone", key);
        }
        for (n, revision) in &link.world.models {
            if link.world.used(*n) {
                prop_assert_eq!(link.edge.store.get(&model_key(*n)), Some(revision));
            }
        }
        for (key, steps) in &link.edge.steps {
            prop_assert!(steps.is_sorted(), "{} went {:?}", key, steps);
        }
    }
}
