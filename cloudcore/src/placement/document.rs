//! A Kubernetes object on its way to an edge: what placement reads of it, and the JSON that is sent.

use std::sync::Arc;

use hub_proto::id::{NodeName, ObjectKey, ObjectKind, Revision};
use kube::core::DynamicObject;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const API_VERSION: &str = "devices.kubeedge.io/v1beta1";

/// An object that cannot be taken into account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct BadObject {
    /// namespace/name, as far as they are known.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One version of an object, as it is sent.
#[derive(Clone, Debug)]
pub struct ObjectDoc {
    /// Kubernetes uid.
    pub uid: Arc<str>,
    /// resourceVersion.
    pub revision: Revision,
    /// The whole object without managedFields and without what cloudcore itself says about it.
    pub object: Arc<RawValue>,
    /// Of the content without revision and generation: equal means nothing to send.
    pub digest: [u8; 32],
}

/// A DeviceModel.
#[derive(Clone, Debug)]
pub struct ModelDoc {
    /// What is sent.
    pub object: ObjectDoc,
    /// The parsed specification, or why it cannot be parsed.
    pub spec: Result<crds::DeviceModelSpec, String>,
}

/// A Device.
#[derive(Clone, Debug)]
pub struct DeviceDoc {
    /// What is sent.
    pub object: ObjectDoc,
    /// The node that should hold it.
    pub node: Option<NodeName>,
    /// The model it refers to.
    pub model: Option<ObjectKey>,
    /// Set if the object is not a Device we understand.
    pub unreadable: Option<String>,
    /// The parsed specification, if it is readable.
    pub spec: crds::DeviceSpec,
    /// `metadata.generation`
    pub generation: i64,
    /// What stands in `status`, as far as it is ours.
    pub status: crds::device::DeviceObjectStatus,
}

impl ModelDoc {
    /// Reads a DeviceModel.
    ///
    /// # Errors
    /// Names or numbers that no API server gives out.
    pub fn read(object: DynamicObject) -> Result<(ObjectKey, Self), BadObject> {
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        let (key, object) = read(object, ObjectKind::DeviceModel)?;
        let spec = serde_json::from_value(spec).map_err(|error| error.to_string());
        Ok((key, Self { object, spec }))
    }
}

impl DeviceDoc {
    /// Reads a Device. One whose content makes no sense is still read, as unreadable.
    ///
    /// # Errors
    /// Names or numbers that no API server gives out.
    pub fn read(object: DynamicObject) -> Result<(ObjectKey, Self), BadObject> {
        let part = |name: &str| object.data.get(name).cloned().unwrap_or_default();
        let (spec, status) = (part("spec"), part("status"));
        let generation = object.metadata.generation.unwrap_or_default();
        let (key, object) = read(object, ObjectKind::Device)?;
        let status = serde_json::from_value(status).unwrap_or_default();
        // Even of an object that makes no sense the node is wanted: its edge keeps what it has.
        let named = spec.get("nodeName").and_then(Value::as_str);
        let named = named.and_then(|name| NodeName::parse(name).ok());

        let mut doc = Self {
            object,
            node: named,
            model: None,
            unreadable: None,
            spec: crds::DeviceSpec::default(),
            generation,
            status,
        };
        match serde_json::from_value::<crds::DeviceSpec>(spec) {
            Ok(spec) => doc.spec = spec,
            Err(error) => {
                doc.unreadable = Some(format!("spec cannot be read: {error}"));
                return Ok((key, doc));
            }
        }
        match doc.spec.node().map(NodeName::parse).transpose() {
            Ok(node) => doc.node = node,
            Err(error) => doc.unreadable = Some(format!("spec.nodeName: {error}")),
        }
        let model = doc.spec.model_name();
        let model =
            model.map(|name| ObjectKey::new(ObjectKind::DeviceModel, key.namespace(), name));
        match model.transpose() {
            Ok(model) => doc.model = model,
            Err(error) => doc.unreadable = Some(format!("spec.deviceModelRef.name: {error}")),
        }
        Ok((key, doc))
    }
}

fn read(object: DynamicObject, kind: ObjectKind) -> Result<(ObjectKey, ObjectDoc), BadObject> {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let bad = |reason: String| BadObject { name: format!("{namespace}/{name}"), reason };
    let key = ObjectKey::new(kind, namespace, name).map_err(|error| bad(error.to_string()))?;
    let version = metadata.resource_version.as_deref().unwrap_or_default();
    let revision = Revision::parse(version)
        .ok_or_else(|| bad(format!("resourceVersion {version:?} is not a number")))?;
    let uid: Arc<str> = metadata.uid.as_deref().unwrap_or_default().into();

    let mut metadata = metadata.clone();
    metadata.managed_fields = None;
    let resource_version = metadata.resource_version.take();
    let generation = metadata.generation.take();
    let mut metadata = to_map(&metadata).map_err(|error| bad(error.to_string()))?;

    let mut data = match object.data {
        Value::Object(data) => data,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    };
    keep_settings(&mut data);
    let kind = match kind {
        ObjectKind::Device => "Device",
        ObjectKind::DeviceModel => "DeviceModel",
    };
    data.insert("apiVersion".into(), API_VERSION.into());
    data.insert("kind".into(), kind.into());
    data.insert("metadata".into(), Value::Object(metadata.clone()));
    let content = serde_json::to_vec(&data).map_err(|error| bad(error.to_string()))?;
    let digest = Sha256::digest(&content).into();

    metadata.insert("resourceVersion".into(), resource_version.into());
    if let Some(generation) = generation {
        metadata.insert("generation".into(), generation.into());
    }
    data.insert("metadata".into(), Value::Object(metadata));
    let object = serde_json::value::to_raw_value(&data).map_err(|error| bad(error.to_string()))?;
    Ok((key, ObjectDoc { uid, revision, object: object.into(), digest }))
}

fn to_map(value: &impl serde::Serialize) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(value)?)
}

/// Of a Device's status, an edge wants the two settings that upstream before 1.23 kept there. The rest
/// is what cloudcore says; sending it would make every status write a change.
fn keep_settings(data: &mut Map<String, Value>) {
    if let Some(Value::Object(mut status)) = data.remove("status") {
        status.retain(|key, _| key == "reportToCloud" || key == "reportCycle");
        if !status.is_empty() {
            data.insert("status".into(), Value::Object(status));
        }
    }
}
