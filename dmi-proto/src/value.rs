//! JSON values in `google.protobuf.Any`, the encoding of `CustomizedValue` and `AnomalyDetection`.
//!
//! The released Go mappers accept exactly five wrappers: Int32Value, Int64Value, StringValue,
//! FloatValue and BoolValue, and silently drop a key that carries anything else. So [`encode`] stays
//! within those five and never changes a value: an integer is an Int64Value, a float goes as
//! FloatValue when it survives the trip through 32 bits and as DoubleValue otherwise, which our own
//! SDK understands. Upstream cuts every number to 32 bits; 123456789 becomes 123456792 there.
//!
//! [`decode`] accepts every wrapper type, and `Struct`, `ListValue` and `Value` besides.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use prost_types::{Any, ListValue, Struct, Value as ProtoValue, value::Kind};
use serde_json::{Map, Number, Value};

const PREFIX: &str = "type.googleapis.com/google.protobuf.";

/// How deep a nested value may go; deeper ones are refused. Guards the decoder's recursion.
const MAX_DEPTH: usize = 32;

/// Why a JSON value cannot be put into an `Any`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EncodeError {
    /// JSON null has no wrapper.
    #[error("key {0:?} is null, which a mapper cannot be told; leave the key out")]
    Null(String),
    /// Nested deeper than 32 levels.
    #[error("key {0:?} is nested deeper than {MAX_DEPTH} levels")]
    TooDeep(String),
}

/// Why an `Any` cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The type is none of the well-known value types.
    #[error("key {key:?} has type {type_url:?}, which is not a value type")]
    UnknownType {
        /// The key in the map.
        key: String,
        /// What the peer sent.
        type_url: String,
    },
    /// The bytes do not match the type.
    #[error("key {key:?} holds bytes that are not a {type_url}")]
    Malformed {
        /// The key in the map.
        key: String,
        /// What the peer sent.
        type_url: String,
    },
}

/// Encodes a free JSON map (`configData`) for the wire.
///
/// Nested objects and arrays become `Struct` and `ListValue`: peers that only know the scalar
/// wrappers drop such a key, ours reads it.
///
/// # Errors
/// A null value or one nested deeper than 32 levels, named by its key.
pub fn encode_map<'a>(
    map: impl IntoIterator<Item = (&'a String, &'a Value)>,
) -> Result<HashMap<String, Any>, EncodeError> {
    map.into_iter().map(|(key, value)| Ok((key.clone(), encode(key, value)?))).collect()
}

/// Decodes a map from the wire into JSON, sorted by key.
///
/// # Errors
/// The first key whose value is of an unknown type or malformed.
pub fn decode_map(map: &HashMap<String, Any>) -> Result<BTreeMap<String, Value>, DecodeError> {
    map.iter().map(|(key, any)| Ok((key.clone(), decode(key, any)?))).collect()
}

/// Encodes one JSON value. `key` only names it in the error.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode(key: &str, value: &Value) -> Result<Any, EncodeError> {
    Ok(match value {
        Value::Null => return Err(EncodeError::Null(key.to_owned())),
        Value::Bool(bool) => wrap("BoolValue", bool),
        Value::String(string) => wrap("StringValue", string),
        Value::Number(number) => encode_number(number),
        Value::Array(items) => {
            let values =
                items.iter().map(|item| to_proto(key, item, 1)).collect::<Result<_, _>>()?;
            wrap("ListValue", &ListValue { values })
        }
        Value::Object(fields) => wrap("Struct", &to_struct(key, fields, 1)?),
    })
}

/// Decodes one value. `key` only names it in the error.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(key: &str, any: &Any) -> Result<Value, DecodeError> {
    let malformed =
        || DecodeError::Malformed { key: key.to_owned(), type_url: any.type_url.clone() };
    let bytes = any.value.as_slice();
    let short = any.type_url.rsplit('/').next().unwrap_or_default();
    let short = short.strip_prefix("google.protobuf.").unwrap_or_default();
    Ok(match short {
        "BoolValue" => Value::Bool(bool::decode(bytes).map_err(|_| malformed())?),
        "StringValue" => Value::String(String::decode(bytes).map_err(|_| malformed())?),
        "Int32Value" => i32::decode(bytes).map_err(|_| malformed())?.into(),
        "Int64Value" => i64::decode(bytes).map_err(|_| malformed())?.into(),
        "UInt32Value" => u32::decode(bytes).map_err(|_| malformed())?.into(),
        "UInt64Value" => u64::decode(bytes).map_err(|_| malformed())?.into(),
        "FloatValue" => {
            widen(f32::decode(bytes).map_err(|_| malformed())?).ok_or_else(malformed)?
        }
        "DoubleValue" => {
            float(f64::decode(bytes).map_err(|_| malformed())?).ok_or_else(malformed)?
        }
        "Value" => from_proto(&ProtoValue::decode(bytes).map_err(|_| malformed())?, 0)
            .ok_or_else(malformed)?,
        "ListValue" => {
            let list = ListValue::decode(bytes).map_err(|_| malformed())?;
            Value::Array(
                list.values
                    .iter()
                    .map(|v| from_proto(v, 1))
                    .collect::<Option<_>>()
                    .ok_or_else(malformed)?,
            )
        }
        "Struct" => from_struct(&Struct::decode(bytes).map_err(|_| malformed())?, 1)
            .ok_or_else(malformed)?,
        _ => {
            return Err(DecodeError::UnknownType {
                key: key.to_owned(),
                type_url: any.type_url.clone(),
            });
        }
    })
}

fn encode_number(number: &Number) -> Any {
    if let Some(int) = number.as_i64() {
        return wrap("Int64Value", &int);
    }
    if let Some(int) = number.as_u64() {
        return wrap("UInt64Value", &int);
    }
    let float = number.as_f64().unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "compared with the original right after")]
    let narrow = float as f32;
    // The decimal text is what a user wrote: 0.1 survives 32 bits as text, though not as a double.
    if widen(narrow).and_then(|v| v.as_f64()) == Some(float) {
        wrap("FloatValue", &narrow)
    } else {
        wrap("DoubleValue", &float)
    }
}

/// Reads a 32-bit float as the shortest decimal that names it, so that 0.1 stays 0.1.
fn widen(narrow: f32) -> Option<Value> {
    let shortest: f64 = narrow.to_string().parse().ok()?;
    float(shortest)
}

/// JSON has no integer type of its own: a whole number that a Go edge sent as a float is an integer
/// again, so that `port: 1502` can be read into an integer by whoever asks for one.
fn float(value: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        return Some((value as i64).into());
    }
    Number::from_f64(value).map(Value::Number)
}

fn wrap<M: Message>(name: &str, message: &M) -> Any {
    Any { type_url: format!("{PREFIX}{name}"), value: message.encode_to_vec() }
}

fn to_struct(key: &str, fields: &Map<String, Value>, depth: usize) -> Result<Struct, EncodeError> {
    let fields = fields
        .iter()
        .map(|(name, value)| Ok((name.clone(), to_proto(key, value, depth)?)))
        .collect::<Result<_, _>>()?;
    Ok(Struct { fields })
}

fn to_proto(key: &str, value: &Value, depth: usize) -> Result<ProtoValue, EncodeError> {
    if depth > MAX_DEPTH {
        return Err(EncodeError::TooDeep(key.to_owned()));
    }
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(bool) => Kind::BoolValue(*bool),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(string) => Kind::StringValue(string.clone()),
        Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(|v| to_proto(key, v, depth + 1)).collect::<Result<_, _>>()?,
        }),
        Value::Object(fields) => Kind::StructValue(to_struct(key, fields, depth + 1)?),
    };
    Ok(ProtoValue { kind: Some(kind) })
}

fn from_struct(value: &Struct, depth: usize) -> Option<Value> {
    let fields = value
        .fields
        .iter()
        .map(|(name, value)| Some((name.clone(), from_proto(value, depth)?)))
        .collect::<Option<_>>()?;
    Some(Value::Object(fields))
}

fn from_proto(value: &ProtoValue, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match value.kind.as_ref()? {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(bool) => Value::Bool(*bool),
        Kind::NumberValue(number) => float(*number)?,
        Kind::StringValue(string) => Value::String(string.clone()),
        Kind::ListValue(list) => Value::Array(
            list.values.iter().map(|v| from_proto(v, depth + 1)).collect::<Option<_>>()?,
        ),
        Kind::StructValue(fields) => from_struct(fields, depth + 1)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn round_trip(value: &Value) -> Value {
        decode("k", &encode("k", value).unwrap()).unwrap()
    }

    #[test]
    fn integers_are_exact_where_upstream_cuts_them_to_a_float() {
        let any = encode("serial", &json!(123_456_789)).unwrap();
        assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.Int64Value");
        assert_eq!(round_trip(&json!(123_456_789)), json!(123_456_789));
        assert_eq!(round_trip(&json!(i64::MIN)), json!(i64::MIN));
    }

    #[test]
    fn a_decimal_that_survives_32_bits_goes_as_the_float_every_go_mapper_reads() {
        let any = encode("scale", &json!(0.1)).unwrap();
        assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.FloatValue");
        assert_eq!(round_trip(&json!(0.1)), json!(0.1));
        let any = encode("scale", &json!(0.123_456_789_012)).unwrap();
        assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.DoubleValue");
    }

    #[test]
    fn a_whole_float_from_a_go_edge_reads_as_an_integer() {
        let any = wrap("FloatValue", &1502.0_f32);
        assert_eq!(decode("port", &any).unwrap(), json!(1502));
    }

    #[test]
    fn nested_values_arrive_and_null_is_refused_by_name() {
        let nested = json!({"a": [1, "x", {"b": true}]});
        assert_eq!(round_trip(&nested), nested);
        assert_eq!(encode("gone", &Value::Null), Err(EncodeError::Null("gone".into())));
    }

    #[test]
    fn an_unknown_type_or_wrong_bytes_are_refused_by_name() {
        let strange = Any { type_url: "type.googleapis.com/v1.Pod".into(), value: vec![] };
        assert!(matches!(decode("k", &strange), Err(DecodeError::UnknownType { .. })));
        let broken = Any { type_url: format!("{PREFIX}StringValue"), value: vec![0x0a, 0xff] };
        assert!(matches!(decode("k", &broken), Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn nesting_is_bounded() {
        let mut deep = json!(1);
        for _ in 0..MAX_DEPTH + 2 {
            deep = json!([deep]);
        }
        assert_eq!(encode("deep", &deep), Err(EncodeError::TooDeep("deep".into())));
    }

    proptest! {
        #[test]
        fn any_scalar_comes_back_as_it_went(int in any::<i64>(), text in ".*", flag in any::<bool>(), float in any::<f64>()) {
            prop_assert_eq!(round_trip(&json!(int)), json!(int));
            prop_assert_eq!(round_trip(&json!(&text)), json!(text));
            prop_assert_eq!(round_trip(&json!(flag)), json!(flag));
            if float.is_finite() {
                prop_assert_eq!(round_trip(&json!(float)).as_f64(), Some(float));
            }
        }

        #[test]
        fn no_bytes_from_a_peer_panic(url in "(Bool|String|Int32|Int64|UInt32|UInt64|Float|Double|List)?Value|Struct", bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode("k", &Any { type_url: format!("{PREFIX}{url}"), value: bytes });
        }
    }
}
