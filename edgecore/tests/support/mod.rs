//! What the stories share: a scripted cloud, a scripted mapper, and the real binary.
#![expect(dead_code, reason = "each story uses its own part of it")]

pub mod cloud;
pub mod mapper;
pub mod node;

use std::time::{Duration, Instant};

/// Waits until `condition` gives a value, and fails with what was waited for after 20 s.
#[expect(clippy::disallowed_methods, reason = "a test's deadline is real time")]
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same for what is true or not.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, async || condition().then_some(())).await;
}

/// A model of protocol `virtual` with a read-write FLOAT `t` and a read-only INT `n`.
pub fn model(name: &str, revision: u64) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": "dev", "uid": format!("uid-{name}"),
            "resourceVersion": revision.to_string()},
        "spec": {"protocol": "virtual", "properties": [
            {"name": "t", "type": "FLOAT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"},
            {"name": "n", "type": "INT", "accessMode": "ReadOnly",
             "visitors": {"protocolName": "virtual", "configData": {"from": "model", "gone": null}}}
        ]}
    })
}

/// A device of `model` that wants `t` to be `desired`.
pub fn device(name: &str, model: &str, desired: &str, revision: u64) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": "dev", "uid": format!("uid-{name}"),
            "resourceVersion": revision.to_string()},
        "spec": {"nodeName": "gw-1", "deviceModelRef": {"name": model},
            "protocol": {"protocolName": "virtual", "configData": {"port": 1502}},
            "properties": [
                {"name": "t", "desired": {"value": desired}, "reportToCloud": true, "collectCycle": 100},
                {"name": "n", "reportToCloud": true}
            ]}
    })
}
