//! DeviceStatus: what a device last said.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::TwinProperty;
use crate::{FreeMap, schema};

/// Empty: everything is in the status.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1beta1",
    kind = "DeviceStatus",
    plural = "devicestatuses",
    shortname = "devst",
    category = "kedge",
    namespaced,
    status = "ReportedStatus",
    derive = "PartialEq",
    doc = "DeviceStatus is what the device of the same name last said. Written by cloudcore.",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Last-Online", type_ = "date", json_path = ".status.lastOnlineTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct DeviceStatusSpec {}

/// What the device last said.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedStatus {
    /// The properties that have been reported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["propertyName"]))]
    pub twins: Vec<Twin>,
    /// online, offline, ok, unhealthy or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// RFC 3339, UTC: when the device was last known to be online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_online_time: Option<String>,
    /// For third parties; Kedge never writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub extensions: Option<FreeMap>,
}

/// What is known about one property.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Twin {
    /// The property.
    pub property_name: String,
    /// What the device said. `metadata.timestamp` is the time of the sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<TwinProperty>,
    /// The desired value that the mapper says it works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_desired: Option<TwinProperty>,
}
