//! What a node is owed: one entry per object, newest wins, one message per object on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Now;
use crate::id::{IdSource, MessageId, ObjectKey, Revision};

use super::Desired;

/// Sends of one message before the object is put aside and its place in the window given away.
/// Upstream gives up at the same point: after 25 s with 5 s between sends.
const SENDS: u32 = 5;

/// First and longest pause before an object that was refused is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// A message to write.
#[derive(Debug)]
pub(super) struct Send {
    pub id: MessageId,
    /// Time of the first send: a resend repeats the message to the byte.
    pub unix_ms: u64,
    pub key: ObjectKey,
    pub uid: Arc<str>,
    /// The object, or `None` for a deletion.
    pub desired: Option<Desired>,
    /// For a deletion: the object as it was last wanted here, if it ever was.
    pub last: Option<Desired>,
    /// Whether the edge is thought not to have the object.
    pub create: bool,
    /// Whether the same message has been written before.
    pub again: bool,
}

/// What an ack settled.
#[derive(Debug)]
pub(super) struct Acked {
    pub key: ObjectKey,
    /// The revision that is stored, or `None`: the object is gone.
    pub revision: Option<Revision>,
}

/// Bounded by the number of objects: every queue holds keys of `entries`.
#[derive(Debug)]
pub(super) struct Outbox {
    window: usize,
    resend_after: Duration,
    entries: BTreeMap<ObjectKey, Entry>,
    /// Entries that are not `Stored`.
    owed: usize,
    in_flight: BTreeMap<MessageId, ObjectKey>,
    /// What stands in line, by its ticket.
    line: BTreeMap<Ticket, ObjectKey>,
    next_ticket: u64,
    /// Devices by the model they wait for.
    waiting: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Unacked messages that are to be written again now.
    resend: BTreeSet<MessageId>,
    /// Objects put aside, by the time of their next try.
    aside: BTreeSet<(Instant, ObjectKey)>,
}

#[derive(Debug)]
struct Entry {
    /// The object, or `None`: the edge is to drop it.
    want: Option<Desired>,
    /// While the edge is to drop it: the object as it was last wanted.
    last: Option<Desired>,
    uid: Arc<str>,
    phase: Phase,
    /// The revision that the edge acked last in this session.
    stored: Option<Revision>,
    /// Whether it goes before the initial bulk.
    urgent: bool,
    /// Times it was refused or given up since it last changed.
    refusals: u32,
}

/// A place in the line: changes made since the start go before the initial bulk, each in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    bulk: bool,
    number: u64,
}

#[derive(Debug)]
enum Phase {
    Queued(Ticket),
    /// A device whose model is not there yet.
    Waiting(ObjectKey),
    InFlight(Flight),
    Aside(Instant),
    Stored,
}

#[derive(Debug)]
struct Flight {
    id: MessageId,
    unix_ms: u64,
    resend_at: Instant,
    sends: u32,
    create: bool,
    /// What was written: the revision, or a deletion.
    revision: Option<Revision>,
    /// Set when the object changed since: the ack does not cover the change.
    outdated: bool,
    /// Set when the object was parked since: nothing follows the ack.
    parked: bool,
}

impl Outbox {
    pub fn new(window: usize, resend_after: Duration) -> Self {
        Self {
            window,
            resend_after,
            entries: BTreeMap::new(),
            owed: 0,
            in_flight: BTreeMap::new(),
            line: BTreeMap::new(),
            next_ticket: 0,
            waiting: BTreeMap::new(),
            resend: BTreeSet::new(),
            aside: BTreeSet::new(),
        }
    }

    pub fn owed(&self) -> usize {
        self.owed
    }

    /// Keys of all objects that the edge should hold.
    pub fn held_keys(&self) -> Vec<ObjectKey> {
        let held = self.entries.iter().filter(|(_, entry)| entry.want.is_some());
        held.map(|(key, _)| key.clone()).collect()
    }

    /// The edge is to hold this. Returns whether it replaced a change that was still owed.
    pub fn hold(&mut self, desired: Desired, urgent: bool) -> bool {
        if let Some(entry) = self.entries.get_mut(&desired.key)
            && let Some(want) = &entry.want
            && want.uid == desired.uid
            && want.revision >= desired.revision
            && (entry.is_owed() || entry.stored == Some(want.revision))
        {
            if let Phase::InFlight(flight) = &mut entry.phase {
                flight.parked = false;
            }
            return false;
        }
        let (key, uid) = (desired.key.clone(), Arc::clone(&desired.uid));
        self.change(key, Some(desired), uid, urgent)
    }

    /// The edge is to drop this, whether or not it was ever sent. Returns as [`Self::hold`].
    pub fn drop_object(&mut self, key: ObjectKey) -> bool {
        let uid = match self.entries.get_mut(&key) {
            Some(entry) if entry.want.is_none() => {
                if let Phase::InFlight(flight) = &mut entry.phase {
                    flight.parked = false;
                }
                return false;
            }
            Some(entry) => Arc::clone(&entry.uid),
            None => Arc::from(""),
        };
        self.change(key, None, uid, true)
    }

    /// Stops sending the object; what the edge has of it stays.
    pub fn park(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Phase::InFlight(flight) = &mut entry.phase {
            flight.parked = true; // The ack is on its way, or the window frees itself by giving up.
            return;
        }
        self.settle_parked(key);
    }

    fn change(
        &mut self,
        key: ObjectKey,
        want: Option<Desired>,
        uid: Arc<str>,
        urgent: bool,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            let phase = Phase::Stored;
            let entry = Entry { want, last: None, uid, phase, stored: None, urgent, refusals: 0 };
            self.entries.insert(key.clone(), entry);
            self.enqueue(key);
            return false;
        };
        let before = std::mem::replace(&mut entry.want, want);
        entry.last = if entry.want.is_some() { None } else { before.or(entry.last.take()) };
        entry.uid = uid;
        entry.urgent = urgent;
        entry.refusals = 0;
        match &mut entry.phase {
            Phase::InFlight(flight) => {
                flight.outdated = true;
                flight.parked = false;
                true
            }
            Phase::Queued(_) | Phase::Waiting(_) | Phase::Aside(_) => {
                self.enqueue(key);
                true
            }
            Phase::Stored => {
                self.enqueue(key);
                false
            }
        }
    }

    /// Puts an entry in line, behind its model if that is not there yet.
    fn enqueue(&mut self, key: ObjectKey) {
        let Some(entry) = self.entries.get(&key) else { return };
        let model = entry.want.as_ref().and_then(|want| want.model.clone());
        let urgent = entry.urgent;
        if let Some(model) = model.filter(|model| self.model_is_coming(model)) {
            self.waiting.entry(model.clone()).or_default().insert(key.clone());
            self.set_phase(&key, Phase::Waiting(model));
            return;
        }
        // Who stands in line already keeps the place, unless the new one is in a faster line.
        if let Phase::Queued(ticket) = entry.phase
            && (!ticket.bulk || !urgent)
        {
            return;
        }
        let ticket = Ticket { bulk: !urgent, number: self.next_ticket };
        self.next_ticket += 1;
        self.set_phase(&key, Phase::Queued(ticket));
        self.line.insert(ticket, key);
    }

    /// Whether a device should wait for its model: it is on its way, or was never taken. A model
    /// that the edge has in an older revision and refuses in the newer holds up nobody.
    fn model_is_coming(&self, model: &ObjectKey) -> bool {
        self.entries.get(model).is_some_and(|entry| match entry.phase {
            Phase::Queued(_) | Phase::Waiting(_) | Phase::InFlight(_) => entry.want.is_some(),
            Phase::Aside(_) => entry.want.is_some() && entry.stored.is_none(),
            Phase::Stored => false,
        })
    }

    fn waits_for_model(&self, key: &ObjectKey) -> bool {
        let want = self.entries.get(key).and_then(|entry| entry.want.as_ref());
        want.and_then(|want| want.model.as_ref()).is_some_and(|model| self.model_is_coming(model))
    }

    pub fn next_send(&mut self, now: Now, ids: &mut IdSource) -> Option<Send> {
        while let Some(id) = self.resend.pop_first() {
            if let Some(send) = self.send_again(&id, now) {
                return Some(send);
            }
        }
        if self.in_flight.len() >= self.window {
            return None;
        }
        let key = self.line.first_entry()?.get().clone();
        self.send_first(key, now, ids)
    }

    fn send_first(&mut self, key: ObjectKey, now: Now, ids: &mut IdSource) -> Option<Send> {
        let entry = self.entries.get(&key)?;
        let id = ids.next_id();
        let flight = Flight {
            id: id.clone(),
            unix_ms: now.unix_ms,
            resend_at: now.instant + self.resend_after,
            sends: 1,
            create: entry.stored.is_none(),
            revision: entry.want.as_ref().map(|want| want.revision),
            outdated: false,
            parked: false,
        };
        let send = Send {
            id: id.clone(),
            unix_ms: now.unix_ms,
            key: key.clone(),
            uid: Arc::clone(&entry.uid),
            desired: entry.want.clone(),
            last: entry.last.clone(),
            create: entry.stored.is_none(),
            again: false,
        };
        self.set_phase(&key, Phase::InFlight(flight));
        self.in_flight.insert(id, key);
        Some(send)
    }

    fn send_again(&mut self, id: &MessageId, now: Now) -> Option<Send> {
        let key = self.in_flight.get(id)?;
        let entry = self.entries.get_mut(key)?;
        let Phase::InFlight(flight) = &mut entry.phase else { return None };
        flight.sends += 1;
        flight.resend_at = now.instant + self.resend_after;
        Some(Send {
            id: flight.id.clone(),
            unix_ms: flight.unix_ms,
            key: key.clone(),
            uid: Arc::clone(&entry.uid),
            desired: entry.want.clone(),
            last: entry.last.clone(),
            create: flight.create,
            again: true,
        })
    }

    pub fn acked(&mut self, id: &MessageId) -> Option<Acked> {
        let key = self.in_flight.remove(id)?;
        let entry = self.entries.get_mut(&key)?;
        let Phase::InFlight(flight) = &entry.phase else { return None };
        let (revision, outdated, parked) = (flight.revision, flight.outdated, flight.parked);
        entry.stored = revision;
        entry.refusals = 0;
        if parked {
            self.settle_parked(&key);
        } else if outdated {
            self.requeue(key.clone());
        } else if entry.want.is_some() {
            self.set_phase(&key, Phase::Stored);
        } else {
            self.forget(&key);
        }
        self.release_devices(&key);
        Some(Acked { key, revision })
    }

    /// The edge said no. Returns the object unless a newer change of it goes out at once instead.
    pub fn refused(&mut self, id: &MessageId, now: Instant) -> Option<ObjectKey> {
        let key = self.in_flight.remove(id)?;
        self.put_aside(key.clone(), now);
        Some(key)
    }

    /// Marks what is to be sent again or tried again; returns what is given up for a while.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<ObjectKey> {
        let mut given_up = Vec::new();
        let keys: Vec<_> =
            self.in_flight.iter().map(|(id, key)| (id.clone(), key.clone())).collect();
        for (id, key) in keys {
            let model_went = self.waits_for_model(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Phase::InFlight(flight) = &mut entry.phase else { continue };
            if flight.resend_at > now {
                continue;
            }
            if flight.parked {
                self.in_flight.remove(&id);
                self.settle_parked(&key);
            } else if flight.outdated || model_went {
                // Newest wins: the old message is not repeated, and a late ack of it settles nothing.
                // Nor is it repeated while its model, deleted and made again, is not there.
                self.in_flight.remove(&id);
                self.requeue(key);
            } else if flight.sends >= SENDS {
                self.in_flight.remove(&id);
                self.put_aside(key.clone(), now);
                given_up.push(key);
            } else {
                // Until it is written again nothing is due: writing sets the next time.
                flight.resend_at = now + self.resend_after;
                self.resend.insert(id);
            }
        }
        while let Some((at, _)) = self.aside.first()
            && *at <= now
            && let Some((_, key)) = self.aside.pop_first()
        {
            self.requeue(key);
        }
        given_up
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let resend =
            self.in_flight.values().filter_map(|key| match &self.entries.get(key)?.phase {
                Phase::InFlight(flight) => Some(flight.resend_at),
                Phase::Queued(_) | Phase::Waiting(_) | Phase::Aside(_) | Phase::Stored => None,
            });
        resend.chain(self.aside.first().map(|(at, _)| *at)).min()
    }

    fn put_aside(&mut self, key: ObjectKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Phase::InFlight(flight) = &entry.phase {
            if flight.parked {
                return self.settle_parked(&key);
            }
            if flight.outdated {
                return self.requeue(key);
            }
        }
        let (first, longest) = PAUSE;
        let pause = first.saturating_mul(1 << entry.refusals.min(16)).min(longest);
        entry.refusals += 1;
        let at = now + pause;
        self.set_phase(&key, Phase::Aside(at));
        self.aside.insert((at, key.clone()));
        self.release_devices(&key);
    }

    /// Leaves the present phase behind and stands in line anew.
    fn requeue(&mut self, key: ObjectKey) {
        self.set_phase(&key, Phase::Stored);
        self.enqueue(key);
    }

    /// A model has been settled one way or the other: devices that waited may be free to go.
    fn release_devices(&mut self, model: &ObjectKey) {
        if self.model_is_coming(model) {
            return;
        }
        for device in self.waiting.remove(model).unwrap_or_default() {
            self.requeue(device);
        }
    }

    /// Leaves a parked object as the edge has it: known if it was ever acked, otherwise forgotten.
    fn settle_parked(&mut self, key: &ObjectKey) {
        let known = self.entries.get(key).is_some_and(|e| e.stored.is_some() && e.want.is_some());
        if known { self.set_phase(key, Phase::Stored) } else { self.forget(key) }
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.set_phase(key, Phase::Stored);
        self.entries.remove(key);
    }

    /// The one place where a phase changes: keeps the count and the indexes true.
    fn set_phase(&mut self, key: &ObjectKey, phase: Phase) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let owed_before = entry.is_owed();
        let before = std::mem::replace(&mut entry.phase, phase);
        match (owed_before, entry.is_owed()) {
            (false, true) => self.owed += 1,
            (true, false) => self.owed -= 1,
            (true, true) | (false, false) => {}
        }
        match before {
            Phase::Waiting(model) => {
                // Still the same wait after a change of the same device: keep the index.
                let stays = matches!(&self.entries.get(key).map(|entry| &entry.phase),
                    Some(Phase::Waiting(now)) if *now == model);
                if !stays && let Some(devices) = self.waiting.get_mut(&model) {
                    devices.remove(key);
                    if devices.is_empty() {
                        self.waiting.remove(&model);
                    }
                }
            }
            Phase::Aside(at) => {
                self.aside.remove(&(at, key.clone()));
            }
            Phase::Queued(ticket) => {
                self.line.remove(&ticket);
            }
            Phase::InFlight(_) | Phase::Stored => {}
        }
    }
}

impl Entry {
    fn is_owed(&self) -> bool {
        !matches!(self.phase, Phase::Stored)
    }
}
