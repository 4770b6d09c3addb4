//! Request bodies in JSON and YAML.
//!
//! Keeps what strict field validation needs to know (duplicate keys) and reads YAML as the 1.1
//! dialect that Kubernetes speaks, where `n`, `off` and the like are booleans. Numbers are brought
//! to what Go would print: `5.0` is 5. Nesting is limited, so that nothing downstream can recurse
//! without bounds.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::status::{Result, StatusError};

mod yaml;

/// How deep maps and lists of a body may nest. Stored objects are wrapped in lists and events
/// before they are parsed again with serde_json's own limit of 128, hence the distance.
pub const MAX_DEPTH: usize = 100;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json` and the JSON patch types.
    Json,
    /// `application/yaml`, `application/apply-patch+yaml`: YAML 1.1, of which JSON is a part.
    Yaml,
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The content; of keys given twice the last one.
    pub value: Value,
    /// One strict-decoding complaint for each key given twice, ready to be printed: JSON
    /// `duplicate field "spec.nodeName"`, YAML `yaml: unmarshal errors:\n  line 7: key …`.
    pub duplicates: Vec<String>,
}

/// Reads a body.
///
/// # Errors
/// 400 whose message is the parser's complaint alone; callers put their own words in front.
pub fn decode(body: &[u8], format: Format) -> Result<Decoded> {
    match format {
        Format::Json => json(body),
        Format::Yaml => yaml::decode(body),
    }
    .map_err(StatusError::bad_request)
}

/// Reads the body of a POST or PUT of a custom resource: it must be a map.
///
/// # Errors
/// 400 as recorded in 3-devices-raw 015–017.
pub fn decode_object(body: &[u8], format: Format, kind: &str) -> Result<Decoded> {
    let refuse = |why: &str| {
        StatusError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get \
             version/kind; json parse error: {why} ({})",
            excerpt(body)
        ))
    };
    let decoded = decode(body, format).map_err(|e| refuse(&e.message))?;
    if decoded.value.is_object() {
        return Ok(decoded);
    }
    Err(refuse(&format!(
        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \
         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        kind_name(&decoded.value)
    )))
}

/// Reads the body of a merge or strategic merge patch: it must be a map.
///
/// # Errors
/// 400 as recorded in 3-devices-raw 123 and 124.
pub fn decode_merge_patch(body: &[u8]) -> Result<Decoded> {
    let decoded = decode(body, Format::Json).map_err(|e| patch_error(&e.message))?;
    if decoded.value.is_object() {
        return Ok(decoded);
    }
    let kind = kind_name(&decoded.value);
    let wanted = "map[string]interface {}";
    Err(patch_error(&format!("json: cannot unmarshal {kind} into Go value of type {wanted}")))
}

/// Reads the body of a JSON patch: it must be a list.
///
/// # Errors
/// 400 as recorded in 3-devices-raw 130; 413 for more than 10000 operations.
pub fn decode_json_patch(body: &[u8]) -> Result<Value> {
    let value = decode(body, Format::Json).map_err(|e| patch_error(&e.message))?.value;
    let Some(operations) = value.as_array() else {
        let kind = kind_name(&value);
        let wanted = "[]handlers.jsonPatchOp";
        let why = format!("json: cannot unmarshal {kind} into Go value of type {wanted}");
        return Err(patch_error(&why));
    };
    if operations.len() > crate::patch::MAX_OPERATIONS {
        return Err(StatusError {
            code: 413,
            reason: "RequestEntityTooLarge",
            message: format!(
                "The allowed maximum operations in a JSON patch is {}, got {}",
                crate::patch::MAX_OPERATIONS,
                operations.len()
            ),
            details: None,
        });
    }
    Ok(value)
}

fn patch_error(why: &str) -> StatusError {
    StatusError::bad_request(format!("error decoding patch: {why}"))
}

/// The start of a body as the real server quotes it.
fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".into();
    }
    let text = match std::str::from_utf8(body) {
        Ok(text) if text.trim_start().starts_with('{') => text.to_owned(),
        Ok(_) | Err(_) => body.iter().take(SHOWN).map(|b| format!("{b:02x}")).collect(),
    };
    if text.chars().count() > SHOWN {
        format!("{} ...", text.chars().take(SHOWN).collect::<String>())
    } else {
        text
    }
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn json(body: &[u8]) -> std::result::Result<Decoded, String> {
    let mut duplicates = Vec::new();
    let mut path = String::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Node { path: &mut path, duplicates: &mut duplicates, depth: 0 };
    let value = seed.deserialize(&mut reader).map_err(|e| go_words(&e, body))?;
    reader.end().map_err(|e| go_words(&e, body))?;
    Ok(Decoded { value, duplicates })
}

/// A serde_json error in the words of Go's decoder, as far as the two agree on the place.
fn go_words(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let text = error.to_string();
    let context = [
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("trailing comma", "looking for beginning of value"),
        ("expected value", "looking for beginning of value"),
    ];
    let found = context.iter().find(|(ours, _)| text.starts_with(ours));
    match (found, character_at(body, error.line(), error.column())) {
        (Some((_, words)), Some(c)) => format!("invalid character '{c}' {words}"),
        (Some(_), None) | (None, _) => text,
    }
}

fn character_at(body: &[u8], line: usize, column: usize) -> Option<char> {
    let text = body.split(|b| *b == b'\n').nth(line.checked_sub(1)?)?;
    text.get(column.checked_sub(1)?).map(|b| char::from(*b)).filter(char::is_ascii_graphic)
}

/// One value in the making: remembers where it is, for the names of duplicate keys.
struct Node<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: de::Error>(&self) -> std::result::Result<usize, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(unsigned(value))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(float(value))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut items = Vec::new();
        let here = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", items.len()));
            let node = Node { path: self.path, duplicates: self.duplicates, depth };
            let item = seq.next_element_seed(node)?;
            self.path.truncate(here);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut map = Map::new();
        let here = self.path.len();
        while let Some(key) = from.next_key::<String>()? {
            if here > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if map.contains_key(&key) {
                self.duplicates.push(format!("duplicate field \"{}\"", self.path));
            }
            let node = Node { path: self.path, duplicates: self.duplicates, depth };
            let value = from.next_value_seed(node)?;
            self.path.truncate(here);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// An unsigned number; beyond 63 bits it is a float, as in Go.
fn unsigned(value: u64) -> Value {
    match i64::try_from(value) {
        Ok(small) => small.into(),
        Err(_) => {
            #[expect(clippy::cast_precision_loss, reason = "Go reads such numbers as float64 too")]
            let value = value as f64;
            float(value)
        }
    }
}

/// A float, as an integer where it is one: `5.0` is stored and printed as 5 by the real server.
fn float(value: f64) -> Value {
    const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
    if value.fract() == 0.0 && value.abs() < TWO_POW_63 {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be integral and in range")]
        let whole = value as i64;
        return whole.into();
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests;
