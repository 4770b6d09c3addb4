//! JSON objects in the making, leaving out what is not set.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// A JSON object; every method drops empty values.
#[derive(Default)]
pub(super) struct Object(Map<String, Value>);

impl Object {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// A text; protobuf writes unset ones as empty.
    pub fn text(mut self, key: &str, value: Option<String>) -> Self {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            self.0.insert(key.into(), value.into());
        }
        self
    }

    /// A number or boolean that says something even when it is zero.
    pub fn optional(mut self, key: &str, value: Option<impl Into<Value>>) -> Self {
        self.0.extend(value.map(|value| (key.to_owned(), value.into())));
        self
    }

    pub fn bytes(self, key: &str, value: Option<Vec<u8>>) -> Self {
        self.text(key, value.map(|bytes| STANDARD.encode(bytes)))
    }

    pub fn texts(self, key: &str, values: Vec<String>) -> Self {
        self.list(key, values.into_iter().map(Value::String).collect())
    }

    pub fn list(mut self, key: &str, values: Vec<Value>) -> Self {
        if !values.is_empty() {
            self.0.insert(key.into(), Value::Array(values));
        }
        self
    }

    pub fn objects<T>(self, key: &str, values: Vec<T>, convert: fn(T) -> Self) -> Self {
        self.list(key, values.into_iter().map(|v| convert(v).into_value()).collect())
    }

    pub fn map(self, key: &str, values: BTreeMap<String, String>) -> Self {
        let pairs = values.into_iter().map(|(k, v)| (k, Value::String(v)));
        self.part(key, Self(pairs.collect()))
    }

    pub fn bytes_map(self, key: &str, values: BTreeMap<String, Vec<u8>>) -> Self {
        let pairs = values.into_iter().map(|(k, v)| (k, Value::String(STANDARD.encode(v))));
        self.part(key, Self(pairs.collect()))
    }

    /// A part that is left out when it has no members.
    pub fn part(self, key: &str, part: Self) -> Self {
        if part.0.is_empty() { self } else { self.always(key, part) }
    }

    /// A part that is there though it may have no members.
    pub fn always(mut self, key: &str, part: Self) -> Self {
        self.0.insert(key.into(), part.into_value());
        self
    }
}
