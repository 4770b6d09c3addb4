//! What the API says about the demo's device and node, in the shape in which it is shown.

use crds::device::DeviceObjectStatus;
use crds::{Device, DeviceStatus};
use k8s_openapi::api::core::v1::Node;

use crate::demo::simulator::Registers;

/// Everything on the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Why the API could not be read, if it could not.
    pub problem: Option<String>,
    /// Absent when the device is not in the API.
    pub device: Option<DeviceView>,
    /// `Ready`, `NotReady`, or what else.
    pub node: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceView {
    pub state: String,
    /// Type and status, in the API's order; with the reason where the status is not True.
    pub conditions: Vec<(String, String)>,
    pub rows: Vec<Row>,
}

/// One property.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub desired: Option<String>,
    pub reported: Option<String>,
    /// When the reported value was sampled, milliseconds since the epoch.
    pub sampled_ms: Option<i64>,
    /// What the simulated device itself has.
    pub actual: Option<String>,
}

impl View {
    /// The reported value of a property.
    #[must_use]
    pub fn reported(&self, property: &str) -> Option<&str> {
        let row = self.device.as_ref()?.rows.iter().find(|row| row.name == property)?;
        row.reported.as_deref()
    }

    /// The status of a condition.
    #[must_use]
    pub fn condition(&self, name: &str) -> Option<&str> {
        let device = self.device.as_ref()?;
        device.conditions.iter().find(|(kind, _)| kind == name).map(|(_, status)| status.as_str())
    }
}

/// Makes the view.
#[must_use]
pub fn of(
    device: Option<&Device>,
    status: Option<&DeviceStatus>,
    node: Option<&Node>,
    registers: &Registers,
) -> View {
    View {
        problem: None,
        device: device.map(|device| device_view(device, status, registers)),
        node: node.map_or("absent".into(), node_word),
    }
}

fn device_view(
    device: &Device,
    status: Option<&DeviceStatus>,
    registers: &Registers,
) -> DeviceView {
    let reported = status.and_then(|status| status.status.as_ref());
    let rows = device
        .spec
        .properties
        .iter()
        .map(|property| {
            let twins = reported.map(|status| status.twins.as_slice()).unwrap_or_default();
            let twin = twins.iter().find(|twin| twin.property_name == property.name);
            let reported = twin.and_then(|twin| twin.reported.as_ref());
            Row {
                name: property.name.clone(),
                desired: property.desired_value().map(str::to_owned),
                reported: reported.map(|value| value.value.clone()),
                sampled_ms: reported
                    .and_then(|value| value.metadata.get("timestamp")?.parse().ok()),
                actual: registers.property(&property.name),
            }
        })
        .collect();
    let state = device.status.as_ref().and_then(|status| status.state.clone());
    DeviceView {
        state: state.unwrap_or_else(|| "unknown".into()),
        conditions: device.status.as_ref().map(conditions).unwrap_or_default(),
        rows,
    }
}

fn conditions(status: &DeviceObjectStatus) -> Vec<(String, String)> {
    let word = |condition: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        if condition.status == "True" {
            condition.status.clone()
        } else {
            format!("{} ({})", condition.status, condition.reason)
        }
    };
    status.conditions.iter().map(|one| (one.type_.clone(), word(one))).collect()
}

fn node_word(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => "Ready".into(),
        Some(ready) => format!("NotReady ({})", ready.reason.as_deref().unwrap_or("no reason")),
        None => "NotReady".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::objects;
    use serde_json::json;

    #[test]
    fn values_and_conditions_come_together() {
        let mut device: Device = serde_json::from_value(objects::device(1)).unwrap();
        device.status = serde_json::from_value(json!({
            "state": "online",
            "conditions": [
                { "type": "Delivered", "status": "True", "reason": "Stored", "message": "",
                  "lastTransitionTime": "2026-01-01T00:00:00Z" },
                { "type": "Online", "status": "False", "reason": "NoAnswer", "message": "",
                  "lastTransitionTime": "2026-01-01T00:00:00Z" },
            ],
        }))
        .unwrap();
        let status: DeviceStatus = serde_json::from_value(json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
            "metadata": { "name": "boiler-1" }, "spec": {},
            "status": { "twins": [{ "propertyName": "setpoint",
                "reported": { "value": "65.0", "metadata": { "timestamp": "1000" } } }] },
        }))
        .unwrap();
        let view = of(Some(&device), Some(&status), None, &Registers::default());
        assert_eq!(view.reported("setpoint"), Some("65.0"));
        assert_eq!(view.reported("temperature"), None);
        assert_eq!(view.condition("Delivered"), Some("True"));
        assert_eq!(view.condition("Online"), Some("False (NoAnswer)"));
        assert_eq!(view.node, "absent");
        assert_eq!(view.device.unwrap().rows[2].sampled_ms, Some(1000));
    }
}
