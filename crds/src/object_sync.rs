//! ObjectSync and ClusterObjectSync: what an upstream edge has acked.
//!
//! Only upstream edges need them; ours says itself what it holds.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names the synced object. The record is called `<node>.<uid of the object>`.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "reliablesyncs.kubeedge.io",
    version = "v1alpha1",
    kind = "ObjectSync",
    plural = "objectsyncs",
    namespaced,
    status = "SyncStatus",
    derive = "PartialEq",
    doc = "ObjectSync records the version of a namespaced object that a node has acked."
)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectSyncSpec {
    /// e.g. `devices.kubeedge.io/v1beta1`
    #[serde(rename = "objectAPIVersion", skip_serializing_if = "Option::is_none")]
    pub object_api_version: Option<String>,
    /// e.g. `Device`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_kind: Option<String>,
    /// The object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_name: Option<String>,
}

/// Names the synced cluster-scoped object.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "reliablesyncs.kubeedge.io",
    version = "v1alpha1",
    kind = "ClusterObjectSync",
    plural = "clusterobjectsyncs",
    status = "SyncStatus",
    derive = "PartialEq",
    doc = "ClusterObjectSync records the version of a cluster-scoped object that a node has acked."
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterObjectSyncSpec {
    /// e.g. `v1`
    #[serde(rename = "objectAPIVersion", skip_serializing_if = "Option::is_none")]
    pub object_api_version: Option<String>,
    /// e.g. `Node`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_kind: Option<String>,
    /// The object's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_name: Option<String>,
}

/// What the node has.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncStatus {
    /// resourceVersion last acked; `0` when nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_resource_version: Option<String>,
}
