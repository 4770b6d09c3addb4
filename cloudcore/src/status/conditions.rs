//! What `Device.status` says, as a pure function of what is known.
//!
//! | condition | True means |
//! |---|---|
//! | ModelResolved | the model exists and the device fits it |
//! | Delivered | the edge has this revision in its store |
//! | Accepted | the mapper works with the desired values |
//! | Converged | the device reports the desired values |
//! | Online | the device answers its mapper, and the node can be heard |

use crds::device::DeviceObjectStatus;
use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::placement::Parked;

/// The conditions, in the order in which they come true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ModelResolved,
    Delivered,
    Accepted,
    Converged,
    Online,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::ModelResolved, Self::Delivered, Self::Accepted, Self::Converged, Self::Online];

    fn as_str(self) -> &'static str {
        match self {
            Self::ModelResolved => "ModelResolved",
            Self::Delivered => "Delivered",
            Self::Accepted => "Accepted",
            Self::Converged => "Converged",
            Self::Online => "Online",
        }
    }
}

/// A judgement with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// True, False, Unknown
    pub status: Truth,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The three values of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is known about a device.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub generation: i64,
    pub node: Option<&'a str>,
    pub reach: Reach,
    pub parked: Option<&'a Parked>,
    pub delivery: Delivery<'a>,
    pub properties: Vec<PropertyFact<'a>>,
    /// Whether the node has said anything about the device since it was delivered.
    pub heard: bool,
    pub state: Option<&'a str>,
    pub last_online: Option<&'a str>,
}

/// Whether the node can be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It has a session, or had one a moment ago.
    Here,
    /// No session for longer than its lease.
    Lost,
}

/// How far the present revision has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<'a> {
    /// Not known yet: cloudcore has just started, and the node has not answered for it.
    NotAsked,
    Pending,
    Stored,
    Refused(&'a str),
}

/// A property with a desired value.
#[derive(Clone, Debug)]
pub struct PropertyFact<'a> {
    pub name: &'a str,
    /// Whether it is reported: without that nothing can be said about it.
    pub observable: bool,
    /// The mapper works with the desired value.
    pub accepted: Option<bool>,
    /// The device reports the desired value.
    pub applied: Option<bool>,
}

/// What `Device.status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    state: Option<String>,
    last_online: Option<String>,
    observed_generation: i64,
    conditions: Vec<ShownCondition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ShownCondition {
    kind: Kind,
    status: String,
    reason: String,
    message: String,
    observed_generation: i64,
    since: String,
}

impl Shown {
    /// Reads what stands in the API.
    #[must_use]
    pub fn read(status: &DeviceObjectStatus) -> Self {
        let conditions = status.conditions.iter().filter_map(|condition| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == condition.type_)?;
            Some(ShownCondition {
                kind,
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                observed_generation: condition.observed_generation.unwrap_or_default(),
                since: condition.last_transition_time.0.to_string(),
            })
        });
        Self {
            state: status.state.clone(),
            last_online: status.last_online_time.clone(),
            observed_generation: status.observed_generation.unwrap_or_default(),
            conditions: conditions.collect(),
        }
    }

    /// Whether anything of ours is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The generation that the conditions speak of.
    #[must_use]
    pub fn observed_generation(&self) -> i64 {
        self.observed_generation
    }

    /// The state shown.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// What should be shown now. Times of conditions that did not turn are kept.
    #[must_use]
    pub fn next(&self, facts: &Facts<'_>, unix_ms: u64) -> Self {
        let conditions = Kind::ALL.into_iter().filter_map(|kind| {
            let before = self.conditions.iter().find(|condition| condition.kind == kind);
            let Some(judgement) = judge(kind, facts) else { return before.cloned() };
            let status = judgement.status.as_str();
            let since = match before {
                Some(before) if before.status == status => before.since.clone(),
                Some(_) | None => rfc3339(unix_ms),
            };
            Some(ShownCondition {
                kind,
                status: status.to_owned(),
                reason: judgement.reason.to_owned(),
                message: judgement.message,
                observed_generation: facts.generation,
                since,
            })
        });
        Self {
            state: facts.state.map(str::to_owned).or_else(|| self.state.clone()),
            last_online: facts.last_online.map(str::to_owned).or_else(|| self.last_online.clone()),
            observed_generation: facts.generation,
            conditions: conditions.collect(),
        }
    }

    /// Whether the two differ in anything that is worth a write. A later online time alone is not,
    /// and neither is the generation: what changed in the specification is the caller's to know.
    #[must_use]
    pub fn turned(&self, next: &Self) -> bool {
        let essence = |shown: &Self| {
            let conditions = shown.conditions.iter();
            conditions
                .map(|c| (c.kind, c.status.clone(), c.reason.clone(), c.message.clone()))
                .collect::<Vec<_>>()
        };
        self.state != next.state || essence(self) != essence(next)
    }

    /// The merge patch for `Device.status`.
    #[must_use]
    pub fn patch(&self) -> Value {
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|condition| {
                json!({
                    "type": condition.kind.as_str(),
                    "status": condition.status,
                    "reason": condition.reason,
                    "message": condition.message,
                    "observedGeneration": condition.observed_generation,
                    "lastTransitionTime": condition.since,
                })
            })
            .collect();
        let mut status = json!({
            "observedGeneration": self.observed_generation,
            "conditions": conditions,
        });
        if let Some(state) = &self.state {
            status["state"] = json!(state);
        }
        if let Some(time) = &self.last_online {
            status["lastOnlineTime"] = json!(time);
        }
        json!({ "status": status })
    }
}

/// `None`: nothing can be said now, what was said before stands.
fn judge(kind: Kind, facts: &Facts<'_>) -> Option<Judgement> {
    match kind {
        Kind::ModelResolved => Some(model_resolved(facts)),
        Kind::Delivered => delivered(facts),
        Kind::Accepted => Some(accepted(facts)),
        Kind::Converged => Some(converged(facts)),
        Kind::Online => Some(online(facts)),
    }
}

fn is(status: Truth, reason: &'static str, message: impl Into<String>) -> Judgement {
    Judgement { status, reason, message: message.into() }
}

fn model_resolved(facts: &Facts<'_>) -> Judgement {
    match facts.parked {
        None => is(Truth::True, "Resolved", "the model exists and the device fits it"),
        Some(Parked::NoModelReference) => {
            is(Truth::False, "NoModelReference", "spec.deviceModelRef names no model")
        }
        Some(Parked::ModelNotFound(model)) => is(
            Truth::False,
            "ModelNotFound",
            format!("{model} does not exist; the edge keeps what it has"),
        ),
        Some(Parked::Unreadable(reason)) => is(Truth::False, "Unreadable", reason.clone()),
        Some(Parked::Invalid(problems)) => is(Truth::False, "Invalid", problems.clone()),
    }
}

fn delivered(facts: &Facts<'_>) -> Option<Judgement> {
    let Some(node) = facts.node else {
        return Some(is(Truth::False, "NoNode", "spec.nodeName is empty: nobody should have it"));
    };
    if facts.parked.is_some() {
        return Some(is(
            Truth::False,
            "Parked",
            "not delivered until ModelResolved; the edge keeps what it has",
        ));
    }
    match (facts.delivery, facts.reach) {
        (Delivery::Stored, _) => {
            Some(is(Truth::True, "Stored", format!("node {node} has it in its store")))
        }
        (Delivery::Refused(reason), _) => Some(is(Truth::False, "Refused", reason)),
        (Delivery::Pending, Reach::Lost) => {
            Some(is(Truth::False, "NodeUnreachable", format!("node {node} is not connected")))
        }
        (Delivery::Pending, Reach::Here) => {
            Some(is(Truth::False, "Pending", format!("on its way to node {node}")))
        }
        (Delivery::NotAsked, _) => None,
    }
}

fn accepted(facts: &Facts<'_>) -> Judgement {
    let wanted: Vec<_> = facts.properties.iter().filter(|property| property.observable).collect();
    let missing = names(&wanted, |property| property.accepted != Some(true));
    if !missing.is_empty() {
        let message = format!("the mapper has not said that it works with: {missing}");
        return is(Truth::False, "AwaitingMapper", message);
    }
    if !wanted.is_empty() {
        return is(Truth::True, "Observed", "the mapper works with every desired value");
    }
    if facts.heard {
        return is(Truth::True, "Heard", "the mapper reports about the device");
    }
    is(Truth::Unknown, "NothingReported", "the mapper has not said anything about the device yet")
}

fn converged(facts: &Facts<'_>) -> Judgement {
    if facts.parked.is_some() {
        return is(Truth::False, "Parked", "not delivered until ModelResolved");
    }
    if facts.properties.is_empty() {
        // Nothing wanted is fulfilled once the node has the device, not before.
        return match (facts.node, facts.delivery) {
            (Some(_), Delivery::Stored | Delivery::NotAsked) => {
                is(Truth::True, "NothingDesired", "no property has a desired value")
            }
            (Some(_), Delivery::Pending | Delivery::Refused(_)) | (None, _) => {
                is(Truth::False, "NotDelivered", "the node does not have the device")
            }
        };
    }
    let wanted: Vec<_> = facts.properties.iter().filter(|property| property.observable).collect();
    if wanted.is_empty() {
        let message = "no property with a desired value has reportToCloud set";
        return is(Truth::Unknown, "NotReported", message);
    }
    let differ = names(&wanted, |property| property.applied == Some(false));
    if !differ.is_empty() {
        let message = format!("the device reports another value of: {differ}");
        return is(Truth::False, "Differs", message);
    }
    let silent = names(&wanted, |property| property.applied.is_none());
    if !silent.is_empty() {
        return is(Truth::False, "AwaitingReport", format!("no value reported yet of: {silent}"));
    }
    is(Truth::True, "Applied", "the device reports every desired value")
}

fn online(facts: &Facts<'_>) -> Judgement {
    let Some(node) = facts.node else {
        return is(Truth::Unknown, "NoNode", "spec.nodeName is empty");
    };
    if facts.reach == Reach::Lost {
        return is(Truth::Unknown, "NodeUnreachable", format!("node {node} cannot be heard"));
    }
    let state = facts.state.map(str::to_ascii_lowercase);
    match state.as_deref() {
        Some("online" | "ok") => is(Truth::True, "DeviceOnline", "the device answers"),
        Some("offline") => is(Truth::False, "DeviceOffline", "the device does not answer"),
        Some("unhealthy") => is(Truth::False, "DeviceUnhealthy", "the device answers with errors"),
        Some(other) => is(Truth::Unknown, "StateUnknown", format!("the mapper says: {other}")),
        None if facts.heard => is(Truth::True, "Reporting", "values of the device arrive"),
        None => is(Truth::Unknown, "NothingReported", "nothing has been heard of the device yet"),
    }
}

fn names(properties: &[&PropertyFact<'_>], which: impl Fn(&PropertyFact<'_>) -> bool) -> String {
    let names: Vec<_> =
        properties.iter().filter(|property| which(property)).map(|p| p.name).take(5).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
