//! An edge's session against a cloud that ignores messages and a wire that is cut, by random walks.
//!
//! The reference is one line: the last value reported of each property is what the cloud ends with,
//! and on the way it never goes back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use hub_proto::Now;
use hub_proto::edge::{Confirmed, EdgeEvent, EdgeOptions, EdgeSession, StateValue, Transmit};
use hub_proto::frame::Envelope;
use hub_proto::id::{DeviceId, IdSource, MessageId, NodeName};
use hub_proto::message::{ToCloud, ToEdge, TwinValue, TwinValues};
use proptest::prelude::*;

const DEVICES: [&str; 3] = ["a", "b", "c"];
const PROPERTIES: [&str; 3] = ["p", "q", "r"];

#[derive(Clone, Debug)]
enum Step {
    Report {
        device: usize,
        property: usize,
    },
    State {
        device: usize,
    },
    Connect,
    Cut,
    /// The socket takes up to this many frames.
    Send(usize),
    /// The cloud reads a message; it may ignore it, and its answer may be kept back.
    Cloud {
        ignores: bool,
    },
    /// An answer that was kept back arrives.
    Answer,
    Pass(u64),
    /// The edge restarts: its driver hands in everything that was not confirmed.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 0..3usize).prop_map(|(device, property)| Step::Report { device, property }),
        2 => (0..3usize).prop_map(|device| Step::State { device }),
        2 => Just(Step::Connect),
        1 => Just(Step::Cut),
        5 => (0..4usize).prop_map(Step::Send),
        6 => any::<bool>().prop_map(|ignores| Step::Cloud { ignores }),
        5 => Just(Step::Answer),
        2 => (1..12_000u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

type Key = (String, Option<String>);

struct World {
    session: EdgeSession,
    now: Now,
    seed: u64,
    up: bool,
    wire: VecDeque<String>,
    answers: VecDeque<MessageId>,
    ids: IdSource,
    /// What the edge said last, by device and property; no property is the state.
    said: BTreeMap<Key, u64>,
    /// What the edge knows to be confirmed.
    confirmed: BTreeMap<Key, u64>,
    /// What the cloud holds.
    held: BTreeMap<Key, u64>,
    marks: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "any instant will do to start from")]
    fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 1_000_000 };
        Self {
            session: session(1),
            now,
            seed: 1,
            up: false,
            wire: VecDeque::new(),
            answers: VecDeque::new(),
            ids: IdSource::new(99),
            said: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            held: BTreeMap::new(),
            marks: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Report { device, property } => {
                self.marks += 1;
                let key = (DEVICES[device].to_owned(), Some(PROPERTIES[property].to_owned()));
                self.said.insert(key.clone(), self.marks);
                self.tell(&key, self.marks);
            }
            Step::State { device } => {
                self.marks += 1;
                let key = (DEVICES[device].to_owned(), None);
                self.said.insert(key.clone(), self.marks);
                self.tell(&key, self.marks);
            }
            Step::Connect => {
                self.cut();
                self.up = true;
                self.session.connected(self.now);
            }
            Step::Cut => self.cut(),
            Step::Send(count) => {
                for _ in 0..count {
                    match self.session.poll_transmit(self.now) {
                        Some(Transmit::Message(text)) => self.wire.push_back(text),
                        Some(Transmit::Ping) => self.session.heard(self.now),
                        None => break,
                    }
                }
            }
            Step::Cloud { ignores } => self.cloud_reads(ignores),
            Step::Answer => {
                if let Some(id) = self.answers.pop_front() {
                    let text = ToEdge::Confirm(id).encode(&self.ids.next_id(), 0).encode();
                    self.session.receive(text.as_bytes(), self.now);
                }
            }
            Step::Pass(ms) => {
                self.now.instant += Duration::from_millis(ms);
                self.now.unix_ms += ms;
                self.session.handle_timeout(self.now);
            }
            Step::Restart => {
                self.cut();
                self.seed += 1;
                self.session = session(self.seed);
                for (key, mark) in self.said.clone() {
                    if self.confirmed.get(&key) != Some(&mark) {
                        self.tell(&key, mark);
                    }
                }
            }
        }
        while let Some(event) = self.session.poll_event() {
            self.event(event);
        }
    }

    fn tell(&mut self, (device, property): &Key, mark: u64) {
        let device = DeviceId::new("dev", device).unwrap();
        match property {
            Some(property) => {
                let reported = Some(TwinValue { value: mark.to_string(), sampled_ms: Some(mark) });
                let values = TwinValues { reported, ..TwinValues::default() };
                self.session.report(&device, property, values, mark);
            }
            None => {
                let state = StateValue { state: mark.to_string(), last_online: None };
                self.session.state(&device, state, mark);
            }
        }
    }

    fn cut(&mut self) {
        self.up = false;
        self.wire.clear();
        self.answers.clear();
        self.session.disconnected();
    }

    fn cloud_reads(&mut self, ignores: bool) {
        let Some(text) = self.wire.pop_front() else { return };
        let received = ToCloud::decode(&Envelope::decode(text.as_bytes()).unwrap()).unwrap();
        let told: Vec<(Key, u64)> = match received.message {
            ToCloud::Twin(report) => {
                let device = report.device.name().to_owned();
                let mark = |values: TwinValues| values.reported.unwrap().value.parse().unwrap();
                let twins = report.twins.into_iter();
                twins.map(|(name, values)| ((device.clone(), Some(name)), mark(values))).collect()
            }
            ToCloud::State(report) => {
                vec![((report.device.name().to_owned(), None), report.state.parse().unwrap())]
            }
            ToCloud::Keepalive
            | ToCloud::Ack { .. }
            | ToCloud::Refuse { .. }
            | ToCloud::ListDevices(_)
            | ToCloud::Foreign { .. } => return,
        };
        if ignores {
            return;
        }
        for (key, mark) in told {
            let before = self.held.insert(key.clone(), mark);
            assert!(before.is_none_or(|before| before <= mark), "{key:?} went back to {mark}");
        }
        self.answers.push_back(received.id);
    }

    fn event(&mut self, event: EdgeEvent) {
        match &event {
            EdgeEvent::Confirmed(Confirmed::Values { device, marks }) => {
                for (property, mark) in marks {
                    let key = (device.name().to_owned(), Some(property.clone()));
                    assert_eq!(self.held.get(&key), Some(mark), "confirmed what is not held");
                    self.confirmed.insert(key, *mark);
                }
            }
            EdgeEvent::Confirmed(Confirmed::State { device, mark }) => {
                self.confirmed.insert((device.name().to_owned(), None), *mark);
            }
            EdgeEvent::Close(_) => self.cut(),
            EdgeEvent::Alive => {}
            EdgeEvent::Store { .. } | EdgeEvent::Devices(_) | EdgeEvent::Skipped(_) => {
                panic!("{event:?}")
            }
        }
    }
}

fn session(seed: u64) -> EdgeSession {
    let node = NodeName::parse("gw-1").unwrap();
    EdgeSession::new(EdgeOptions { node, heartbeat: Duration::from_secs(15), seed })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_last_value_of_each_property_arrives_and_nothing_goes_back(
        steps in proptest::collection::vec(step(), 1..150)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        // The link stays up and the cloud does its work.
        world.take(&Step::Connect);
        for _ in 0..60 {
            for step in [Step::Send(3), Step::Cloud { ignores: false }, Step::Answer, Step::Pass(100)] {
                world.take(&step);
            }
        }
        prop_assert_eq!(&world.held, &world.said);
        prop_assert_eq!(&world.confirmed, &world.said);
        prop_assert_eq!(world.session.unconfirmed(), 0);
    }
}
