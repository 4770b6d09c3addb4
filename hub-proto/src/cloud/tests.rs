//! Scripted exchanges: one rule of the session per test. tests/cloud_converges.rs tries all at once.

use std::collections::BTreeSet;

use crate::id::ObjectKind;
use crate::message::Received;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

struct Talk {
    session: CloudSession,
    start: Instant,
    passed: Duration,
}

fn talk() -> Talk {
    talk_with(CloudConfig::default())
}

fn talk_with(config: CloudConfig) -> Talk {
    #[expect(clippy::disallowed_methods, reason = "any instant serves as the start of a test")]
    let start = Instant::now();
    let now = Now { instant: start, unix_ms: 1_795_000_000_000 };
    let node = NodeName::parse("gw-1").unwrap();
    let session = CloudSession::new(node, IdSource::new(7), config, now);
    Talk { session, start, passed: Duration::ZERO }
}

impl Talk {
    fn now(&self) -> Now {
        let unix_ms = 1_795_000_000_000 + u64::try_from(self.passed.as_millis()).unwrap();
        Now { instant: self.start + self.passed, unix_ms }
    }

    fn wait(&mut self, duration: Duration) {
        self.passed += duration;
        let now = self.now();
        self.session.handle_timeout(now);
    }

    fn start_with(&mut self, objects: Vec<Desired>) {
        self.session.set_desired(Snapshot { objects, parked: Vec::new() });
    }

    fn sent(&mut self) -> Vec<Received<ToEdge>> {
        let mut sent = Vec::new();
        while let Some(text) = self.session.poll_transmit(self.now()) {
            let envelope = Envelope::decode(text.as_bytes()).unwrap();
            sent.push(ToEdge::decode(&envelope).unwrap());
        }
        sent
    }

    fn say(&mut self, id: &str, message: &ToCloud) {
        let now = self.now();
        let text = message.encode(&MessageId::parse(id).unwrap(), now.unix_ms).encode();
        self.session.receive(text.as_bytes(), now).unwrap();
    }

    fn ack(&mut self, sent: &Received<ToEdge>) {
        let ack = ToCloud::Ack { of: sent.id.clone(), route: sent.route.clone() };
        self.say("ack", &ack);
    }

    fn refuse(&mut self, sent: &Received<ToEdge>) {
        let (of, route) = (sent.id.clone(), sent.route.clone());
        self.say("no", &ToCloud::Refuse { of, route, reason: "disk full".into() });
    }

    fn ack_all(&mut self) {
        loop {
            let sent: Vec<_> = self.sent().into_iter().filter(is_object).collect();
            if sent.is_empty() {
                return;
            }
            sent.iter().for_each(|sent| self.ack(sent));
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }
}

fn is_object(sent: &Received<ToEdge>) -> bool {
    matches!(sent.message, ToEdge::Object(_))
}

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "dev", name).unwrap()
}

fn model(name: &str, revision: u64) -> Desired {
    desired(ObjectKind::DeviceModel, name, revision, None)
}

fn device(name: &str, revision: u64) -> Desired {
    desired(ObjectKind::Device, name, revision, Some(key(ObjectKind::DeviceModel, "m")))
}

fn desired(kind: ObjectKind, name: &str, revision: u64, model: Option<ObjectKey>) -> Desired {
    let object = serde_json::json!({
        "metadata": { "namespace": "dev", "name": name, "uid": "u", "resourceVersion": revision.to_string() },
    });
    Desired {
        key: key(kind, name),
        uid: "u".into(),
        revision: Revision(revision),
        object: serde_json::value::to_raw_value(&object).unwrap().into(),
        model,
    }
}

/// `insert m@1`, `delete t1`, `devices a,b`, ... for readable expectations.
fn said(sent: &[Received<ToEdge>]) -> Vec<String> {
    let names =
        |ids: &[DeviceId]| ids.iter().map(|id| id.name().to_owned()).collect::<Vec<_>>().join(",");
    sent.iter()
        .map(|sent| match &sent.message {
            ToEdge::Object(object) => match &object.change {
                Change::Upsert { create, .. } => {
                    let verb = if *create { "insert" } else { "update" };
                    format!("{verb} {}@{}", object.key.name(), object.revision.unwrap())
                }
                Change::Delete => format!("delete {}", object.key.name()),
            },
            ToEdge::Membership { added, removed } => {
                format!("members +{} -{}", names(added), names(removed))
            }
            ToEdge::Devices(ids) => format!("devices {}", names(ids)),
            ToEdge::Confirm(id) => format!("confirm {id}"),
            ToEdge::Foreign { .. } => "foreign".into(),
        })
        .collect()
}

#[test]
fn a_session_starts_with_the_list_then_models_then_devices_after_the_ack() {
    let mut talk = talk();
    talk.start_with(vec![device("t1", 3), model("m", 2)]);
    let first = talk.sent();
    assert_eq!(said(&first), ["devices t1", "insert m@2"]);
    talk.ack(&first[1]);
    let second = talk.sent();
    assert_eq!(said(&second), ["insert t1@3"]);
    assert_eq!(talk.session.owed(), 1);
    talk.ack(&second[0]);
    assert_eq!(talk.session.owed(), 0);
    let events = talk.events();
    assert!(
        matches!(&events[0], Event::Stored { key, revision: Revision(2) } if key.name() == "m")
    );
    assert!(
        matches!(&events[1], Event::Stored { key, revision: Revision(3) } if key.name() == "t1")
    );
    assert!(matches!(events[2], Event::Synced));
}

#[test]
fn an_empty_node_is_told_so_and_is_in_sync() {
    let mut talk = talk();
    talk.start_with(vec![]);
    assert_eq!(said(&talk.sent()), ["devices "]);
    assert!(matches!(talk.events()[..], [Event::Synced]));
}

#[test]
fn no_more_than_the_window_is_outstanding() {
    let mut talk = talk();
    let mut objects = vec![model("m", 1)];
    objects.extend((0..100).map(|n| device(&format!("t{n:03}"), 2)));
    talk.start_with(objects);
    let first = talk.sent();
    talk.ack(&first[1]);
    let window = talk.sent();
    assert_eq!(window.len(), WINDOW);
    assert!(talk.sent().is_empty());
    talk.ack(&window[5]);
    talk.ack(&window[9]);
    assert_eq!(talk.sent().len(), 2);
}

#[test]
fn an_unacked_message_is_repeated_to_the_byte_after_five_seconds() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1)]);
    let now = talk.now();
    talk.session.poll_transmit(now).unwrap();
    let first = talk.session.poll_transmit(now).unwrap();
    assert_eq!(talk.session.poll_timeout(), Some(talk.start + RESEND_AFTER));
    talk.wait(RESEND_AFTER - Duration::from_millis(1));
    assert!(talk.sent().is_empty());
    talk.wait(Duration::from_millis(1));
    let now = talk.now();
    assert_eq!(talk.session.poll_transmit(now).unwrap(), first);
    assert_eq!(talk.session.poll_transmit(now), None);
    assert_eq!(talk.session.counters().resent, 1);
}

#[test]
fn while_an_object_is_on_its_way_only_its_newest_change_is_kept() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1)]);
    talk.ack_all();
    talk.session.upsert(device("t1", 5));
    let first = talk.sent();
    assert_eq!(said(&first), ["members +t1 -", "insert t1@5"]);
    for revision in 6..10 {
        talk.session.upsert(device("t1", revision));
        assert!(talk.sent().is_empty(), "one message per object at a time");
    }
    talk.ack(&first[1]);
    let second = talk.sent();
    assert_eq!(said(&second), ["update t1@9"]);
    assert_eq!(talk.session.counters().superseded, 4);
    assert_eq!(talk.session.owed(), 1, "the ack of 5 does not cover 9");
}

#[test]
fn a_lost_message_that_was_overtaken_is_not_repeated() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1)]);
    let lost = talk.sent();
    talk.session.upsert(model("m", 2));
    talk.wait(RESEND_AFTER);
    let sent = talk.sent();
    assert_eq!(said(&sent), ["insert m@2"]);
    assert_ne!(sent[0].id, lost[1].id);
    talk.ack(&lost[1]);
    assert_eq!(talk.session.owed(), 1, "a late ack of the old message settles nothing");
    talk.ack(&sent[0]);
    assert_eq!(talk.session.owed(), 0);
}

#[test]
fn an_older_revision_is_never_sent_after_a_newer_one() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 5)]);
    talk.ack_all();
    talk.session.upsert(model("m", 4));
    talk.session.upsert(model("m", 5));
    assert!(talk.sent().is_empty());
    // Deleted and made again: another object, whatever its number.
    talk.session.upsert(Desired { uid: "other".into(), ..model("m", 3) });
    assert_eq!(said(&talk.sent()), ["update m@3"]);
}

#[test]
fn a_removal_is_acked_too_and_the_device_leaves_the_list() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1), device("t1", 2)]);
    talk.ack_all();
    talk.events();
    talk.session.remove(key(ObjectKind::Device, "t1"));
    talk.session.remove(key(ObjectKind::DeviceModel, "m"));
    let sent = talk.sent();
    assert_eq!(said(&sent), ["members + -t1", "delete t1", "delete m"]);
    assert_eq!(talk.session.owed(), 2);
    talk.ack(&sent[1]);
    talk.ack(&sent[2]);
    let events = talk.events();
    assert!(matches!(&events[0], Event::Dropped(key) if key.name() == "t1"));
    assert!(matches!(&events[1], Event::Dropped(key) if key.name() == "m"));
    assert!(matches!(events[2], Event::Synced));
}

#[test]
fn what_was_removed_and_came_back_is_sent_again() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1)]);
    talk.ack_all();
    talk.session.remove(key(ObjectKind::DeviceModel, "m"));
    talk.session.upsert(model("m", 1));
    let sent = talk.sent();
    assert_eq!(said(&sent), ["update m@1"], "the removal was replaced before it was sent");
    talk.session.remove(key(ObjectKind::DeviceModel, "m"));
    talk.ack(&sent[0]);
    let sent = talk.sent();
    assert_eq!(said(&sent), ["delete m"]);
    talk.session.upsert(model("m", 1));
    talk.ack(&sent[0]);
    assert_eq!(said(&talk.sent()), ["insert m@1"]);
}

#[test]
fn a_refused_object_blocks_nobody_and_is_tried_again_with_growing_pauses() {
    let mut talk =
        talk_with(CloudConfig { window: 1, keepalive_timeout: HOUR, ..CloudConfig::default() });
    talk.start_with(vec![model("a", 1), model("b", 1)]);
    let mut sent = talk.sent();
    assert_eq!(said(&sent), ["devices ", "insert a@1"]);
    talk.refuse(&sent[1]);
    assert!(matches!(&talk.events()[..], [Event::Refused { reason, .. }] if reason == "disk full"));
    sent = talk.sent();
    assert_eq!(said(&sent), ["insert b@1"]);
    talk.ack(&sent[0]);
    for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
        talk.wait(Duration::from_secs(pause) - Duration::from_millis(1));
        assert!(talk.sent().is_empty(), "still pausing {pause} s");
        talk.wait(Duration::from_millis(1));
        sent = talk.sent();
        assert_eq!(said(&sent), ["insert a@1"]);
        talk.refuse(&sent[0]);
    }
    // A new revision has not been refused yet.
    talk.session.upsert(model("a", 2));
    assert_eq!(said(&talk.sent()), ["insert a@2"]);
}

#[test]
fn an_object_that_is_never_answered_gives_its_place_away() {
    let config = CloudConfig { window: 1, keepalive_timeout: HOUR, ..CloudConfig::default() };
    let mut talk = talk_with(config);
    talk.start_with(vec![model("a", 1), model("b", 1)]);
    assert_eq!(said(&talk.sent()), ["devices ", "insert a@1"]);
    for _ in 0..4 {
        talk.wait(RESEND_AFTER);
        assert_eq!(said(&talk.sent()), ["insert a@1"]);
    }
    talk.wait(RESEND_AFTER);
    assert_eq!(said(&talk.sent()), ["insert b@1"]);
    assert!(matches!(&talk.events()[..], [Event::Refused { key, .. }] if key.name() == "a"));
}

#[test]
fn a_refused_model_holds_back_devices_only_if_the_edge_has_none() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1), device("t1", 1)]);
    let sent = talk.sent();
    talk.refuse(&sent[1]);
    assert!(talk.sent().is_empty(), "without any model the device is useless");
    talk.wait(Duration::from_secs(5));
    talk.ack_all();
    assert_eq!(talk.session.owed(), 0);

    talk.session.upsert(model("m", 2));
    let sent = talk.sent();
    talk.session.upsert(device("t1", 3));
    assert!(talk.sent().is_empty(), "the new model is on its way");
    talk.refuse(&sent[0]);
    assert_eq!(said(&talk.sent()), ["update t1@3"], "the old model serves");
}

#[test]
fn later_changes_overtake_the_initial_bulk_and_control_overtakes_both() {
    let mut talk = talk_with(CloudConfig { window: 1, ..CloudConfig::default() });
    talk.start_with((0..50).map(|n| model(&format!("m{n:02}"), 1)).collect());
    let sent = talk.sent();
    assert_eq!(said(&sent), ["devices ", "insert m00@1"]);
    talk.session.upsert(model("m40", 2));
    talk.session.report_done(MessageId::parse("r1").unwrap());
    assert_eq!(
        said(&talk.sent()),
        ["confirm r1"],
        "the window is full, a confirmation is not held up"
    );
    talk.ack(&sent[1]);
    assert_eq!(said(&talk.sent()), ["insert m40@2"]);
}

#[test]
fn the_membership_request_is_answered_twice_over() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1), device("t1", 2)]);
    talk.ack_all();
    talk.say("ask", &ToCloud::ListDevices(NodeName::parse("somebody-else").unwrap()));
    assert_eq!(said(&talk.sent()), ["confirm ask", "devices t1"]);
}

#[test]
fn a_parked_device_is_listed_and_left_alone() {
    let mut talk = talk();
    let parked = vec![DeviceId::new("dev", "t1").unwrap()];
    talk.session.set_desired(Snapshot { objects: vec![], parked: parked.clone() });
    assert_eq!(said(&talk.sent()), ["devices t1"]);
    assert_eq!(talk.session.owed(), 0);

    talk.session.upsert(model("m", 4));
    talk.session.upsert(device("t1", 2));
    talk.ack_all();
    talk.session.park(parked[0].clone());
    assert!(talk.sent().is_empty());
    talk.session.upsert(device("t1", 2));
    assert!(talk.sent().is_empty(), "the edge still has it");
    talk.session.park(parked[0].clone());
    talk.session.upsert(device("t1", 3));
    talk.session.park(parked[0].clone());
    assert!(talk.sent().is_empty());
    talk.session.upsert(device("t1", 3));
    assert_eq!(said(&talk.sent()), ["update t1@3"], "the change was held back, not forgotten");
}

#[test]
fn a_new_snapshot_sends_the_difference() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1), device("a", 2), device("b", 3)]);
    talk.ack_all();
    talk.start_with(vec![model("m", 1), device("b", 4), device("c", 5)]);
    let sent = talk.sent();
    let set: BTreeSet<String> = said(&sent).into_iter().collect();
    let expected = ["devices b,c", "delete a", "update b@4", "insert c@5"];
    assert_eq!(set, expected.into_iter().map(str::to_owned).collect());
    assert_eq!(said(&sent)[0], "devices b,c");
}

#[test]
fn reports_come_out_as_events_and_are_confirmed_when_done() {
    let mut talk = talk();
    let report = StateReport {
        device: DeviceId::new("dev", "t1").unwrap(),
        state: "online".into(),
        last_online: None,
    };
    talk.say("r1", &ToCloud::State(report));
    let events = talk.events();
    let Event::State { id, .. } = &events[0] else { panic!("{events:?}") };
    assert!(talk.sent().is_empty(), "not before it is dealt with");
    talk.session.report_done(id.clone());
    assert_eq!(said(&talk.sent()), ["confirm r1"]);
}

#[test]
fn an_unreadable_report_is_confirmed_or_it_would_come_for_ever() {
    let mut talk = talk();
    let text = r#"{"header":{"msg_id":"bad"},"route":{"source":"twin","group":"resource","operation":"update","resource":"device/dev/t1/twin/edge_updated"},"content":{"twin":7}}"#;
    let now = talk.now();
    talk.session.receive(text.as_bytes(), now).unwrap();
    assert!(matches!(talk.events()[..], [Event::Unreadable(_)]));
    assert_eq!(said(&talk.sent()), ["confirm bad"]);
    assert!(talk.session.receive(b"\x00\x01 not json", now).is_err());
}

#[test]
fn only_keepalives_keep_a_session_alive() {
    let mut talk = talk();
    talk.start_with(vec![]);
    talk.sent();
    talk.wait(Duration::from_secs(20));
    talk.say("k", &ToCloud::Keepalive);
    talk.wait(Duration::from_secs(29));
    talk.say("x", &ToCloud::Foreign { operation: "get".into() });
    talk.events();
    assert_eq!(talk.session.poll_timeout(), Some(talk.start + Duration::from_secs(50)));
    talk.wait(Duration::from_secs(1));
    assert!(matches!(talk.events()[..], [Event::Close(CloseReason::KeepaliveTimeout)]));
    assert!(talk.sent().is_empty());
    assert_eq!(talk.session.poll_timeout(), None, "nothing is wanted of a closed session");
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut talk = talk();
    talk.start_with(vec![model("m", 1)]);
    let sent = talk.sent();
    let stranger =
        ToCloud::Ack { of: MessageId::parse("who").unwrap(), route: sent[0].route.clone() };
    talk.say("a", &stranger);
    talk.ack(&sent[0]);
    assert_eq!(talk.session.owed(), 1);
    talk.ack(&sent[1]);
    talk.ack(&sent[1]);
    assert_eq!(talk.session.owed(), 0);
    assert_eq!(talk.session.counters().acked, 1);
}

#[test]
fn a_deletion_names_the_protocol_or_an_upstream_edge_does_not_find_the_mapper() {
    let mut talk = talk();
    let mut boiler = device("t1", 2);
    let object = serde_json::json!({
        "metadata": { "namespace": "dev", "name": "t1", "uid": "u", "resourceVersion": "2" },
        "spec": {
            "nodeName": "gw-1",
            "protocol": { "protocolName": "modbus", "configData": { "slaveID": 1 } },
        },
    });
    boiler.object = serde_json::value::to_raw_value(&object).unwrap().into();
    talk.start_with(vec![model("m", 1), boiler]);
    talk.ack_all();
    talk.session.remove(key(ObjectKind::Device, "t1"));

    let content = |talk: &mut Talk| {
        let texts = std::iter::from_fn(|| talk.session.poll_transmit(talk.now()));
        let envelopes: Vec<_> =
            texts.map(|text| Envelope::decode(text.as_bytes()).unwrap()).collect();
        let deletion = envelopes.iter().find(|sent| sent.route.operation == "delete").unwrap();
        serde_json::from_str::<serde_json::Value>(deletion.content.get()).unwrap()
    };
    let golden = serde_json::json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": { "namespace": "dev", "name": "t1", "uid": "u" },
        "spec": { "protocol": { "protocolName": "modbus", "configData": { "slaveID": 1 } } },
    });
    assert_eq!(content(&mut talk), golden);
    talk.wait(Duration::from_secs(6));
    assert_eq!(content(&mut talk), golden, "sent again");
}
