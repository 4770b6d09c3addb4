//! DeviceModel: what a kind of device can do.

use std::fmt;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::VisitorConfig;
use crate::{FreeMap, schema};

/// The properties of a kind of device, and defaults for how to reach them.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1beta1",
    kind = "DeviceModel",
    plural = "devicemodels",
    shortname = "dm",
    category = "kedge",
    namespaced,
    derive = "PartialEq",
    doc = "DeviceModel describes what a kind of device can do.",
    printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceModelSpec {
    /// The protocol spoken by devices of this model; a mapper of this protocol is told about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Defaults for `spec.protocol.configData` of every device of this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub protocol_config_data: Option<FreeMap>,
    /// What can be read and written. Names are unique.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub properties: Vec<ModelProperty>,
}

/// One property of a model.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelProperty {
    /// Unique within the model. `saveFrame` and `saveVideo` are reserved for streams.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The type of the value. A property without one is read and reported, never written.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<DataType>,
    /// Whether the property can be written. The default is ReadWrite, as upstream has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// The smallest value that may be written, a decimal number as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NUMBER_OR_EMPTY))]
    pub minimum: Option<String>,
    /// The largest value that may be written, a decimal number as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NUMBER_OR_EMPTY))]
    pub maximum: Option<String>,
    /// The unit of the value, e.g. `Celsius`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Defaults for the `visitors` of this property on every device of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitors: Option<VisitorConfig>,
}

/// A Go client writes an unset bound as an empty string.
const NUMBER_OR_EMPTY: &str = r"^([-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?)?$";

impl ModelProperty {
    /// Whether a desired value may be written to the device.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.access_mode.unwrap_or_default() == AccessMode::ReadWrite
    }
}

impl DeviceModelSpec {
    /// Finds a property by name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&ModelProperty> {
        self.properties.iter().find(|property| property.name == name)
    }
}

/// The type of a property's value. Values travel as text; see [`crate::value`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    /// A 64-bit signed integer, decimal.
    Int,
    /// A number that fits 32-bit floating point.
    Float,
    /// A number that fits 64-bit floating point.
    Double,
    /// Any UTF-8 text.
    String,
    /// `true` or `false`.
    Boolean,
    /// Bytes, base64 as text.
    Bytes,
    /// A stream of frames; has no value.
    Stream,
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "INT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::String => "STRING",
            Self::Boolean => "BOOLEAN",
            Self::Bytes => "BYTES",
            Self::Stream => "STREAM",
        })
    }
}

/// Whether a property can be written.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessMode {
    /// Read and written.
    #[default]
    ReadWrite,
    /// Only read.
    ReadOnly,
}
