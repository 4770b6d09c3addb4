//! The status book told as stories. Over 500 lines: they share one storyteller.

use hub_proto::id::ObjectKind;
use kube::core::DynamicObject;
use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::placement::{DeviceDoc, ModelDoc};

use super::record::WAITING;
use crate::status::seen::StatusSeen;
use crds::value::MAX_VALUE_BYTES;
use hub_proto::message::{TwinValue, TwinValues};
use serde_json::{Value, json};

const INTERVAL: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(40);
const T0: u64 = 1_795_000_000_000;

struct Story {
    book: Book,
    now: Now,
    next_report: u64,
    revision: u64,
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn id(name: &str) -> DeviceId {
    DeviceId::new("dev", name).unwrap()
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

/// A book that knows node gw with device t1: `temp` (read) and `set` (desired 5).
fn story() -> Story {
    let mut story = empty_story();
    story.model();
    story.device("t1", "gw", 1, &["temp", "set"], Some("5"));
    story.book.listed(story.now);
    story.book.connected(&node("gw"), SessionId(1), story.now);
    story
}

fn empty_story() -> Story {
    let now = Now { instant: clock::now().instant, unix_ms: T0 };
    Story { book: Book::new(INTERVAL, LEASE), now, next_report: 0, revision: 100 }
}

impl Story {
    fn model(&mut self) {
        let model = object(json!({
            "metadata": { "namespace": "dev", "name": "m", "uid": "m", "resourceVersion": "1" },
            "spec": { "properties": [
                { "name": "temp", "type": "FLOAT", "accessMode": "ReadOnly" },
                { "name": "set", "type": "INT", "accessMode": "ReadWrite" },
            ] },
        }));
        let (key, model) = ModelDoc::read(model).unwrap();
        self.book.model(ModelSeen::new(key, &model), self.now);
    }

    fn seen(
        name: &str,
        node: &str,
        generation: i64,
        properties: &[&str],
        set: Option<&str>,
    ) -> DeviceSeen {
        let properties: Vec<Value> = properties
            .iter()
            .map(|property| match set.filter(|_| *property == "set") {
                Some(value) => json!({ "name": property, "reportToCloud": true, "desired": { "value": value } }),
                None => json!({ "name": property, "reportToCloud": true }),
            })
            .collect();
        let device = object(json!({
            "metadata": {
                "namespace": "dev", "name": name, "uid": format!("uid-{name}"),
                "resourceVersion": generation.to_string(), "generation": generation,
            },
            "spec": { "nodeName": node, "deviceModelRef": { "name": "m" }, "properties": properties },
        }));
        let (_, device) = DeviceDoc::read(device).unwrap();
        let mut seen = DeviceSeen::new(id(name), &device);
        seen.revision = Some(Revision(u64::try_from(generation).unwrap()));
        seen
    }

    fn device(
        &mut self,
        name: &str,
        node: &str,
        generation: i64,
        properties: &[&str],
        set: Option<&str>,
    ) -> Confirms {
        let seen = Self::seen(name, node, generation, properties, set);
        self.book.device(seen, self.now)
    }

    fn pass(&mut self, passed: Duration) -> &mut Self {
        self.now.instant += passed;
        self.now.unix_ms += u64::try_from(passed.as_millis()).unwrap();
        self.book.handle_timeout(self.now);
        self
    }

    /// A report of one value, sampled so many milliseconds after the start.
    fn reports(
        &mut self,
        from: &str,
        name: &str,
        property: &str,
        value: &str,
        sampled: u64,
    ) -> (String, Verdict) {
        self.next_report += 1;
        let report_id = format!("r{}", self.next_report);
        let value = TwinValue { value: value.into(), sampled_ms: Some(T0 + sampled) };
        let values =
            TwinValues { reported: Some(value), observed_desired: None, kind: Some("int".into()) };
        let report = TwinReport { device: id(name), twins: [(property.to_owned(), values)].into() };
        let message = MessageId::parse(&report_id).unwrap();
        let verdict = self.book.twin(&node(from), &message, &report, self.now);
        (report_id, verdict)
    }

    fn says(&mut self, state: &str) -> Verdict {
        self.next_report += 1;
        let message = MessageId::parse(&format!("r{}", self.next_report)).unwrap();
        let report = StateReport {
            device: id("t1"),
            state: state.into(),
            last_online: Some(format!("2026-11-22T13:00:{:02}Z", self.next_report)),
        };
        self.book.state(&node("gw"), &message, &report, self.now)
    }

    /// The next write of the DeviceStatus; others are performed on the way.
    fn reported(&mut self) -> Option<(Write, Value)> {
        while let Some(write) = self.book.next_write(self.now) {
            if let Action::Reported { patch, .. } = &write.action {
                let patch = patch.clone();
                return Some((write, patch));
            }
            self.perform(&write);
        }
        None
    }

    fn conditions(&mut self) -> Option<Value> {
        let mut last = None;
        while let Some(write) = self.book.next_write(self.now) {
            if let Action::Conditions { patch, .. } = &write.action {
                last = Some(patch.clone());
            }
            self.perform(&write);
        }
        last
    }

    fn perform(&mut self, write: &Write) -> Vec<String> {
        self.revision += 1;
        self.ends(write, Outcome::Written(Some(Revision(self.revision))))
    }

    fn ends(&mut self, write: &Write, outcome: Outcome) -> Vec<String> {
        let confirms = self.book.written(write, outcome, self.now);
        confirms.into_iter().map(|(_, id)| id.to_string()).collect()
    }

    fn settle(&mut self) -> &mut Self {
        for _ in 0..5 {
            self.pass(INTERVAL);
            while let Some(write) = self.book.next_write(self.now) {
                self.perform(&write);
            }
        }
        self
    }

    fn truth(&mut self, kind: &str) -> String {
        let conditions = self.conditions();
        let conditions = conditions.as_ref().map(|patch| patch["status"]["conditions"].clone());
        let conditions = conditions.unwrap_or_default();
        let found =
            conditions.as_array().and_then(|list| list.iter().find(|c| c["type"] == kind).cloned());
        found
            .map(|c| format!("{} {}", c["status"], c["reason"]).replace('"', ""))
            .unwrap_or_default()
    }
}

fn values(patch: &Value) -> Vec<(String, String)> {
    let twins = patch["status"]["twins"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    twins.iter().map(|t| (text(&t["propertyName"]), text(&t["reported"]["value"]))).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn the_first_report_of_a_property_is_written_with_its_sample_time_and_confirmed_after() {
    let mut story = story();
    let (report, verdict) = story.reports("gw", "t1", "temp", "21.5", 7);
    assert_eq!(verdict, Verdict::Later);
    let (write, patch) = story.reported().expect("due at once");
    assert_eq!(values(&patch), pairs(&[("temp", "21.5")]));
    let metadata = &patch["status"]["twins"][0]["reported"]["metadata"];
    assert_eq!(metadata, &json!({ "timestamp": (T0 + 7).to_string(), "type": "int" }));
    assert_eq!(story.perform(&write), [report]);
}

#[test]
fn whatever_the_rate_there_is_one_write_per_interval_with_the_newest_values() {
    let mut story = story();
    let mut writes = 0;
    let mut confirmed = Vec::new();
    let mut last = Value::Null;
    for n in 0..1000u64 {
        story.reports("gw", "t1", "temp", &n.to_string(), n);
        while let Some((write, patch)) = story.reported() {
            writes += 1;
            last = patch;
            confirmed.extend(story.perform(&write));
        }
        story.pass(Duration::from_millis(5));
    }
    assert!((5..=6).contains(&writes), "{writes} writes in 5 s");
    story.pass(INTERVAL);
    if let Some((write, patch)) = story.reported() {
        confirmed.extend(story.perform(&write));
        last = patch;
    }
    assert_eq!(values(&last), pairs(&[("temp", "999")]));
    assert_eq!(confirmed.len(), 1000, "every merged report is confirmed");
}

#[test]
fn an_unchanged_value_is_confirmed_without_a_write() {
    let mut story = story();
    story.reports("gw", "t1", "temp", "21.5", 1);
    story.settle();
    for n in 2..50 {
        let (_, verdict) = story.reports("gw", "t1", "temp", "21.5", n);
        assert_eq!(verdict, Verdict::Unchanged);
        story.pass(INTERVAL);
        assert!(story.book.next_write(story.now).is_none());
    }
    // The next change carries the latest sample time of everything.
    story.reports("gw", "t1", "set", "5", 60);
    let (_, patch) = story.reported().unwrap();
    assert_eq!(
        patch["status"]["twins"][0]["reported"]["metadata"]["timestamp"],
        (T0 + 49).to_string()
    );
}

#[test]
fn a_repeated_report_waits_for_the_write_that_carries_its_value() {
    let mut story = story();
    let (first, _) = story.reports("gw", "t1", "temp", "1", 1);
    let (second, verdict) = story.reports("gw", "t1", "temp", "1", 1);
    assert_eq!(verdict, Verdict::Later);
    let (write, _) = story.reported().unwrap();
    let (third, verdict) = story.reports("gw", "t1", "temp", "1", 1);
    assert_eq!(verdict, Verdict::Later, "the write is under way");
    assert_eq!(story.perform(&write), [first, second, third]);
}

#[test]
fn an_older_sample_does_not_replace_a_newer_one() {
    let mut story = story();
    story.reports("gw", "t1", "temp", "new", 1000);
    story.settle();
    let (_, verdict) = story.reports("gw", "t1", "temp", "old", 500);
    assert_eq!(verdict, Verdict::Unchanged);
    let (_, verdict) = story.reports("gw", "t1", "temp", "newer", 1001);
    assert_eq!(verdict, Verdict::Later);
}

#[test]
fn a_clock_that_was_ahead_does_not_freeze_a_value() {
    let mut story = story();
    let years = 3 * 365 * 86_400_000;
    story.reports("gw", "t1", "temp", "from the future", years);
    story.settle();
    story.pass(Duration::from_secs(120));
    let (_, verdict) = story.reports("gw", "t1", "temp", "corrected", 125_000);
    assert_eq!(verdict, Verdict::Later);
    let (_, patch) = story.reported().unwrap();
    assert_eq!(values(&patch), pairs(&[("temp", "corrected")]));
}

#[test]
fn a_report_from_another_node_or_about_nothing_is_refused() {
    let mut story = story();
    let (_, verdict) = story.reports("thief", "t1", "temp", "1", 1);
    assert_eq!(verdict, Verdict::Refused("the device is not bound to this node"));
    let (_, verdict) = story.reports("gw", "nobody", "temp", "1", 1);
    assert_eq!(verdict, Verdict::Refused("there is no such device"));
    assert!(story.reported().is_none());
}

#[test]
fn values_that_are_too_long_or_of_no_property_are_not_written() {
    let mut story = story();
    let long = "x".repeat(MAX_VALUE_BYTES + 1);
    assert!(matches!(story.reports("gw", "t1", "temp", &long, 1).1, Verdict::Refused(_)));
    assert_eq!(story.reports("gw", "t1", "unheard-of", "1", 1).1, Verdict::Unchanged);
    assert!(story.reported().is_none());
}

#[test]
fn a_failed_write_is_tried_again_with_the_values_of_then_and_confirms_everything() {
    let mut story = story();
    let (first, _) = story.reports("gw", "t1", "temp", "1", 1);
    let (write, _) = story.reported().unwrap();
    let (second, _) = story.reports("gw", "t1", "temp", "2", 2);
    assert!(story.ends(&write, Outcome::Failed("no route".into())).is_empty());
    assert!(story.reported().is_none(), "not at once");
    story.pass(PAUSE.0);
    let (write, patch) = story.reported().unwrap();
    assert_eq!(values(&patch), pairs(&[("temp", "2")]));
    assert_eq!(story.perform(&write), [first, second]);
}

#[test]
fn while_the_api_is_away_nothing_grows_and_the_newest_is_kept() {
    let mut story = story();
    let mut attempts = 0;
    for n in 0..5000u64 {
        story.reports("gw", "t1", "temp", &n.to_string(), n);
        while let Some(write) = story.book.next_write(story.now) {
            attempts += 1;
            story.ends(&write, Outcome::Failed("away".into()));
        }
        story.pass(Duration::from_millis(100));
    }
    assert!(attempts < 100, "{attempts} attempts in 500 s");
    assert!(story.book.devices[&id("t1")].waiting.len() <= WAITING);
    story.pass(PAUSE.1);
    let (write, patch) = story.reported().unwrap();
    assert_eq!(values(&patch), pairs(&[("temp", "4999")]));
    assert!(story.perform(&write).contains(&"r5000".to_owned()));
}

#[test]
fn what_the_api_refuses_is_confirmed_and_not_tried_again() {
    let mut story = story();
    let (report, _) = story.reports("gw", "t1", "temp", "1", 1);
    let (write, _) = story.reported().unwrap();
    assert_eq!(story.ends(&write, Outcome::Rejected("invalid".into())), [report]);
    story.pass(INTERVAL * 10);
    assert!(story.reported().is_none());
}

#[test]
fn a_property_that_leaves_the_specification_leaves_the_status() {
    let mut story = story();
    story.reports("gw", "t1", "temp", "1", 1);
    story.reports("gw", "t1", "set", "5", 1);
    story.settle();
    story.device("t1", "gw", 2, &["set"], Some("5"));
    let (write, patch) = story.reported().unwrap();
    assert_eq!(values(&patch), pairs(&[("set", "5")]));
    story.perform(&write);
    assert_eq!(story.reports("gw", "t1", "temp", "2", 2).1, Verdict::Unchanged);
}

#[test]
fn a_device_that_is_deleted_takes_its_status_and_its_reports_along() {
    let mut story = story();
    story.reports("gw", "t1", "temp", "1", 1);
    story.settle();
    let (report, _) = story.reports("gw", "t1", "temp", "2", 2);
    let confirms = story.book.device_gone(&id("t1"), story.now);
    assert_eq!(confirms.len(), 1);
    assert_eq!(confirms[0].1.as_str(), report);
    let write = story.book.next_write(story.now).unwrap();
    assert!(matches!(write.action, Action::DeleteReported));
    assert_eq!(&*write.uid, "uid-t1");
    assert_eq!(story.book.owed(), 0);
}

#[test]
fn a_device_made_again_under_the_same_name_starts_from_nothing() {
    let mut story = story();
    story.reports("gw", "t1", "temp", "old", 1);
    let (write, _) = story.reported().unwrap();
    let mut seen = Story::seen("t1", "gw", 1, &["temp"], None);
    seen.uid = "another".into();
    let confirms = story.book.device(seen, story.now);
    assert_eq!(confirms.len(), 1, "the report about the old one is settled");
    assert!(story.perform(&write).is_empty(), "the late answer is about the old one");
    assert!(story.book.devices[&id("t1")].twins.is_empty());
}

fn observed(revision: u64, owner: Option<&str>, twins: &[(&str, &str)]) -> StatusSeen {
    let twins: Vec<Value> = twins
        .iter()
        .map(|(name, value)| json!({ "propertyName": name, "reported": { "value": value, "metadata": { "timestamp": T0.to_string(), "type": "int" } } }))
        .collect();
    let owners = owner.map(|uid| json!([{ "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "name": "t1", "uid": uid }]));
    StatusSeen::read(object(json!({
        "metadata": {
            "namespace": "dev", "name": "t1", "resourceVersion": revision.to_string(),
            "ownerReferences": owners.unwrap_or(json!([])),
        },
        "status": { "state": "online", "twins": twins },
    })))
    .unwrap()
}

#[test]
fn after_a_restart_the_api_is_the_base_and_the_same_value_is_no_write() {
    let mut story = empty_story();
    story.model();
    story.book.observed(observed(9, Some("uid-t1"), &[("temp", "21.5")]), story.now);
    story.device("t1", "gw", 1, &["temp", "set"], Some("5"));
    story.book.listed(story.now);
    story.book.connected(&node("gw"), SessionId(1), story.now);
    assert_eq!(story.reports("gw", "t1", "temp", "21.5", 5).1, Verdict::Unchanged);
    assert_eq!(story.reports("gw", "t1", "set", "5", 5).1, Verdict::Later);
    let (write, patch) = story.reported().unwrap();
    assert_eq!(values(&patch), pairs(&[("temp", "21.5"), ("set", "5")]));
    assert!(matches!(write.action, Action::Reported { exists: true, .. }));
}

#[test]
fn what_somebody_else_removes_is_written_again_and_our_own_echo_is_not() {
    let mut story = story();
    story.reports("gw", "t1", "temp", "1", 1);
    story.settle();
    let revision = story.book.devices[&id("t1")].left_at.unwrap().0;
    story.book.observed(observed(revision, None, &[("temp", "0")]), story.now);
    story.book.observed(observed(revision - 1, None, &[]), story.now);
    assert!(story.reported().is_none(), "an echo, however late, is not news");
    story.book.observed(observed(revision + 1, None, &[]), story.now);
    let (write, patch) = story.reported().unwrap();
    assert_eq!(values(&patch), pairs(&[("temp", "1")]));
    story.perform(&write);
    story.pass(INTERVAL);
    story.book.observed_gone(&id("t1"), story.now);
    let (write, _) = story.reported().unwrap();
    assert!(matches!(write.action, Action::Reported { exists: false, .. }));
}

#[test]
fn the_status_of_a_device_deleted_while_nobody_looked_is_deleted() {
    let mut story = empty_story();
    story.book.observed(observed(9, Some("uid-t1"), &[]), story.now);
    story.book.listed(story.now);
    assert!(story.book.next_write(story.now).is_none(), "its device may be late");
    story.pass(ORPHANED);
    let write = story.book.next_write(story.now).unwrap();
    assert!(matches!(write.action, Action::DeleteReported));
    story.ends(&write, Outcome::Failed("away".into()));
    assert!(story.book.next_write(story.now).is_none());
    story.pass(PAUSE.1);
    assert!(story.book.next_write(story.now).is_some(), "tried again");

    let mut story = empty_story();
    story.book.observed(observed(9, Some("uid-t1"), &[]), story.now);
    story.book.listed(story.now);
    story.device("t1", "gw", 1, &["temp"], None);
    story.pass(ORPHANED);
    assert!(story.book.next_write(story.now).is_none_or(|w| w.target() == Target::Conditions));

    let mut story = empty_story();
    story.book.observed(observed(9, None, &[]), story.now);
    story.book.listed(story.now);
    story.pass(ORPHANED);
    assert!(story.book.next_write(story.now).is_none(), "one without an owner is not ours");
}

#[test]
fn nothing_is_written_before_the_lists_are_complete() {
    let mut story = empty_story();
    story.device("t1", "gw", 1, &["temp"], None);
    story.reports("gw", "t1", "temp", "1", 1);
    story.pass(INTERVAL * 100);
    assert!(story.book.next_write(story.now).is_none());
    assert_eq!(story.book.poll_timeout(), None);
}

#[test]
fn states_are_written_on_transitions_only() {
    let mut story = story();
    assert_eq!(story.says("online"), Verdict::Later);
    story.settle();
    for _ in 0..10 {
        assert_eq!(story.says("online"), Verdict::Unchanged);
        story.pass(INTERVAL);
        assert!(story.book.next_write(story.now).is_none(), "a later online time is no transition");
    }
    assert_eq!(story.says("offline"), Verdict::Later);
    let (write, patch) = story.reported().unwrap();
    assert_eq!(patch["status"]["state"], "offline");
    story.perform(&write);
    story.pass(INTERVAL);
    assert_eq!(story.truth("Online"), "False DeviceOffline");
}

#[test]
fn a_change_that_goes_through_at_once_is_one_condition_write() {
    let mut story = story();
    story.book.stored(&node("gw"), &id("t1"), Revision(1), story.now);
    story.reports("gw", "t1", "set", "5", 1);
    story.settle();

    story.device("t1", "gw", 2, &["temp", "set"], Some("6"));
    story.pass(Duration::from_millis(50));
    story.book.stored(&node("gw"), &id("t1"), Revision(2), story.now);
    story.reports("gw", "t1", "set", "6", 5100);
    let mut writes = Vec::new();
    for _ in 0..40 {
        story.pass(Duration::from_millis(100));
        writes.extend(story.conditions());
    }
    assert_eq!(writes.len(), 1, "{writes:#?}");
    assert_eq!(writes[0]["status"]["observedGeneration"], 2);
}

/// `kubectl wait --for=condition=Converged`, then reading the value, must not show the old one: not
/// even while other values change all the time and every write takes a while.
#[test]
fn converged_is_said_only_when_the_value_can_be_read() {
    let mut story = story();
    story.book.stored(&node("gw"), &id("t1"), Revision(1), story.now);
    story.reports("gw", "t1", "set", "4", 1);
    let (mut readable, mut under_way, mut said) = (Value::Null, Vec::new(), 0);
    for n in 2..2000u64 {
        story.reports("gw", "t1", "temp", &n.to_string(), n);
        if n == 700 {
            story.reports("gw", "t1", "set", "5", n);
        }
        while let Some(write) = story.book.next_write(story.now) {
            under_way.push((n + 8, write));
        }
        let (ended, rest): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(at, _)| *at <= n);
        under_way = rest;
        for (_, write) in ended {
            match &write.action {
                Action::Reported { patch, .. } => readable = patch.clone(),
                Action::Conditions { patch, .. } => {
                    let conditions = patch["status"]["conditions"].as_array().unwrap();
                    let converged = conditions.iter().find(|c| c["type"] == "Converged").unwrap();
                    if converged["status"] == "True" {
                        said += 1;
                        let set = values(&readable).into_iter().find(|(name, _)| name == "set");
                        assert_eq!(set, Some(("set".into(), "5".into())), "at {n}");
                    }
                }
                Action::DeleteReported => {}
            }
            story.perform(&write);
        }
        story.pass(Duration::from_millis(5));
    }
    assert_eq!(said, 1, "and it is said, once, although values never rest");
}

#[test]
fn a_node_that_is_gone_for_longer_than_its_lease_makes_its_devices_unknown() {
    let mut story = story();
    story.says("online");
    story.book.stored(&node("gw"), &id("t1"), Revision(1), story.now);
    story.settle();
    story.book.disconnected(&node("gw"), story.now);
    story.pass(LEASE - Duration::from_secs(1));
    assert_eq!(story.conditions(), None);
    story.pass(Duration::from_secs(1)).pass(SETTLE);
    assert_eq!(story.truth("Online"), "Unknown NodeUnreachable");
    story.settle();
    story.book.connected(&node("gw"), SessionId(2), story.now);
    story.pass(SETTLE);
    assert_eq!(story.truth("Online"), "True DeviceOnline");
}

#[test]
fn a_node_that_never_comes_is_gone_a_lease_after_the_start() {
    let mut story = empty_story();
    story.device("t1", "gw", 1, &["temp"], None);
    story.book.listed(story.now);
    assert!(story.book.poll_timeout().is_some());
    story.settle();
    story.pass(LEASE).pass(SETTLE);
    assert_eq!(story.truth("Online"), "Unknown NodeUnreachable");
}

#[test]
fn a_missing_model_shows_and_so_does_its_return() {
    let mut story = story();
    story.settle();
    let model = ObjectKey::new(ObjectKind::DeviceModel, "dev", "m").unwrap();
    story.book.parked(&id("t1"), Some(Parked::ModelNotFound(model)), story.now);
    story.pass(INTERVAL);
    assert_eq!(story.truth("ModelResolved"), "False ModelNotFound");
    story.book.parked(&id("t1"), None, story.now);
    story.pass(INTERVAL);
    assert_eq!(story.truth("ModelResolved"), "True Resolved");
}

#[test]
fn a_refused_delivery_shows_until_the_next_revision() {
    let mut story = story();
    story.book.refused(&node("gw"), &id("t1"), "disk full".into(), story.now);
    story.pass(INTERVAL);
    assert_eq!(story.truth("Delivered"), "False Refused");
    story.device("t1", "gw", 2, &["temp", "set"], Some("6"));
    story.pass(INTERVAL);
    assert_eq!(story.truth("Delivered"), "False Pending");
    story.book.stored(&node("gw"), &id("t1"), Revision(2), story.now);
    story.pass(INTERVAL);
    assert_eq!(story.truth("Delivered"), "True Stored");
}

#[test]
fn conditions_that_somebody_wiped_are_written_again() {
    let mut story = story();
    story.settle();
    let echo = story.book.devices[&id("t1")].seen.clone();
    assert!(!echo.shown.is_empty());
    assert!(story.device("t1", "gw", 1, &["temp", "set"], Some("5")).is_empty());
    story.pass(INTERVAL);
    assert!(story.conditions().is_some(), "the echo had no conditions");
}

proptest! {
    #[test]
    fn any_order_of_arrival_ends_with_the_newest_sample(
        order in Just((0u64..20).collect::<Vec<_>>()).prop_shuffle(),
        failures in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let mut story = story();
        let mut failures = failures.into_iter();
        let mut owed = BTreeSet::new();
        let mut last = Value::Null;
        for sampled in order {
            let (report, verdict) = story.reports("gw", "t1", "temp", &sampled.to_string(), sampled);
            if verdict == Verdict::Later {
                owed.insert(report);
            }
            story.pass(Duration::from_millis(400));
            while let Some((write, patch)) = story.reported() {
                let outcome = match failures.next() {
                    Some(true) => Outcome::Failed("away".into()),
                    Some(false) | None => {
                        last = patch;
                        Outcome::Written(None)
                    }
                };
                for confirmed in story.ends(&write, outcome) {
                    prop_assert!(owed.remove(&confirmed), "{} confirmed twice", confirmed);
                }
            }
        }
        for _ in 0..10 {
            story.pass(PAUSE.1);
            while let Some((write, patch)) = story.reported() {
                last = patch;
                for confirmed in story.ends(&write, Outcome::Written(None)) {
                    owed.remove(&confirmed);
                }
            }
        }
        prop_assert_eq!(values(&last), pairs(&[("temp", "19")]));
        prop_assert!(owed.is_empty(), "never confirmed: {:?}", owed);
        prop_assert_eq!(story.book.owed(), 0);
    }
}
