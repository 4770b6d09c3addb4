//! The thing that the stories declare: a boiler behind Modbus, as the objects a user writes.

use serde_json::{Value, json};

/// Where each property of the boiler is, for looking at the device from the other side.
pub mod cell {
    /// Holding register: INT, 16 bit signed. The first property, so the one that load writes.
    pub const SETPOINT: u16 = 0;
    /// Holding registers: FLOAT, 32 bit.
    pub const RATIO: u16 = 10;
    /// Holding registers: INT, 32 bit signed.
    pub const ENERGY: u16 = 20;
    /// Coil: BOOLEAN.
    pub const BURNER: u16 = 3;
    /// Input register: INT, 16 bit signed.
    pub const TEMPERATURE: u16 = 0;
    /// Input registers: FLOAT, 32 bit.
    pub const PRESSURE: u16 = 1;
    /// Discrete input: BOOLEAN.
    pub const ALARM: u16 = 5;
}

/// The model of all boilers.
#[must_use]
pub fn model() -> Value {
    fn property(name: &str, data_type: &str, access: &str) -> Value {
        json!({"name": name, "type": data_type, "accessMode": access})
    }
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "boiler"},
        "spec": {
            "protocol": "modbus",
            "properties": [
                property("setpoint", "INT", "ReadWrite"),
                property("ratio", "FLOAT", "ReadWrite"),
                property("energy", "INT", "ReadWrite"),
                property("burner", "BOOLEAN", "ReadWrite"),
                property("temperature", "INT", "ReadOnly"),
                property("pressure", "FLOAT", "ReadOnly"),
                property("alarm", "BOOLEAN", "ReadOnly"),
            ],
        },
    })
}

/// A boiler on a node, spoken to on a port of loopback, with a setpoint and a temperature.
#[must_use]
pub fn device(name: &str, node: &str, port: u16, setpoint: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name},
        "spec": {
            "deviceModelRef": {"name": "boiler"},
            "nodeName": node,
            "protocol": {
                "protocolName": "modbus",
                "configData": {
                    "communicateMode": "TCP", "ip": "127.0.0.1", "port": port, "slaveID": 1,
                },
            },
            "properties": [
                property("setpoint", "HoldingRegister", cell::SETPOINT, 1, Some(setpoint)),
                property("temperature", "InputRegister", cell::TEMPERATURE, 1, None),
            ],
        },
    })
}

/// As [`device`], with every property of the model.
#[must_use]
pub fn whole(name: &str, node: &str, port: u16) -> Value {
    let mut device = device(name, node, port, "-125");
    device["spec"]["properties"] = json!([
        property("setpoint", "HoldingRegister", cell::SETPOINT, 1, Some("-125")),
        property("ratio", "HoldingRegister", cell::RATIO, 2, Some("0.75")),
        property("energy", "HoldingRegister", cell::ENERGY, 2, Some("-70000")),
        property("burner", "CoilRegister", cell::BURNER, 1, Some("true")),
        property("temperature", "InputRegister", cell::TEMPERATURE, 1, None),
        property("pressure", "InputRegister", cell::PRESSURE, 2, None),
        property("alarm", "DiscreteInputRegister", cell::ALARM, 1, None),
    ]);
    device
}

/// One property of a device, collected ten times a second.
#[must_use]
pub fn property(name: &str, table: &str, offset: u16, limit: u16, desired: Option<&str>) -> Value {
    let mut property = json!({
        "name": name,
        "collectCycle": 100,
        "reportCycle": 100,
        "reportToCloud": true,
        "visitors": {
            "protocolName": "modbus",
            "configData": {"register": table, "offset": offset, "limit": limit, "scale": 1},
        },
    });
    if let Some(value) = desired {
        property["desired"] = json!({"value": value});
    }
    property
}
