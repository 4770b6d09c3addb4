//! One property of a device as a state machine: what is desired of it, what was read from it.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::{
    backoff::unit,
    device::{Now, Reading},
    driver::DriverError,
    spec::PropertySpec,
    value::Value,
};

const REWRITE_BASE: Duration = Duration::from_secs(1);
const REWRITE_CAP: Duration = Duration::from_secs(60);

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
pub(crate) struct Property {
    /// When it is to be read next.
    pub(crate) due: Instant,
    /// Whether its configuration can work; it is neither read nor written otherwise.
    pub(crate) usable: bool,
    desired: Desired,
    desired_since_ms: u64,
    last: Option<(Value, u64)>,
    failing: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Desired {
    None,
    Refused(String),
    /// Not known to have reached the device.
    Pending {
        value: Value,
        /// On a fresh connection: the next reading decides whether it must be written.
        compare: bool,
        not_before: Instant,
        /// How often writing it failed.
        attempt: u32,
        /// Why it failed the last time.
        reason: Option<String>,
    },
    Applied {
        value: Value,
        /// Written just now, not read back yet.
        unverified: bool,
    },
}

impl Property {
    pub(crate) fn new(spec: &PropertySpec, now: Now) -> Self {
        let desired = match spec.desired_value() {
            None => Desired::None,
            Some(Ok(value)) => Desired::pending(value, true, now),
            Some(Err(reason)) => Desired::Refused(reason),
        };
        Self {
            due: now.instant,
            usable: spec.problem.is_none(),
            desired,
            desired_since_ms: now.unix_ms,
            last: None,
            failing: false,
        }
    }

    /// There is a fresh connection: read at once, and find out what the device holds.
    pub(crate) fn connected(&mut self, now: Now) {
        self.due = now.instant;
        match &mut self.desired {
            Desired::None | Desired::Refused(_) => {}
            Desired::Pending { compare, .. } => *compare = true,
            Desired::Applied { value, .. } => {
                self.desired = Desired::pending(value.clone(), true, now);
            }
        }
    }

    /// The value that is to be written now, if any.
    pub(crate) fn to_write(&self, now: Now) -> Option<&Value> {
        match &self.desired {
            Desired::Pending { value, compare: false, not_before, .. }
                if *not_before <= now.instant =>
            {
                Some(value)
            }
            Desired::Pending { .. }
            | Desired::None
            | Desired::Refused(_)
            | Desired::Applied { .. } => None,
        }
    }

    /// When there is something to do without any event.
    pub(crate) fn next_at(&self) -> Instant {
        match self.desired {
            Desired::Pending { compare: false, not_before, .. } => not_before.min(self.due),
            Desired::Pending { .. }
            | Desired::None
            | Desired::Refused(_)
            | Desired::Applied { .. } => self.due,
        }
    }

    /// The desired value to compare the next reading with, when that matters.
    pub(crate) fn to_compare(&self) -> Option<&Value> {
        match &self.desired {
            Desired::Pending { value, compare: true, .. }
            | Desired::Applied { value, unverified: true } => Some(value),
            Desired::None
            | Desired::Refused(_)
            | Desired::Pending { .. }
            | Desired::Applied { .. } => None,
        }
    }

    /// Whether the desired value reached the device as far as is known.
    pub(crate) const fn is_applied(&self) -> bool {
        matches!(self.desired, Desired::Applied { .. })
    }

    /// Takes the outcome of writing [`Property::to_write`]. Returns why the connection is lost, if
    /// it is.
    pub(crate) fn written(
        &mut self,
        name: &str,
        result: Result<(), DriverError>,
        seed: &mut u64,
        now: Now,
    ) -> Option<String> {
        let Desired::Pending { value, attempt, .. } = self.desired.clone() else { return None };
        self.desired_since_ms = now.unix_ms;
        let (reason, lost) = match result {
            Ok(()) => {
                info!(property = name, %value, "desired value written");
                self.due = now.instant;
                self.desired = Desired::Applied { value, unverified: true };
                return None;
            }
            Err(DriverError::Refused(reason)) => {
                warn!(property = name, %value, reason, "desired value refused by the driver");
                self.desired = Desired::Refused(reason);
                return None;
            }
            Err(DriverError::Failed(reason)) => (reason, false),
            Err(DriverError::Lost(reason)) => (reason, true),
        };
        let delay = rewrite_delay(attempt, seed);
        warn!(property = name, %value, reason, ?delay, "write failed, will be tried again");
        self.desired = Desired::Pending {
            value,
            compare: false,
            not_before: now.instant + delay,
            attempt: attempt.saturating_add(1),
            reason: Some(reason.clone()),
        };
        lost.then_some(reason)
    }

    /// Takes a reading.
    pub(crate) fn read(&mut self, name: &str, reading: Reading, now: Now) {
        if std::mem::take(&mut self.failing) {
            info!(property = name, "property is read again");
        }
        self.compare(name, &reading, now);
        self.last = Some((reading.value, now.unix_ms));
    }

    /// Takes another desired value, or other bounds for it.
    pub(crate) fn desire_again(&mut self, spec: &PropertySpec, now: Now) {
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
        self.desired = Desired::pending(value, false, now);
    }

    fn compare(&mut self, name: &str, reading: &Reading, now: Now) {
        match &mut self.desired {
            Desired::Pending { value, compare, .. } => {
                if std::mem::take(compare) && reading.holds {
                    self.desired_since_ms = now.unix_ms;
                    self.desired = Desired::Applied { value: value.clone(), unverified: false };
                }
            }
            Desired::Applied { value, unverified } => {
                if std::mem::take(unverified) && !reading.holds {
                    info!(property = name, desired = %value, read = %reading.value,
                        "the device took the desired value but reads back another");
                }
            }
            Desired::None | Desired::Refused(_) => {}
        }
    }

    /// Takes the failure of a read.
    pub(crate) fn cannot_read(&mut self, name: &str, reason: &str) {
        if std::mem::replace(&mut self.failing, true) {
            debug!(property = name, reason, "still cannot read");
        } else {
            warn!(property = name, reason, "cannot read property");
        }
        if let Desired::Pending { compare, .. } = &mut self.desired {
            *compare = false;
        }
    }

    /// The last reading, for a property that is reported and was read.
    pub(crate) fn sample(&self, name: &str, spec: &PropertySpec) -> Option<Sample> {
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
    const fn pending(value: Value, compare: bool, now: Now) -> Self {
        Self::Pending { value, compare, not_before: now.instant, attempt: 0, reason: None }
    }

    const fn value(&self) -> Option<&Value> {
        match self {
            Self::Pending { value, .. } | Self::Applied { value, .. } => Some(value),
            Self::None | Self::Refused(_) => None,
        }
    }

    fn state(&self) -> Option<(&'static str, Option<String>)> {
        match self {
            Self::None => None,
            Self::Refused(reason) => Some(("refused", Some(reason.clone()))),
            Self::Pending { reason: None, .. } => Some(("pending", None)),
            Self::Pending { reason, .. } => Some(("failed", reason.clone())),
            Self::Applied { .. } => Some(("applied", None)),
        }
    }
}

fn rewrite_delay(attempt: u32, seed: &mut u64) -> Duration {
    let plain = REWRITE_BASE.saturating_mul(1 << attempt.min(16)).min(REWRITE_CAP);
    plain.mul_f64(0.8 + 0.4 * unit(seed))
}
