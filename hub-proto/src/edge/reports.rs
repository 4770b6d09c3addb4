//! What the edge has yet to tell the cloud: per device the newest values and the newest state, and
//! what is under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::Now;
use crate::id::{DeviceId, IdSource, MessageId};
use crate::message::{StateReport, ToCloud, TwinReport, TwinValues};

/// An unconfirmed report is sent again after this. The cloud confirms after the write to the
/// Kubernetes API, which is coalesced over a second or so.
const RETRY: Duration = Duration::from_secs(10);

/// Reports that may be unconfirmed at once over all devices. An upstream cloud buffers 1024 messages
/// of all nodes together.
const WINDOW: usize = 256;

/// A report is closed when it holds this many bytes of values; the rest of the device's values
/// follow in the next. Keeps a message far below the limit of any peer.
const REPORT_BYTES: usize = 512 * 1024;

/// A device's state, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateValue {
    /// online, offline, ok, unhealthy, unknown.
    pub state: String,
    /// RFC 3339, UTC; when the device was last online, if it ever was.
    pub last_online: Option<String>,
}

/// What a confirmation covers, with the marks that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// Values of a device: property and mark.
    Values {
        /// The device.
        device: DeviceId,
        /// What was told.
        marks: Vec<(String, u64)>,
    },
    /// The state of a device.
    State {
        /// The device.
        device: DeviceId,
        /// What was told.
        mark: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject {
    Values,
    State,
}

type LaneKey = (DeviceId, Subject);

/// All reports. A lane is one device's values or one device's state; lanes are independent.
#[derive(Debug, Default)]
pub(super) struct Reports {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes with something to send and nothing under way, in order of arrival, so that no device
    /// starves another.
    ready: BTreeSet<(u64, LaneKey)>,
    /// Lanes with something under way, by the time it is sent again.
    retries: BTreeSet<(Instant, LaneKey)>,
    under_way: BTreeMap<MessageId, LaneKey>,
    arrivals: u64,
    /// Properties that a forgetful cloud has confirmed once, by device; bounded by the devices.
    begun: HashMap<DeviceId, BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Lane {
    pending: Pending,
    sent: Option<Sent>,
    /// Place in `ready`, if it is there.
    arrival: Option<u64>,
}

/// Newest wins per property, and for the state.
#[derive(Debug, Default)]
struct Pending {
    values: BTreeMap<String, (TwinValues, u64)>,
    state: Option<(StateValue, u64)>,
}

#[derive(Debug)]
struct Sent {
    id: MessageId,
    sent_ms: u64,
    retry_at: Instant,
    /// Due for sending again.
    due: bool,
    what: Pending,
}

impl Reports {
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn value(&mut self, device: &DeviceId, name: &str, values: TwinValues, mark: u64) {
        let key = (device.clone(), Subject::Values);
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.pending.values.insert(name.to_owned(), (values, mark));
        self.make_ready(key);
    }

    pub(super) fn state(&mut self, device: &DeviceId, state: StateValue, mark: u64) {
        let key = (device.clone(), Subject::State);
        self.lanes.entry(key.clone()).or_default().pending.state = Some((state, mark));
        self.make_ready(key);
    }

    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.begun.remove(device);
        for subject in [Subject::Values, Subject::State] {
            let key = (device.clone(), subject);
            if let Some(lane) = self.lanes.remove(&key) {
                if let Some(arrival) = lane.arrival {
                    self.ready.remove(&(arrival, key.clone()));
                }
                if let Some(sent) = lane.sent {
                    self.under_way.remove(&sent.id);
                    self.retries.remove(&(sent.retry_at, key));
                }
            }
        }
    }

    /// The connection is gone: what was under way is pending again, unless something newer is.
    pub(super) fn reopen(&mut self) {
        self.under_way.clear();
        self.retries.clear();
        let mut keys: Vec<LaneKey> = Vec::new();
        for (key, lane) in &mut self.lanes {
            if let Some(sent) = lane.sent.take() {
                lane.pending.put_under(sent.what);
                keys.push(key.clone());
            }
        }
        // Oldest device first by name only: across a reconnect all of them are equally late.
        keys.sort();
        for key in keys {
            self.make_ready(key);
        }
    }

    /// A `forgetful` cloud confirms the first report of a property and keeps an empty entry (upstream
    /// up to v1.23 at least): that value is told once more before it counts, unless a newer one is.
    pub(super) fn confirm(&mut self, report: &MessageId, forgetful: bool) -> Option<Confirmed> {
        let key = self.under_way.remove(report)?;
        let lane = self.lanes.get_mut(&key)?;
        let mut sent = lane.sent.take()?;
        if forgetful && !sent.what.values.is_empty() {
            let begun = self.begun.entry(key.0.clone()).or_default();
            let (again, told) = sent.what.values.into_iter().partition(|(name, _)| {
                begun.insert(name.clone()) && !lane.pending.values.contains_key(name)
            });
            sent.what.values = told;
            lane.pending.put_under(Pending { values: again, state: None });
        }
        self.retries.remove(&(sent.retry_at, key.clone()));
        let idle = lane.pending.is_empty();
        if idle {
            if let Some(arrival) = lane.arrival {
                self.ready.remove(&(arrival, key.clone()));
            }
            self.lanes.remove(&key);
        } else {
            self.make_ready(key.clone());
        }
        let (device, subject) = key;
        match subject {
            Subject::Values => {
                let marks = sent.what.values.into_iter().map(|(name, (_, mark))| (name, mark));
                let marks: Vec<_> = marks.collect();
                (!marks.is_empty()).then_some(Confirmed::Values { device, marks })
            }
            Subject::State => sent.what.state.map(|(_, mark)| Confirmed::State { device, mark }),
        }
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// Marks what has been unconfirmed for too long.
    pub(super) fn retry(&mut self, now: Instant) {
        while let Some((at, key)) = self.retries.first().cloned() {
            if at > now {
                break;
            }
            self.retries.remove(&(at, key.clone()));
            if let Some(sent) = self.lanes.get_mut(&key).and_then(|lane| lane.sent.as_mut()) {
                sent.due = true;
            }
            self.make_ready(key);
        }
    }

    /// Takes the next report, oldest lane first. A report that is sent again is the same message.
    pub(super) fn send(&mut self, ids: &mut IdSource, now: Now) -> Option<String> {
        let again = |reports: &Self, key: &LaneKey| {
            reports.lanes.get(key).is_some_and(|lane| lane.sent.is_some())
        };
        let full = self.under_way.len() >= WINDOW;
        let place = self.ready.iter().find(|(_, key)| !full || again(self, key)).cloned()?;
        self.ready.remove(&place);
        let key = place.1;
        let lane = self.lanes.get_mut(&key)?;
        lane.arrival = None;
        let retry_at = now.instant + RETRY;
        let sent = match lane.sent.take() {
            Some(sent) => Sent { retry_at, due: false, ..sent },
            None => {
                let what = lane.pending.take(REPORT_BYTES);
                Sent { id: ids.next_id(), sent_ms: now.unix_ms, retry_at, due: false, what }
            }
        };
        let message = sent.what.message(&key);
        let text = message.encode(&sent.id, sent.sent_ms).encode();
        self.under_way.insert(sent.id.clone(), key.clone());
        self.retries.insert((retry_at, key));
        lane.sent = Some(sent);
        Some(text)
    }

    fn make_ready(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        let sendable = match &lane.sent {
            Some(sent) => sent.due,
            None => !lane.pending.is_empty(),
        };
        if sendable && lane.arrival.is_none() {
            lane.arrival = Some(self.arrivals);
            self.ready.insert((self.arrivals, key));
            self.arrivals += 1;
        }
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.state.is_none()
    }

    /// Puts older values back, each only where there is no newer one.
    fn put_under(&mut self, older: Self) {
        for (name, value) in older.values {
            self.values.entry(name).or_insert(value);
        }
        if self.state.is_none() {
            self.state = older.state;
        }
    }

    /// Takes what fits into one report; at least one value.
    fn take(&mut self, budget: usize) -> Self {
        let mut taken = Self { values: BTreeMap::new(), state: self.state.take() };
        let mut bytes = 0;
        while let Some(entry) = self.values.first_entry() {
            let (values, _) = entry.get();
            let size = |value: &Option<crate::message::TwinValue>| {
                value.as_ref().map_or(0, |value| value.value.len())
            };
            bytes += entry.key().len() + size(&values.reported) + size(&values.observed_desired);
            if bytes > budget && !taken.values.is_empty() {
                break;
            }
            let (name, value) = entry.remove_entry();
            taken.values.insert(name, value);
        }
        taken
    }

    fn message(&self, (device, subject): &LaneKey) -> ToCloud {
        let device = device.clone();
        match (subject, &self.state) {
            (Subject::State, Some((value, _))) => ToCloud::State(StateReport {
                device,
                state: value.state.clone(),
                last_online: value.last_online.clone(),
            }),
            (Subject::State, None) | (Subject::Values, _) => ToCloud::Twin(TwinReport {
                device,
                twins: self.values.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect(),
            }),
        }
    }
}
