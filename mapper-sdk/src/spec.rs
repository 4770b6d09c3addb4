//! What a device should be: the DMI messages of a device and its model, parsed once at the door.
//! Start at [`DeviceSpec::resolve`].
//!
//! Parsing never fails as a whole. A property that cannot work carries its [`PropertySpec::problem`]
//! and is left alone; its neighbours run.

use std::{collections::BTreeMap, collections::HashMap, fmt, time::Duration};

use dmi_proto::v1beta1 as dmi;
use serde_json::Value as Json;

use crate::value::{Access, DataType, Range, Value};

/// The cycle of a property that declares none (0) or a nonsensical one (negative).
const DEFAULT_CYCLE: Duration = Duration::from_millis(1000);
/// No device is read more often than this, whatever its spec says.
const SHORTEST_CYCLE: Duration = Duration::from_millis(10);
/// Longer cycles are read as nanoseconds of an old manifest and warned about.
const SUSPICIOUS_CYCLE: Duration = Duration::from_secs(24 * 3600);

/// Namespace and name of a device, or of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    namespace: String,
    name: String,
}

impl ObjectId {
    /// Makes an id. `None` when the name is empty; an empty namespace is allowed, because edges
    /// before 1.16 send none.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        (!name.is_empty()).then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The namespace, possibly empty.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name, never empty.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One device as the mapper should run it, its model already merged in.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSpec {
    /// Which device.
    pub id: ObjectId,
    /// `spec.protocol.configData` as JSON, or why it cannot be read.
    pub protocol: Result<Json, String>,
    /// Properties by name.
    pub properties: BTreeMap<String, PropertySpec>,
    /// How often the state is repeated; `None` reports transitions only.
    pub state_cycle: Option<Duration>,
}

/// One property as the mapper should run it.
#[derive(Debug, Clone, PartialEq)]
pub struct PropertySpec {
    /// The declared type.
    pub data_type: DataType,
    /// Whether a desired value may be written.
    pub access: Access,
    /// Bounds of a desired value.
    pub range: Range,
    /// Free text, for people.
    pub unit: String,
    /// `visitors.configData` as JSON.
    pub visitor: Json,
    /// Time between two reads.
    pub cycle: Duration,
    /// Whether samples go to edgecore.
    pub report: bool,
    /// The desired text; `None` when there is none or it is empty.
    pub desired: Option<String>,
    /// Why this property cannot work, naming the field. Such a property is neither read nor written.
    pub problem: Option<String>,
    /// What is odd about it without stopping it, for the log.
    pub remark: Option<String>,
}

impl PropertySpec {
    /// The desired value, checked against access, type and bounds.
    ///
    /// # Errors
    /// The reason for the refusal, fit for a user.
    pub(crate) fn desired_value(&self) -> Option<Result<Value, String>> {
        let text = self.desired.as_deref()?;
        if let Some(problem) = &self.problem {
            return Some(Err(problem.clone()));
        }
        if self.access == Access::ReadOnly {
            return Some(Err("the property is ReadOnly in the device model".to_owned()));
        }
        Some(
            Value::parse(text, self.data_type)
                .and_then(|value| value.check_range(&self.range).map(|()| value))
                .map_err(|error| error.to_string()),
        )
    }
}

impl DeviceSpec {
    /// Merges a device with its model.
    ///
    /// `id` must be the id of `device`. Unknown or missing parts become problems of the property
    /// they belong to.
    #[must_use]
    pub fn resolve(id: ObjectId, device: &dmi::Device, model: &dmi::DeviceModel) -> Self {
        let model: HashMap<&str, &dmi::ModelProperty> = model
            .spec
            .iter()
            .flat_map(|spec| &spec.properties)
            // Published manifests carry stray spaces in model property names.
            .map(|property| (property.name.trim(), property))
            .collect();
        let spec = device.spec.as_ref();
        let protocol = config_json(
            spec.and_then(|s| s.protocol.as_ref()).and_then(|p| p.config_data.as_ref()),
            "spec.protocol.configData",
        );
        let mut properties: BTreeMap<String, PropertySpec> = BTreeMap::new();
        for property in spec.iter().flat_map(|spec| &spec.properties) {
            let mut resolved = resolve_property(property, model.get(property.name.trim()).copied());
            if let Some(first) = properties.get(&property.name) {
                resolved = first.clone();
                resolved.problem = Some("the device declares this property twice".to_owned());
            }
            properties.insert(property.name.clone(), resolved);
        }
        let state_cycle = device
            .status
            .as_ref()
            .filter(|status| status.report_to_cloud)
            .map(|status| cycle(status.report_cycle).0);
        Self { id, protocol, properties, state_cycle }
    }
}

fn resolve_property(
    property: &dmi::DeviceProperty,
    model: Option<&dmi::ModelProperty>,
) -> PropertySpec {
    let mut problem = None;
    let mut complain = |text: String| {
        problem.get_or_insert(text);
    };
    if model.is_none() {
        complain("the device model has no property of this name".to_owned());
    }
    let data_type = model.and_then(|m| DataType::from_name(&m.r#type)).unwrap_or_else(|| {
        let name = model.map_or("", |m| &m.r#type);
        complain(format!("type: {name:?} in the device model is not a property type"));
        DataType::String
    });
    let access = match model.map_or("", |m| m.access_mode.as_str()) {
        mode if mode.eq_ignore_ascii_case("ReadOnly") => Access::ReadOnly,
        _ => Access::ReadWrite,
    };
    let mut bound = |text: &str, field: &str| -> Option<f64> {
        if text.is_empty() {
            return None;
        }
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            complain(format!("{field}: {text:?} in the device model is not a number"));
        }
        parsed
    };
    let range = Range {
        minimum: bound(model.map_or("", |m| &m.minimum), "minimum"),
        maximum: bound(model.map_or("", |m| &m.maximum), "maximum"),
    };
    let visitor = config_json(
        property.visitors.as_ref().and_then(|v| v.config_data.as_ref()),
        "visitors.configData",
    )
    .unwrap_or_else(|error| {
        problem.get_or_insert(error);
        Json::Object(serde_json::Map::new())
    });
    let (cycle, remark) = cycle(property.collect_cycle);
    PropertySpec {
        data_type,
        access,
        range,
        unit: model.map_or_else(String::new, |m| m.unit.clone()),
        visitor,
        cycle,
        report: property.report_to_cloud,
        desired: property.desired.as_ref().map(|d| d.value.clone()).filter(|v| !v.is_empty()),
        problem,
        remark,
    }
}

fn config_json(data: Option<&dmi::CustomizedValue>, field: &str) -> Result<Json, String> {
    let Some(data) = data else { return Ok(Json::Object(serde_json::Map::new())) };
    dmi_proto::value::decode_map(&data.data)
        .map(|map| Json::Object(map.into_iter().collect()))
        .map_err(|error| format!("{field}: {error}"))
}

/// Milliseconds of a cycle as a duration. 0 means the default; so does a negative one, with a remark.
fn cycle(millis: i64) -> (Duration, Option<String>) {
    let Ok(positive) = u64::try_from(millis) else {
        return (DEFAULT_CYCLE, Some(format!("collectCycle: {millis} is negative, using 1000 ms")));
    };
    if positive == 0 {
        return (DEFAULT_CYCLE, None);
    }
    let cycle = Duration::from_millis(positive);
    let remark = (cycle > SUSPICIOUS_CYCLE)
        .then(|| format!("collectCycle: {millis} ms is over a day; cycles are milliseconds"));
    (cycle.max(SHORTEST_CYCLE), remark)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{device, model};

    fn resolve(device: &dmi::Device, model: &dmi::DeviceModel) -> DeviceSpec {
        DeviceSpec::resolve(ObjectId::new("default", &device.name).unwrap(), device, model)
    }

    #[test]
    fn a_device_takes_types_bounds_and_access_from_its_model() {
        let model = model("boiler", &[("temp", "FLOAT", "ReadWrite", "0", "90")]);
        let mut device = device("b1", "boiler", "modbus", &json!({"port": 1502}));
        device.spec.as_mut().unwrap().properties.push(crate::testing::property(
            "temp",
            Some("40.5"),
            250,
            &json!({"offset": 3}),
        ));
        let spec = resolve(&device, &model);
        assert_eq!(spec.protocol, Ok(json!({"port": 1502})));
        let temp = &spec.properties["temp"];
        assert_eq!(temp.data_type, DataType::Float);
        assert_eq!(temp.range, Range { minimum: Some(0.0), maximum: Some(90.0) });
        assert_eq!(temp.cycle, Duration::from_millis(250));
        assert_eq!(temp.desired_value(), Some(Ok(Value::Float(40.5))));
        assert_eq!(temp.visitor, json!({"offset": 3}));
        assert_eq!(temp.problem, None);
    }

    #[test]
    fn a_property_that_cannot_work_says_why_and_leaves_its_neighbours_alone() {
        let model = model(
            "m",
            &[("odd", "COMPLEX", "ReadWrite", "", ""), ("bound", "INT", "ReadWrite", "low", "")],
        );
        let mut device = device("d", "m", "p", &json!({}));
        for name in ["typo", "odd", "bound"] {
            let property = crate::testing::property(name, None, 0, &json!({}));
            device.spec.as_mut().unwrap().properties.push(property);
        }
        let spec = resolve(&device, &model);
        let problem = |name: &str| spec.properties[name].problem.clone().unwrap();
        assert!(problem("typo").contains("no property of this name"));
        assert!(problem("odd").contains("COMPLEX"));
        assert!(problem("bound").starts_with("minimum: \"low\""));
        assert_eq!(spec.properties["odd"].cycle, DEFAULT_CYCLE);
    }

    #[test]
    fn a_desired_value_is_refused_with_a_reason_before_any_driver_sees_it() {
        let model =
            model("m", &[("ro", "INT", "ReadOnly", "", ""), ("n", "INT", "ReadWrite", "1", "100")]);
        let mut device = device("d", "m", "p", &json!({}));
        for (name, desired) in [("ro", "5"), ("n", "101")] {
            let property = crate::testing::property(name, Some(desired), -5, &json!({}));
            device.spec.as_mut().unwrap().properties.push(property);
        }
        let spec = resolve(&device, &model);
        let reason = |name: &str| spec.properties[name].desired_value().unwrap().unwrap_err();
        assert!(reason("ro").contains("ReadOnly"));
        assert_eq!(reason("n"), "101 is above the maximum 100");
        assert_eq!(spec.properties["n"].cycle, DEFAULT_CYCLE);
        assert!(spec.properties["n"].remark.as_ref().unwrap().contains("negative"));
    }

    #[test]
    fn an_empty_desired_text_is_no_desired_value() {
        let model = model("m", &[("n", "STRING", "ReadWrite", "", "")]);
        let mut device = device("d", "m", "p", &json!({}));
        let property = crate::testing::property("n", Some(""), 0, &json!({}));
        device.spec.as_mut().unwrap().properties.push(property);
        assert_eq!(resolve(&device, &model).properties["n"].desired_value(), None);
    }

    #[test]
    fn cycles_are_milliseconds_with_a_default_and_a_floor() {
        assert_eq!(cycle(0), (DEFAULT_CYCLE, None));
        assert_eq!(cycle(1), (SHORTEST_CYCLE, None));
        assert_eq!(cycle(2000), (Duration::from_secs(2), None));
        // Ten seconds, says an old manifest; it means nanoseconds.
        assert!(cycle(10_000_000_000).1.unwrap().contains("over a day"));
        assert_eq!(cycle(i64::MIN).0, DEFAULT_CYCLE);
    }

    #[test]
    fn numbers_from_an_upstream_edge_are_floats_and_read_as_what_they_were() {
        let model = model("m", &[("n", "INT", "ReadOnly", "", "")]);
        let mut property =
            crate::testing::property("n", None, 0, &json!({"offset": 0, "scale": 0}));
        let config = property.visitors.as_mut().unwrap().config_data.as_mut().unwrap();
        for (key, number) in [("offset", 40_001_f32), ("scale", 0.1)] {
            let any = config.data.get_mut(key).unwrap();
            any.type_url = "type.googleapis.com/google.protobuf.FloatValue".to_owned();
            any.value = [&[0x0d][..], &number.to_le_bytes()].concat();
        }
        let device = crate::testing::with(device("d", "m", "p", &json!({})), vec![property]);
        let spec = resolve(&device, &model);
        assert_eq!(spec.properties["n"].visitor, json!({"offset": 40001, "scale": 0.1}));
    }

    #[test]
    fn a_value_that_cannot_be_decoded_is_the_problem_of_its_property() {
        let model = model("m", &[("n", "INT", "ReadOnly", "", "")]);
        let mut property = crate::testing::property("n", None, 0, &json!({"offset": 0}));
        let config = property.visitors.as_mut().unwrap().config_data.as_mut().unwrap();
        config.data.get_mut("offset").unwrap().type_url = "type.googleapis.com/v1.Pod".to_owned();
        let device = crate::testing::with(device("d", "m", "p", &json!({})), vec![property]);
        let problem = resolve(&device, &model).properties["n"].problem.clone().unwrap();
        assert!(problem.contains("visitors.configData") && problem.contains("offset"), "{problem}");
    }

    #[test]
    fn a_message_with_nothing_in_it_is_a_device_without_properties() {
        let spec = resolve(
            &dmi::Device { name: "d".into(), ..dmi::Device::default() },
            &dmi::DeviceModel::default(),
        );
        assert!(spec.properties.is_empty());
        assert_eq!(spec.protocol, Ok(json!({})));
    }
}
