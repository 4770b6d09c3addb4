//! Kubernetes objects as DMI messages. Pure.
//!
//! Released Go mappers read `spec`, `protocol`, each property's `desired`, `visitors` and
//! `visitors.configData` without looking whether they are there, so all of them always are.

use std::collections::HashMap;

use crds::device::{DbMethod, DeviceProperty, PushMethod, TwinProperty as CrdTwinProperty};
use crds::{DeviceModelSpec, DeviceSpec, FreeMap};
use dmi_proto::v1beta1 as dmi;
use dmi_proto::value;
use hub_proto::id::{DeviceId, ObjectKey};

/// Why a device cannot be told to a mapper.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct NotEncodable {
    /// Which part of the device.
    place: String,
    /// What is wrong with it.
    reason: String,
}

/// State reporting, as it travels to a mapper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateReporting {
    /// Whether the mapper reports the device's state.
    pub to_cloud: bool,
    /// Milliseconds between reports; 0 leaves it to the mapper.
    pub cycle_ms: i64,
}

/// A device, merged with its model, as a mapper gets it. Keys of `configData` that are null are left
/// out: a mapper cannot be told null.
///
/// # Errors
/// A value that the encoding cannot carry.
pub fn device(
    id: &DeviceId,
    merged: &DeviceSpec,
    reporting: StateReporting,
) -> Result<dmi::Device, NotEncodable> {
    let protocol = merged.protocol.clone().unwrap_or_default();
    let properties = merged.properties.iter().map(property).collect::<Result<_, _>>()?;
    let methods = merged.methods.iter().map(|method| dmi::DeviceMethod {
        name: method.name.clone(),
        description: method.description.clone().unwrap_or_default(),
        property_names: method.property_names.clone(),
    });
    Ok(dmi::Device {
        name: id.name().to_owned(),
        namespace: id.namespace().to_owned(),
        spec: Some(dmi::DeviceSpec {
            device_model_reference: merged.model_name().unwrap_or_default().to_owned(),
            protocol: Some(dmi::ProtocolConfig {
                protocol_name: protocol.protocol_name.unwrap_or_default(),
                config_data: Some(free_map("protocol", protocol.config_data.as_ref())?),
            }),
            properties,
            methods: methods.collect(),
        }),
        status: Some(dmi::DeviceStatus {
            twins: Vec::new(),
            report_to_cloud: reporting.to_cloud,
            report_cycle: reporting.cycle_ms,
        }),
    })
}

/// A model as a mapper gets it.
#[must_use]
pub fn model(key: &ObjectKey, spec: &DeviceModelSpec) -> dmi::DeviceModel {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let properties = spec.properties.iter().map(|property| dmi::ModelProperty {
        name: property.name.clone(),
        description: text(&property.description),
        r#type: property.data_type.map(|kind| kind.to_string()).unwrap_or_default(),
        access_mode: match property.access_mode.unwrap_or_default() {
            crds::AccessMode::ReadWrite => "ReadWrite".into(),
            crds::AccessMode::ReadOnly => "ReadOnly".into(),
        },
        minimum: text(&property.minimum),
        maximum: text(&property.maximum),
        unit: text(&property.unit),
    });
    dmi::DeviceModel {
        name: key.name().to_owned(),
        namespace: key.namespace().to_owned(),
        spec: Some(dmi::DeviceModelSpec { properties: properties.collect(), commands: Vec::new() }),
    }
}

fn property(property: &DeviceProperty) -> Result<dmi::DeviceProperty, NotEncodable> {
    let place = format!("property {:?}", property.name);
    let visitors = property.visitors.clone().unwrap_or_default();
    let desired = property.desired.as_ref();
    Ok(dmi::DeviceProperty {
        name: property.name.clone(),
        desired: Some(desired.map(twin_property).unwrap_or_default()),
        visitors: Some(dmi::VisitorConfig {
            protocol_name: visitors.protocol_name.unwrap_or_default(),
            config_data: Some(free_map(&place, visitors.config_data.as_ref())?),
        }),
        report_cycle: property.report_cycle.unwrap_or_default(),
        collect_cycle: property.collect_cycle.unwrap_or_default(),
        report_to_cloud: property.report_to_cloud,
        push_method: property
            .push_method
            .as_ref()
            .map(|push| push_method(&place, push))
            .transpose()?,
    })
}

fn twin_property(twin: &CrdTwinProperty) -> dmi::TwinProperty {
    dmi::TwinProperty {
        value: twin.value.clone(),
        metadata: twin.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

fn push_method(place: &str, push: &PushMethod) -> Result<dmi::PushMethod, NotEncodable> {
    let anomaly = push.anomaly_detection.as_ref();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(dmi::PushMethod {
        http: push.http.as_ref().map(|http| dmi::PushMethodHttp {
            hostname: text(&http.host_name),
            port: http.port.unwrap_or_default(),
            requestpath: text(&http.request_path),
            timeout: http.timeout.unwrap_or_default(),
        }),
        mqtt: push.mqtt.as_ref().map(|mqtt| dmi::PushMethodMqtt {
            address: text(&mqtt.address),
            topic: text(&mqtt.topic),
            qos: mqtt.qos.unwrap_or_default(),
            retained: mqtt.retained,
        }),
        otel: push
            .otel
            .as_ref()
            .map(|otel| dmi::PushMethodOtel { endpoint_url: text(&otel.endpoint_url) }),
        anomaly_detection: anomaly
            .map(|map| Ok(dmi::AnomalyDetection { data: encode(place, map)? }))
            .transpose()?,
        db_method: push.db_method.as_ref().map(db_method),
    })
}

fn db_method(db: &DbMethod) -> dmi::DbMethod {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    dmi::DbMethod {
        influxdb2: db.influxdb2.as_ref().map(|influx| dmi::DbMethodInfluxdb2 {
            influxdb2_client_config: influx.client.as_ref().map(|client| {
                dmi::Influxdb2ClientConfig {
                    url: text(&client.url),
                    org: text(&client.org),
                    bucket: text(&client.bucket),
                }
            }),
            influxdb2_data_config: influx.data.as_ref().map(|data| dmi::Influxdb2DataConfig {
                measurement: text(&data.measurement),
                tag: data.tag.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
                field_key: text(&data.field_key),
            }),
        }),
        redis: db.redis.as_ref().map(|redis| dmi::DbMethodRedis {
            redis_client_config: redis.client.as_ref().map(|client| dmi::RedisClientConfig {
                addr: text(&client.addr),
                db: client.db.unwrap_or_default(),
                poolsize: client.poolsize.unwrap_or_default(),
                min_idle_conns: client.min_idle_conns.unwrap_or_default(),
            }),
        }),
        tdengine: db.tdengine.as_ref().map(|tdengine| dmi::DbMethodTdEngine {
            td_engine_client_config: tdengine.client.as_ref().map(|client| {
                dmi::TdEngineClientConfig {
                    addr: text(&client.addr),
                    dbname: text(&client.db_name),
                }
            }),
        }),
        mysql: db.mysql.as_ref().map(|mysql| dmi::DbMethodMySql {
            mysql_client_config: mysql.client.as_ref().map(|client| dmi::MySqlClientConfig {
                addr: text(&client.addr),
                database: text(&client.database),
                user_name: text(&client.user_name),
            }),
        }),
    }
}

fn free_map(place: &str, map: Option<&FreeMap>) -> Result<dmi::CustomizedValue, NotEncodable> {
    let data = map.map(|map| encode(place, map)).transpose()?.unwrap_or_default();
    Ok(dmi::CustomizedValue { data })
}

fn encode(place: &str, map: &FreeMap) -> Result<HashMap<String, prost_types::Any>, NotEncodable> {
    let told = map.iter().filter(|(key, value)| {
        if value.is_null() {
            tracing::debug!(place, key, "configData key is null and is left out");
        }
        !value.is_null()
    });
    value::encode_map(told)
        .map_err(|error| NotEncodable { place: place.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id() -> DeviceId {
        DeviceId::parse("dev/boiler").unwrap()
    }

    #[test]
    fn every_part_that_a_go_mapper_reads_unchecked_is_there() {
        let bare: DeviceSpec =
            serde_json::from_value(json!({"properties": [{"name": "t"}]})).unwrap();
        let told = device(&id(), &bare, StateReporting::default()).unwrap();
        let spec = told.spec.unwrap();
        assert!(spec.protocol.unwrap().config_data.is_some());
        assert!(told.status.is_some());
        let property = &spec.properties[0];
        assert!(property.desired.is_some());
        assert!(property.visitors.as_ref().unwrap().config_data.is_some());
    }

    #[test]
    fn config_data_keeps_its_values_and_drops_its_nulls() {
        let spec: DeviceSpec = serde_json::from_value(json!({
            "protocol": {"protocolName": "modbus", "configData": {"port": 1502, "gone": null}},
            "properties": [{"name": "t", "desired": {"value": "21", "metadata": {"type": "int"}},
                "visitors": {"configData": {"serial": 123_456_789, "nested": {"a": [1]}}},
                "reportCycle": 5, "collectCycle": 7, "reportToCloud": true}],
            "methods": [{"name": "m", "propertyNames": ["t"]}]
        }))
        .unwrap();
        let reporting = StateReporting { to_cloud: true, cycle_ms: 9 };
        let told = device(&id(), &spec, reporting).unwrap();
        assert_eq!((told.namespace.as_str(), told.name.as_str()), ("dev", "boiler"));
        let status = told.status.unwrap();
        assert!(status.report_to_cloud && status.report_cycle == 9);
        let spec = told.spec.unwrap();
        let config = value::decode_map(&spec.protocol.unwrap().config_data.unwrap().data).unwrap();
        assert_eq!(serde_json::to_value(config).unwrap(), json!({"port": 1502}));
        let property = &spec.properties[0];
        assert_eq!((property.report_cycle, property.collect_cycle), (5, 7));
        let visitors = property.visitors.clone().unwrap().config_data.unwrap().data;
        let visitors = serde_json::to_value(value::decode_map(&visitors).unwrap()).unwrap();
        assert_eq!(visitors, json!({"serial": 123_456_789, "nested": {"a": [1]}}));
        assert_eq!(spec.methods[0].property_names, ["t"]);
    }

    #[test]
    fn push_methods_travel_field_by_field() {
        let spec: DeviceSpec = serde_json::from_value(json!({"properties": [{"name": "t", "pushMethod": {
            "http": {"hostName": "http://h", "port": 80, "requestPath": "/p", "timeout": 3},
            "mqtt": {"address": "tcp://b", "topic": "x", "qos": 1, "retained": true},
            "otel": {"endpointURL": "http://o"},
            "anomalyDetection": {"k": "v"},
            "dbMethod": {"TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "d"}},
                "influxdb2": {"influxdb2ClientConfig": {"url": "u"}, "influxdb2DataConfig": {"tag": {"a": "b"}}},
                "redis": {"redisClientConfig": {"addr": "r", "minIdleConns": 2}},
                "mysql": {"mysqlClientConfig": {"userName": "me"}}}
        }}]})).unwrap();
        let told = device(&id(), &spec, StateReporting::default()).unwrap();
        let push = told.spec.unwrap().properties[0].push_method.clone().unwrap();
        assert_eq!(push.http.unwrap().hostname, "http://h");
        assert!(push.mqtt.unwrap().retained);
        assert_eq!(push.otel.unwrap().endpoint_url, "http://o");
        assert!(push.anomaly_detection.unwrap().data.contains_key("k"));
        let db = push.db_method.unwrap();
        assert_eq!(db.tdengine.unwrap().td_engine_client_config.unwrap().dbname, "d");
        assert_eq!(db.influxdb2.unwrap().influxdb2_data_config.unwrap().tag["a"], "b");
        assert_eq!(db.redis.unwrap().redis_client_config.unwrap().min_idle_conns, 2);
        assert_eq!(db.mysql.unwrap().mysql_client_config.unwrap().user_name, "me");
    }
}
