//! Is this object sound? One answer for admission, cloud, edge and keadm.
//!
//! The schema in the manifests refuses what can be seen in one object by a schema; these functions
//! refuse that and the rest, above all what takes a device and its model together. They see objects
//! that an upstream CRD, which checks next to nothing, has let through.

use std::collections::BTreeSet;
use std::fmt;

use crate::device::{DeviceSpec, PushMethod};
use crate::device_model::{DataType, DeviceModelSpec, ModelProperty};
use crate::value;

/// Cycles are milliseconds. Above a day one is most likely meant in nanoseconds, the unit of KubeEdge
/// before 1.18.
pub const SUSPICIOUS_CYCLE_MS: i64 = 24 * 60 * 60 * 1000;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, e.g. `spec.properties[2].desired.value`.
    pub field: String,
    /// What is wrong with it, fit to stand after the field and a colon.
    pub message: String,
    /// Whether the object is unusable or merely doubtful.
    pub severity: Severity,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but probably not as meant.
    Warning,
    /// Refused.
    Error,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything wrong with a device, first by itself, then against its model if that is known.
///
/// An empty answer, or one of warnings only, means the device can be served.
#[must_use]
pub fn device(spec: &DeviceSpec, model: Option<&DeviceModelSpec>) -> Vec<Problem> {
    let mut found = Findings::default();
    if spec.model_name().is_none() {
        found
            .error("spec.deviceModelRef.name", "is required: name a DeviceModel of this namespace");
    }
    if spec.protocol_name().is_none() {
        found.error("spec.protocol.protocolName", "is required: it selects the mapper");
    }
    if let Some(config) = spec.protocol.as_ref().and_then(|p| p.config_data.as_ref()) {
        no_nulls(&mut found, "spec.protocol.configData", config);
    }
    let mut names = BTreeSet::new();
    for (index, property) in spec.properties.iter().enumerate() {
        let at = format!("spec.properties[{index}]");
        if property.name.is_empty() {
            found.error(format!("{at}.name"), "is required");
        }
        if !names.insert(&property.name) {
            found.error(format!("{at}.name"), format!("{:?} is there twice", property.name));
        }
        cycle(&mut found, &format!("{at}.collectCycle"), property.collect_cycle);
        cycle(&mut found, &format!("{at}.reportCycle"), property.report_cycle);
        if let Some(config) = property.visitors.as_ref().and_then(|v| v.config_data.as_ref()) {
            no_nulls(&mut found, &format!("{at}.visitors.configData"), config);
        }
        if let Some(push) = &property.push_method {
            push_method(&mut found, &format!("{at}.pushMethod"), push);
        }
        if let Some(model) = model {
            match model.property(&property.name) {
                Some(declared) => {
                    against_model(&mut found, &at, property.desired_value(), declared)
                }
                None => found.error(
                    format!("{at}.name"),
                    format!(
                        "{:?} is not in the model, which has {}",
                        property.name,
                        listed(model.properties.iter().map(|p| p.name.as_str()))
                    ),
                ),
            }
        }
    }
    let mut methods = BTreeSet::new();
    for (index, method) in spec.methods.iter().enumerate() {
        let at = format!("spec.methods[{index}]");
        if !methods.insert(&method.name) {
            found.error(format!("{at}.name"), format!("{:?} is there twice", method.name));
        }
        for (position, name) in method.property_names.iter().enumerate() {
            if !names.contains(name) {
                found.error(
                    format!("{at}.propertyNames[{position}]"),
                    format!("{name:?} is not a property of this device"),
                );
            }
        }
    }
    if let Some(report) = &spec.state_report {
        cycle(&mut found, "spec.stateReport.reportCycle", report.report_cycle);
    }
    found.0
}

/// Everything wrong with a model.
#[must_use]
pub fn model(spec: &DeviceModelSpec) -> Vec<Problem> {
    let mut found = Findings::default();
    let mut names = BTreeSet::new();
    for (index, property) in spec.properties.iter().enumerate() {
        let at = format!("spec.properties[{index}]");
        if property.name.is_empty() {
            found.error(format!("{at}.name"), "is required");
        }
        if !names.insert(&property.name) {
            found.error(format!("{at}.name"), format!("{:?} is there twice", property.name));
        }
        bounds(&mut found, &at, property);
        if let Some(config) = property.visitors.as_ref().and_then(|v| v.config_data.as_ref()) {
            no_nulls(&mut found, &format!("{at}.visitors.configData"), config);
        }
    }
    if let Some(config) = &spec.protocol_config_data {
        no_nulls(&mut found, "spec.protocolConfigData", config);
    }
    found.0
}

/// Whether any of the problems makes the object unusable.
#[must_use]
pub fn is_refused(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(field.into(), message.into(), Severity::Error);
    }

    fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(field.into(), message.into(), Severity::Warning);
    }

    fn push(&mut self, field: String, message: String, severity: Severity) {
        self.0.push(Problem { field, message, severity });
    }
}

fn against_model(found: &mut Findings, at: &str, desired: Option<&str>, declared: &ModelProperty) {
    let Some(desired) = desired else { return };
    let field = format!("{at}.desired.value");
    if !declared.is_writable() {
        found.warning(field, "is ignored: the property is ReadOnly in the model");
    } else if declared.data_type == Some(DataType::Stream) {
        found.error(field, "a STREAM property has no value");
    } else if let Err(error) = value::check(declared, desired) {
        found.error(field, error.to_string());
    }
}

fn bounds(found: &mut Findings, at: &str, property: &ModelProperty) {
    let mut read = |field: &str, text: &Option<String>| {
        let text = text.as_deref().map(str::trim).filter(|text| !text.is_empty())?;
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        if number.is_none() {
            found.error(format!("{at}.{field}"), format!("{text:?} is not a decimal number"));
        }
        number
    };
    let (minimum, maximum) =
        (read("minimum", &property.minimum), read("maximum", &property.maximum));
    if let (Some(minimum), Some(maximum)) = (minimum, maximum)
        && minimum > maximum
    {
        found.error(format!("{at}.minimum"), "is above the maximum: no value can be written");
    }
}

fn cycle(found: &mut Findings, field: &str, cycle: Option<i64>) {
    match cycle {
        Some(ms) if ms < 0 => found.error(field, format!("{ms} is negative; give milliseconds")),
        Some(ms) if ms > SUSPICIOUS_CYCLE_MS => found.warning(
            field,
            format!(
                "{ms} milliseconds is more than a day; KubeEdge before 1.18 counted nanoseconds, \
                 {} milliseconds may be meant",
                ms / 1_000_000
            ),
        ),
        Some(_) | None => {}
    }
}

/// A mapper cannot be told null: upstream refuses the whole device at the edge, silently.
fn no_nulls(found: &mut Findings, field: &str, config: &crate::FreeMap) {
    for (key, value) in config {
        if value.is_null() {
            found.error(format!("{field}.{key}"), "is null; leave the key out");
        }
    }
}

fn push_method(found: &mut Findings, field: &str, push: &PushMethod) {
    if let Some(qos) = push.mqtt.as_ref().and_then(|mqtt| mqtt.qos)
        && !(0..=2).contains(&qos)
    {
        found.error(format!("{field}.mqtt.qos"), format!("{qos} is not 0, 1 or 2"));
    }
    if let Some(port) = push.http.as_ref().and_then(|http| http.port)
        && !(0..=65535).contains(&port)
    {
        found.error(format!("{field}.http.port"), format!("{port} is not a port"));
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(8);
    names.truncate(8);
    match (names.is_empty(), more) {
        (true, _) => "no properties".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(device: serde_json::Value, model: serde_json::Value) -> Vec<String> {
        let device: DeviceSpec = serde_json::from_value(device).unwrap();
        let model: DeviceModelSpec = serde_json::from_value(model).unwrap();
        super::device(&device, Some(&model)).iter().map(ToString::to_string).collect()
    }

    fn sound() -> serde_json::Value {
        json!({
            "deviceModelRef": {"name": "boiler"},
            "protocol": {"protocolName": "modbus"},
            "properties": [{"name": "setpoint", "desired": {"value": "40"}}]
        })
    }

    fn boiler() -> serde_json::Value {
        json!({"properties": [
            {"name": "setpoint", "type": "FLOAT", "accessMode": "ReadWrite", "minimum": "10", "maximum": "90"},
            {"name": "temperature", "type": "FLOAT", "accessMode": "ReadOnly"}
        ]})
    }

    #[test]
    fn a_sound_device_has_no_problems() {
        assert_eq!(messages(sound(), boiler()), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_named_with_its_field() {
        let faulty = json!({
            "protocol": {"configData": {"ip": null}},
            "properties": [
                {"name": "setpoint", "desired": {"value": "99"}, "collectCycle": -1},
                {"name": "setpoint"},
                {"name": "temprature", "reportCycle": 10_000_000_000_i64},
                {"name": "temperature", "desired": {"value": "1"}}
            ],
            "methods": [{"name": "m", "propertyNames": ["gone"]}]
        });
        assert_eq!(
            messages(faulty, boiler()),
            [
                "spec.deviceModelRef.name: is required: name a DeviceModel of this namespace",
                "spec.protocol.protocolName: is required: it selects the mapper",
                "spec.protocol.configData.ip: is null; leave the key out",
                "spec.properties[0].collectCycle: -1 is negative; give milliseconds",
                "spec.properties[0].desired.value: 99 is above the maximum 90",
                "spec.properties[1].name: \"setpoint\" is there twice",
                "spec.properties[2].reportCycle: 10000000000 milliseconds is more than a day; KubeEdge before 1.18 \
                 counted nanoseconds, 10000 milliseconds may be meant",
                "spec.properties[2].name: \"temprature\" is not in the model, which has \"setpoint\", \"temperature\"",
                "spec.properties[3].desired.value: is ignored: the property is ReadOnly in the model",
                "spec.methods[0].propertyNames[0]: \"gone\" is not a property of this device",
            ]
        );
    }

    #[test]
    fn warnings_do_not_refuse() {
        let mut device = sound();
        device["properties"][0]["collectCycle"] = json!(10_000_000_000_i64);
        let device: DeviceSpec = serde_json::from_value(device).unwrap();
        let problems = super::device(&device, None);
        assert_eq!(problems.len(), 1);
        assert!(!is_refused(&problems));
    }

    #[test]
    fn a_models_bounds_must_be_numbers_in_order() {
        let model_spec: DeviceModelSpec = serde_json::from_value(json!({"properties": [
            {"name": "a", "minimum": "x"}, {"name": "b", "minimum": "2", "maximum": "1"}, {"name": "b", "minimum": ""}
        ]}))
        .unwrap();
        let found: Vec<_> = model(&model_spec).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.properties[0].minimum: \"x\" is not a decimal number",
                "spec.properties[1].minimum: is above the maximum: no value can be written",
                "spec.properties[2].name: \"b\" is there twice",
            ]
        );
    }
}
