//! The demo's DeviceModel and Device, and the commands to play with them.

use std::path::Path;

use serde_json::{Value, json};

/// Where they are.
pub const NAMESPACE: &str = "default";
/// The model's name.
pub const MODEL: &str = "boiler";
/// The device's name.
pub const DEVICE: &str = "boiler-1";
/// The node's name.
pub const NODE: &str = "demo-gateway";
/// The place of `setpoint` in `spec.properties`.
const SETPOINT_INDEX: usize = 2;

/// What a boiler can do.
#[must_use]
pub fn model() -> Value {
    let property = |name: &str, kind: &str, mode: &str, unit: &str, text: &str| json!({ "name": name, "type": kind, "accessMode": mode, "unit": unit, "description": text });
    let mut setpoint = property("setpoint", "FLOAT", "ReadWrite", "°C", "wanted water temperature");
    setpoint["minimum"] = "10".into();
    setpoint["maximum"] = "90".into();
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": { "name": MODEL, "namespace": NAMESPACE },
        "spec": {
            "protocol": "modbus",
            "properties": [
                property("temperature", "FLOAT", "ReadOnly", "°C", "water temperature"),
                property("pressure", "FLOAT", "ReadOnly", "bar", "water pressure"),
                setpoint,
                json!({ "name": "burner", "type": "BOOLEAN", "accessMode": "ReadWrite",
                        "description": "burner on or off" }),
            ],
        },
    })
}

/// One boiler, behind `port` on this machine.
#[must_use]
pub fn device(port: u16) -> Value {
    let property = |name: &str, visitor: Value, desired: Option<&str>| {
        let mut property = json!({
            "name": name,
            "collectCycle": 500,
            "reportCycle": 500,
            "reportToCloud": true,
            "visitors": { "protocolName": "modbus", "configData": visitor },
        });
        if let Some(desired) = desired {
            property["desired"] = json!({ "value": desired });
        }
        property
    };
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": { "name": DEVICE, "namespace": NAMESPACE },
        "spec": {
            "deviceModelRef": { "name": MODEL },
            "nodeName": NODE,
            "stateReport": { "reportToCloud": true },
            "protocol": {
                "protocolName": "modbus",
                "configData": {
                    "communicateMode": "TCP", "ip": "127.0.0.1", "port": port, "slaveID": 1
                },
            },
            "properties": [
                property(
                    "temperature",
                    json!({ "register": "InputRegister", "offset": 0, "limit": 1,
                            "dataType": "int16", "scale": 0.1 }),
                    None,
                ),
                property(
                    "pressure",
                    json!({ "register": "InputRegister", "offset": 1, "limit": 2,
                            "dataType": "float32" }),
                    None,
                ),
                property(
                    "setpoint",
                    json!({ "register": "HoldingRegister", "offset": 0, "limit": 1,
                            "dataType": "int16", "scale": 0.1 }),
                    Some("65"),
                ),
                property(
                    "burner",
                    json!({ "register": "CoilRegister", "offset": 0, "limit": 1 }),
                    Some("true"),
                ),
            ],
        },
    })
}

/// The device with another setpoint.
#[must_use]
pub fn device_with_setpoint(port: u16, setpoint: &str) -> Value {
    let mut device = device(port);
    device["spec"]["properties"][SETPOINT_INDEX]["desired"]["value"] = setpoint.into();
    device
}

/// Commands that work as they stand.
#[must_use]
pub fn kubectl_lines(kubeconfig: &Path) -> String {
    let kubectl = format!("kubectl --kubeconfig {}", kubeconfig.display());
    let patch = |value: &str| {
        format!(
            "-p '[{{\"op\":\"replace\",\"path\":\"/spec/properties/{SETPOINT_INDEX}/desired/value\",\
             \"value\":\"{value}\"}}]'"
        )
    };
    [
        "get devices".to_owned(),
        format!("get devicestatus {DEVICE} -o yaml"),
        format!("patch device {DEVICE} --type=json {}", patch("80")),
        format!("wait --for=condition=Converged device/{DEVICE} --timeout=10s"),
        format!("describe device {DEVICE}"),
        "get nodes".to_owned(),
        format!("delete device {DEVICE}"),
    ]
    .iter()
    .map(|line| format!("  {kubectl} {line}\n"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_fits_its_model() {
        let model: crds::DeviceModel = serde_json::from_value(model()).unwrap();
        let device: crds::Device = serde_json::from_value(device_with_setpoint(1, "72")).unwrap();
        assert_eq!(crds::validate::model(&model.spec), []);
        assert_eq!(crds::validate::device(&device.spec, Some(&model.spec)), []);
        assert_eq!(device.spec.properties[SETPOINT_INDEX].name, "setpoint");
        assert_eq!(device.spec.properties[SETPOINT_INDEX].desired_value(), Some("72"));
    }

    #[test]
    fn the_printed_patch_is_json() {
        let lines = kubectl_lines(Path::new("/k"));
        let patch = lines.split('\'').nth(1).unwrap();
        let patch: Value = serde_json::from_str(patch).unwrap();
        assert_eq!(patch[0]["value"], "80");
    }
}
