//! One node as the cloud sees it: what it should hold, what of it has been acked, what it reports.
//!
//! # Guarantees
//! * Level-triggered: a session starts from the whole desired set ([`CloudSession::set_desired`]) and
//!   sends all of it; what changes later replaces what is still queued (newest wins per object).
//! * At most one message per object is on its way, so an older revision never follows a newer one.
//! * A device is sent only after the edge has acked its model.
//! * At most [`CloudConfig::window`] acked messages are outstanding; confirmations and membership
//!   lists do not wait behind them.
//! * An object that is refused or never answered is retried with growing pauses, and said so in
//!   [`Event::Refused`]; it never blocks the others and never loops.
//!
//! # Assumptions
//! The wire keeps order while it lives (TCP does) and may end at any byte. Then the driver makes a
//! new session: nothing of the old one is needed.

mod outbox;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::Now;
use crate::frame::{Envelope, FrameError};
use crate::id::{DeviceId, IdSource, MessageId, NodeName, ObjectKey, Revision};
use crate::message::{
    Change, MessageError, ObjectChange, StateReport, ToCloud, ToEdge, TwinReport, tombstone,
};
use crate::wire::{Operation, Resource};

use outbox::{Outbox, Send};

/// Outstanding acked messages per node. An upstream edge holds 100 received messages and drops the
/// oldest beyond that, and acks at most 30 a second; 32 keeps it busy and stays far from the edge of
/// its queue even with every message sent twice.
pub const WINDOW: usize = 32;

/// How long an unacked message waits before it is sent again, as upstream does.
pub const RESEND_AFTER: Duration = Duration::from_secs(5);

/// Knobs of a session.
#[derive(Clone, Copy, Debug)]
pub struct CloudConfig {
    /// Acked messages that may be outstanding, at least 1.
    pub window: usize,
    /// Pause before the same message is sent again.
    pub resend_after: Duration,
    /// Silence (no keepalive message) after which the session is over.
    pub keepalive_timeout: Duration,
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            window: WINDOW,
            resend_after: RESEND_AFTER,
            keepalive_timeout: Duration::from_secs(30),
        }
    }
}

/// One object that the node should hold.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Which object.
    pub key: ObjectKey,
    /// Kubernetes uid; another uid under the same key is another object.
    pub uid: Arc<str>,
    /// resourceVersion of `object`.
    pub revision: Revision,
    /// The whole object as JSON, `apiVersion` and `kind` included.
    pub object: Arc<RawValue>,
    /// The model that has to be there first, for a device.
    pub model: Option<ObjectKey>,
}

/// Everything a node should hold.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Objects to deliver, in any order.
    pub objects: Vec<Desired>,
    /// Devices that are this node's and cannot be delivered now (their model is missing, say). They
    /// are listed as members, so that an edge keeps what it has of them; nothing is sent.
    pub parked: Vec<DeviceId>,
}

/// What a session tells its driver.
#[derive(Clone, Debug)]
pub enum Event {
    /// The edge reports values. Answer with [`CloudSession::report_done`] once dealt with.
    Twin {
        /// The report's id.
        id: MessageId,
        /// The values.
        report: TwinReport,
    },
    /// The edge reports a device's state. Answer with [`CloudSession::report_done`].
    State {
        /// The report's id.
        id: MessageId,
        /// The state.
        report: StateReport,
    },
    /// The edge has committed this revision.
    Stored {
        /// Which object.
        key: ObjectKey,
        /// Which revision of it.
        revision: Revision,
    },
    /// The edge has dropped the object.
    Dropped(ObjectKey),
    /// The edge does not take the object. It is retried after a pause.
    Refused {
        /// Which object.
        key: ObjectKey,
        /// What the edge said, or that it said nothing.
        reason: String,
    },
    /// Nothing is owed any more: the edge holds all it should.
    Synced,
    /// A message that makes no sense; it has been answered as far as that is possible.
    Unreadable(String),
    /// A message of a peer that carries more than devices; it is ignored.
    Foreign(String),
    /// The session is over: close the connection.
    Close(CloseReason),
}

/// Why a session ends from the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// No keepalive message in time.
    #[error("no keepalive in time")]
    KeepaliveTimeout,
}

/// What happened so far, for metrics. Every counter only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Object messages sent for the first time.
    pub sent: u64,
    /// Object messages sent again.
    pub resent: u64,
    /// Acks that settled something.
    pub acked: u64,
    /// Changes that replaced a queued or unacked older one.
    pub superseded: u64,
    /// Objects refused or given up for a while.
    pub refused: u64,
    /// Keepalives received.
    pub keepalives: u64,
    /// Reports received.
    pub reports: u64,
    /// Reports confirmed.
    pub confirmed: u64,
}

/// The cloud's half of the link to one node.
#[derive(Debug)]
pub struct CloudSession {
    node: NodeName,
    ids: IdSource,
    config: CloudConfig,
    outbox: Outbox,
    /// Devices of this node, delivered or not: what a membership list says.
    members: BTreeSet<DeviceId>,
    list_owed: bool,
    added: BTreeSet<DeviceId>,
    removed: BTreeSet<DeviceId>,
    confirms: VecDeque<MessageId>,
    events: VecDeque<Event>,
    alive_until: Instant,
    closed: bool,
    synced: bool,
    counters: Counters,
}

impl CloudSession {
    /// Starts a session for `node`, with nothing desired yet and the keepalive clock running.
    #[must_use]
    pub fn new(node: NodeName, ids: IdSource, config: CloudConfig, now: Now) -> Self {
        Self {
            node,
            ids,
            config,
            outbox: Outbox::new(config.window.max(1), config.resend_after),
            members: BTreeSet::new(),
            list_owed: false,
            added: BTreeSet::new(),
            removed: BTreeSet::new(),
            confirms: VecDeque::new(),
            events: VecDeque::new(),
            alive_until: now.instant + config.keepalive_timeout,
            closed: false,
            synced: false,
            counters: Counters::default(),
        }
    }

    /// The node on the other end.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Objects that the edge has not acked as they should be.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.outbox.owed()
    }

    /// Small control messages that wait to be written. When the wire does not take them, a driver
    /// should stop reading: what a peer asks must not pile up in our memory.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.confirms.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes the whole desired set: at the start, and again when the driver lost track of changes.
    /// Queues the difference to what this session already knows, and the full membership list.
    pub fn set_desired(&mut self, snapshot: Snapshot) {
        let keep: BTreeSet<ObjectKey> = snapshot
            .objects
            .iter()
            .map(|desired| desired.key.clone())
            .chain(snapshot.parked.iter().map(DeviceId::object_key))
            .collect();
        for key in self.outbox.held_keys() {
            if !keep.contains(&key) {
                self.count(|outbox| outbox.drop_object(key));
            }
        }
        self.members = keep.iter().filter_map(ObjectKey::device_id).collect();
        let mut objects = snapshot.objects;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        for desired in objects {
            self.count(|outbox| outbox.hold(desired, false));
        }
        for device in snapshot.parked {
            self.outbox.park(&device.object_key());
        }
        self.owe_list();
        self.note_synced();
    }

    /// The node should hold this object, at this revision.
    pub fn upsert(&mut self, desired: Desired) {
        if let Some(device) = desired.key.device_id() {
            self.join(device);
        }
        self.count(|outbox| outbox.hold(desired, true));
        self.synced &= self.outbox.owed() == 0;
    }

    /// The node should not hold this object any more.
    pub fn remove(&mut self, key: ObjectKey) {
        if let Some(device) = key.device_id() {
            self.leave(device);
        }
        self.count(|outbox| outbox.drop_object(key));
        self.synced &= self.outbox.owed() == 0;
    }

    /// The device is this node's, but cannot be delivered now; see [`Snapshot::parked`].
    pub fn park(&mut self, device: DeviceId) {
        self.outbox.park(&device.object_key());
        self.join(device);
        self.note_synced();
    }

    /// A report has been dealt with for good: written, found unchanged, or found unacceptable.
    pub fn report_done(&mut self, id: MessageId) {
        self.confirms.push_back(id);
    }

    /// Takes one message as it came off the wire.
    ///
    /// # Errors
    /// Bytes that are no envelope. The peer speaks something else: close the connection.
    pub fn receive(&mut self, bytes: &[u8], now: Now) -> Result<(), FrameError> {
        let envelope = Envelope::decode(bytes)?;
        match ToCloud::decode(&envelope) {
            Ok(received) => self.accept(received.id, received.message, now),
            Err(error) => self.refuse(&envelope, &error),
        }
        Ok(())
    }

    /// Tells that time has passed; see [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        if now.instant >= self.alive_until && !self.closed {
            self.closed = true;
            self.events.push_back(Event::Close(CloseReason::KeepaliveTimeout));
        }
        for key in self.outbox.handle_timeout(now.instant) {
            self.counters.refused += 1;
            self.events
                .push_back(Event::Refused { key, reason: "the edge does not answer".into() });
        }
    }

    /// When [`Self::handle_timeout`] is wanted next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let alive = (!self.closed).then_some(self.alive_until);
        self.outbox.poll_timeout().into_iter().chain(alive).min()
    }

    /// The next message to write, until there is none. Small control messages come first, then
    /// changes made since the session started, then the initial bulk.
    pub fn poll_transmit(&mut self, now: Now) -> Option<String> {
        if self.closed {
            return None;
        }
        if let Some(report) = self.confirms.pop_front() {
            self.counters.confirmed += 1;
            return Some(self.control(&ToEdge::Confirm(report), now));
        }
        if std::mem::take(&mut self.list_owed) {
            self.added.clear();
            self.removed.clear();
            let list = ToEdge::Devices(self.members.iter().cloned().collect());
            return Some(self.control(&list, now));
        }
        if !self.added.is_empty() || !self.removed.is_empty() {
            let added = std::mem::take(&mut self.added).into_iter().collect();
            let removed = std::mem::take(&mut self.removed).into_iter().collect();
            return Some(self.control(&ToEdge::Membership { added, removed }, now));
        }
        let send = self.outbox.next_send(now, &mut self.ids)?;
        if send.again {
            self.counters.resent += 1;
        } else {
            self.counters.sent += 1;
        }
        Some(object_message(send))
    }

    /// The next thing the driver should know, until there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn accept(&mut self, id: MessageId, message: ToCloud, now: Now) {
        match message {
            ToCloud::Keepalive => {
                self.counters.keepalives += 1;
                self.alive_until = now.instant + self.config.keepalive_timeout;
            }
            ToCloud::Ack { of, route: _ } => self.acked(&of),
            ToCloud::Refuse { of, route: _, reason } => {
                if let Some(key) = self.outbox.refused(&of, now.instant) {
                    self.counters.refused += 1;
                    self.events.push_back(Event::Refused { key, reason });
                }
            }
            ToCloud::ListDevices(_) => {
                // Whatever node the content names: the certificate has named this one. The answer
                // is two messages, because an upstream edge takes anything with a parent for a
                // confirmation and looks no further.
                self.confirms.push_back(id);
                self.owe_list();
            }
            ToCloud::Twin(report) => {
                self.counters.reports += 1;
                self.events.push_back(Event::Twin { id, report });
            }
            ToCloud::State(report) => {
                self.counters.reports += 1;
                self.events.push_back(Event::State { id, report });
            }
            ToCloud::Foreign { operation } => self.events.push_back(Event::Foreign(operation)),
        }
    }

    fn acked(&mut self, of: &MessageId) {
        let Some(acked) = self.outbox.acked(of) else { return };
        self.counters.acked += 1;
        self.events.push_back(match acked.revision {
            Some(revision) => Event::Stored { key: acked.key, revision },
            None => Event::Dropped(acked.key),
        });
        self.note_synced();
    }

    /// A report that cannot be read now will not be readable later: confirm it, or the edge sends it
    /// for ever.
    fn refuse(&mut self, envelope: &Envelope, error: &MessageError) {
        let answers = Operation::parse(&envelope.route.operation)
            .is_some_and(|op| matches!(op, Operation::Response | Operation::Error));
        let is_report = match Resource::parse(&envelope.route.resource) {
            Resource::TwinReport(_) | Resource::StateReport(_) | Resource::MembershipDetail => true,
            Resource::Object(_)
            | Resource::Membership
            | Resource::Twin
            | Resource::Node
            | Resource::Other(_) => false,
        };
        if is_report
            && !answers
            && let Ok(id) = MessageId::parse(&envelope.header.msg_id)
        {
            self.confirms.push_back(id);
        }
        self.events.push_back(Event::Unreadable(error.to_string()));
    }

    fn join(&mut self, device: DeviceId) {
        if self.members.insert(device.clone()) {
            self.removed.remove(&device);
            self.added.insert(device);
        }
    }

    fn leave(&mut self, device: DeviceId) {
        self.members.remove(&device);
        self.added.remove(&device);
        self.removed.insert(device);
    }

    fn owe_list(&mut self) {
        self.list_owed = true;
    }

    fn note_synced(&mut self) {
        if !self.synced && self.outbox.owed() == 0 {
            self.synced = true;
            self.events.push_back(Event::Synced);
        }
    }

    fn count(&mut self, change: impl FnOnce(&mut Outbox) -> bool) {
        if change(&mut self.outbox) {
            self.counters.superseded += 1;
        }
    }

    fn control(&mut self, message: &ToEdge, now: Now) -> String {
        message.encode(&self.ids.next_id(), now.unix_ms).encode()
    }
}

fn object_message(send: Send) -> String {
    let (revision, change) = match send.desired {
        Some(desired) => {
            let object = RawValue::to_owned(&desired.object);
            (Some(desired.revision), Change::Upsert { create: send.create, object })
        }
        None => (None, Change::Delete),
    };
    let uid = Some(send.uid.to_string()).filter(|uid| !uid.is_empty());
    let change = ObjectChange { key: send.key, uid, revision, change };
    let last = send.last.map(|last| tombstone(&change, Some(&last.object)));
    let mut envelope = ToEdge::Object(change).encode(&send.id, send.unix_ms);
    if let Some(tombstone) = last {
        envelope.content = tombstone;
    }
    envelope.encode()
}

#[cfg(test)]
mod tests;
