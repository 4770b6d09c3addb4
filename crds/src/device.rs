//! Device: one device, its protocol settings and what is wanted of it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FreeMap, is_false, schema};

/// One device.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1beta1",
    kind = "Device",
    plural = "devices",
    shortname = "dev",
    category = "kedge",
    namespaced,
    status = "DeviceObjectStatus",
    derive = "PartialEq",
    doc = "Device is one device: its model, the node that reaches it, and what is wanted of it.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.deviceModelRef.name"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol.protocolName"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Converged",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Converged")].status"#
    ),
    printcolumn(
        name = "Last-Online",
        type_ = "date",
        json_path = ".status.lastOnlineTime",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["deviceModelRef", "protocol"]))]
pub struct DeviceSpec {
    /// The model, in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub device_model_ref: Option<DeviceModelRef>,
    /// The node (gateway) that reaches the device. Empty: the device is not sent anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node_name: Option<String>,
    /// What is read, written and reported. Names are unique and exist in the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub properties: Vec<DeviceProperty>,
    /// How to reach the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub protocol: Option<ProtocolConfig>,
    /// Named entry points that write properties.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub methods: Vec<DeviceMethod>,
    /// Whether and how often the device's state is reported. Wins over the same keys in `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_report: Option<StateReport>,
}

impl DeviceSpec {
    /// The name of the model, if one is given.
    #[must_use]
    pub fn model_name(&self) -> Option<&str> {
        self.device_model_ref.as_ref().map(|model| model.name.as_str()).filter(|n| !n.is_empty())
    }

    /// The node that reaches the device, if one is given.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The protocol, which selects the mapper, if one is given.
    #[must_use]
    pub fn protocol_name(&self) -> Option<&str> {
        self.protocol.as_ref()?.protocol_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Finds a property by name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&DeviceProperty> {
        self.properties.iter().find(|property| property.name == name)
    }
}

/// Names a DeviceModel in the device's namespace.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(extend("x-kubernetes-map-type" = "atomic", "required" = ["name"]))]
pub struct DeviceModelRef {
    /// The name of the model.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One property of a device.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProperty {
    /// The property's name in the model.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The wanted value. Absent: the property is never written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<TwinProperty>,
    /// How the driver reads and writes the property.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitors: Option<VisitorConfig>,
    /// Milliseconds between pushes to `pushMethod`; 0 or absent is 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub report_cycle: Option<i64>,
    /// Milliseconds between reads; 0 or absent is 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub collect_cycle: Option<i64>,
    /// Whether the value appears in the DeviceStatus. Absent is false, as upstream has it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub report_to_cloud: bool,
    /// Where else the value goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_method: Option<PushMethod>,
}

impl DeviceProperty {
    /// The wanted value, if there is one. A Go client writes an unset one as an empty string.
    #[must_use]
    pub fn desired_value(&self) -> Option<&str> {
        self.desired.as_ref().map(|twin| twin.value.as_str()).filter(|value| !value.is_empty())
    }
}

/// A value as text, with what is known about it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinProperty {
    /// The value.
    #[schemars(length(max = 65536))]
    pub value: String,
    /// Known keys: `timestamp` (decimal milliseconds since the Unix epoch) and `type`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// How the driver reads and writes one property.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VisitorConfig {
    /// The protocol that `configData` is written for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_name: Option<String>,
    /// The driver's settings for this property.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub config_data: Option<FreeMap>,
}

/// How to reach the device.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["protocolName"]))]
pub struct ProtocolConfig {
    /// Selects the mapper: equal to the protocol it registered, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(min = 1, max = 253))]
    pub protocol_name: Option<String>,
    /// The driver's settings for this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub config_data: Option<FreeMap>,
}

/// A named entry point that writes properties.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceMethod {
    /// Unique within the device.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The properties that the method may write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub property_names: Vec<String>,
}

/// Whether and how often the device's state is reported.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StateReport {
    /// Whether the state is reported at all.
    #[serde(skip_serializing_if = "is_false")]
    pub report_to_cloud: bool,
    /// Milliseconds between reports; 0 or absent is 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub report_cycle: Option<i64>,
}

/// Where a value goes besides the DeviceStatus.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PushMethod {
    /// POST to an HTTP server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<PushHttp>,
    /// Publish to an MQTT broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<PushMqtt>,
    /// Export to an OpenTelemetry collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel: Option<PushOtel>,
    /// Hand to the driver's anomaly detection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub anomaly_detection: Option<FreeMap>,
    /// Write to a database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_method: Option<DbMethod>,
}

/// An HTTP target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PushHttp {
    /// Host with its scheme, e.g. `http://10.0.0.5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// TCP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i64>,
    /// Path, starting with `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_path: Option<String>,
    /// Seconds to wait for the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout: Option<i64>,
}

/// An MQTT target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PushMqtt {
    /// Broker, e.g. `tcp://127.0.0.1:1883`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Topic to publish on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// 0, 1 or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<i32>,
    /// Whether the broker keeps the last message.
    #[serde(skip_serializing_if = "is_false")]
    pub retained: bool,
}

/// An OpenTelemetry target.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PushOtel {
    /// Where the collector listens.
    #[serde(rename = "endpointURL", skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
}

/// A database target. The first that is set is used.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DbMethod {
    /// InfluxDB 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub influxdb2: Option<Influxdb2>,
    /// Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// TDengine.
    #[serde(rename = "TDEngine", skip_serializing_if = "Option::is_none")]
    pub tdengine: Option<TdEngine>,
    /// MySQL or MariaDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql: Option<Mysql>,
}

/// InfluxDB 2: where, and what a point looks like.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Influxdb2 {
    /// Where.
    #[serde(rename = "influxdb2ClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<Influxdb2Client>,
    /// What a point looks like.
    #[serde(rename = "influxdb2DataConfig", skip_serializing_if = "Option::is_none")]
    pub data: Option<Influxdb2Data>,
}

/// Where an InfluxDB 2 is.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Influxdb2Client {
    /// Base URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// What a point looks like.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Influxdb2Data {
    /// Measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measurement: Option<String>,
    /// Tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tag: BTreeMap<String, String>,
    /// The field that holds the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_key: Option<String>,
}

/// Redis.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redis {
    /// Where.
    #[serde(rename = "redisClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<RedisClient>,
}

/// Where a Redis is. The mixed case is the upstream's.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedisClient {
    /// `host:port`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Database number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db: Option<i32>,
    /// Connections kept at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poolsize: Option<i32>,
    /// Connections kept at least.
    #[serde(rename = "minIdleConns", skip_serializing_if = "Option::is_none")]
    pub min_idle_conns: Option<i32>,
}

/// TDengine.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TdEngine {
    /// Where.
    #[serde(rename = "TDEngineClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<TdEngineClient>,
}

/// Where a TDengine is.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TdEngineClient {
    /// `host:port` of the REST interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_name: Option<String>,
}

/// MySQL or MariaDB.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mysql {
    /// Where.
    #[serde(rename = "mysqlClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<MysqlClient>,
}

/// Where a MySQL is. The password never stands here.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MysqlClient {
    /// `host:port`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// User.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
}

/// What Kedge says about the device, and two settings that upstream before 1.23 kept here.
///
/// Unknown keys are kept: a site may still carry fields of older releases.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceObjectStatus {
    /// Old place of `spec.stateReport.reportToCloud`.
    #[serde(skip_serializing_if = "is_false")]
    pub report_to_cloud: bool,
    /// Old place of `spec.stateReport.reportCycle`, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_cycle: Option<i64>,
    /// online, offline, ok, unhealthy or unknown; as in the DeviceStatus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// RFC 3339, UTC: when the device was last known to be online. Kept while it is offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_online_time: Option<String>,
    /// The generation of the spec that the conditions speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `ModelResolved`, `Delivered`, `Accepted`, `Converged`, `Online`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
