use hub_proto::frame::Envelope;
use hub_proto::id::{MessageId, NodeName, ObjectKey, ObjectKind, Revision};
use hub_proto::message::{ObjectChange, ToCloud, ToEdge};
use serde_json::json;
use tonic::Status;

use super::*;
use crate::dmi::mapper::MapperChange;
use crate::dmi::server::{MapperInfo, ReportedTwin, Timed};

struct Node {
    agent: Agent,
    now: Now,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "any instant will do to start from")]
    fn new() -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 1_754_463_538_000 };
        let node = NodeName::parse("gw-1").unwrap();
        let options = EdgeOptions { node, heartbeat: Duration::from_secs(15), seed: 1 };
        let (agent, effects) = Agent::new(options, Snapshot::default(), Metrics::default(), now);
        assert!(effects.is_empty());
        Self { agent, now }
    }

    /// Handles an event; writes succeed at once, and so does what follows from them.
    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut rest = Vec::new();
        let mut effects = self.agent.handle(event, self.now);
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                if let Effect::Store(write) = effect {
                    next.extend(self.agent.handle(Event::Stored(succeed(write)), self.now));
                } else {
                    rest.push(effect);
                }
            }
            effects = next;
        }
        rest
    }

    fn connected(mut self) -> Self {
        self.handle(Event::LinkUp);
        self.sent();
        self
    }

    fn cloud_says(&mut self, message: &ToEdge, id: &str) -> Vec<Effect> {
        self.handle(Event::Frame(frame(message, id)))
    }

    fn sent(&mut self) -> Vec<ToCloud> {
        std::iter::from_fn(|| self.agent.poll_transmit(self.now))
            .filter_map(|frame| match frame {
                Transmit::Message(text) => Some(
                    ToCloud::decode(&Envelope::decode(text.as_bytes()).unwrap()).unwrap().message,
                ),
                Transmit::Ping => None,
            })
            .collect()
    }

    fn report(&mut self, values: &[(&str, &str)]) -> Result<(), Status> {
        let (reply, mut answer) = oneshot::channel();
        let twins = values.iter().map(|(property, value)| ReportedTwin {
            property: (*property).to_owned(),
            reported: Some(Timed { value: (*value).to_owned(), sampled_ms: None }),
            observed: None,
        });
        let device = DeviceId::parse("dev/a").unwrap();
        self.handle(Event::Dmi(DmiRequest::Report { device, twins: twins.collect(), reply }));
        answer.try_recv().expect("answered at once")
    }
}

fn frame(message: &ToEdge, id: &str) -> Bytes {
    message.encode(&MessageId::parse(id).unwrap(), 0).encode().into()
}

fn succeed(write: Write) -> Done {
    match write {
        Write::Deliver { delivery, change } => {
            Done::Delivered { delivery, change, applied: Ok(true) }
        }
        Write::Retain(_) | Write::DropUnusedModels => Done::Retained(Ok(Vec::new())),
        Write::Flush { .. } => {
            Done::Flushed { twins: Vec::new(), states: Vec::new(), result: Ok(()) }
        }
        Write::Mapper(..) => Done::Registered(Ok(())),
        Write::LinkUp | Write::ForgetMapper(_) | Write::Accepted(..) => Done::Other(Ok(())),
    }
}

fn object(kind: ObjectKind, name: &str, revision: u64, spec: &serde_json::Value) -> ToEdge {
    let body = json!({"metadata": {"name": name, "namespace": "dev", "uid": name,
        "resourceVersion": revision.to_string()}, "spec": spec});
    ToEdge::Object(ObjectChange {
        key: ObjectKey::new(kind, "dev", name).unwrap(),
        uid: Some(name.to_owned()),
        revision: Some(Revision(revision)),
        change: Change::Upsert {
            create: true,
            object: serde_json::value::to_raw_value(&body).unwrap(),
        },
    })
}

fn model() -> ToEdge {
    let properties = json!([{"name": "t", "type": "INT"}, {"name": "s", "type": "STRING"}]);
    object(ObjectKind::DeviceModel, "m", 1, &json!({"protocol": "p", "properties": properties}))
}

fn device(revision: u64) -> ToEdge {
    let properties =
        json!([{"name": "t", "desired": {"value": revision.to_string()}}, {"name": "s"}]);
    object(
        ObjectKind::Device,
        "a",
        revision,
        &json!({"deviceModelRef": {"name": "m"},
        "protocol": {"protocolName": "p"}, "properties": properties}),
    )
}

fn mapper() -> MapperInfo {
    MapperInfo {
        name: "v".into(),
        version: "1".into(),
        api_version: "1".into(),
        protocol: "p".into(),
        address: "/run/v.sock".into(),
    }
}

#[test]
fn an_ack_waits_for_the_disk() {
    let mut node = Node::new().connected();
    let effects = node.agent.handle(Event::Frame(frame(&model(), "m1")), node.now);
    let Some(Effect::Store(write)) = effects.into_iter().next() else { panic!("no write") };
    assert!(node.sent().is_empty());
    node.handle(Event::Stored(succeed(write)));
    assert!(matches!(&node.sent()[..], [ToCloud::Ack { of, .. }] if of.as_str() == "m1"));
}

#[test]
fn a_disk_that_is_full_is_said_and_not_acked() {
    let mut node = Node::new().connected();
    let effects = node.agent.handle(Event::Frame(frame(&model(), "m1")), node.now);
    let Some(Effect::Store(Write::Deliver { delivery, change })) = effects.into_iter().next()
    else {
        panic!("no write")
    };
    let applied = Err("disk full".to_owned());
    node.handle(Event::Stored(Done::Delivered { delivery, change, applied }));
    assert!(matches!(&node.sent()[..], [ToCloud::Refuse { reason, .. }] if reason == "disk full"));
    assert_eq!(node.agent.fleet.sizes(), (0, 0), "memory holds what the disk holds");
    let (reply, mut status) = oneshot::channel();
    node.handle(Event::Status(Question { with_devices: true, reply }));
    assert_eq!(status.try_recv().unwrap()["store"]["problem"], "disk full");
}

#[test]
fn a_registration_is_answered_with_the_fleet_and_dialled() {
    let mut node = Node::new().connected();
    node.cloud_says(&model(), "m1");
    node.cloud_says(&device(2), "m2");
    let (reply, mut answer) = oneshot::channel();
    let request = DmiRequest::Register { mapper: mapper(), with_data: true, reply };
    let effects = node.handle(Event::Dmi(request));
    let answer = answer.try_recv().unwrap().unwrap();
    assert_eq!((answer.model_list.len(), answer.device_list.len()), (1, 1));
    let Some(Effect::Dial { name, generation, .. }) = effects.first() else {
        panic!("{effects:?}")
    };
    let (name, generation) = (name.clone(), *generation);
    let up = MapperEvent { name, generation, what: MapperChange::Up };
    assert!(node.handle(Event::Mapper(up)).is_empty(), "it has everything");
    node.now.instant += Duration::from_secs(1);
    let effects = node.cloud_says(&device(3), "m3");
    assert!(
        matches!(&effects[..], [Effect::Call(order)] if matches!(order.call, crate::fleet::Call::UpdateDevice(_)))
    );
}

#[test]
fn values_that_fit_are_told_and_the_others_are_named() {
    let mut node = Node::new().connected();
    assert_eq!(node.report(&[("t", "1")]).unwrap_err().code(), tonic::Code::NotFound);
    node.cloud_says(&model(), "m1");
    node.cloud_says(&device(2), "m2");
    node.sent();
    let error = node.report(&[("t", "warm"), ("s", "warm"), ("x", "1")]).unwrap_err();
    assert!(error.message().contains("\"t\"") && error.message().contains("\"x\""), "{error}");
    let sent = node.sent();
    let [ToCloud::Twin(report), ToCloud::State(state)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(report.twins.keys().collect::<Vec<_>>(), ["s"]);
    assert_eq!(report.twins["s"].kind.as_deref(), Some("string"));
    assert_eq!(state.state, "online");
}

#[test]
fn changed_twins_reach_the_disk_within_a_quarter_of_a_second_in_one_write() {
    let mut node = Node::new();
    node.cloud_says(&model(), "m1"); // not connected: ignored
    let mut node = node.connected();
    node.cloud_says(&model(), "m1");
    node.cloud_says(&device(2), "m2");
    for value in 0..100 {
        node.report(&[("t", &value.to_string()), ("s", "x")]).unwrap();
    }
    let at = node.agent.flush_at.unwrap();
    assert_eq!(at, node.now.instant + FLUSH_EVERY);
    node.now.instant = at;
    let effects = node.agent.handle(Event::Timeout, node.now);
    let [Effect::Store(Write::Flush { twins, states, .. })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((twins.len(), states.len()), (2, 1));
    assert_eq!(twins[1].reported.as_ref().unwrap().0, "99");
    // The disk is full; the same rows are tried again later.
    let (twins, states) = (vec![(twins[1].device.clone(), "t".to_owned())], Vec::new());
    let result = Err("disk full".to_owned());
    node.agent.handle(Event::Stored(Done::Flushed { twins, states, result }), node.now);
    assert_eq!(node.agent.flush_at, Some(node.now.instant + STORE_RETRY));
    node.now.instant += STORE_RETRY;
    let effects = node.agent.handle(Event::Timeout, node.now);
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Store(Write::Flush { twins, .. }) if twins.len() == 1))
    );
}

#[test]
fn a_recreated_device_starts_with_a_clean_twin() {
    let mut node = Node::new().connected();
    node.cloud_says(&model(), "m1");
    node.cloud_says(&device(2), "m2");
    node.report(&[("t", "1")]).unwrap();
    let ToEdge::Object(mut change) = device(3) else { unreachable!() };
    change.uid = Some("another".into());
    let text = ToEdge::Object(change).encode(&MessageId::parse("m3").unwrap(), 0).encode();
    node.handle(Event::Frame(text.replace("\"uid\":\"a\"", "\"uid\":\"another\"").into()));
    let id = DeviceId::parse("dev/a").unwrap();
    assert!(node.agent.twins.get(&id, "t").is_none());
    assert!(!node.sent().iter().any(|message| matches!(message, ToCloud::Twin(_))));
}

#[test]
fn twins_of_removed_properties_are_gone() {
    let mut node = Node::new().connected();
    node.cloud_says(&model(), "m1");
    node.cloud_says(&device(2), "m2");
    node.report(&[("t", "1"), ("s", "x")]).unwrap();
    let spec = json!({"deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "p"},
        "properties": [{"name": "s"}]});
    node.cloud_says(&object(ObjectKind::Device, "a", 3, &spec), "m3");
    let id = DeviceId::parse("dev/a").unwrap();
    assert!(node.agent.twins.get(&id, "t").is_none());
    assert!(node.agent.twins.get(&id, "s").is_some());
}

#[test]
fn the_link_is_not_read_while_the_disk_is_behind() {
    let mut node = Node::new().connected();
    let mut count = 0;
    while !node.agent.is_saturated() {
        count += 1;
        node.agent.handle(Event::Frame(frame(&model(), &format!("m{count}"))), node.now);
        assert!(count < 10_000);
    }
    assert_eq!(count, MAX_WRITES);
}
