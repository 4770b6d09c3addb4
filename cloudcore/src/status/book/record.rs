//! One device of the book: what it said, what of that is written, and its two lanes of writes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::DataType;
use crds::device_status::ReportedStatus;
use crds::value::{MAX_VALUE_BYTES, same};
use hub_proto::id::{MessageId, NodeName, Revision};
use hub_proto::message::{TwinValue, TwinValues};
use serde_json::{Map, Value, json};

use crate::status::action::Outcome;
use crate::status::conditions::{Delivery, Facts, PropertyFact, Reach, Shown};
use crate::status::seen::{DeviceSeen, PropertySeen};

/// Unconfirmed reports remembered per device.
pub(super) const WAITING: usize = 256;
/// First and longest pause after a failed write.
pub(super) const PAUSE: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(30));
/// A sample time this far in the future is a wrong clock. It is taken as now, so that the clock's
/// correction does not make every later value look old.
const AHEAD_MS: u64 = 60_000;

pub(super) type ModelTypes = Arc<BTreeMap<String, (Option<DataType>, bool)>>;

#[derive(Debug)]
pub(super) struct Record {
    pub seen: DeviceSeen,
    pub twins: BTreeMap<Box<str>, Twin>,
    pub state: Option<String>,
    pub last_online: Option<String>,
    /// Whether the node has said anything since cloudcore started.
    pub heard: bool,
    /// Whether the DeviceStatus exists, and at which revision we left it.
    pub exists: bool,
    pub left_at: Option<Revision>,
    pub waiting: VecDeque<(NodeName, MessageId)>,
    pub carried: Vec<(NodeName, MessageId)>,
    pub stored: Option<Revision>,
    pub refusal: Option<String>,
    /// The specification that the conditions in the API speak of.
    pub shown_digest: Option<[u8; 32]>,
    pub reported: Lane,
    pub conditions: Lane,
    /// What the conditions would say of the values in the write that is under way,
    pub judged: Option<Shown>,
    /// and of those in the last that went through.
    pub provable: Option<Shown>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Twin {
    pub reported: Option<Sample>,
    pub observed: Option<Sample>,
    pub kind: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub value: Box<str>,
    pub ms: u64,
}

/// When one kind of write of one device is due.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub due: Option<Instant>,
    pub writing: bool,
    /// Something changed since the write that is under way began.
    pub again: bool,
    pub not_before: Option<Instant>,
    pub failures: u32,
}

pub(super) struct TooLong;

/// How what stands in the API compares with what we know.
pub(super) enum Observed {
    Same,
    /// We know better: write again.
    Differs,
    /// The API is the base now; `stale` if some of it has to go.
    Adopted {
        stale: bool,
    },
}

impl Record {
    /// A device of which nothing has been heard.
    pub fn new(seen: DeviceSeen, shown_digest: Option<[u8; 32]>) -> Self {
        Self {
            state: seen.shown.state().map(str::to_owned),
            seen,
            twins: BTreeMap::new(),
            last_online: None,
            heard: false,
            exists: false,
            left_at: None,
            waiting: VecDeque::new(),
            carried: Vec::new(),
            stored: None,
            refusal: None,
            shown_digest,
            reported: Lane::default(),
            conditions: Lane::default(),
            judged: None,
            provable: None,
        }
    }

    /// Once the node has said anything to us, our values are the truth; until then the API's are.
    pub fn take_observed(&mut self, status: ReportedStatus) -> Observed {
        let twins: BTreeMap<Box<str>, Twin> = status
            .twins
            .into_iter()
            .map(|twin| (twin.property_name.as_str().into(), Twin::read(twin)))
            .collect();
        if self.heard {
            let same =
                self.twins.len() == twins.len()
                    && self.twins.iter().zip(&twins).all(|((name, mine), (other, theirs))| {
                        name == other && !mine.differs(theirs)
                    })
                    && self.state == status.state;
            return if same { Observed::Same } else { Observed::Differs };
        }
        let before = twins.len();
        self.twins = twins;
        self.twins.retain(|name, _| self.seen.property(name).is_some());
        self.state = status.state.or(self.state.take());
        self.last_online = status.last_online_time;
        Observed::Adopted { stale: self.twins.len() < before }
    }

    /// Takes what is newer. Returns whether anything but a time changed.
    pub fn merge(&mut self, name: &str, values: &TwinValues, now_ms: u64) -> Result<bool, TooLong> {
        let given = [&values.reported, &values.observed_desired];
        if given.into_iter().flatten().any(|value| value.value.len() > MAX_VALUE_BYTES) {
            return Err(TooLong);
        }
        let twin = match self.twins.get_mut(name) {
            Some(twin) => twin,
            None => self.twins.entry(name.into()).or_default(),
        };
        let before = twin.clone();
        let newer = take_newer(&mut twin.reported, values.reported.as_ref(), now_ms);
        take_newer(&mut twin.observed, values.observed_desired.as_ref(), now_ms);
        if newer && let Some(kind) = &values.kind {
            twin.kind = Some(kind.as_str().chars().take(64).collect::<String>().into());
        }
        Ok(twin.differs(&before))
    }

    pub fn wait(&mut self, node: &NodeName, id: &MessageId) {
        self.waiting.push_back((node.clone(), id.clone()));
        self.forget_oldest();
    }

    pub fn forget_oldest(&mut self) {
        while self.waiting.len() > WAITING {
            self.waiting.pop_front();
        }
    }

    pub fn patch(&self) -> Value {
        // In the order of the specification, as people wrote it.
        let twins: Vec<Value> = self
            .seen
            .properties
            .iter()
            .filter_map(|property| Some(self.twins.get(&property.name)?.json(&property.name)))
            .collect();
        let mut status = Map::new();
        status.insert("twins".into(), Value::Array(twins));
        if let Some(state) = &self.state {
            status.insert("state".into(), json!(state));
        }
        if let Some(time) = &self.last_online {
            status.insert("lastOnlineTime".into(), json!(time));
        }
        json!({ "status": status })
    }

    pub fn facts<'a>(&'a self, types: Option<&'a ModelTypes>, reach: Reach) -> Facts<'a> {
        let delivery = match (&self.refusal, self.stored, self.seen.revision) {
            (Some(reason), _, _) => Delivery::Refused(reason),
            (None, Some(stored), Some(revision)) if stored >= revision => Delivery::Stored,
            (None, None, _) if self.shown_digest == Some(self.seen.digest) => Delivery::NotAsked,
            (None, _, _) => Delivery::Pending,
        };
        let wanted = self.seen.properties.iter().filter_map(|property| {
            let desired = property.desired.as_deref()?;
            let (kind, writable) =
                types.and_then(|types| types.get(&*property.name)).copied().unwrap_or((None, true));
            if !writable {
                return None; // Never written; validation says so.
            }
            let twin = self.twins.get(&property.name);
            let is_desired = |sample: &Sample| same(kind, &sample.value, desired);
            Some(PropertyFact {
                name: &property.name,
                observable: property.reported,
                accepted: twin.and_then(|twin| twin.observed.as_ref()).map(is_desired),
                applied: twin.and_then(|twin| twin.reported.as_ref()).map(is_desired),
            })
        });
        Facts {
            generation: self.seen.generation,
            node: self.seen.node.as_ref().map(NodeName::as_str),
            reach,
            parked: self.seen.parked.as_ref(),
            delivery,
            properties: wanted.collect(),
            heard: self.heard || !self.twins.is_empty(),
            state: self.state.as_deref(),
            last_online: self.last_online.as_deref(),
        }
    }
}

impl DeviceSeen {
    pub fn property(&self, name: &str) -> Option<&PropertySeen> {
        self.properties.iter().find(|property| &*property.name == name)
    }
}

impl Twin {
    /// Reads what stands in the API.
    fn read(twin: crds::device_status::Twin) -> Self {
        let kind = |part: &crds::device::TwinProperty| part.metadata.get("type").cloned();
        let kind = twin.reported.as_ref().or(twin.observed_desired.as_ref()).and_then(kind);
        let sample = |part: crds::device::TwinProperty| {
            let ms = part.metadata.get("timestamp").and_then(|ms| ms.parse().ok());
            Sample { value: part.value.into(), ms: ms.unwrap_or_default() }
        };
        Self {
            reported: twin.reported.map(sample),
            observed: twin.observed_desired.map(sample),
            kind: kind.map(Into::into),
        }
    }

    /// Whether there is more to it than a later sample of the same.
    pub fn differs(&self, other: &Self) -> bool {
        let value = |sample: &Option<Sample>| sample.as_ref().map(|sample| sample.value.clone());
        value(&self.reported) != value(&other.reported)
            || value(&self.observed) != value(&other.observed)
            || self.kind != other.kind
    }

    pub fn json(&self, name: &str) -> Value {
        let part = |sample: &Sample| {
            let mut metadata = Map::new();
            metadata.insert("timestamp".into(), sample.ms.to_string().into());
            if let Some(kind) = &self.kind {
                metadata.insert("type".into(), json!(kind));
            }
            json!({ "value": sample.value, "metadata": metadata })
        };
        let mut twin = Map::new();
        twin.insert("propertyName".into(), name.into());
        if let Some(reported) = &self.reported {
            twin.insert("reported".into(), part(reported));
        }
        if let Some(observed) = &self.observed {
            twin.insert("observedDesired".into(), part(observed));
        }
        Value::Object(twin)
    }
}

pub(super) fn take_newer(
    mine: &mut Option<Sample>,
    given: Option<&TwinValue>,
    now_ms: u64,
) -> bool {
    let Some(given) = given else { return false };
    let latest = now_ms.saturating_add(AHEAD_MS);
    let ms = given.sampled_ms.unwrap_or(now_ms);
    let order = |ms: u64| if ms > latest { now_ms } else { ms };
    if mine.as_ref().is_some_and(|mine| order(mine.ms) > order(ms)) {
        return false;
    }
    *mine = Some(Sample { value: given.value.as_str().into(), ms });
    true
}

impl Lane {
    /// Whether there is something to write, or being written, and nothing speaks against it.
    pub fn is_owed(&self) -> bool {
        self.failures == 0 && (self.writing || self.due.is_some())
    }

    pub fn start(&mut self, not_before: Instant) {
        self.due = None;
        self.writing = true;
        self.again = false;
        self.not_before = Some(not_before);
    }

    /// Returns after which pause to write again, if at all.
    pub fn finish(&mut self, outcome: &Outcome, now: Instant) -> Option<Duration> {
        self.writing = false;
        let again = std::mem::take(&mut self.again);
        match outcome {
            Outcome::Written(_) | Outcome::Rejected(_) => {
                self.failures = 0;
                again.then_some(Duration::ZERO)
            }
            Outcome::Failed(_) => {
                let (first, longest) = PAUSE;
                let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
                self.failures += 1;
                self.not_before = Some(now + pause);
                Some(pause)
            }
        }
    }
}
