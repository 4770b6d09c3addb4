//! What an edge's session says and when, told against a clock that the test moves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::time::{Duration, Instant};

use hub_proto::Now;
use hub_proto::edge::{
    CloseReason, Confirmed, EdgeEvent, EdgeOptions, EdgeSession, StateValue, Transmit,
};
use hub_proto::frame::Envelope;
use hub_proto::id::{DeviceId, MessageId, NodeName, ObjectKey, ObjectKind, Revision};
use hub_proto::message::{
    Change, ObjectChange, Received, ToCloud, ToEdge, TwinReport, TwinValue, TwinValues,
};

struct Edge {
    session: EdgeSession,
    now: Now,
}

impl Edge {
    #[expect(clippy::disallowed_methods, reason = "any instant will do to start from")]
    fn new() -> Self {
        let node = NodeName::parse("gw-1").unwrap();
        let options = EdgeOptions { node, heartbeat: Duration::from_secs(15), seed: 7 };
        let now = Now { instant: Instant::now(), unix_ms: 1_000_000 };
        Self { session: EdgeSession::new(options), now }
    }

    fn connected() -> Self {
        let mut edge = Self::new();
        edge.session.connected(edge.now);
        assert_eq!(edge.names(), ["keepalive", "list"]);
        edge
    }

    /// Connected to a cloud of ours: it has said which devices there are.
    fn listed() -> Self {
        let mut edge = Self::connected();
        edge.say(&ToEdge::Devices(vec![device("a")]), "l1");
        edge.events();
        edge
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += u64::try_from(time.as_millis()).unwrap();
        self.session.handle_timeout(self.now);
    }

    fn drain(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.session.poll_transmit(self.now)).collect()
    }

    fn messages(&mut self) -> Vec<Received<ToCloud>> {
        let frames = self.drain().into_iter();
        frames
            .filter_map(|frame| match frame {
                Transmit::Message(text) => Some(decode(&text)),
                Transmit::Ping => None,
            })
            .collect()
    }

    fn names(&mut self) -> Vec<String> {
        self.drain().iter().map(name).collect()
    }

    fn events(&mut self) -> Vec<EdgeEvent> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn say(&mut self, message: &ToEdge, id: &str) {
        let id = MessageId::parse(id).unwrap();
        self.session.receive(message.encode(&id, 0).encode().as_bytes(), self.now);
    }

    fn report(&mut self, name: &str, property: &str, value: &str, mark: u64) {
        self.session.report(&device(name), property, values(value), mark);
    }
}

fn decode(text: &str) -> Received<ToCloud> {
    ToCloud::decode(&Envelope::decode(text.as_bytes()).unwrap()).unwrap()
}

fn name(frame: &Transmit) -> String {
    let Transmit::Message(text) = frame else { return "ping".into() };
    match decode(text).message {
        ToCloud::Keepalive => "keepalive".into(),
        ToCloud::Ack { of, .. } => format!("ack {of}"),
        ToCloud::Refuse { of, .. } => format!("refuse {of}"),
        ToCloud::ListDevices(_) => "list".into(),
        ToCloud::Twin(report) => format!("report {}", report.device.name()),
        ToCloud::State(report) => format!("state {} {}", report.device.name(), report.state),
        ToCloud::Foreign { operation } => operation,
    }
}

fn device(name: &str) -> DeviceId {
    DeviceId::new("dev", name).unwrap()
}

fn values(value: &str) -> TwinValues {
    let reported = Some(TwinValue { value: value.into(), sampled_ms: Some(1) });
    TwinValues { reported, observed_desired: None, kind: None }
}

fn twin(received: &Received<ToCloud>) -> &TwinReport {
    let ToCloud::Twin(report) = &received.message else {
        panic!("not a twin report: {received:?}")
    };
    report
}

fn insert(name: &str) -> ToEdge {
    let object = format!(r#"{{"metadata":{{"name":"{name}","namespace":"dev","uid":"u"}}}}"#);
    ToEdge::Object(ObjectChange {
        key: ObjectKey::new(ObjectKind::Device, "dev", name).unwrap(),
        uid: Some("u".into()),
        revision: Some(Revision(1)),
        change: Change::Upsert {
            create: true,
            object: serde_json::value::RawValue::from_string(object).unwrap(),
        },
    })
}

#[test]
fn nothing_is_said_without_a_connection() {
    let mut edge = Edge::new();
    edge.report("a", "t", "1", 1);
    edge.pass(Duration::from_secs(100));
    assert!(edge.drain().is_empty() && edge.session.poll_timeout().is_none());
    assert_eq!(edge.session.unconfirmed(), 1);
}

#[test]
fn a_second_keepalive_follows_the_first_soon_and_then_one_each_heartbeat() {
    let mut edge = Edge::connected();
    let mut at = Vec::new();
    for second in 1..=60 {
        edge.pass(Duration::from_secs(1));
        edge.session.heard(edge.now);
        if edge.names().contains(&"keepalive".to_owned()) {
            at.push(second);
        }
    }
    assert_eq!(at, [2, 17, 32, 47]);
}

#[test]
fn the_list_is_asked_for_until_it_has_come() {
    let mut edge = Edge::connected();
    let mut asked = 0;
    for second in 1..=200 {
        edge.pass(Duration::from_secs(1));
        edge.session.heard(edge.now);
        asked += edge.names().iter().filter(|name| *name == "list").count();
        if second == 130 {
            edge.say(&ToEdge::Devices(vec![device("a")]), "m1");
        }
    }
    assert_eq!(asked, 2);
    let list = edge
        .events()
        .into_iter()
        .find_map(|event| if let EdgeEvent::Devices(list) = event { Some(list) } else { None });
    assert_eq!(list, Some(vec![device("a")]));
}

#[test]
fn a_delivery_is_acked_when_it_is_stored_and_not_before() {
    let mut edge = Edge::connected();
    edge.say(&insert("a"), "m1");
    edge.say(&insert("a"), "m1"); // a repeat while the first is being stored
    edge.say(&insert("b"), "m2");
    let stores = edge.events().into_iter().filter(|e| matches!(e, EdgeEvent::Store { .. })).count();
    assert_eq!(stores, 2);
    assert!(edge.names().is_empty());
    let id = |text| MessageId::parse(text).unwrap();
    edge.session.refused(&id("m2"), "disk full");
    edge.session.stored(&id("m1"));
    edge.session.stored(&id("m1"));
    edge.session.stored(&id("unheard-of"));
    assert_eq!(edge.names(), ["refuse m2", "ack m1"]);
    // A repeat after the ack, which was lost, is stored and acked again.
    edge.say(&insert("a"), "m1");
    edge.session.stored(&id("m1"));
    assert_eq!(edge.names(), ["ack m1"]);
}

#[test]
fn an_ack_belongs_to_its_connection() {
    let mut edge = Edge::connected();
    edge.say(&insert("a"), "m1");
    edge.session.disconnected();
    edge.session.connected(edge.now);
    edge.session.stored(&MessageId::parse("m1").unwrap());
    assert_eq!(edge.names(), ["keepalive", "list"]);
}

#[test]
fn keepalives_go_before_acks_and_acks_before_reports() {
    let mut edge = Edge::connected();
    edge.report("a", "t", "1", 1);
    edge.say(&insert("a"), "m1");
    edge.session.stored(&MessageId::parse("m1").unwrap());
    edge.pass(Duration::from_secs(2));
    assert_eq!(edge.names(), ["keepalive", "ack m1", "report a"]);
}

#[test]
fn several_properties_of_a_device_share_a_report_and_the_newest_value_counts() {
    let mut edge = Edge::listed();
    edge.report("a", "t", "1", 1);
    edge.report("a", "p", "2", 2);
    edge.report("a", "t", "3", 3);
    let sent = edge.messages();
    assert_eq!(sent.len(), 1);
    let report = twin(&sent[0]);
    assert_eq!(report.twins.len(), 2);
    assert_eq!(report.twins["t"].reported.as_ref().unwrap().value, "3");
    // Newer values wait for the confirmation, for a cloud that keeps no order.
    edge.report("a", "t", "4", 4);
    assert!(edge.messages().is_empty());
    let id = sent[0].id.to_string();
    edge.say(&ToEdge::Confirm(sent[0].id.clone()), "c1");
    let confirmed = edge.events().into_iter().find_map(|event| {
        if let EdgeEvent::Confirmed(confirmed) = event { Some(confirmed) } else { None }
    });
    let marks = vec![("p".to_owned(), 2), ("t".to_owned(), 3)];
    assert_eq!(confirmed, Some(Confirmed::Values { device: device("a"), marks }));
    let next = edge.messages();
    assert_eq!(twin(&next[0]).twins["t"].reported.as_ref().unwrap().value, "4");
    assert_ne!(next[0].id.to_string(), id);
}

#[test]
fn a_cloud_without_a_list_forgets_first_values_and_is_told_them_twice() {
    let mut edge = Edge::connected();
    edge.events();
    edge.report("a", "t", "1", 1);
    edge.report("a", "p", "1", 2);
    let first = edge.messages();
    edge.report("a", "p", "2", 3);
    edge.say(&ToEdge::Confirm(first[0].id.clone()), "c1");
    let confirmed = |edge: &mut Edge| {
        let events = edge.events().into_iter();
        let marks = events.filter_map(|event| {
            let EdgeEvent::Confirmed(Confirmed::Values { marks, .. }) = event else { return None };
            Some(marks)
        });
        marks.flatten().map(|(name, mark)| format!("{name}{mark}")).collect::<Vec<_>>()
    };
    assert_eq!(confirmed(&mut edge), ["p2"], "what is to be told again does not count yet");
    let second = edge.messages();
    let told = |name: &str| twin(&second[0]).twins[name].reported.as_ref().unwrap().value.clone();
    assert_eq!((told("t"), told("p")), ("1".into(), "2".into()));
    edge.say(&ToEdge::Confirm(second[0].id.clone()), "c2");
    assert_eq!(confirmed(&mut edge), ["p3", "t1"]);
    assert_eq!(edge.session.unconfirmed(), 0);

    // Only the first of each property is forgotten, also over connections.
    edge.session.disconnected();
    edge.session.connected(edge.now);
    edge.report("a", "t", "5", 4);
    let third = edge.messages().pop().unwrap();
    edge.say(&ToEdge::Confirm(third.id), "c3");
    assert_eq!(confirmed(&mut edge), ["t4"]);
    assert_eq!(edge.session.unconfirmed(), 0);
}

#[test]
fn an_unconfirmed_report_is_repeated_as_it_was() {
    let mut edge = Edge::connected();
    edge.report("a", "t", "1", 1);
    let first = edge.drain();
    edge.report("a", "t", "2", 2);
    edge.pass(Duration::from_secs(9));
    edge.session.heard(edge.now);
    assert!(!edge.names().iter().any(|name| name.starts_with("report")));
    edge.pass(Duration::from_secs(1));
    let again: Vec<Transmit> =
        edge.drain().into_iter().filter(|frame| name(frame).starts_with("report")).collect();
    assert_eq!(again, first);
}

#[test]
fn after_a_reconnect_only_the_newest_is_sent() {
    let mut edge = Edge::connected();
    edge.report("a", "t", "1", 1);
    edge.report("a", "p", "1", 2);
    edge.session.state(&device("a"), state("online"), 3);
    assert_eq!(edge.names(), ["report a", "state a online"]);
    edge.session.disconnected();
    edge.report("a", "t", "2", 4);
    edge.session.state(&device("a"), state("offline"), 5);
    edge.session.connected(edge.now);
    let sent = edge.messages();
    let reports: Vec<_> = sent.iter().filter(|m| matches!(m.message, ToCloud::Twin(_))).collect();
    assert_eq!(reports.len(), 1);
    let twins = &twin(reports[0]).twins;
    assert_eq!(twins["t"].reported.as_ref().unwrap().value, "2");
    assert_eq!(twins["p"].reported.as_ref().unwrap().value, "1");
    assert_eq!(sent.len(), 4, "keepalive, list, report, state");
}

fn state(text: &str) -> StateValue {
    StateValue { state: text.into(), last_online: None }
}

#[test]
fn a_forgotten_device_is_not_spoken_of() {
    let mut edge = Edge::listed();
    edge.report("a", "t", "1", 1);
    let sent = edge.messages();
    edge.report("a", "t", "2", 2);
    edge.session.state(&device("a"), state("online"), 3);
    edge.session.forget(&device("a"));
    edge.say(&ToEdge::Confirm(sent[0].id.clone()), "c1");
    edge.pass(Duration::from_secs(10));
    assert!(!edge.names().iter().any(|name| name.starts_with("report")));
    assert_eq!(edge.session.unconfirmed(), 0);
    assert!(!edge.events().iter().any(|event| matches!(event, EdgeEvent::Confirmed(_))));
}

#[test]
fn reports_in_flight_are_bounded_and_no_device_starves() {
    let mut edge = Edge::listed();
    for index in 0..1000 {
        edge.report(&format!("d{index}"), "t", "1", index);
    }
    let mut waiting = edge.messages();
    assert_eq!(waiting.len(), 256);
    let mut seen = 0;
    while let Some(sent) = waiting.pop() {
        seen += 1;
        edge.say(&ToEdge::Confirm(sent.id), "c");
        waiting.extend(edge.messages());
    }
    assert_eq!((seen, edge.session.unconfirmed()), (1000, 0));
}

#[test]
fn a_large_device_is_told_in_several_reports() {
    let mut edge = Edge::listed();
    let value = "x".repeat(60 * 1024);
    for index in 0..20 {
        edge.report("a", &format!("p{index}"), &value, index);
    }
    let mut told = 0;
    while edge.session.unconfirmed() > 0 {
        let sent = edge.messages();
        assert_eq!(sent.len(), 1);
        assert!(twin(&sent[0]).twins.len() <= 9);
        told += twin(&sent[0]).twins.len();
        edge.say(&ToEdge::Confirm(sent[0].id.clone()), "c");
    }
    assert_eq!(told, 20);
}

#[test]
fn a_silent_link_is_given_up_within_two_heartbeats() {
    let mut edge = Edge::connected();
    let mut silent_for = Duration::ZERO;
    let step = Duration::from_millis(500);
    let mut pings = 0;
    loop {
        edge.pass(step);
        silent_for += step;
        pings += edge.names().iter().filter(|name| *name == "ping").count();
        if edge.events().iter().any(|e| matches!(e, EdgeEvent::Close(CloseReason::Silent))) {
            break;
        }
        assert!(silent_for < Duration::from_secs(30));
    }
    assert!(pings >= 2);
    edge.report("a", "t", "1", 1);
    assert!(edge.drain().is_empty() && edge.session.poll_timeout().is_none());
}

#[test]
fn what_cannot_be_understood_is_skipped_and_refused_if_it_waits_for_an_ack() {
    let mut edge = Edge::connected();
    let wrong = r#"{"header":{"msg_id":"w"},"route":{"group":"resource","operation":"insert","resource":"dev/device/a"},"content":"text"}"#;
    edge.session.receive(b"\xff\xfe", edge.now);
    edge.session.receive(b"{}", edge.now);
    edge.session.receive(wrong.as_bytes(), edge.now);
    let long = wrong.replace("dev/device/a", &"x/".repeat(5000));
    edge.session.receive(long.as_bytes(), edge.now);
    let skipped = edge.events().iter().filter(|e| matches!(e, EdgeEvent::Skipped(_))).count();
    assert_eq!(skipped, 4);
    assert_eq!(edge.names(), ["refuse w"]);
    // What an upstream cloud says about nodes is not ours, and it waits for the ack.
    let node = r#"{"header":{"msg_id":"n"},"route":{"source":"edgecontroller","group":"resource","operation":"update","resource":"null/node/gw-1"},"content":{}}"#;
    edge.session.receive(node.as_bytes(), edge.now);
    assert_eq!(edge.names(), ["ack n"]);
}

#[test]
fn too_many_deliveries_at_once_are_left_to_be_repeated() {
    let mut edge = Edge::connected();
    for index in 0..3000 {
        edge.say(&insert("a"), &format!("m{index}"));
    }
    let stores = edge.events().into_iter().filter(|e| matches!(e, EdgeEvent::Store { .. })).count();
    assert_eq!(stores, 1024);
}
