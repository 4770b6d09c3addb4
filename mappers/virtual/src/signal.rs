//! The signals of a virtual device. Pure: elapsed time and chance are arguments.

use std::{f64::consts::TAU, time::Duration};

use mapper_sdk::{DataType, Property, Value};
use serde::Deserialize;

/// `visitors.configData` of a virtual property. See the crate's documentation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Visitor {
    /// Which signal.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// Upstream's key.
    #[serde(default, rename = "dataType")]
    pub data_type: Option<String>,
    /// The value of `constant`, the first value of `stored`.
    #[serde(default)]
    pub value: Option<Initial>,
    /// Lower end of a signal.
    #[serde(default)]
    pub min: Option<f64>,
    /// Upper end of a signal.
    #[serde(default)]
    pub max: Option<f64>,
    /// What a counter adds.
    #[serde(default)]
    pub step: Option<f64>,
    /// Length of a sine, milliseconds.
    #[serde(default)]
    pub period: Option<f64>,
}

/// Which signal a property carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What was written last.
    Stored,
    /// Always the same.
    Constant,
    /// One step more with each read.
    Counter,
    /// A sine over time.
    Sine,
    /// A random number with each read.
    Random,
}

/// A value in `configData`, in the form the manifest's author found natural.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Initial {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
}

impl Visitor {
    fn is_signal(&self) -> bool {
        matches!(self.kind(), Kind::Counter | Kind::Sine | Kind::Random)
    }

    fn kind(&self) -> Kind {
        match (self.kind, self.upstream_type()) {
            (Some(kind), _) => kind,
            (None, Some("int" | "float")) => Kind::Random,
            (None, _) => Kind::Stored,
        }
    }

    fn upstream_type(&self) -> Option<&str> {
        self.data_type.as_deref()
    }
}

/// A running signal.
#[derive(Debug, Clone)]
pub(crate) struct Signal {
    kind: Kind,
    data_type: DataType,
    stored: Value,
    min: f64,
    max: f64,
    step: f64,
    period: Duration,
    count: f64,
}

impl Signal {
    /// # Errors
    /// The reason, beginning with the key.
    pub(crate) fn new(property: &Property<Visitor>) -> Result<Self, String> {
        let Property { visitor, data_type, .. } = property;
        let kind = visitor.kind();
        let numeric = matches!(data_type, DataType::Int | DataType::Float | DataType::Double);
        if visitor.is_signal() && !numeric {
            return Err(format!("kind: a {data_type} property cannot carry a signal of numbers"));
        }
        let upstream = visitor.kind.is_none().then(|| visitor.upstream_type()).flatten();
        let top = if upstream == Some("float") { 1.0 } else { 100.0 };
        let (min, max) = (visitor.min.unwrap_or(0.0), visitor.max.unwrap_or(top));
        if min > max {
            return Err(format!("min: {min} is above max {max}"));
        }
        let period = visitor.period.unwrap_or(60_000.0);
        if !(1.0..1e12).contains(&period) {
            return Err(format!("period: {period} ms is no length of a sine"));
        }
        Ok(Self {
            kind,
            data_type: *data_type,
            stored: first_value(visitor.value.as_ref(), *data_type)?,
            min,
            max,
            step: visitor.step.unwrap_or(1.0),
            period: Duration::from_secs_f64(period / 1000.0),
            count: min,
        })
    }

    /// The value after `elapsed`; `chance` is uniform in `[0, 1)`.
    pub(crate) fn read(&mut self, elapsed: Duration, chance: f64) -> Value {
        let (low, width) = (self.min, self.max - self.min);
        let number = match self.kind {
            Kind::Stored | Kind::Constant => return self.stored.clone(),
            Kind::Counter => {
                let count = self.count;
                let next = count + self.step;
                self.count = if next > self.max { self.min } else { next };
                count
            }
            Kind::Sine => {
                let turn = elapsed.as_secs_f64() / self.period.as_secs_f64();
                low + width * (0.5 + 0.5 * (TAU * turn).sin())
            }
            Kind::Random => low + width * chance,
        };
        if self.data_type == DataType::Int {
            Value::Double(number.floor())
        } else {
            Value::Double(number)
        }
    }

    /// # Errors
    /// Why the value cannot be written.
    pub(crate) fn write(&mut self, value: &Value) -> Result<(), String> {
        match self.kind {
            Kind::Stored => self.stored = value.clone(),
            Kind::Constant => return Err("a constant cannot be written".to_owned()),
            Kind::Counter | Kind::Sine | Kind::Random => {
                let max = value.as_f64().ok_or("a signal's max is a number")?;
                if max < self.min {
                    return Err(format!("{max} is below the signal's min {}", self.min));
                }
                self.max = max;
            }
        }
        Ok(())
    }
}

fn first_value(value: Option<&Initial>, data_type: DataType) -> Result<Value, String> {
    let value = match value {
        Some(Initial::Boolean(flag)) => Value::Boolean(*flag),
        Some(Initial::Int(int)) => Value::Int(*int),
        Some(Initial::Float(float)) => Value::Double(*float),
        Some(Initial::Text(text)) if data_type != DataType::Stream => {
            return Value::parse(text, data_type).map_err(|error| format!("value: {error}"));
        }
        Some(Initial::Text(text)) => Value::Stream(text.clone()),
        None => match data_type {
            DataType::Int | DataType::Float | DataType::Double => Value::Int(0),
            DataType::Boolean => Value::Boolean(false),
            DataType::String | DataType::Bytes | DataType::Stream => Value::String(String::new()),
        },
    };
    value.into_type(data_type).map_err(|error| format!("value: {error}"))
}

#[cfg(test)]
mod tests {
    use mapper_sdk::{Access, Range};
    use serde_json::json;

    use super::*;

    fn signal(data_type: DataType, visitor: serde_json::Value) -> Result<Signal, String> {
        Signal::new(&Property {
            name: "p".into(),
            data_type,
            access: Access::ReadWrite,
            range: Range::default(),
            unit: String::new(),
            visitor: serde_json::from_value(visitor).unwrap(),
        })
    }

    fn number(signal: &mut Signal, seconds: u64, chance: f64) -> f64 {
        signal.read(Duration::from_secs(seconds), chance).as_f64().unwrap()
    }

    #[test]
    fn a_stored_value_is_what_was_written_last() {
        let mut stored = signal(DataType::String, json!({})).unwrap();
        assert_eq!(stored.read(Duration::ZERO, 0.0), Value::String(String::new()));
        stored.write(&Value::String("on".into())).unwrap();
        assert_eq!(stored.read(Duration::ZERO, 0.0), Value::String("on".into()));
        let mut first = signal(DataType::Float, json!({"value": "21.5"})).unwrap();
        assert_eq!(first.read(Duration::ZERO, 0.0), Value::Float(21.5));
    }

    #[test]
    fn a_constant_stays_and_a_counter_goes_round() {
        let mut constant = signal(DataType::Int, json!({"kind": "constant", "value": 7})).unwrap();
        assert!(constant.write(&Value::Int(8)).is_err());
        assert_eq!(constant.read(Duration::ZERO, 0.0), Value::Int(7));
        let visitor = json!({"kind": "counter", "min": 1, "max": 5, "step": 2});
        let mut counter = signal(DataType::Int, visitor).unwrap();
        let counts: Vec<_> = (0..4).map(|_| number(&mut counter, 0, 0.0)).collect();
        assert_eq!(counts, [1.0, 3.0, 5.0, 1.0]);
    }

    #[test]
    fn a_sine_swings_once_per_period() {
        let visitor = json!({"kind": "sine", "min": -10, "max": 10, "period": 4000});
        let mut sine = signal(DataType::Double, visitor).unwrap();
        for (second, expected) in [(0, 0.0), (1, 10.0), (2, 0.0), (3, -10.0), (4, 0.0)] {
            assert!((number(&mut sine, second, 0.0) - expected).abs() < 1e-9, "at {second}");
        }
    }

    #[test]
    fn upstream_visitors_give_random_numbers_below_a_limit_that_a_write_sets() {
        let mut int = signal(DataType::Int, json!({"dataType": "int"})).unwrap();
        assert_eq!(number(&mut int, 0, 0.999), 99.0);
        int.write(&Value::Int(10)).unwrap();
        assert_eq!(number(&mut int, 0, 0.999), 9.0);
        let mut float = signal(DataType::Float, json!({"dataType": "float"})).unwrap();
        assert!(number(&mut float, 0, 0.5) < 1.0);
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_key() {
        for (data_type, visitor, key) in [
            (DataType::String, json!({"kind": "sine"}), "kind"),
            (DataType::Int, json!({"kind": "random", "min": 5, "max": 1}), "min"),
            (DataType::Double, json!({"kind": "sine", "period": 0}), "period"),
            (DataType::Int, json!({"value": "warm"}), "value"),
        ] {
            assert!(signal(data_type, visitor).unwrap_err().starts_with(key));
        }
    }
}
