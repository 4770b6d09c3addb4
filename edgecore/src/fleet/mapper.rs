//! One mapper: what it has accepted, what it is owed, and how it is doing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hub_proto::backoff::Backoff;
use hub_proto::id::ObjectKey;

use crate::store::{Has, MapperRow};

/// A mapper may be without a connection for this long, as when it restarts, before its devices'
/// state is no longer known.
const GRACE: Duration = Duration::from_secs(10);

/// After a registration calls wait this long, so that they reach the mapper after the answer does.
const HOLD: Duration = Duration::from_millis(300);

/// A refused object is offered again after 0.5 s, doubling to 30 s, each object by its own clock:
/// one bad device holds up no other.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How often a mapper may refuse to remove what it perhaps never had.
const REMOVALS_OF_A_MAYBE: u32 = 6;

/// What is done about an object at a mapper; in the order in which it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    RemoveDevice,
    Model,
    Device,
    RemoveModel,
}

/// What is asked of a mapper about an object, with the version it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Create or register.
    Offer(u64),
    /// Update.
    Update(u64),
    Remove,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The mapper took it, or already has it so.
    Accepted,
    /// The mapper does not know this call at all.
    Unimplemented,
    /// The mapper answered that it will not, for this reason.
    Refused(String),
    /// There was no answer, for this reason: it may have been done or not.
    Unanswered(String),
}

/// Whether a mapper can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Its connection is up.
    Up,
    /// Its connection is gone, not for long.
    Down,
    /// Its connection has been gone for longer than the grace.
    Lost,
    /// It gave no address: it reports and takes no calls.
    Deaf,
}

impl Health {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Lost => "lost",
            Self::Deaf => "deaf",
        }
    }
}

#[derive(Debug)]
pub(super) struct Mapper {
    pub(super) row: MapperRow,
    pub(super) generation: u64,
    pub(super) health: Health,
    pub(super) accepted: BTreeMap<ObjectKey, Has>,
    pub(super) owed: BTreeSet<(Step, ObjectKey)>,
    pub(super) waiting: BTreeMap<ObjectKey, Instant>,
    attempts: BTreeMap<ObjectKey, Backoff>,
    busy: Option<(ObjectKey, Verb)>,
    /// What the mapper had of the busy call's object before the call.
    before: Option<Has>,
    down_since: Instant,
    not_before: Option<Instant>,
}

/// What a mapper has of an object after a call that nobody answered.
fn unanswered(before: Option<Has>, verb: Verb) -> Has {
    match (verb, before) {
        (Verb::Offer(version), None) => Has::Maybe(Some(version)),
        (Verb::Offer(version), Some(Has::Maybe(Some(had)))) if had == version => {
            Has::Maybe(Some(version))
        }
        (Verb::Offer(_) | Verb::Remove, _) => Has::Maybe(None),
        (Verb::Update(_), _) => Has::Some,
    }
}

impl Mapper {
    pub(super) fn new(
        row: MapperRow,
        generation: u64,
        accepted: BTreeMap<ObjectKey, Has>,
        now: Instant,
    ) -> Self {
        let health = if row.address.is_empty() { Health::Deaf } else { Health::Down };
        Self {
            row,
            generation,
            health,
            accepted,
            owed: BTreeSet::new(),
            waiting: BTreeMap::new(),
            attempts: BTreeMap::new(),
            busy: None,
            before: None,
            down_since: now,
            not_before: None,
        }
    }

    pub(super) fn hold(&mut self, now: Instant) {
        self.not_before = Some(now + HOLD);
    }

    pub(super) fn up(&mut self) {
        self.health = Health::Up;
        // A mapper that is back is told at once what it is owed.
        let keys: Vec<ObjectKey> = self.waiting.keys().cloned().collect();
        for key in keys {
            self.waiting.insert(key, self.down_since);
        }
    }

    /// Returns the object of the call that was cut.
    pub(super) fn down(&mut self, now: Instant) -> Option<ObjectKey> {
        if self.health == Health::Up {
            self.health = Health::Down;
            self.down_since = now;
        }
        self.before = None;
        self.busy.take().map(|(key, _)| key)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    pub(super) fn can_take_a_call(&self, now: Instant) -> bool {
        self.health == Health::Up
            && self.busy.is_none()
            && self.not_before.is_none_or(|at| now >= at)
            && (!self.owed.is_empty() || self.waiting.values().any(|at| *at <= now))
    }

    /// A call goes out. From now on until it is answered we know less about what the mapper has; what
    /// that is, is returned.
    pub(super) fn begin(&mut self, key: ObjectKey, verb: Verb) -> Has {
        let has = unanswered(self.accepted.get(&key).copied(), verb);
        self.before = self.accepted.insert(key.clone(), has);
        self.busy = Some((key, verb));
        has
    }

    /// Returns the object, and whether the call did what was wanted. What the mapper has of it now
    /// stands in `accepted`.
    pub(super) fn done(
        &mut self,
        outcome: &CallOutcome,
        now: Instant,
    ) -> Option<(ObjectKey, bool)> {
        let (key, verb) = self.busy.take()?;
        let before = self.before.take();
        let is_device = key.device_id().is_some();
        let accepted = match outcome {
            CallOutcome::Accepted => true,
            // A mapper that knows no models does without; one that knows no devices may be updated.
            CallOutcome::Unimplemented => !is_device,
            // A released Go mapper answers so, for ever, about a device that it does not have.
            CallOutcome::Refused(_) => {
                let attempts = self.attempts.get(&key).map_or(0, Backoff::attempts);
                verb == Verb::Remove
                    && matches!(before, Some(Has::Maybe(_)))
                    && attempts >= REMOVALS_OF_A_MAYBE
            }
            CallOutcome::Unanswered(_) => false,
        };
        let has = match (accepted, verb) {
            (true, Verb::Remove) => None,
            (true, Verb::Update(version)) => Some(Has::Version(version)),
            // A Go mapper ignores the offer of a device that it has, in whatever version.
            (true, Verb::Offer(version)) => Some(match before {
                Some(Has::Maybe(had)) if is_device && had != Some(version) => Has::Some,
                Some(_) | None => Has::Version(version),
            }),
            // It still has what it had.
            (false, Verb::Remove) if matches!(outcome, CallOutcome::Refused(_)) => before,
            (false, _) => Some(unanswered(before, verb)),
        };
        match has {
            Some(has) => self.accepted.insert(key.clone(), has),
            None => self.accepted.remove(&key),
        };
        if accepted {
            self.attempts.remove(&key);
        } else {
            let seed = self.generation;
            let backoff = self
                .attempts
                .entry(key.clone())
                .or_insert_with(|| Backoff::new(FIRST_RETRY, LAST_RETRY, seed));
            self.waiting.insert(key.clone(), now + backoff.next_delay());
        }
        Some((key, accepted))
    }

    /// Sets what is owed of an object. A change is owed at once, whatever was tried before.
    pub(super) fn owe(&mut self, key: &ObjectKey, step: Option<Step>) {
        self.waiting.remove(key);
        for any in [Step::RemoveDevice, Step::Model, Step::Device, Step::RemoveModel] {
            if Some(any) != step {
                self.owed.remove(&(any, key.clone()));
            }
        }
        match step {
            Some(step) => {
                self.owed.insert((step, key.clone()));
            }
            None => {
                self.attempts.remove(key);
            }
        }
    }

    pub(super) fn waits_that_are_over(&mut self, now: Instant) -> Vec<ObjectKey> {
        let over: Vec<ObjectKey> =
            self.waiting.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.waiting.remove(key);
        }
        over
    }

    pub(super) fn becomes_lost(&mut self, now: Instant) -> bool {
        let lost = self.health == Health::Down && now >= self.down_since + GRACE;
        if lost {
            self.health = Health::Lost;
        }
        lost
    }

    pub(super) fn next_time(&self) -> Option<Instant> {
        let lost_at = (self.health == Health::Down).then_some(self.down_since + GRACE);
        let can_call = self.health == Health::Up && self.busy.is_none();
        let held = self.not_before;
        let call_at = if !can_call {
            None
        } else if !self.owed.is_empty() {
            held
        } else {
            self.waiting.values().min().map(|at| held.map_or(*at, |held| held.max(*at)))
        };
        [lost_at, call_at].into_iter().flatten().min()
    }
}
