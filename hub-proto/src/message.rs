//! Every message there is, with a type. Above this file nobody sees a wire string; below it nobody
//! sees a meaning.
//!
//! What a peer sends and we do not know is [`ToEdge::Foreign`] or [`ToCloud::Foreign`]: it is
//! answered or ignored, never a reason to drop the link.
//!
//! Over 500 lines: both directions share the shapes below them, and a reader looks a message up here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::frame::{Envelope, Header, Route};
use crate::id::{DeviceId, MessageId, NodeName, ObjectKey, Revision};
use crate::wire::{CONTENT_OK, CONTENT_PING, Group, Operation, Resource, Source};

/// Why an envelope has no meaning to us although it claims a kind we know.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The envelope has no usable id.
    #[error("message has no usable id: {0}")]
    Id(#[source] crate::id::InvalidName),
    /// The content does not fit the kind.
    #[error("content of {resource:?} cannot be read: {source}")]
    Content {
        /// The resource path of the message.
        resource: String,
        /// What the JSON reader said.
        #[source]
        source: serde_json::Error,
    },
    /// The content names another object than the path.
    #[error("content of {resource:?} names another object: {named}")]
    WrongObject {
        /// The resource path of the message.
        resource: String,
        /// What the content names.
        named: String,
    },
    /// An ack or confirmation that names no message.
    #[error("a response to {resource:?} names no message")]
    NoParent {
        /// The resource path of the message.
        resource: String,
    },
}

/// A message with its identity, as it was received.
#[derive(Clone, Debug)]
pub struct Received<M> {
    /// The sender's id of it; an ack names this.
    pub id: MessageId,
    /// The route as written, which an ack copies.
    pub route: Route,
    /// The meaning.
    pub message: M,
}

// === cloud to edge ===

/// What a cloud says to an edge.
#[derive(Clone, Debug)]
pub enum ToEdge {
    /// An object is to be stored or removed. Acked after the edge has committed it.
    Object(ObjectChange),
    /// Devices come and go (C5). A hint: [`ToEdge::Devices`] and the objects decide.
    Membership {
        /// Devices that are now this node's.
        added: Vec<DeviceId>,
        /// Devices that no longer are.
        removed: Vec<DeviceId>,
    },
    /// The full list of this node's devices (C6). What is not in it is not this node's.
    Devices(Vec<DeviceId>),
    /// A report has been dealt with (C7).
    Confirm(MessageId),
    /// Something of a peer that carries more than devices.
    Foreign {
        /// Whether the peer waits for an ack (group `resource`, not itself an answer).
        wants_ack: bool,
    },
}

/// One object that the edge is to hold or to drop.
#[derive(Clone, Debug)]
pub struct ObjectChange {
    /// Which object.
    pub key: ObjectKey,
    /// The object's uid, if the sender said it. Another uid under the same key is another object.
    pub uid: Option<String>,
    /// The revision, if the sender said it. Deletions of an upstream cloud carry none.
    pub revision: Option<Revision>,
    /// Hold or drop.
    pub change: Change,
}

/// What is to happen with an object.
#[derive(Clone, Debug)]
pub enum Change {
    /// Hold this object, a JSON document; `create` only picks the verb (insert or update).
    Upsert {
        /// Whether the edge is thought not to have it.
        create: bool,
        /// The object.
        object: Box<RawValue>,
    },
    /// Drop it.
    Delete,
}

#[derive(Serialize, Deserialize)]
struct Membership {
    event_id: String,
    timestamp: u64,
    #[serde(default)]
    added_devices: Option<Vec<Member>>,
    #[serde(default)]
    removed_devices: Option<Vec<Member>>,
}

#[derive(Serialize, Deserialize)]
struct MembershipDetail {
    event_id: String,
    timestamp: u64,
    #[serde(default)]
    devices: Option<Vec<Member>>,
}

#[derive(Serialize, Deserialize)]
struct Member {
    id: String,
    #[serde(default)]
    name: String,
    /// An empty map: an upstream edge answers a missing one with an MQTT error for a known device.
    #[serde(default, skip_deserializing)]
    twin: BTreeMap<String, ()>,
}

impl Member {
    fn new(id: &DeviceId) -> Self {
        Self { id: id.to_string(), name: id.name().to_owned(), twin: BTreeMap::new() }
    }
}

/// The metadata that decides about an object; the rest of it is passed on unread.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectHead {
    metadata: MetadataHead,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetadataHead {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

impl ToEdge {
    /// Gives an envelope from a cloud its meaning.
    ///
    /// # Errors
    /// An id or content that cannot be read.
    pub fn decode(envelope: &Envelope) -> Result<Received<Self>, MessageError> {
        let id = MessageId::parse(&envelope.header.msg_id).map_err(MessageError::Id)?;
        let resource = Resource::parse(&envelope.route.resource);
        let operation = Operation::parse(&envelope.route.operation);
        let parent = &envelope.header.parent_msg_id;
        let in_group = |group: Group| envelope.route.group == group.as_str();

        let message = if in_group(Group::Twin) && !parent.is_empty() {
            Self::Confirm(MessageId::parse(parent).map_err(MessageError::Id)?)
        } else {
            match (resource, operation) {
                (Resource::MembershipDetail, _) if in_group(Group::Twin) => {
                    let list: MembershipDetail = content(envelope)?;
                    Self::Devices(members(list.devices))
                }
                (Resource::Membership, _) if in_group(Group::Twin) => {
                    let update: Membership = content(envelope)?;
                    Self::Membership {
                        added: members(update.added_devices),
                        removed: members(update.removed_devices),
                    }
                }
                (
                    Resource::Object(key),
                    Some(op @ (Operation::Insert | Operation::Update | Operation::Delete)),
                ) if parent.is_empty() => Self::Object(object_change(envelope, key, op)?),
                _ => Self::Foreign { wants_ack: in_group(Group::Resource) && parent.is_empty() },
            }
        };
        Ok(Received { id, route: envelope.route.clone(), message })
    }

    /// Writes the message as a cloud sends it. A re-send passes the same id and time.
    #[must_use]
    pub fn encode(&self, id: &MessageId, unix_ms: u64) -> Envelope {
        let mut header = header(id, unix_ms);
        let (group, operation, resource, content) = match self {
            Self::Object(change) => {
                if let Some(revision) = change.revision {
                    header.resourceversion = revision.to_string();
                }
                let (operation, content) = match &change.change {
                    Change::Upsert { create: true, object } => (Operation::Insert, object.clone()),
                    Change::Upsert { create: false, object } => (Operation::Update, object.clone()),
                    Change::Delete => (Operation::Delete, tombstone(change, None)),
                };
                (Group::Resource, operation, Resource::Object(change.key.clone()), content)
            }
            Self::Membership { added, removed } => {
                let update = Membership {
                    event_id: id.to_string(),
                    timestamp: unix_ms,
                    added_devices: Some(added.iter().map(Member::new).collect()),
                    removed_devices: Some(removed.iter().map(Member::new).collect()),
                };
                (Group::Twin, Operation::Update, Resource::Membership, raw(&update))
            }
            Self::Devices(devices) => {
                let list = MembershipDetail {
                    event_id: id.to_string(),
                    timestamp: unix_ms,
                    devices: Some(devices.iter().map(Member::new).collect()),
                };
                (Group::Twin, Operation::Update, Resource::MembershipDetail, raw(&list))
            }
            Self::Confirm(report) => {
                header.parent_msg_id = report.to_string();
                (Group::Twin, Operation::Response, Resource::Twin, raw(&CONTENT_OK))
            }
            Self::Foreign { .. } => {
                let other = Resource::Other(String::new());
                (Group::Resource, Operation::Response, other, raw(&()))
            }
        };
        envelope(header, Source::DeviceController, group, operation, &resource, content)
    }
}

fn object_change(
    envelope: &Envelope,
    key: ObjectKey,
    operation: Operation,
) -> Result<ObjectChange, MessageError> {
    let deleting = operation == Operation::Delete;
    // A deletion may come with any content; the path names the object.
    let head: ObjectHead = match content(envelope) {
        Ok(head) => head,
        Err(_) if deleting => ObjectHead::default(),
        Err(error) => return Err(error),
    };
    let meta = head.metadata;
    if !deleting && (meta.name != key.name() || meta.namespace != key.namespace()) {
        return Err(MessageError::WrongObject {
            resource: envelope.route.resource.clone(),
            named: format!("{}/{}", meta.namespace, meta.name),
        });
    }
    let revision = Revision::parse(&meta.resource_version)
        .or_else(|| Revision::parse(&envelope.header.resourceversion));
    let change = if deleting {
        Change::Delete
    } else {
        Change::Upsert { create: operation == Operation::Insert, object: envelope.content.clone() }
    };
    Ok(ObjectChange { key, uid: Some(meta.uid).filter(|uid| !uid.is_empty()), revision, change })
}

/// The content of a deletion: as much of the object as an upstream edge needs to name it, and of the
/// object as it `last` was the protocol, without which that edge does not find the mapper to tell.
pub(crate) fn tombstone(change: &ObjectChange, last: Option<&RawValue>) -> Box<RawValue> {
    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Spec {
        #[serde(skip_serializing_if = "Option::is_none")]
        protocol: Option<Box<RawValue>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Last {
        spec: Spec,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Tombstone<'a> {
        api_version: &'a str,
        kind: &'a str,
        metadata: serde_json::Value,
        spec: Spec,
    }
    let last: Last =
        last.and_then(|last| serde_json::from_str(last.get()).ok()).unwrap_or_default();
    raw(&Tombstone {
        api_version: "devices.kubeedge.io/v1beta1",
        kind: match change.key.kind() {
            crate::id::ObjectKind::Device => "Device",
            crate::id::ObjectKind::DeviceModel => "DeviceModel",
        },
        metadata: serde_json::json!({
            "name": change.key.name(),
            "namespace": change.key.namespace(),
            "uid": change.uid.clone().unwrap_or_default(),
        }),
        spec: last.spec,
    })
}

/// Names that cannot be Kubernetes names are left out: nothing of ours can be meant by them.
fn members(list: Option<Vec<Member>>) -> Vec<DeviceId> {
    list.unwrap_or_default().iter().filter_map(|member| DeviceId::parse(&member.id).ok()).collect()
}

// === edge to cloud ===

/// What an edge says to a cloud.
#[derive(Clone, Debug)]
pub enum ToCloud {
    /// I am here (E1).
    Keepalive,
    /// The message is stored (E2). Carries the route of what it acks.
    Ack {
        /// The message that is acked.
        of: MessageId,
        /// Its route, which upstream copies into the ack.
        route: Route,
    },
    /// The message could not be stored (E3).
    Refuse {
        /// The message that is refused.
        of: MessageId,
        /// Its route.
        route: Route,
        /// Why.
        reason: String,
    },
    /// Tell me all my devices (E4).
    ListDevices(NodeName),
    /// Values of a device (E5).
    Twin(TwinReport),
    /// State of a device (E6).
    State(StateReport),
    /// Something of a peer that carries more than devices.
    Foreign {
        /// What it wants, for the log.
        operation: String,
    },
}

/// Values of one device. One report may carry several properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinReport {
    /// The device.
    pub device: DeviceId,
    /// The values by property name.
    pub twins: BTreeMap<String, TwinValues>,
}

/// What is said about one property.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinValues {
    /// What the device said.
    pub reported: Option<TwinValue>,
    /// The desired value that the mapper works with.
    pub observed_desired: Option<TwinValue>,
    /// The property's type, lower-case, e.g. `float`.
    pub kind: Option<String>,
}

/// A value and when it was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinValue {
    /// The value as text.
    pub value: String,
    /// Milliseconds since the Unix epoch; `None` if the sender did not say.
    pub sampled_ms: Option<u64>,
}

/// State of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateReport {
    /// The device.
    pub device: DeviceId,
    /// online, offline, ok, unhealthy, unknown.
    pub state: String,
    /// RFC 3339, UTC; when it was last online, if it is.
    pub last_online: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WireTwinUpdate {
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    timestamp: u64,
    #[serde(default)]
    twin: BTreeMap<String, Option<WireTwin>>,
}

#[derive(Serialize, Deserialize)]
struct WireTwin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected: Option<WireValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actual: Option<WireValue>,
    #[serde(default)]
    optional: Option<bool>,
    #[serde(default)]
    metadata: Option<WireType>,
}

#[derive(Serialize, Deserialize)]
struct WireValue {
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    metadata: Option<WireTime>,
}

#[derive(Serialize, Deserialize)]
struct WireTime {
    #[serde(default)]
    timestamp: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WireType {
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WireState {
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    timestamp: u64,
    #[serde(alias = "Device")]
    device: WireDeviceState,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDeviceState {
    #[serde(default)]
    name: String,
    #[serde(default)]
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_online_time: Option<String>,
}

impl ToCloud {
    /// Gives an envelope from an edge its meaning.
    ///
    /// # Errors
    /// An id or content that cannot be read, or an answer that names no message.
    pub fn decode(envelope: &Envelope) -> Result<Received<Self>, MessageError> {
        let route = &envelope.route;
        let operation = Operation::parse(&route.operation);
        let resource = Resource::parse(&route.resource);
        let message = match operation {
            Some(Operation::Keepalive) => Self::Keepalive,
            Some(Operation::Response) => Self::Ack { of: parent(envelope)?, route: route.clone() },
            Some(Operation::Error) => Self::Refuse {
                of: parent(envelope)?,
                route: route.clone(),
                reason: content::<String>(envelope)
                    .unwrap_or_else(|_| envelope.content.get().chars().take(512).collect()),
            },
            Some(
                Operation::Insert
                | Operation::Update
                | Operation::Delete
                | Operation::Patch
                | Operation::Query
                | Operation::Get,
            )
            | None => match resource {
                Resource::TwinReport(device) => Self::Twin(twin_report(envelope, device)?),
                Resource::StateReport(device) => Self::State(state_report(envelope, device)?),
                Resource::MembershipDetail => list_devices(envelope)?,
                Resource::Object(_)
                | Resource::Membership
                | Resource::Twin
                | Resource::Node
                | Resource::Other(_) => {
                    Self::Foreign { operation: format!("{} {}", route.operation, route.resource) }
                }
            },
        };
        let id = MessageId::parse(&envelope.header.msg_id).map_err(MessageError::Id)?;
        Ok(Received { id, route: route.clone(), message })
    }

    /// Writes the message as an edge sends it. A re-send passes the same id and time.
    #[must_use]
    pub fn encode(&self, id: &MessageId, unix_ms: u64) -> Envelope {
        let mut head = header(id, unix_ms);
        match self {
            Self::Keepalive => envelope(
                head,
                Source::Websocket,
                Group::Resource,
                Operation::Keepalive,
                &Resource::Node,
                raw(&CONTENT_PING),
            ),
            Self::Ack { of, route } => {
                head.parent_msg_id = of.to_string();
                let route =
                    Route { operation: Operation::Response.as_str().into(), ..route.clone() };
                Envelope { header: head, route, content: raw(&CONTENT_OK) }
            }
            Self::Refuse { of, route, reason } => {
                head.parent_msg_id = of.to_string();
                let route = Route {
                    source: Source::MetaManager.as_str().into(),
                    operation: Operation::Error.as_str().into(),
                    ..route.clone()
                };
                Envelope { header: head, route, content: raw(reason) }
            }
            Self::ListDevices(node) => {
                let request = serde_json::json!({
                    "event_type": "group_membership_event",
                    "event_id": id.as_str(),
                    "group_id": node.as_str(),
                    "operation": "detail",
                    "timestamp": unix_ms,
                });
                let resource = Resource::MembershipDetail;
                let content = raw(&request.to_string());
                envelope(head, Source::Twin, Group::Resource, Operation::Get, &resource, content)
            }
            Self::Twin(report) => {
                let update = WireTwinUpdate {
                    event_id: id.to_string(),
                    timestamp: unix_ms,
                    twin: report.twins.iter().map(|(k, v)| (k.clone(), Some(v.into()))).collect(),
                };
                let resource = Resource::TwinReport(report.device.clone());
                let content = raw(&update);
                envelope(head, Source::Twin, Group::Resource, Operation::Update, &resource, content)
            }
            Self::State(report) => {
                let state = WireState {
                    event_id: id.to_string(),
                    timestamp: unix_ms,
                    device: WireDeviceState {
                        name: report.device.name().to_owned(),
                        state: report.state.clone(),
                        last_online_time: report.last_online.clone(),
                    },
                };
                let resource = Resource::StateReport(report.device.clone());
                // JSON in a JSON string: what an upstream edge sends.
                let content = raw(&raw(&state).get());
                envelope(head, Source::Twin, Group::Resource, Operation::Update, &resource, content)
            }
            Self::Foreign { .. } => {
                let other = Resource::Other(String::new());
                envelope(head, Source::Twin, Group::Resource, Operation::Get, &other, raw(&()))
            }
        }
    }
}

impl From<&TwinValues> for WireTwin {
    fn from(values: &TwinValues) -> Self {
        let value = |value: &TwinValue| WireValue {
            value: Some(value.value.clone()),
            metadata: Some(WireTime { timestamp: value.sampled_ms }),
        };
        Self {
            expected: values.observed_desired.as_ref().map(value),
            actual: values.reported.as_ref().map(value),
            optional: Some(true),
            metadata: Some(WireType {
                kind: Some(values.kind.clone().unwrap_or_else(|| "string".into())),
            }),
        }
    }
}

impl From<WireTwin> for TwinValues {
    fn from(twin: WireTwin) -> Self {
        let value = |value: WireValue| {
            let sampled_ms = value.metadata.and_then(|metadata| metadata.timestamp);
            value.value.map(|value| TwinValue { value, sampled_ms })
        };
        Self {
            reported: twin.actual.and_then(value),
            observed_desired: twin.expected.and_then(value),
            kind: twin.metadata.and_then(|metadata| metadata.kind),
        }
    }
}

fn twin_report(envelope: &Envelope, device: DeviceId) -> Result<TwinReport, MessageError> {
    let update: WireTwinUpdate = nested(envelope)?;
    // A null twin kills an upstream cloud; here it says nothing, so it is nothing.
    let twins = update.twin.into_iter().filter_map(|(k, v)| Some((k, v?.into()))).collect();
    Ok(TwinReport { device, twins })
}

fn state_report(envelope: &Envelope, device: DeviceId) -> Result<StateReport, MessageError> {
    let update: WireState = nested(envelope)?;
    let last_online = update.device.last_online_time.filter(|time| !time.is_empty());
    Ok(StateReport { device, state: update.device.state, last_online })
}

fn list_devices(envelope: &Envelope) -> Result<ToCloud, MessageError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Request {
        group_id: String,
    }
    let request: Request = nested(envelope)?;
    Ok(match NodeName::parse(&request.group_id) {
        Ok(node) => ToCloud::ListDevices(node),
        Err(_) => ToCloud::Foreign { operation: "membership request without a node".into() },
    })
}

// === both ===

fn header(id: &MessageId, unix_ms: u64) -> Header {
    Header {
        msg_id: id.to_string(),
        timestamp: i64::try_from(unix_ms).unwrap_or(i64::MAX),
        ..Header::default()
    }
}

fn envelope(
    header: Header,
    source: Source,
    group: Group,
    operation: Operation,
    resource: &Resource,
    content: Box<RawValue>,
) -> Envelope {
    let route = Route {
        source: source.as_str().into(),
        group: group.as_str().into(),
        operation: operation.as_str().into(),
        resource: resource.to_string(),
    };
    Envelope { header, route, content }
}

fn parent(envelope: &Envelope) -> Result<MessageId, MessageError> {
    MessageId::parse(&envelope.header.parent_msg_id)
        .map_err(|_| MessageError::NoParent { resource: envelope.route.resource.clone() })
}

fn content<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> Result<T, MessageError> {
    serde_json::from_str(envelope.content.get()).map_err(|source| MessageError::Content {
        resource: envelope.route.resource.clone(),
        source,
    })
}

/// Reads content that upstream sends as an object in one version and as a string holding the object
/// in another.
fn nested<T: serde::de::DeserializeOwned>(envelope: &Envelope) -> Result<T, MessageError> {
    if envelope.content.get().starts_with('"') {
        let text: String = content(envelope)?;
        return serde_json::from_str(&text).map_err(|source| MessageError::Content {
            resource: envelope.route.resource.clone(),
            source,
        });
    }
    content(envelope)
}

/// Serialises what cannot fail: our own structs of strings and numbers.
fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests;
