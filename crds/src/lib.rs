//! The vocabulary of Kedge: the Kubernetes kinds it works on, what makes one valid, and how a device
//! and its model become one thing. No client, no IO, no clock.
//!
//! | kind | says | written by |
//! |---|---|---|
//! | [`DeviceModel`] | what a kind of device can do | the platform team |
//! | [`Device`] | one device: its model, node, protocol, desired values | the platform team |
//! | [`DeviceStatus`] | what the device last said | cloudcore |
//! | [`ObjectSync`], [`ClusterObjectSync`] | what an upstream edge has acked | cloudcore |
//!
//! JSON keys are exactly those of devices.kubeedge.io/v1beta1 and reliablesyncs.kubeedge.io/v1alpha1.
//! [`manifests`] holds the CustomResourceDefinitions that `crdgen` writes to `crds/manifests/`.
//! [`validate`] is the one judge of an object, used at admission, in the cloud, on the edge and by
//! keadm; [`value`] is the one judge of a property value; [`merge`] lays a device over its model.

pub mod device;
pub mod device_model;
pub mod device_status;
pub mod manifests;
pub mod merge;
pub mod object_sync;
mod schema;
pub mod validate;
pub mod value;

pub use device::{Device, DeviceSpec};
pub use device_model::{AccessMode, DataType, DeviceModel, DeviceModelSpec, ModelProperty};
pub use device_status::{DeviceStatus, DeviceStatusSpec};
pub use object_sync::{ClusterObjectSync, ObjectSync};

/// A free-form JSON object (`configData`): the protocol's driver knows what is in it.
pub type FreeMap = serde_json::Map<String, serde_json::Value>;

/// Serde's way to leave out what is false.
fn is_false(value: &bool) -> bool {
    !*value
}
