//! Twins and states: what devices said last, and what of it the cloud and the disk have yet to
//! learn. Pure.
//!
//! # Rules
//! - A value is taken if it reads as the type of its property in the model. Bounds bind what is
//!   wanted, not what is: a device may truthfully report a value outside of them. Empty means "no
//!   reading" and fits any type.
//! - Sample times never go backwards: an older sample is dropped. Only if the last one lies in the
//!   future by more than a minute has somebody corrected a clock, and the new sample is taken.
//! - A new value is told to the cloud at once. The same value with a newer sample time is told every
//!   30 s, so that the cloud sees that it is fresh.
//! - A state is told when it changes. If no mapper says a state, one is concluded: a device that
//!   delivers values is `online`, one whose mapper is lost is `unknown`.

use std::collections::{BTreeMap, BTreeSet};

use crds::DeviceModelSpec;
use crds::value::{MAX_VALUE_BYTES, Value};
use hub_proto::edge::StateValue;
use hub_proto::id::DeviceId;
use hub_proto::message::{TwinValue, TwinValues};

use crate::store::{StateRow, TwinRow};

/// How often an unchanged value is told again, in ms.
const REFRESH_MS: u64 = 30_000;

/// How far into the future a sample time may lie before a clock must have been wrong, in ms.
const CLOCK_SLACK_MS: u64 = 60_000;

/// A value and when it was sampled, ms since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The value as text.
    pub value: String,
    /// When.
    pub sampled_ms: u64,
}

/// Why a reported value is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {property:?}: {reason}")]
pub struct BadValue {
    /// The property, cut to 128 characters.
    pub property: String,
    /// What is wrong.
    pub reason: String,
}

/// What the cloud is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A property's values.
    Values {
        /// The device.
        device: DeviceId,
        /// The property.
        property: String,
        /// Its twin.
        values: TwinValues,
        /// Comes back with the confirmation.
        mark: u64,
    },
    /// A device's state.
    State {
        /// The device.
        device: DeviceId,
        /// The state.
        state: StateValue,
        /// Comes back with the confirmation.
        mark: u64,
    },
}

/// One property's twin.
#[derive(Clone, Debug, Default)]
pub struct Twin {
    /// What the device said.
    pub reported: Option<Sample>,
    /// The desired value that the mapper works with.
    pub observed: Option<Sample>,
    told: Told,
    told_ms: u64,
}

/// A device's state.
#[derive(Clone, Debug)]
pub struct State {
    /// online, offline, ok, unhealthy, unknown.
    pub state: String,
    /// When it was last online or ok, ms since the epoch.
    pub last_online_ms: Option<u64>,
    from_mapper: bool,
    told: Told,
}

/// What was told and what of it was confirmed, as marks that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    mark: u64,
    confirmed: u64,
}

impl Told {
    fn is_open(self) -> bool {
        self.confirmed < self.mark
    }
}

#[derive(Debug, Default)]
struct DeviceTwins {
    properties: BTreeMap<String, Twin>,
    state: Option<State>,
}

/// What is to be written to disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// Twins that changed.
    pub twins: Vec<TwinRow>,
    /// Properties that are gone.
    pub gone: Vec<(DeviceId, String)>,
    /// States that changed.
    pub states: Vec<StateRow>,
}

/// The twins of all devices. See the module documentation.
#[derive(Debug, Default)]
pub struct Twins {
    devices: BTreeMap<DeviceId, DeviceTwins>,
    marks: u64,
    unsaved: BTreeSet<(DeviceId, String)>,
    unsaved_states: BTreeSet<DeviceId>,
}

impl Twins {
    /// Takes up what the store held. Returns what the cloud has not confirmed.
    pub fn restore(&mut self, twins: Vec<TwinRow>, states: Vec<StateRow>) -> Vec<News> {
        let mut news = Vec::new();
        let sample = |pair: Option<(String, u64)>| {
            pair.map(|(value, sampled_ms)| Sample { value, sampled_ms })
        };
        for row in twins {
            let told = self.restored_mark(row.dirty);
            let twin = Twin {
                reported: sample(row.reported),
                observed: sample(row.observed),
                told,
                told_ms: 0,
            };
            if row.dirty {
                news.push(twin.news(&row.device, &row.property, None));
            }
            let device = self.devices.entry(row.device).or_default();
            device.properties.insert(row.property, twin);
        }
        for row in states {
            let state = State {
                state: row.state,
                last_online_ms: row.last_online_ms,
                from_mapper: row.from_mapper,
                told: self.restored_mark(row.dirty),
            };
            if row.dirty {
                news.push(state.news(&row.device));
            }
            self.devices.entry(row.device).or_default().state = Some(state);
        }
        news
    }

    fn restored_mark(&mut self, dirty: bool) -> Told {
        self.marks += 1;
        Told { mark: self.marks, confirmed: if dirty { 0 } else { self.marks } }
    }

    /// A mapper reports one property.
    ///
    /// # Errors
    /// The value does not fit the property; nothing was taken.
    pub fn report(
        &mut self,
        device: &DeviceId,
        property: &str,
        (reported, observed): (Option<Sample>, Option<Sample>),
        model: Option<&DeviceModelSpec>,
        now_ms: u64,
    ) -> Result<Vec<News>, BadValue> {
        let bad =
            |reason: String| BadValue { property: property.chars().take(128).collect(), reason };
        let described = model.and_then(|model| model.property(property));
        let kind = described.and_then(|property| property.data_type);
        for sample in reported.iter().chain(&observed) {
            if sample.value.len() > MAX_VALUE_BYTES {
                let bytes = sample.value.len();
                return Err(bad(format!("{bytes} bytes are more than {MAX_VALUE_BYTES}")));
            }
        }
        if let (Some(sample), Some(kind)) = (&reported, kind)
            && !sample.value.is_empty()
        {
            Value::parse(kind, &sample.value).map_err(|error| bad(error.to_string()))?;
        }
        let kind = kind.map(|kind| kind.to_string().to_ascii_lowercase());

        let mut news = Vec::new();
        let has_reading = reported.is_some();
        let twins = self.devices.entry(device.clone()).or_default();
        let twin = twins.properties.entry(property.to_owned()).or_default();
        let changed = replace(&mut twin.reported, reported, now_ms)
            | replace(&mut twin.observed, observed, now_ms);
        let stale = now_ms.abs_diff(twin.told_ms) >= REFRESH_MS && has_reading;
        if changed || stale {
            self.marks += 1;
            twin.told.mark = self.marks;
            twin.told_ms = now_ms;
            news.push(twin.news(device, property, kind));
            self.unsaved.insert((device.clone(), property.to_owned()));
        }
        if has_reading {
            news.extend(self.concluded(device, "online", now_ms));
        }
        Ok(news)
    }

    /// A mapper says a device's state; one of the five words, in lower case.
    pub fn state(&mut self, device: &DeviceId, state: &str, now_ms: u64) -> Option<News> {
        self.set_state(device, state, true, now_ms)
    }

    /// The mapper of a device is lost: whatever it said, nobody knows now.
    pub fn unknown(&mut self, device: &DeviceId, now_ms: u64) -> Option<News> {
        if !self.devices.contains_key(device) {
            return None; // it never said anything
        }
        self.set_state(device, "unknown", false, now_ms)
    }

    /// Concludes a state, unless a mapper says what it is.
    fn concluded(&mut self, device: &DeviceId, state: &str, now_ms: u64) -> Option<News> {
        let said = self.devices.get(device).and_then(|twins| twins.state.as_ref());
        if said.is_some_and(|said| said.from_mapper) {
            return None;
        }
        self.set_state(device, state, false, now_ms)
    }

    fn set_state(
        &mut self,
        device: &DeviceId,
        state: &str,
        from_mapper: bool,
        now_ms: u64,
    ) -> Option<News> {
        let twins = self.devices.entry(device.clone()).or_default();
        let last_online_ms = match state {
            "online" | "ok" => Some(now_ms),
            _ => twins.state.as_ref().and_then(|old| old.last_online_ms),
        };
        if let Some(old) = &mut twins.state
            && old.state == state
        {
            old.last_online_ms = last_online_ms;
            old.from_mapper = from_mapper;
            return None;
        }
        self.marks += 1;
        let confirmed = twins.state.as_ref().map_or(0, |old| old.told.confirmed);
        let told = Told { mark: self.marks, confirmed };
        let new = State { state: state.to_owned(), last_online_ms, from_mapper, told };
        let news = new.news(device);
        twins.state = Some(new);
        self.unsaved_states.insert(device.clone());
        Some(news)
    }

    /// The cloud has confirmed a value. One that changed since stays unconfirmed.
    pub fn confirmed(&mut self, device: &DeviceId, property: &str, mark: u64) {
        let twins = self.devices.get_mut(device);
        if let Some(twin) = twins.and_then(|twins| twins.properties.get_mut(property)) {
            twin.told.confirmed = twin.told.confirmed.max(mark);
            if !twin.told.is_open() {
                self.unsaved.insert((device.clone(), property.to_owned()));
            }
        }
    }

    /// The cloud has confirmed a state.
    pub fn state_confirmed(&mut self, device: &DeviceId, mark: u64) {
        let twins = self.devices.get_mut(device);
        if let Some(state) = twins.and_then(|twins| twins.state.as_mut()) {
            state.told.confirmed = state.told.confirmed.max(mark);
            if !state.told.is_open() {
                self.unsaved_states.insert(device.clone());
            }
        }
    }

    /// The device is gone.
    pub fn forget(&mut self, device: &DeviceId) {
        self.devices.remove(device);
        self.unsaved.retain(|(id, _)| id != device);
        self.unsaved_states.remove(device);
    }

    /// The device has these properties now; twins of others are gone.
    pub fn keep_only(&mut self, device: &DeviceId, keep: impl Fn(&str) -> bool) {
        let Some(twins) = self.devices.get_mut(device) else { return };
        let gone: Vec<String> =
            twins.properties.keys().filter(|name| !keep(name)).cloned().collect();
        for name in gone {
            twins.properties.remove(&name);
            self.unsaved.insert((device.clone(), name));
        }
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty() || !self.unsaved_states.is_empty()
    }

    /// Takes what is to be written. What could not be written comes back through [`Twins::unsave`].
    pub fn take_unsaved(&mut self) -> Option<Unsaved> {
        if !self.has_unsaved() {
            return None;
        }
        let mut unsaved = Unsaved::default();
        for (device, property) in std::mem::take(&mut self.unsaved) {
            let twins = self.devices.get(&device);
            match twins.and_then(|twins| twins.properties.get(&property)) {
                Some(twin) => unsaved.twins.push(twin.row(device, property)),
                None => unsaved.gone.push((device, property)),
            }
        }
        for device in std::mem::take(&mut self.unsaved_states) {
            if let Some(state) = self.devices.get(&device).and_then(|twins| twins.state.as_ref()) {
                unsaved.states.push(state.row(device));
            }
        }
        Some(unsaved)
    }

    /// These could not be written; they are unsaved again.
    pub fn unsave(&mut self, twins: Vec<(DeviceId, String)>, states: Vec<DeviceId>) {
        self.unsaved.extend(twins);
        self.unsaved_states.extend(states);
    }

    /// A property's twin.
    #[must_use]
    pub fn get(&self, device: &DeviceId, property: &str) -> Option<&Twin> {
        self.devices.get(device)?.properties.get(property)
    }

    /// A device's state.
    #[must_use]
    pub fn state_of(&self, device: &DeviceId) -> Option<&State> {
        self.devices.get(device)?.state.as_ref()
    }
}

/// Puts a newer sample in place. True if the value is another one.
fn replace(last: &mut Option<Sample>, new: Option<Sample>, now_ms: u64) -> bool {
    let Some(new) = new else { return false };
    match last {
        Some(last) if new.sampled_ms < last.sampled_ms => {
            let clock_was_wrong = last.sampled_ms > now_ms + CLOCK_SLACK_MS;
            if !clock_was_wrong {
                return false;
            }
            *last = new;
            true
        }
        Some(last) if last.value == new.value => {
            last.sampled_ms = new.sampled_ms;
            false
        }
        Some(_) | None => {
            *last = Some(new);
            true
        }
    }
}

impl Twin {
    /// Whether the cloud has yet to confirm it.
    #[must_use]
    pub fn is_unconfirmed(&self) -> bool {
        self.told.is_open()
    }

    fn news(&self, device: &DeviceId, property: &str, kind: Option<String>) -> News {
        let value = |sample: &Sample| TwinValue {
            value: sample.value.clone(),
            sampled_ms: Some(sample.sampled_ms),
        };
        News::Values {
            device: device.clone(),
            property: property.to_owned(),
            values: TwinValues {
                reported: self.reported.as_ref().map(value),
                observed_desired: self.observed.as_ref().map(value),
                kind,
            },
            mark: self.told.mark,
        }
    }

    fn row(&self, device: DeviceId, property: String) -> TwinRow {
        let pair = |sample: &Sample| (sample.value.clone(), sample.sampled_ms);
        TwinRow {
            device,
            property,
            reported: self.reported.as_ref().map(pair),
            observed: self.observed.as_ref().map(pair),
            dirty: self.told.is_open(),
        }
    }
}

impl State {
    fn news(&self, device: &DeviceId) -> News {
        News::State {
            device: device.clone(),
            state: StateValue {
                state: self.state.clone(),
                last_online: self.last_online_ms.and_then(rfc3339),
            },
            mark: self.told.mark,
        }
    }

    fn row(&self, device: DeviceId) -> StateRow {
        StateRow {
            device,
            state: self.state.clone(),
            from_mapper: self.from_mapper,
            last_online_ms: self.last_online_ms,
            dirty: self.told.is_open(),
        }
    }
}

/// Seconds are enough for "last online", and what upstream writes.
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    let second = i64::try_from(unix_ms / 1000).ok()?;
    jiff::Timestamp::from_second(second).ok().map(|time| time.to_string())
}

#[cfg(test)]
mod tests;
