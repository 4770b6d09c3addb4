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
    /// Freshly connected: the next reading decides whether it must be written.
    Unknown(Value),
    Pending {
        value: Value,
        not_before: Instant,
        attempt: u32,
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
            Some(Ok(value)) => Desired::Unknown(value),
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
        self.desired = match std::mem::replace(&mut self.desired, Desired::None) {
            Desired::Pending { value, .. } | Desired::Applied { value, .. } => {
                Desired::Unknown(value)
            }
            other @ (Desired::None | Desired::Refused(_) | Desired::Unknown(_)) => other,
        };
    }

    /// The value that is to be written now, if any.
    pub(crate) fn to_write(&self, now: Now) -> Option<&Value> {
        match &self.desired {
            Desired::Pending { value, not_before, .. } if *not_before <= now.instant => Some(value),
            Desired::Pending { .. }
            | Desired::None
            | Desired::Refused(_)
            | Desired::Unknown(_)
            | Desired::Applied { .. } => None,
        }
    }

    /// When there is something to do without any event.
    pub(crate) fn next_at(&self) -> Instant {
        match self.desired {
            Desired::Pending { not_before, .. } => not_before.min(self.due),
            Desired::None | Desired::Refused(_) | Desired::Unknown(_) | Desired::Applied { .. } => {
                self.due
            }
        }
    }

    /// The desired value to compare the next reading with, when that matters.
    pub(crate) fn to_compare(&self) -> Option<&Value> {
        match &self.desired {
            Desired::Unknown(value) | Desired::Applied { value, unverified: true } => Some(value),
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
        let again = |value, not_before, attempt, reason: &str| Desired::Pending {
            value,
            not_before,
            attempt,
            reason: Some(reason.to_owned()),
        };
        let mut lost = None;
        self.desired = match result {
            Ok(()) => {
                info!(property = name, %value, "desired value written");
                self.due = now.instant;
                Desired::Applied { value, unverified: true }
            }
            Err(DriverError::Refused(reason)) => {
                warn!(property = name, %value, reason, "desired value refused by the driver");
                Desired::Refused(reason)
            }
            Err(DriverError::Failed(reason)) => {
                let delay = rewrite_delay(attempt, seed);
                warn!(property = name, %value, reason, ?delay, "write failed, will be tried again");
                again(value, now.instant + delay, attempt.saturating_add(1), &reason)
            }
            Err(DriverError::Lost(reason)) => {
                let desired = again(value, now.instant, attempt, &reason);
                lost = Some(reason);
                desired
            }
        };
        lost
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
        self.desired =
            Desired::Pending { value, not_before: now.instant, attempt: 0, reason: None };
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
                    Desired::Pending { value, not_before, attempt: 0, reason: None }
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

    /// Takes the failure of a read.
    pub(crate) fn cannot_read(&mut self, name: &str, reason: &str, now: Now) {
        if std::mem::replace(&mut self.failing, true) {
            debug!(property = name, reason, "still cannot read");
        } else {
            warn!(property = name, reason, "cannot read property");
        }
        if let Desired::Unknown(value) = &self.desired {
            let (value, not_before) = (value.clone(), now.instant);
            self.desired = Desired::Pending { value, not_before, attempt: 0, reason: None };
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
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Unknown(value) | Self::Pending { value, .. } | Self::Applied { value, .. } => {
                Some(value)
            }
            Self::None | Self::Refused(_) => None,
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

fn rewrite_delay(attempt: u32, seed: &mut u64) -> Duration {
    let plain = REWRITE_BASE.saturating_mul(1 << attempt.min(16)).min(REWRITE_CAP);
    plain.mul_f64(0.8 + 0.4 * unit(seed))
}
