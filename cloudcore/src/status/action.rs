//! Writes and reports as values: what the book asks for, how it ended, what became of a report.

use std::sync::Arc;

use hub_proto::id::{DeviceId, Revision};
use serde_json::Value;

use super::conditions::Shown;

/// The objects that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `DeviceStatus.status`
    Reported,
    /// `Device.status`
    Conditions,
}

/// One write to perform.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which device.
    pub device: DeviceId,
    /// Its uid: the owner of a DeviceStatus that has to be made, and the check that it is still the
    /// same device.
    pub uid: Arc<str>,
    /// What to do.
    pub action: Action,
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Merge this into the status of the DeviceStatus, making the object if it is not there.
    Reported {
        /// `{"status": {...}}`
        patch: Value,
        /// Whether the object is known to be there.
        exists: bool,
    },
    /// Merge this into the status of the Device.
    Conditions {
        /// `{"status": {...}}`
        patch: Value,
        /// What it shows afterwards.
        next: Shown,
        /// The specification that it speaks of.
        digest: [u8; 32],
    },
    /// Delete the DeviceStatus of a device that is gone.
    DeleteReported,
}

impl Write {
    /// Which object it writes.
    #[must_use]
    pub fn target(&self) -> Target {
        match self.action {
            Action::Reported { .. } | Action::DeleteReported => Target::Reported,
            Action::Conditions { .. } => Target::Conditions,
        }
    }
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the object's revision if the API said it.
    Written(Option<Revision>),
    /// The API refuses the content: trying again would not help.
    Rejected(String),
    /// Try again later.
    Failed(String),
}

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is confirmed with a later write.
    Later,
    /// Nothing to write: confirm now.
    Unchanged,
    /// Not acceptable: confirm now, and say why in the log.
    Refused(&'static str),
}
