//! One device as a state machine: when to connect, what to read, what to write, what to report.
//!
//! Pure: no clock, no task, no driver. [`Device::poll`] names the next thing to do, the device task
//! does it and tells the outcome to [`Device::handle`]; [`Device::poll_timeout`] says when to ask
//! again. At most one driver call is under way, so every event answers the last effect.
//!
//! The rule for desired values: written once per change. After a (re)connect the property is read
//! first and written only if the device does not hold the value, or if it cannot be read.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use crate::{
    backoff::{Backoff, unit},
    driver::DriverError,
    spec::{DeviceSpec, PropertySpec},
    value::Value,
};

const RECONNECT_BASE: Duration = Duration::from_millis(250);
const RECONNECT_CAP: Duration = Duration::from_secs(15);
const REWRITE_BASE: Duration = Duration::from_secs(1);
const REWRITE_CAP: Duration = Duration::from_secs(60);

/// The time of an event: monotonic for schedules, wall clock for samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) unix_ms: u64,
}

/// What edgecore is told about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceState {
    /// Connected, and the device answered.
    Online,
    /// No connection, or it was lost.
    Offline,
    /// The driver panicked, or the protocol configuration cannot work.
    Unhealthy,
}

impl DeviceState {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What the device task has to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Answer with [`Event::Connected`] or an error.
    Connect,
    /// Close the connection in good order. No answer.
    Disconnect,
    /// Answer with [`Event::Read`].
    Read(Vec<ReadRequest>),
    /// Answer with [`Event::Written`].
    Write { property: String, value: Value },
    /// Tell edgecore these values. No answer.
    Report(Vec<Sample>),
    /// Forget what was to be told about a property that is gone. No answer.
    Forget(String),
    /// Tell edgecore this state. No answer.
    State(DeviceState),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadRequest {
    pub(crate) property: String,
    /// The desired value to compare the reading with, when that matters.
    pub(crate) desired: Option<Value>,
}

/// The outcome of the last effect.
#[derive(Debug)]
pub(crate) enum Event {
    Connected,
    ConnectFailed(DriverError),
    Read(Vec<(String, Result<Reading, DriverError>)>),
    Written(Result<(), DriverError>),
    /// The call ended without an answer; the connection went with it.
    CallLost(CallFault),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    /// Already of the declared type.
    pub(crate) value: Value,
    /// Whether it is what [`ReadRequest::desired`] asks for.
    pub(crate) holds: bool,
}

/// Why a driver call gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum CallFault {
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("the driver panicked: {0}")]
    Panic(String),
    #[error("there is no connection")]
    NotConnected,
}

/// One reading with its time, and what is known of the desired value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) property: String,
    pub(crate) value: Value,
    /// When it was read, milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) desired: Option<ObservedDesired>,
}

/// What the mapper does about a desired value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObservedDesired {
    pub(crate) text: String,
    /// `pending`, `applied`, `failed` (will be tried again) or `refused` (will not).
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    /// Since when it is in this state, milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Device {
    spec: Arc<DeviceSpec>,
    phase: Phase,
    properties: BTreeMap<String, Property>,
    /// Time zero of the read schedule: all properties of a device share the grid, so that those due
    /// together are read together. Its phase is random, so that devices are not.
    anchor: Instant,
    state: Option<DeviceState>,
    repeat_state_at: Option<Instant>,
    reconnect: Backoff,
    seed: u64,
    queue: VecDeque<Effect>,
    writing: Option<String>,
    missed_cycles: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The configuration cannot work; only another one helps.
    Broken,
    Disconnected {
        retry_at: Instant,
    },
    Connecting,
    Connected,
}

#[derive(Debug)]
struct Property {
    due: Instant,
    desired: Desired,
    desired_since_ms: u64,
    last: Option<(Value, u64)>,
    failing: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Desired {
    None,
    Refused(String),
    /// Freshly connected: the next reading decides whether it must be written.
    Unknown(Value),
    Pending {
        value: Value,
        not_before: Instant,
        backoff: u32,
        reason: Option<String>,
    },
    Applied {
        value: Value,
        /// Written just now, not read back yet.
        unverified: bool,
    },
}

impl Device {
    /// A device that has just become known. `broken` says why its protocol configuration cannot work.
    pub(crate) fn new(spec: Arc<DeviceSpec>, broken: Option<&str>, seed: u64, now: Now) -> Self {
        let properties = spec
            .properties
            .iter()
            .map(|(name, property)| (name.clone(), Property::new(property, now)))
            .collect();
        let mut device = Self {
            repeat_state_at: spec.state_cycle.map(|cycle| now.instant + cycle),
            spec,
            phase: Phase::Disconnected { retry_at: now.instant },
            properties,
            anchor: now.instant,
            state: None,
            reconnect: Backoff::new(RECONNECT_BASE, RECONNECT_CAP, seed),
            seed,
            queue: VecDeque::new(),
            writing: None,
            missed_cycles: 0,
        };
        device.judge_protocol(broken, now);
        device
    }

    /// Takes another spec for the same device and does only what the difference asks for.
    pub(crate) fn set_spec(&mut self, spec: Arc<DeviceSpec>, broken: Option<&str>, now: Now) {
        let old = std::mem::replace(&mut self.spec, spec);
        let spec = Arc::clone(&self.spec);
        for name in old.properties.keys().filter(|name| !spec.properties.contains_key(*name)) {
            self.properties.remove(name);
            self.queue.push_back(Effect::Forget(name.clone()));
        }
        for (name, new) in &spec.properties {
            match old.properties.get(name) {
                Some(old) if old == new => {}
                Some(old) => self.change_property(name, old, new, now),
                None => {
                    self.properties.insert(name.clone(), Property::new(new, now));
                }
            }
        }
        if old.state_cycle != spec.state_cycle {
            self.repeat_state_at = spec.state_cycle.map(|cycle| now.instant + cycle);
        }
        if old.protocol != spec.protocol {
            if self.phase == Phase::Connected {
                self.queue.push_back(Effect::Disconnect);
            }
            self.phase = Phase::Disconnected { retry_at: now.instant };
            self.reconnect.reset();
            self.judge_protocol(broken, now);
        }
    }

    /// The next thing to do at `now`, if any.
    pub(crate) fn poll(&mut self, now: Now) -> Option<Effect> {
        if let (Some(at), Some(cycle)) = (self.repeat_state_at, self.spec.state_cycle)
            && at <= now.instant
        {
            self.repeat_state_at = Some(now.instant + cycle);
            self.queue.extend(self.state.map(Effect::State));
        }
        if let Some(effect) = self.queue.pop_front() {
            return Some(effect);
        }
        match self.phase {
            Phase::Disconnected { retry_at } if retry_at <= now.instant => {
                self.phase = Phase::Connecting;
                Some(Effect::Connect)
            }
            Phase::Connected => self.next_write(now).or_else(|| self.next_read(now)),
            Phase::Disconnected { .. } | Phase::Broken | Phase::Connecting => None,
        }
    }

    /// When [`Device::poll`] will have something to do without any event; `None` for never.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.phase {
            Phase::Disconnected { retry_at } => Some(retry_at),
            Phase::Connected => {
                let reads = self.usable().map(|(_, property)| property.due);
                let writes = self.usable().filter_map(|(_, p)| p.desired.not_before());
                reads.chain(writes).min()
            }
            Phase::Broken | Phase::Connecting => None,
        };
        own.into_iter().chain(self.repeat_state_at).min()
    }

    /// Whether the task should go on holding its connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// Reads that were due and left out because an earlier one took too long.
    #[cfg(test)]
    pub(crate) const fn missed_cycles(&self) -> u64 {
        self.missed_cycles
    }

    /// Takes the outcome of the last effect.
    pub(crate) fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Connected => self.connected(now),
            Event::ConnectFailed(error) => {
                self.lose(DeviceState::Offline, &format!("cannot connect: {error}"), now);
            }
            Event::Read(readings) => self.read(readings, now),
            Event::Written(result) => self.written(result, now),
            Event::CallLost(fault) => {
                let state = match fault {
                    CallFault::Deadline(_) | CallFault::NotConnected => DeviceState::Offline,
                    CallFault::Panic(_) => DeviceState::Unhealthy,
                };
                self.writing = None;
                self.lose(state, &fault.to_string(), now);
            }
        }
    }

    fn judge_protocol(&mut self, broken: Option<&str>, now: Now) {
        if let Some(reason) = broken {
            self.lose(DeviceState::Unhealthy, reason, now);
            self.phase = Phase::Broken;
        }
    }

    fn change_property(&mut self, name: &str, old: &PropertySpec, new: &PropertySpec, now: Now) {
        let Some(property) = self.properties.get_mut(name) else { return };
        let same_thing = old.visitor == new.visitor
            && old.data_type == new.data_type
            && old.access == new.access
            && old.problem == new.problem;
        if !same_thing {
            *property = Property::new(new, now);
            self.queue.push_back(Effect::Forget(name.to_owned()));
            return;
        }
        if old.cycle != new.cycle {
            property.due = next_due(self.anchor, new.cycle, now.instant);
        }
        if old.desired != new.desired || old.range != new.range {
            property.desire_again(new, now);
        }
        if old.report && !new.report {
            self.queue.push_back(Effect::Forget(name.to_owned()));
        }
        let sample = property.sample(name, new);
        self.queue.extend(sample.map(|sample| Effect::Report(vec![sample])));
    }

    fn connected(&mut self, now: Now) {
        self.phase = Phase::Connected;
        // The schedule of this connection starts somewhere within the last second.
        self.anchor = now
            .instant
            .checked_sub(Duration::from_secs(1).mul_f64(unit(&mut self.seed)))
            .unwrap_or(now.instant);
        for property in self.properties.values_mut() {
            property.due = now.instant;
            property.desired = match std::mem::replace(&mut property.desired, Desired::None) {
                Desired::Pending { value, .. } | Desired::Applied { value, .. } => {
                    Desired::Unknown(value)
                }
                other @ (Desired::None | Desired::Refused(_) | Desired::Unknown(_)) => other,
            };
        }
        if self.usable().next().is_none() {
            self.set_state(DeviceState::Online, "connected");
        }
    }

    fn next_write(&mut self, now: Now) -> Option<Effect> {
        let (name, value) = self.usable().find_map(|(name, property)| match &property.desired {
            Desired::Pending { value, not_before, .. } if *not_before <= now.instant => {
                Some((name.clone(), value.clone()))
            }
            Desired::Pending { .. }
            | Desired::None
            | Desired::Refused(_)
            | Desired::Unknown(_)
            | Desired::Applied { .. } => None,
        })?;
        self.writing = Some(name.clone());
        Some(Effect::Write { property: name, value })
    }

    fn next_read(&self, now: Now) -> Option<Effect> {
        let due: Vec<_> = self
            .usable()
            .filter(|(_, property)| property.due <= now.instant)
            .map(|(name, property)| ReadRequest {
                property: name.clone(),
                desired: property.desired.to_compare(),
            })
            .collect();
        (!due.is_empty()).then_some(Effect::Read(due))
    }

    fn read(&mut self, readings: Vec<(String, Result<Reading, DriverError>)>, now: Now) {
        let mut lost = None;
        let mut answered = false;
        let mut samples = Vec::with_capacity(readings.len());
        for (name, result) in readings {
            let (Some(property), Some(spec)) =
                (self.properties.get_mut(&name), self.spec.properties.get(&name))
            else {
                continue;
            };
            self.missed_cycles += cycles_between(property.due, now.instant, spec.cycle);
            property.due = next_due(self.anchor, spec.cycle, now.instant);
            match result {
                Ok(reading) => {
                    answered = true;
                    if std::mem::take(&mut property.failing) {
                        info!(property = name, "property is read again");
                    }
                    property.compare(&name, &reading, now);
                    property.last = Some((reading.value, now.unix_ms));
                    samples.extend(property.sample(&name, spec));
                }
                Err(DriverError::Lost(reason)) => lost = Some(reason),
                Err(DriverError::Failed(reason) | DriverError::Refused(reason)) => {
                    answered = true;
                    property.cannot_read(&name, &reason, now);
                }
            }
        }
        if !samples.is_empty() {
            self.queue.push_back(Effect::Report(samples));
        }
        match lost {
            Some(reason) => self.lose(DeviceState::Offline, &reason, now),
            None if answered => self.answered(),
            None => {}
        }
    }

    fn written(&mut self, result: Result<(), DriverError>, now: Now) {
        let Some(name) = self.writing.take() else { return };
        let (Some(property), Some(spec)) =
            (self.properties.get_mut(&name), self.spec.properties.get(&name))
        else {
            return;
        };
        let Desired::Pending { value, backoff, .. } = property.desired.clone() else { return };
        property.desired_since_ms = now.unix_ms;
        let mut lost = None;
        property.desired = match result {
            Ok(()) => {
                info!(property = name, %value, "desired value written");
                property.due = now.instant;
                Desired::Applied { value, unverified: true }
            }
            Err(DriverError::Refused(reason)) => {
                warn!(property = name, %value, reason, "desired value refused by the driver");
                Desired::Refused(reason)
            }
            Err(DriverError::Failed(reason)) => {
                let delay = rewrite_delay(backoff, &mut self.seed);
                warn!(property = name, %value, reason, ?delay, "write failed, will be tried again");
                Desired::Pending {
                    value,
                    not_before: now.instant + delay,
                    backoff: backoff.saturating_add(1),
                    reason: Some(reason),
                }
            }
            Err(DriverError::Lost(reason)) => {
                lost = Some(reason.clone());
                Desired::Pending { value, not_before: now.instant, backoff, reason: Some(reason) }
            }
        };
        if !matches!(property.desired, Desired::Applied { .. }) {
            let sample = property.sample(&name, spec);
            self.queue.extend(sample.map(|sample| Effect::Report(vec![sample])));
        }
        match lost {
            Some(reason) => self.lose(DeviceState::Offline, &reason, now),
            None => self.answered(),
        }
    }

    fn answered(&mut self) {
        self.reconnect.reset();
        self.set_state(DeviceState::Online, "connected");
    }

    fn lose(&mut self, state: DeviceState, reason: &str, now: Now) {
        let delay = self.reconnect.next();
        self.phase = Phase::Disconnected { retry_at: now.instant + delay };
        self.set_state(state, reason);
        debug!(reason, ?delay, "not connected");
    }

    fn set_state(&mut self, state: DeviceState, reason: &str) {
        if self.state.replace(state) == Some(state) {
            return;
        }
        match state {
            DeviceState::Online => info!("device is online"),
            DeviceState::Offline => warn!(reason, "device is offline"),
            DeviceState::Unhealthy => warn!(reason, "device is unhealthy"),
        }
        self.queue.push_back(Effect::State(state));
    }

    fn usable(&self) -> impl Iterator<Item = (&String, &Property)> {
        self.properties.iter().filter(|(name, _)| {
            self.spec.properties.get(*name).is_some_and(|spec| spec.problem.is_none())
        })
    }
}

impl Property {
    fn new(spec: &PropertySpec, now: Now) -> Self {
        let desired = match spec.desired_value() {
            None => Desired::None,
            Some(Ok(value)) => Desired::Unknown(value),
            Some(Err(reason)) => Desired::Refused(reason),
        };
        Self {
            due: now.instant,
            desired,
            desired_since_ms: now.unix_ms,
            last: None,
            failing: false,
        }
    }

    fn desire_again(&mut self, spec: &PropertySpec, now: Now) {
        let value = match spec.desired_value() {
            None => {
                self.desired = Desired::None;
                return;
            }
            Some(Err(reason)) => {
                self.desired = Desired::Refused(reason);
                self.desired_since_ms = now.unix_ms;
                return;
            }
            Some(Ok(value)) => value,
        };
        // Only the bounds changed and the value still fits: nothing to do again.
        if self.desired.value() == Some(&value) {
            return;
        }
        self.desired_since_ms = now.unix_ms;
        self.desired =
            Desired::Pending { value, not_before: now.instant, backoff: 0, reason: None };
    }

    fn compare(&mut self, name: &str, reading: &Reading, now: Now) {
        match &mut self.desired {
            Desired::Unknown(value) => {
                let value = value.clone();
                self.desired_since_ms = now.unix_ms;
                self.desired = if reading.holds {
                    Desired::Applied { value, unverified: false }
                } else {
                    let not_before = now.instant;
                    Desired::Pending { value, not_before, backoff: 0, reason: None }
                };
            }
            Desired::Applied { value, unverified } => {
                if std::mem::take(unverified) && !reading.holds {
                    info!(property = name, desired = %value, read = %reading.value,
                        "the device took the desired value but reads back another");
                }
            }
            Desired::None | Desired::Refused(_) | Desired::Pending { .. } => {}
        }
    }

    fn cannot_read(&mut self, name: &str, reason: &str, now: Now) {
        if std::mem::replace(&mut self.failing, true) {
            debug!(property = name, reason, "still cannot read");
        } else {
            warn!(property = name, reason, "cannot read property");
        }
        if let Desired::Unknown(value) = &self.desired {
            let (value, not_before) = (value.clone(), now.instant);
            self.desired = Desired::Pending { value, not_before, backoff: 0, reason: None };
        }
    }

    /// The last reading, for a property that is reported and was read.
    fn sample(&self, name: &str, spec: &PropertySpec) -> Option<Sample> {
        let (value, at_ms) = self.last.clone().filter(|_| spec.report)?;
        let desired = spec.desired.as_ref().and_then(|text| {
            let (state, reason) = self.desired.state()?;
            let since_ms = self.desired_since_ms;
            Some(ObservedDesired { text: text.clone(), state, reason, since_ms })
        });
        Some(Sample { property: name.to_owned(), value, at_ms, desired })
    }
}

impl Desired {
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Unknown(value) | Self::Pending { value, .. } | Self::Applied { value, .. } => {
                Some(value)
            }
            Self::None | Self::Refused(_) => None,
        }
    }

    fn to_compare(&self) -> Option<Value> {
        match self {
            Self::Unknown(value) | Self::Applied { value, unverified: true } => Some(value.clone()),
            Self::None | Self::Refused(_) | Self::Pending { .. } | Self::Applied { .. } => None,
        }
    }

    const fn not_before(&self) -> Option<Instant> {
        match self {
            Self::Pending { not_before, .. } => Some(*not_before),
            Self::None | Self::Refused(_) | Self::Unknown(_) | Self::Applied { .. } => None,
        }
    }

    fn state(&self) -> Option<(&'static str, Option<String>)> {
        match self {
            Self::None => None,
            Self::Refused(reason) => Some(("refused", Some(reason.clone()))),
            Self::Unknown(_) => Some(("pending", None)),
            Self::Pending { reason: None, .. } => Some(("pending", None)),
            Self::Pending { reason, .. } => Some(("failed", reason.clone())),
            Self::Applied { .. } => Some(("applied", None)),
        }
    }
}

/// The first point of the grid `anchor + k * cycle` after `now`.
fn next_due(anchor: Instant, cycle: Duration, now: Instant) -> Instant {
    let into_cycle = now.saturating_duration_since(anchor).as_nanos() % cycle.as_nanos().max(1);
    now + cycle.saturating_sub(Duration::from_nanos(u64::try_from(into_cycle).unwrap_or(0)))
}

/// How many whole cycles passed since a read was due that has only now ended.
fn cycles_between(due: Instant, now: Instant, cycle: Duration) -> u64 {
    let late = now.saturating_duration_since(due).as_nanos();
    u64::try_from(late / cycle.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn rewrite_delay(attempt: u32, seed: &mut u64) -> Duration {
    let plain = REWRITE_BASE.saturating_mul(1 << attempt.min(16)).min(REWRITE_CAP);
    plain.mul_f64(0.8 + 0.4 * unit(seed))
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
