//! Pure: what every device's status should say, what of it is written, and when to write next.
//!
//! # Guarantees
//! * The value with the newest sample time wins, whatever the order of arrival.
//! * A report is confirmed only after the write that carries its values, or at once when there is
//!   nothing to write.
//! * At most one write of each kind per device and interval; none when nothing changed.
//! * A failed write is tried again with growing pauses, with the newest values of that time.
//! * Properties that left the specification leave the status.
//!
//! Bounded by the devices and their properties; of reports that wait for confirmation the newest
//! [`WAITING`] per device are remembered (an edge sends the others again).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::DataType;
use crds::value::{MAX_VALUE_BYTES, same};
use hub_proto::Now;
use hub_proto::id::{DeviceId, MessageId, NodeName, ObjectKey, Revision};
use hub_proto::message::{StateReport, TwinReport, TwinValue, TwinValues};
use serde_json::{Map, Value, json};

use super::conditions::{Delivery, Facts, PropertyFact, Reach, Shown};
use super::seen::{DeviceSeen, ModelSeen, PropertySeen, StatusSeen};
use crate::hub::nodes::SessionId;
use crate::placement::Parked;

/// Unconfirmed reports remembered per device.
const WAITING: usize = 256;
/// Conditions are written this long after something turned, so that what turns back or turns on at
/// once (sent, stored, accepted, applied) is one write and not four.
const SETTLE: Duration = Duration::from_millis(300);
/// First and longest pause after a failed write.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A sample time this far in the future is a wrong clock. It is taken as now, so that the clock's
/// correction does not make every later value look old.
const AHEAD_MS: u64 = 60_000;

/// The objects that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `DeviceStatus.status`
    Reported,
    /// `Device.status`
    Conditions,
}

/// One write to perform.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which device.
    pub device: DeviceId,
    /// Its uid: the owner of a DeviceStatus that has to be made, and the check that it is still the
    /// same device.
    pub uid: Arc<str>,
    /// What to do.
    pub action: Action,
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Merge this into the status of the DeviceStatus, making the object if it is not there.
    Reported {
        /// `{"status": {...}}`
        patch: Value,
        /// Whether the object is known to be there.
        exists: bool,
    },
    /// Merge this into the status of the Device.
    Conditions {
        /// `{"status": {...}}`
        patch: Value,
        /// What it shows afterwards.
        next: Shown,
        /// The specification that it speaks of.
        digest: [u8; 32],
    },
    /// Delete the DeviceStatus of a device that is gone.
    DeleteReported,
}

impl Write {
    /// Which object it writes.
    #[must_use]
    pub fn target(&self) -> Target {
        match self.action {
            Action::Reported { .. } | Action::DeleteReported => Target::Reported,
            Action::Conditions { .. } => Target::Conditions,
        }
    }
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the object's revision if the API said it.
    Written(Option<Revision>),
    /// The API refuses the content: trying again would not help.
    Rejected(String),
    /// Try again later.
    Failed(String),
}

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is confirmed with a later write.
    Later,
    /// Nothing to write: confirm now.
    Unchanged,
    /// Not acceptable: confirm now, and say why in the log.
    Refused(&'static str),
}

type Confirms = Vec<(NodeName, MessageId)>;
type ModelTypes = Arc<BTreeMap<String, (Option<DataType>, bool)>>;

/// The book.
#[derive(Debug)]
pub struct Book {
    interval: Duration,
    lease: Duration,
    listed: bool,
    devices: HashMap<DeviceId, Record>,
    models: HashMap<ObjectKey, ModelTypes>,
    by_node: HashMap<NodeName, BTreeSet<DeviceId>>,
    by_model: HashMap<ObjectKey, BTreeSet<DeviceId>>,
    /// Nodes with a session.
    here: BTreeSet<NodeName>,
    /// Nodes whose session ended: when they count as lost.
    leases: BTreeMap<NodeName, Instant>,
    lost: BTreeSet<NodeName>,
    /// Statuses seen before their device.
    early: HashMap<DeviceId, StatusSeen>,
    schedule: BTreeSet<(Instant, Target, DeviceId)>,
    deletions: VecDeque<Write>,
}

#[derive(Debug)]
struct Record {
    seen: DeviceSeen,
    twins: BTreeMap<Box<str>, Twin>,
    state: Option<String>,
    last_online: Option<String>,
    /// Whether the node has said anything since cloudcore started.
    heard: bool,
    /// Whether the DeviceStatus exists, and at which revision we left it.
    exists: bool,
    left_at: Option<Revision>,
    waiting: VecDeque<(NodeName, MessageId)>,
    carried: Vec<(NodeName, MessageId)>,
    stored: Option<Revision>,
    refusal: Option<String>,
    /// The specification that the conditions in the API speak of.
    shown_digest: Option<[u8; 32]>,
    reported: Lane,
    conditions: Lane,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Twin {
    reported: Option<Sample>,
    observed: Option<Sample>,
    kind: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    value: Box<str>,
    ms: u64,
}

/// When one kind of write of one device is due.
#[derive(Debug, Default)]
struct Lane {
    due: Option<Instant>,
    writing: bool,
    /// Something changed since the write that is under way began.
    again: bool,
    not_before: Option<Instant>,
    failures: u32,
}

impl Book {
    /// An empty book. Nothing is written before [`Self::listed`].
    #[must_use]
    pub fn new(interval: Duration, lease: Duration) -> Self {
        Self {
            interval,
            lease,
            listed: false,
            devices: HashMap::new(),
            models: HashMap::new(),
            by_node: HashMap::new(),
            by_model: HashMap::new(),
            here: BTreeSet::new(),
            leases: BTreeMap::new(),
            lost: BTreeSet::new(),
            early: HashMap::new(),
            schedule: BTreeSet::new(),
            deletions: VecDeque::new(),
        }
    }

    /// Writes that are owed.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.schedule.len() + self.deletions.len()
    }

    // === what is known ===

    /// The first lists are complete. Nodes that do not connect within a lease count as lost.
    pub fn listed(&mut self, now: Now) {
        self.listed = true;
        for node in self.by_node.keys() {
            if !self.here.contains(node) {
                self.leases.insert(node.clone(), now.instant + self.lease);
            }
        }
        // What is left belongs to devices that were deleted while nobody looked.
        for (id, seen) in std::mem::take(&mut self.early) {
            self.delete_orphan(id, seen);
        }
        let ids: Vec<_> = self.devices.keys().cloned().collect();
        for id in ids {
            self.mark(&id, Target::Conditions, now, SETTLE);
        }
    }

    /// A model as it is.
    pub fn model(&mut self, model: ModelSeen, now: Now) {
        let users = self.by_model.get(&model.key).cloned().unwrap_or_default();
        self.models.insert(model.key, model.properties);
        for id in users {
            self.mark(&id, Target::Conditions, now, SETTLE);
        }
    }

    /// A model is gone.
    pub fn model_gone(&mut self, key: &ObjectKey, now: Now) {
        self.models.remove(key);
        for id in self.by_model.get(key).cloned().unwrap_or_default() {
            self.mark(&id, Target::Conditions, now, SETTLE);
        }
    }

    /// A device as it is. Returns reports that are confirmed because they are about its predecessor.
    pub fn device(&mut self, seen: DeviceSeen, now: Now) -> Confirms {
        let id = seen.id.clone();
        let mut confirms = Confirms::new();
        if self.devices.get(&id).is_some_and(|record| record.seen.uid != seen.uid) {
            confirms = self.device_gone(&id, now);
        }
        let Some(record) = self.devices.get_mut(&id) else {
            self.new_device(seen, now);
            return confirms;
        };
        let (digest, old) = (seen.digest, std::mem::replace(&mut record.seen, seen));
        // What stands in the API is ours; an older echo of it must not replace what we know. Only if
        // somebody removed it, it has to be written again.
        let wiped = record.seen.shown.is_empty() && !old.shown.is_empty();
        if !wiped {
            record.seen.shown = old.shown;
        }
        if old.digest == digest && !wiped {
            record.seen.parked = old.parked;
            return confirms;
        }
        record.refusal = None;
        let before = record.twins.len();
        let properties: BTreeSet<&str> = record.seen.properties.iter().map(|p| &*p.name).collect();
        record.twins.retain(|name, _| properties.contains(&**name));
        let pruned = record.twins.len() < before;
        if old.node != record.seen.node {
            record.stored = None;
            record.heard = false;
        }
        let (new_node, new_model) = (record.seen.node.clone(), record.seen.model.clone());
        self.reindex(&id, (old.node, old.model), (new_node, new_model), now);
        if pruned {
            self.mark(&id, Target::Reported, now, Duration::ZERO);
        }
        self.mark(&id, Target::Conditions, now, SETTLE);
        confirms
    }

    fn new_device(&mut self, seen: DeviceSeen, now: Now) {
        let id = seen.id.clone();
        let shown_digest =
            (seen.shown.observed_generation() == seen.generation).then_some(seen.digest);
        let indexed = (seen.node.clone(), seen.model.clone());
        let record = Record {
            state: seen.shown.state().map(str::to_owned),
            seen,
            twins: BTreeMap::new(),
            last_online: None,
            heard: false,
            exists: false,
            left_at: None,
            waiting: VecDeque::new(),
            carried: Vec::new(),
            stored: None,
            refusal: None,
            shown_digest,
            reported: Lane::default(),
            conditions: Lane::default(),
        };
        self.devices.insert(id.clone(), record);
        self.reindex(&id, (None, None), indexed, now);
        if let Some(early) = self.early.remove(&id) {
            self.observed(early, now);
        }
        self.mark(&id, Target::Conditions, now, SETTLE);
    }

    fn reindex(
        &mut self,
        id: &DeviceId,
        old: (Option<NodeName>, Option<ObjectKey>),
        new: (Option<NodeName>, Option<ObjectKey>),
        now: Now,
    ) {
        move_entry(&mut self.by_node, id, old.0.as_ref(), new.0.as_ref());
        move_entry(&mut self.by_model, id, old.1.as_ref(), new.1.as_ref());
        if let Some(gone) = old.0.filter(|node| !self.by_node.contains_key(node)) {
            self.leases.remove(&gone);
            self.lost.remove(&gone);
        }
        if let Some(node) = new.0
            && self.listed
            && !self.here.contains(&node)
            && !self.lost.contains(&node)
            && !self.leases.contains_key(&node)
        {
            self.leases.insert(node, now.instant + self.lease);
        }
    }

    /// A device is gone. Returns the reports about it, to be confirmed: they have no place any more.
    pub fn device_gone(&mut self, id: &DeviceId, now: Now) -> Confirms {
        let Some(record) = self.devices.remove(id) else { return Confirms::new() };
        for (lane, target) in
            [(&record.reported, Target::Reported), (&record.conditions, Target::Conditions)]
        {
            if let Some(due) = lane.due {
                self.schedule.remove(&(due, target, id.clone()));
            }
        }
        let indexed = (record.seen.node.clone(), record.seen.model.clone());
        self.reindex(id, indexed, (None, None), now);
        if record.exists {
            // A cluster's garbage collector does the same; a small API server has none.
            self.deletions.push_back(Write {
                device: id.clone(),
                uid: record.seen.uid,
                action: Action::DeleteReported,
            });
        }
        record.carried.into_iter().chain(record.waiting).collect()
    }

    /// Whether the device can be delivered has been looked at anew.
    pub fn parked(&mut self, id: &DeviceId, parked: Option<Parked>, now: Now) {
        if let Some(record) = self.devices.get_mut(id) {
            record.seen.parked = parked;
            self.mark(id, Target::Conditions, now, SETTLE);
        }
    }

    /// A DeviceStatus as it stands in the API. For a device whose node is connected our values are the
    /// truth and are written again if somebody removed them; for others the API's are.
    pub fn observed(&mut self, seen: StatusSeen, now: Now) {
        let Some(record) = self.devices.get_mut(&seen.id) else {
            if self.listed {
                self.delete_orphan(seen.id.clone(), seen);
            } else {
                self.early.insert(seen.id.clone(), seen);
            }
            return;
        };
        record.exists = true;
        if record.reported.writing || seen.revision <= record.left_at && record.left_at.is_some() {
            return; // Our own doing, or older.
        }
        let mut twins = BTreeMap::new();
        for twin in seen.status.twins {
            let mut name: Box<str> = twin.property_name.into();
            let parts = [twin.reported, twin.observed_desired].map(|part| {
                let part = part?;
                let ms = part.metadata.get("timestamp").and_then(|ms| ms.parse().ok());
                let kind = part.metadata.get("type").cloned();
                Some((Sample { value: part.value.into(), ms: ms.unwrap_or_default() }, kind))
            });
            let [reported, observed] = parts;
            let kind = reported.as_ref().or(observed.as_ref()).and_then(|(_, kind)| kind.clone());
            let twin = Twin {
                reported: reported.map(|(sample, _)| sample),
                observed: observed.map(|(sample, _)| sample),
                kind: kind.map(Into::into),
            };
            twins.insert(std::mem::take(&mut name), twin);
        }
        if record.heard {
            let same_values = record
                .twins
                .iter()
                .all(|(name, twin)| twins.get(name).is_some_and(|other| !twin.differs(other)))
                && twins.len() == record.twins.len()
                && record.state == seen.status.state;
            if !same_values {
                let id = seen.id;
                self.mark(&id, Target::Reported, now, Duration::ZERO);
            }
            return;
        }
        let stale = twins.keys().any(|name| record.seen.property(name).is_none());
        record.twins = twins;
        record.twins.retain(|name, _| record.seen.property(name).is_some());
        record.state = seen.status.state.or(record.state.take());
        record.last_online = seen.status.last_online_time;
        let id = seen.id;
        if stale {
            self.mark(&id, Target::Reported, now, Duration::ZERO);
        }
        self.mark(&id, Target::Conditions, now, SETTLE);
    }

    /// A DeviceStatus is gone from the API: it is made anew if there is anything to say.
    pub fn observed_gone(&mut self, id: &DeviceId, now: Now) {
        self.early.remove(id);
        let Some(record) = self.devices.get_mut(id) else { return };
        record.exists = false;
        record.left_at = None;
        if !record.twins.is_empty() || record.state.is_some() {
            self.mark(id, Target::Reported, now, Duration::ZERO);
        }
    }

    fn delete_orphan(&mut self, id: DeviceId, seen: StatusSeen) {
        // Without an owner it is not ours to judge.
        if let Some(owner) = seen.owner {
            let action = Action::DeleteReported;
            self.deletions.push_back(Write { device: id, uid: owner.into(), action });
        }
    }

    // === what nodes say ===

    /// A session began.
    pub fn connected(&mut self, node: &NodeName, _session: SessionId, now: Now) {
        self.here.insert(node.clone());
        self.leases.remove(node);
        if self.lost.remove(node) {
            self.mark_node(node, now);
        }
    }

    /// The node's session ended.
    pub fn disconnected(&mut self, node: &NodeName, now: Now) {
        self.here.remove(node);
        if self.by_node.contains_key(node) {
            self.leases.insert(node.clone(), now.instant + self.lease);
        }
    }

    /// Values of a device.
    pub fn twin(
        &mut self,
        node: &NodeName,
        id: &MessageId,
        report: &TwinReport,
        now: Now,
    ) -> Verdict {
        let record = match find(&mut self.devices, node, &report.device) {
            Ok(record) => record,
            Err(refused) => return refused,
        };
        let newly_heard = !std::mem::replace(&mut record.heard, true);
        let mut changed = false;
        let mut too_long = false;
        for (name, values) in &report.twins {
            if record.seen.property(name).is_none() {
                continue; // Not in the specification (any more).
            }
            match record.merge(name, values, now.unix_ms) {
                Ok(differs) => changed |= differs,
                Err(TooLong) => too_long = true,
            }
        }
        if too_long && !changed {
            return Verdict::Refused("value is longer than 64 KiB");
        }
        if changed {
            record.wait(node, id);
            self.mark(&report.device, Target::Reported, now, Duration::ZERO);
        }
        if changed || newly_heard {
            self.mark(&report.device, Target::Conditions, now, SETTLE);
        }
        if changed { Verdict::Later } else { self.unchanged(node, id, &report.device) }
    }

    /// The state of a device.
    pub fn state(
        &mut self,
        node: &NodeName,
        id: &MessageId,
        report: &StateReport,
        now: Now,
    ) -> Verdict {
        let record = match find(&mut self.devices, node, &report.device) {
            Ok(record) => record,
            Err(refused) => return refused,
        };
        if report.state.len() > 64 {
            return Verdict::Refused("state is longer than 64 bytes");
        }
        let newly_heard = !std::mem::replace(&mut record.heard, true);
        let state = Some(report.state.clone()).filter(|state| !state.is_empty());
        let changed = state.is_some() && record.state != state;
        // A later time alone is no change: while the state says online, it is.
        if let Some(time) = report.last_online.clone().filter(|time| time.len() <= 64) {
            record.last_online = Some(time);
        }
        if changed {
            record.state = state;
            record.wait(node, id);
            self.mark(&report.device, Target::Reported, now, Duration::ZERO);
        }
        if changed || newly_heard {
            self.mark(&report.device, Target::Conditions, now, SETTLE);
        }
        if changed { Verdict::Later } else { self.unchanged(node, id, &report.device) }
    }

    /// Nothing new. But if the same value waits to be written, so does the confirmation.
    fn unchanged(&mut self, node: &NodeName, id: &MessageId, device: &DeviceId) -> Verdict {
        let Some(record) = self.devices.get_mut(device) else { return Verdict::Unchanged };
        if record.reported.due.is_some() || record.reported.again {
            record.wait(node, id);
            return Verdict::Later;
        }
        if record.reported.writing {
            record.carried.push((node.clone(), id.clone()));
            return Verdict::Later;
        }
        Verdict::Unchanged
    }

    /// The node has committed a revision of the device.
    pub fn stored(&mut self, node: &NodeName, id: &DeviceId, revision: Revision, now: Now) {
        if let Ok(record) = find(&mut self.devices, node, id) {
            record.stored = Some(revision);
            record.refusal = None;
            self.mark(id, Target::Conditions, now, SETTLE);
        }
    }

    /// The node does not take the device.
    pub fn refused(&mut self, node: &NodeName, id: &DeviceId, reason: String, now: Now) {
        if let Ok(record) = find(&mut self.devices, node, id) {
            record.refusal = Some(reason.chars().take(512).collect());
            self.mark(id, Target::Conditions, now, SETTLE);
        }
    }

    // === writing ===

    /// When [`Self::next_write`] or [`Self::handle_timeout`] is wanted next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.listed {
            return None;
        }
        let write = self.schedule.first().map(|(due, _, _)| *due);
        write.into_iter().chain(self.leases.values().min().copied()).min()
    }

    /// Time has passed: leases may have run out.
    pub fn handle_timeout(&mut self, now: Now) {
        let over: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, end)| **end <= now.instant)
            .map(|(n, _)| n.clone())
            .collect();
        for node in over {
            self.leases.remove(&node);
            self.lost.insert(node.clone());
            self.mark_node(&node, now);
        }
    }

    /// The next write to perform, if one is due. Each is to be answered with [`Self::written`].
    pub fn next_write(&mut self, now: Now) -> Option<Write> {
        if !self.listed {
            return None;
        }
        if let Some(deletion) = self.deletions.pop_front() {
            return Some(deletion);
        }
        while self.schedule.first().is_some_and(|(due, _, _)| *due <= now.instant) {
            let (_, target, id) = self.schedule.pop_first()?;
            let write = match target {
                Target::Reported => self.start_reported(&id, now),
                Target::Conditions => self.start_conditions(&id, now),
            };
            if write.is_some() {
                return write;
            }
        }
        None
    }

    fn start_reported(&mut self, id: &DeviceId, now: Now) -> Option<Write> {
        let interval = self.interval;
        let record = self.devices.get_mut(id)?;
        record.reported.start(now.instant + interval);
        record.carried.extend(record.waiting.drain(..));
        let action = Action::Reported { patch: record.patch(), exists: record.exists };
        Some(Write { device: id.clone(), uid: Arc::clone(&record.seen.uid), action })
    }

    fn start_conditions(&mut self, id: &DeviceId, now: Now) -> Option<Write> {
        let interval = self.interval;
        let record = self.devices.get(id)?;
        let types = record.seen.model.as_ref().and_then(|model| self.models.get(model));
        let node = record.seen.node.as_ref();
        let lost = node.is_some_and(|node| self.lost.contains(node));
        let reach = if lost { Reach::Lost } else { Reach::Here };
        let next = record.seen.shown.next(&record.facts(types, reach), now.unix_ms);
        let digest = record.seen.digest;
        let turned = record.seen.shown.turned(&next) || record.shown_digest != Some(digest);
        let (uid, patch) = (Arc::clone(&record.seen.uid), next.patch());
        let record = self.devices.get_mut(id)?;
        if !turned {
            record.conditions.due = None;
            return None;
        }
        record.conditions.start(now.instant + interval);
        let action = Action::Conditions { patch, next, digest };
        Some(Write { device: id.clone(), uid, action })
    }

    /// A write has ended. Returns the reports that it settles.
    pub fn written(&mut self, write: &Write, outcome: Outcome, now: Now) -> Confirms {
        let mut confirms = Confirms::new();
        let Some(record) = self.devices.get_mut(&write.device) else { return confirms };
        if record.seen.uid != write.uid {
            return confirms;
        }
        let lane = match &write.action {
            Action::DeleteReported => return confirms,
            Action::Reported { .. } => &mut record.reported,
            Action::Conditions { .. } => &mut record.conditions,
        };
        let again = lane.finish(&outcome, now.instant);
        match (&write.action, outcome) {
            (Action::Reported { .. }, Outcome::Written(revision)) => {
                record.exists = true;
                record.left_at = revision.max(record.left_at);
                confirms = std::mem::take(&mut record.carried);
            }
            (Action::Reported { .. }, Outcome::Rejected(_)) => {
                confirms = std::mem::take(&mut record.carried);
            }
            (Action::Reported { .. }, Outcome::Failed(_)) => {
                for waiting in std::mem::take(&mut record.carried).into_iter().rev() {
                    record.waiting.push_front(waiting);
                }
                record.forget_oldest();
            }
            (Action::Conditions { next, digest, .. }, Outcome::Written(_)) => {
                record.seen.shown = next.clone();
                record.shown_digest = Some(*digest);
            }
            (Action::Conditions { .. }, Outcome::Rejected(_) | Outcome::Failed(_))
            | (Action::DeleteReported, _) => {}
        }
        if let Some(delay) = again {
            self.mark(&write.device, write.target(), now, delay);
        }
        confirms
    }

    fn mark_node(&mut self, node: &NodeName, now: Now) {
        for id in self.by_node.get(node).cloned().unwrap_or_default() {
            self.mark(&id, Target::Conditions, now, SETTLE);
        }
    }

    fn mark(&mut self, id: &DeviceId, target: Target, now: Now, delay: Duration) {
        let Some(record) = self.devices.get_mut(id) else { return };
        let lane = match target {
            Target::Reported => &mut record.reported,
            Target::Conditions => &mut record.conditions,
        };
        if lane.writing {
            lane.again = true;
            return;
        }
        let at = now.instant + delay;
        let at = lane.not_before.map_or(at, |earliest| earliest.max(at));
        match lane.due {
            Some(due) if due <= at => {}
            before => {
                if let Some(due) = before {
                    self.schedule.remove(&(due, target, id.clone()));
                }
                lane.due = Some(at);
                self.schedule.insert((at, target, id.clone()));
            }
        }
    }
}

fn find<'a>(
    devices: &'a mut HashMap<DeviceId, Record>,
    node: &NodeName,
    id: &DeviceId,
) -> Result<&'a mut Record, Verdict> {
    let record = devices.get_mut(id).ok_or(Verdict::Refused("there is no such device"))?;
    if record.seen.node.as_ref() != Some(node) {
        return Err(Verdict::Refused("the device is not bound to this node"));
    }
    Ok(record)
}

fn move_entry<K: std::hash::Hash + Eq + Clone>(
    index: &mut HashMap<K, BTreeSet<DeviceId>>,
    id: &DeviceId,
    old: Option<&K>,
    new: Option<&K>,
) {
    if old == new {
        return;
    }
    if let Some(key) = old
        && let Some(ids) = index.get_mut(key)
    {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
    if let Some(key) = new {
        index.entry(key.clone()).or_default().insert(id.clone());
    }
}

struct TooLong;

impl Record {
    /// Takes what is newer. Returns whether anything but a time changed.
    fn merge(&mut self, name: &str, values: &TwinValues, now_ms: u64) -> Result<bool, TooLong> {
        let given = [&values.reported, &values.observed_desired];
        if given.into_iter().flatten().any(|value| value.value.len() > MAX_VALUE_BYTES) {
            return Err(TooLong);
        }
        let twin = match self.twins.get_mut(name) {
            Some(twin) => twin,
            None => self.twins.entry(name.into()).or_default(),
        };
        let before = twin.clone();
        let newer = take_newer(&mut twin.reported, values.reported.as_ref(), now_ms);
        take_newer(&mut twin.observed, values.observed_desired.as_ref(), now_ms);
        if newer && let Some(kind) = &values.kind {
            twin.kind = Some(kind.as_str().chars().take(64).collect::<String>().into());
        }
        Ok(twin.differs(&before))
    }

    fn wait(&mut self, node: &NodeName, id: &MessageId) {
        self.waiting.push_back((node.clone(), id.clone()));
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.waiting.len() > WAITING {
            self.waiting.pop_front();
        }
    }

    fn patch(&self) -> Value {
        // In the order of the specification, as people wrote it.
        let twins: Vec<Value> = self
            .seen
            .properties
            .iter()
            .filter_map(|property| Some(self.twins.get(&property.name)?.json(&property.name)))
            .collect();
        let mut status = Map::new();
        status.insert("twins".into(), Value::Array(twins));
        if let Some(state) = &self.state {
            status.insert("state".into(), json!(state));
        }
        if let Some(time) = &self.last_online {
            status.insert("lastOnlineTime".into(), json!(time));
        }
        json!({ "status": status })
    }

    fn facts<'a>(&'a self, types: Option<&'a ModelTypes>, reach: Reach) -> Facts<'a> {
        let delivery = match (&self.refusal, self.stored, self.seen.revision) {
            (Some(reason), _, _) => Delivery::Refused(reason),
            (None, Some(stored), Some(revision)) if stored >= revision => Delivery::Stored,
            (None, None, _) if self.shown_digest == Some(self.seen.digest) => Delivery::NotAsked,
            (None, _, _) => Delivery::Pending,
        };
        let wanted = self.seen.properties.iter().filter_map(|property| {
            let desired = property.desired.as_deref()?;
            let (kind, writable) =
                types.and_then(|types| types.get(&*property.name)).copied().unwrap_or((None, true));
            if !writable {
                return None; // Never written; validation says so.
            }
            let twin = self.twins.get(&property.name);
            let is_desired = |sample: &Sample| same(kind, &sample.value, desired);
            Some(PropertyFact {
                name: &property.name,
                observable: property.reported,
                accepted: twin.and_then(|twin| twin.observed.as_ref()).map(is_desired),
                applied: twin.and_then(|twin| twin.reported.as_ref()).map(is_desired),
            })
        });
        Facts {
            generation: self.seen.generation,
            node: self.seen.node.as_ref().map(NodeName::as_str),
            reach,
            parked: self.seen.parked.as_ref(),
            delivery,
            properties: wanted.collect(),
            heard: self.heard || !self.twins.is_empty(),
            state: self.state.as_deref(),
            last_online: self.last_online.as_deref(),
        }
    }
}

impl DeviceSeen {
    fn property(&self, name: &str) -> Option<&PropertySeen> {
        self.properties.iter().find(|property| &*property.name == name)
    }
}

impl Twin {
    /// Whether there is more to it than a later sample of the same.
    fn differs(&self, other: &Self) -> bool {
        let value = |sample: &Option<Sample>| sample.as_ref().map(|sample| sample.value.clone());
        value(&self.reported) != value(&other.reported)
            || value(&self.observed) != value(&other.observed)
            || self.kind != other.kind
    }

    fn json(&self, name: &str) -> Value {
        let part = |sample: &Sample| {
            let mut metadata = Map::new();
            metadata.insert("timestamp".into(), sample.ms.to_string().into());
            if let Some(kind) = &self.kind {
                metadata.insert("type".into(), json!(kind));
            }
            json!({ "value": sample.value, "metadata": metadata })
        };
        let mut twin = Map::new();
        twin.insert("propertyName".into(), name.into());
        if let Some(reported) = &self.reported {
            twin.insert("reported".into(), part(reported));
        }
        if let Some(observed) = &self.observed {
            twin.insert("observedDesired".into(), part(observed));
        }
        Value::Object(twin)
    }
}

fn take_newer(mine: &mut Option<Sample>, given: Option<&TwinValue>, now_ms: u64) -> bool {
    let Some(given) = given else { return false };
    let latest = now_ms.saturating_add(AHEAD_MS);
    let ms = given.sampled_ms.unwrap_or(now_ms);
    let order = |ms: u64| if ms > latest { now_ms } else { ms };
    if mine.as_ref().is_some_and(|mine| order(mine.ms) > order(ms)) {
        return false;
    }
    *mine = Some(Sample { value: given.value.as_str().into(), ms });
    true
}

impl Lane {
    fn start(&mut self, not_before: Instant) {
        self.due = None;
        self.writing = true;
        self.again = false;
        self.not_before = Some(not_before);
    }

    /// Returns after which pause to write again, if at all.
    fn finish(&mut self, outcome: &Outcome, now: Instant) -> Option<Duration> {
        self.writing = false;
        let again = std::mem::take(&mut self.again);
        match outcome {
            Outcome::Written(_) | Outcome::Rejected(_) => {
                self.failures = 0;
                again.then_some(Duration::ZERO)
            }
            Outcome::Failed(_) => {
                let (first, longest) = PAUSE;
                let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
                self.failures += 1;
                self.not_before = Some(now + pause);
                Some(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests;
