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
    property::{Property, Sample},
    spec::{DeviceSpec, PropertySpec},
    value::Value,
};

const RECONNECT_BASE: Duration = Duration::from_millis(250);
const RECONNECT_CAP: Duration = Duration::from_secs(15);
/// Devices are spread over their cycles, but over no more than this.
const LONGEST_PHASE: Duration = Duration::from_secs(600);

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
            Phase::Connected => self.usable().map(|(_, property)| property.next_at()).min(),
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
            Event::Written(result) => match self.written(result, now) {
                Some(reason) => self.lose(DeviceState::Offline, &reason, now),
                None => self.answered(),
            },
            Event::CallLost(fault) => {
                let state = match fault {
                    CallFault::Deadline(_) | CallFault::NotConnected => DeviceState::Offline,
                    CallFault::Panic(_) => DeviceState::Unhealthy,
                };
                // A write that broke the call may do so again: it waits like one that failed.
                self.written(Err(DriverError::lost(&fault)), now);
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
        let longest = self.spec.properties.values().map(|property| property.cycle).max();
        let phase = longest.unwrap_or_default().min(LONGEST_PHASE).mul_f64(unit(&mut self.seed));
        self.anchor = now.instant.checked_sub(phase).unwrap_or(now.instant);
        for property in self.properties.values_mut() {
            property.connected(now);
        }
        if self.usable().next().is_none() {
            self.set_state(DeviceState::Online, "connected");
        }
    }

    fn next_write(&mut self, now: Now) -> Option<Effect> {
        let (name, value) = self
            .usable()
            .find_map(|(name, property)| Some((name.clone(), property.to_write(now)?.clone())))?;
        self.writing = Some(name.clone());
        Some(Effect::Write { property: name, value })
    }

    fn next_read(&self, now: Now) -> Option<Effect> {
        let due: Vec<_> = self
            .usable()
            .filter(|(_, property)| property.due <= now.instant)
            .map(|(name, property)| ReadRequest {
                property: name.clone(),
                desired: property.to_compare().cloned(),
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
            let missed = cycles_between(property.due, now.instant, spec.cycle);
            if missed > 0 {
                self.missed_cycles += missed;
                debug!(property = name, missed, "the device is slower than its cycle");
            }
            property.due = next_due(self.anchor, spec.cycle, now.instant);
            match result {
                Ok(reading) => {
                    answered = true;
                    property.read(&name, reading, now);
                    samples.extend(property.sample(&name, spec));
                }
                Err(DriverError::Lost(reason)) => lost = Some(reason),
                Err(DriverError::Failed(reason) | DriverError::Refused(reason)) => {
                    answered = true;
                    property.cannot_read(&name, &reason);
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

    /// Takes the outcome of a write. Returns why the connection is lost, if it is.
    fn written(&mut self, result: Result<(), DriverError>, now: Now) -> Option<String> {
        let name = self.writing.take()?;
        let property = self.properties.get_mut(&name)?;
        let spec = self.spec.properties.get(&name)?;
        let lost = property.written(&name, result, &mut self.seed, now);
        // An applied value is reported with its read-back, which comes next.
        if !property.is_applied() {
            let sample = property.sample(&name, spec);
            self.queue.extend(sample.map(|sample| Effect::Report(vec![sample])));
        }
        lost
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
        self.properties.iter().filter(|(_, property)| property.usable)
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

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
