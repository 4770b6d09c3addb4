//! A device laid over its model: what the mapper gets.
//!
//! The API server stores both unmerged; the merge happens where the device is used. The rules are
//! the upstream's, so that a mapper sees the same configuration from either: the model's visitor is
//! the base, the device's `configData` keys are laid over it one by one, and the same for the
//! protocol's `configData`. Cycles, desired values, push methods and methods are the device's alone.
//!
//! One difference: upstream lets the model's `protocolName` of a visitor replace the device's. Here
//! the device's wins if it has one, since the more specific setting is what its author meant.

use crate::FreeMap;
use crate::device::{DeviceSpec, VisitorConfig};
use crate::device_model::DeviceModelSpec;

/// Lays `device` over `model`.
#[must_use]
pub fn merge(device: &DeviceSpec, model: &DeviceModelSpec) -> DeviceSpec {
    let mut merged = device.clone();
    for property in &mut merged.properties {
        let defaults = model.property(&property.name).and_then(|p| p.visitors.as_ref());
        if let Some(defaults) = defaults {
            property.visitors = Some(merge_visitor(property.visitors.as_ref(), defaults));
        }
    }
    if let Some(defaults) = &model.protocol_config_data {
        let protocol = merged.protocol.get_or_insert_default();
        protocol.config_data = Some(lay_over(protocol.config_data.as_ref(), defaults));
    }
    merged
}

fn merge_visitor(own: Option<&VisitorConfig>, defaults: &VisitorConfig) -> VisitorConfig {
    let own_data = own.and_then(|visitor| visitor.config_data.as_ref());
    let config_data = match &defaults.config_data {
        Some(defaults) => Some(lay_over(own_data, defaults)),
        None => own_data.cloned(),
    };
    let protocol_name = own
        .and_then(|visitor| visitor.protocol_name.clone())
        .or_else(|| defaults.protocol_name.clone());
    VisitorConfig { protocol_name, config_data }
}

/// Top-level keys only: a nested object is replaced as a whole.
fn lay_over(own: Option<&FreeMap>, defaults: &FreeMap) -> FreeMap {
    let mut merged = defaults.clone();
    if let Some(own) = own {
        merged.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    merged
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device(spec: serde_json::Value) -> DeviceSpec {
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn the_devices_keys_win_one_by_one_over_the_models() {
        let model: DeviceModelSpec = serde_json::from_value(json!({
            "protocolConfigData": {"port": 502, "timeout": {"a": 1}},
            "properties": [
                {"name": "t", "visitors": {"protocolName": "modbus", "configData": {"offset": 1, "scale": 0.1}}},
                {"name": "unused", "visitors": {"configData": {"offset": 9}}}
            ]
        }))
        .unwrap();
        let device = device(json!({
            "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.1", "timeout": {"b": 2}}},
            "properties": [{"name": "t", "visitors": {"configData": {"offset": 7}}}, {"name": "own"}]
        }));
        let merged = serde_json::to_value(merge(&device, &model)).unwrap();
        assert_eq!(
            merged,
            json!({
                "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.1", "port": 502, "timeout": {"b": 2}}},
                "properties": [
                    {"name": "t", "visitors": {"protocolName": "modbus", "configData": {"offset": 7, "scale": 0.1}}},
                    {"name": "own"}
                ]
            })
        );
    }

    #[test]
    fn a_model_without_defaults_changes_nothing() {
        let device =
            device(json!({"protocol": {"protocolName": "p"}, "properties": [{"name": "x"}]}));
        assert_eq!(merge(&device, &DeviceModelSpec::default()), device);
    }
}
