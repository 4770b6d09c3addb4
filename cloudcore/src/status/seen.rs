//! What status keeps of the objects that watches show: small, without the JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::DataType;
use crds::device_status::ReportedStatus;
use hub_proto::id::{DeviceId, NodeName, ObjectKey, Revision};
use kube::core::DynamicObject;

use super::conditions::Shown;
use crate::placement::{BadObject, DeviceDoc, ModelDoc, Parked};

/// A model: the types and access of its properties.
#[derive(Clone, Debug)]
pub struct ModelSeen {
    /// Which model.
    pub key: ObjectKey,
    /// By property name: its type, and whether desired values are written to it.
    pub properties: Arc<BTreeMap<String, (Option<DataType>, bool)>>,
}

/// A device: what its status is judged by.
#[derive(Clone, Debug)]
pub struct DeviceSeen {
    /// Which device.
    pub id: DeviceId,
    /// Kubernetes uid.
    pub uid: Arc<str>,
    /// `metadata.generation`
    pub generation: i64,
    /// Changes exactly when something changes that the edge can act on.
    pub digest: [u8; 32],
    /// The node it is bound to.
    pub node: Option<NodeName>,
    /// Its model.
    pub model: Option<ObjectKey>,
    /// Its properties.
    pub properties: Vec<PropertySeen>,
    /// Why it is not delivered, if it is not.
    pub parked: Option<Parked>,
    /// The revision under which it is sent.
    pub revision: Option<Revision>,
    /// What `status` says already.
    pub shown: Shown,
}

/// A property of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PropertySeen {
    /// Its name.
    pub name: Box<str>,
    /// The wanted value.
    pub desired: Option<Box<str>>,
    /// Whether its value is reported at all.
    pub reported: bool,
}

/// A DeviceStatus as it stands in the API.
#[derive(Clone, Debug)]
pub struct StatusSeen {
    /// Which device it belongs to by name.
    pub id: DeviceId,
    /// The uid of the Device in its owner reference, if there is one.
    pub owner: Option<String>,
    /// Its revision.
    pub revision: Option<Revision>,
    /// What it says.
    pub status: ReportedStatus,
}

impl ModelSeen {
    /// Takes what is needed; an unreadable model has no properties.
    #[must_use]
    pub fn new(key: ObjectKey, model: &ModelDoc) -> Self {
        let properties = model.spec.as_ref().map(|spec| spec.properties.as_slice());
        let properties = properties
            .unwrap_or_default()
            .iter()
            .map(|property| (property.name.clone(), (property.data_type, property.is_writable())))
            .collect();
        Self { key, properties: Arc::new(properties) }
    }
}

impl DeviceSeen {
    /// Takes what is needed. `parked` and `revision` are placement's to add.
    #[must_use]
    pub fn new(id: DeviceId, device: &DeviceDoc) -> Self {
        let properties = device.spec.properties.iter().map(|property| PropertySeen {
            name: property.name.as_str().into(),
            desired: property.desired_value().map(Into::into),
            reported: property.report_to_cloud,
        });
        Self {
            id,
            uid: Arc::clone(&device.object.uid),
            generation: device.generation,
            digest: device.object.digest,
            node: device.node.clone(),
            model: device.model.clone(),
            properties: properties.collect(),
            parked: None,
            revision: None,
            shown: Shown::read(&device.status),
        }
    }
}

impl StatusSeen {
    /// Reads a DeviceStatus. A content that makes no sense is read as empty and will be overwritten.
    ///
    /// # Errors
    /// A name that no API server gives out.
    pub fn read(object: DynamicObject) -> Result<Self, BadObject> {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let id = DeviceId::new(namespace, name).map_err(|error| BadObject {
            name: format!("{namespace}/{name}"),
            reason: error.to_string(),
        })?;
        let owners = object.metadata.owner_references.unwrap_or_default();
        let owner = owners.into_iter().find(|owner| owner.kind == "Device").map(|owner| owner.uid);
        let revision = object.metadata.resource_version.as_deref().and_then(Revision::parse);
        let status = object.data.get("status").cloned().unwrap_or_default();
        let status = serde_json::from_value(status).unwrap_or_default();
        Ok(Self { id, owner, revision, status })
    }
}
