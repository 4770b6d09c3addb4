//! Pure: what every device's status should say, what of it is written, and when to write next.
//! Over 500 lines: one state machine whose every part moves the same indexes.
//!
//! # Guarantees
//! * The value with the newest sample time wins, whatever the order of arrival.
//! * A report is confirmed only after the write that carries its values, or at once when there is
//!   nothing to write.
//! * At most one write of each kind per device and interval; none when nothing changed.
//! * A failed write is tried again with growing pauses, with the newest values of that time.
//! * Properties that left the specification leave the status.
//! * Conditions follow values: what a condition says of a value can be read in the DeviceStatus by
//!   then, unless the API takes no DeviceStatus.
//!
//! Bounded by the devices and their properties; of reports that wait for confirmation the newest
//! 256 per device are remembered (an edge sends the others again).

mod record;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_proto::Now;
use hub_proto::id::{DeviceId, MessageId, NodeName, ObjectKey, Revision};
use hub_proto::message::{StateReport, TwinReport};

use super::action::{Action, Outcome, Target, Verdict, Write};
use super::conditions::{Reach, Shown};
use super::deadlines::Deadlines;
use super::seen::{DeviceSeen, ModelSeen, StatusSeen};
use crate::hub::nodes::SessionId;
use crate::placement::Parked;

use record::{ModelTypes, Observed, PAUSE, Record, TooLong};

/// Conditions are written this long after something turned, so that what turns back or turns on at
/// once (sent, stored, accepted, applied) is one write and not four.
const SETTLE: Duration = Duration::from_millis(300);
/// A status without a device is deleted this long after it was seen.
const ORPHANED: Duration = Duration::from_secs(5);

type Confirms = Vec<(NodeName, MessageId)>;

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
    leases: Deadlines<NodeName>,
    lost: BTreeSet<NodeName>,
    /// Statuses seen before their device.
    early: HashMap<DeviceId, StatusSeen>,
    schedule: Deadlines<(Target, DeviceId)>,
    /// DeviceStatuses to delete, by the uid of their owner, and when.
    deletions: Deadlines<(DeviceId, Arc<str>)>,
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
            leases: Deadlines::default(),
            lost: BTreeSet::new(),
            early: HashMap::new(),
            schedule: Deadlines::default(),
            deletions: Deadlines::default(),
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
                self.leases.set(node.clone(), now.instant + self.lease);
            }
        }
        // What is left belongs to devices that were deleted while nobody looked.
        for (id, seen) in std::mem::take(&mut self.early) {
            self.delete_orphan(id, seen, now);
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
        if old.digest == digest && old.parked == record.seen.parked && !wiped {
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
        let record = Record::new(seen, shown_digest);
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
            self.leases.clear(&gone);
            self.lost.remove(&gone);
        }
        if let Some(node) = new.0
            && self.listed
            && !self.here.contains(&node)
            && !self.lost.contains(&node)
            && !self.leases.has(&node)
        {
            self.leases.set(node, now.instant + self.lease);
        }
    }

    /// A device is gone. Returns the reports about it, to be confirmed: they have no place any more.
    pub fn device_gone(&mut self, id: &DeviceId, now: Now) -> Confirms {
        let Some(record) = self.devices.remove(id) else { return Confirms::new() };
        for target in [Target::Reported, Target::Conditions] {
            self.schedule.clear(&(target, id.clone()));
        }
        let indexed = (record.seen.node.clone(), record.seen.model.clone());
        self.reindex(id, indexed, (None, None), now);
        if record.exists {
            // A cluster's garbage collector does the same; a small API server has none.
            self.deletions.set((id.clone(), record.seen.uid), now.instant);
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
                self.delete_orphan(seen.id.clone(), seen, now);
            } else {
                self.early.insert(seen.id.clone(), seen);
            }
            return;
        };
        record.exists = true;
        if record.reported.writing || record.left_at.is_some_and(|left| seen.revision <= Some(left))
        {
            return; // Our own doing, or older.
        }
        let id = seen.id;
        match record.take_observed(seen.status) {
            Observed::Same => {}
            Observed::Differs => self.mark(&id, Target::Reported, now, Duration::ZERO),
            Observed::Adopted { stale } => {
                if stale {
                    self.mark(&id, Target::Reported, now, Duration::ZERO);
                }
                self.mark(&id, Target::Conditions, now, SETTLE);
            }
        }
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

    fn delete_orphan(&mut self, id: DeviceId, seen: StatusSeen, now: Now) {
        // Without an owner it is not ours to judge.
        if let Some(owner) = seen.owner {
            self.deletions.set((id, owner.into()), now.instant + ORPHANED);
        }
    }

    // === what nodes say ===

    /// A session began.
    pub fn connected(&mut self, node: &NodeName, _session: SessionId, now: Now) {
        self.here.insert(node.clone());
        self.leases.clear(node);
        if self.lost.remove(node) {
            self.mark_node(node, now);
        }
    }

    /// The node's session ended.
    pub fn disconnected(&mut self, node: &NodeName, now: Now) {
        self.here.remove(node);
        if self.by_node.contains_key(node) {
            self.leases.set(node.clone(), now.instant + self.lease);
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
        let firsts = [self.schedule.first(), self.deletions.first(), self.leases.first()];
        firsts.into_iter().flatten().min()
    }

    /// Time has passed: leases may have run out.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(node) = self.leases.take_due(now.instant) {
            self.lost.insert(node.clone());
            self.mark_node(&node, now);
        }
    }

    /// The next write to perform, if one is due. Each is to be answered with [`Self::written`].
    pub fn next_write(&mut self, now: Now) -> Option<Write> {
        if !self.listed {
            return None;
        }
        while let Some((device, uid)) = self.deletions.take_due(now.instant) {
            // The watch of devices may be behind that of statuses: it is no orphan after all.
            if self.devices.get(&device).is_some_and(|record| record.seen.uid == uid) {
                continue;
            }
            return Some(Write { device, uid, action: Action::DeleteReported });
        }
        while let Some((target, id)) = self.schedule.take_due(now.instant) {
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
        let judged = self.judgement(id, now);
        let record = self.devices.get_mut(id)?;
        record.judged = judged;
        record.reported.start(now.instant + interval);
        record.carried.extend(record.waiting.drain(..));
        let action = Action::Reported { patch: record.patch(), exists: record.exists };
        Some(Write { device: id.clone(), uid: Arc::clone(&record.seen.uid), action })
    }

    /// What the conditions should say of everything known now.
    fn judgement(&self, id: &DeviceId, now: Now) -> Option<Shown> {
        let record = self.devices.get(id)?;
        let types = record.seen.model.as_ref().and_then(|model| self.models.get(model));
        let node = record.seen.node.as_ref();
        let lost = node.is_some_and(|node| self.lost.contains(node));
        let reach = if lost { Reach::Lost } else { Reach::Here };
        Some(record.seen.shown.next(&record.facts(types, reach), now.unix_ms))
    }

    fn start_conditions(&mut self, id: &DeviceId, now: Now) -> Option<Write> {
        let interval = self.interval;
        let record = self.devices.get_mut(id)?;
        let next = if record.reported.is_owed() {
            // Only what the DeviceStatus already shows; the write that is owed asks again.
            record.provable.take()
        } else {
            record.provable = None;
            self.judgement(id, now)
        };
        let record = self.devices.get_mut(id)?;
        let digest = record.seen.digest;
        let turned =
            |next: &Shown| record.seen.shown.turned(next) || record.shown_digest != Some(digest);
        let Some(next) = next.filter(turned) else {
            record.conditions.due = None;
            return None;
        };
        let (uid, patch) = (Arc::clone(&record.seen.uid), next.patch());
        record.conditions.start(now.instant + interval);
        let action = Action::Conditions { patch, next, digest };
        Some(Write { device: id.clone(), uid, action })
    }

    /// A write has ended. Returns the reports that it settles.
    pub fn written(&mut self, write: &Write, outcome: Outcome, now: Now) -> Confirms {
        let mut confirms = Confirms::new();
        if let (Action::DeleteReported, Outcome::Failed(_)) = (&write.action, &outcome) {
            let deletion = (write.device.clone(), Arc::clone(&write.uid));
            self.deletions.set(deletion, now.instant + PAUSE.1);
        }
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
        let settled = write.target() == Target::Reported && !matches!(outcome, Outcome::Failed(_));
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
        if settled {
            record.provable = record.judged.take();
        }
        if let Some(delay) = again {
            self.mark(&write.device, write.target(), now, delay);
        }
        if settled {
            self.mark(&write.device, Target::Conditions, now, Duration::ZERO);
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
        if lane.due.is_none_or(|due| at < due) {
            lane.due = Some(at);
            self.schedule.set((target, id.clone()), at);
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

#[cfg(test)]
mod tests;
