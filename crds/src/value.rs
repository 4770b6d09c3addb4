//! Property values. They travel as text everywhere; this is the one place that reads the text.

use std::fmt;

use crate::device_model::{DataType, ModelProperty};

/// The longest value that is accepted anywhere, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Why a text is no value of a property.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// Over [`MAX_VALUE_BYTES`].
    #[error("value of {0} bytes is longer than {MAX_VALUE_BYTES}")]
    TooLong(usize),
    /// The text does not read as the type.
    #[error("{value:?} is not of type {expected}")]
    WrongType {
        /// The text, cut to 64 characters.
        value: String,
        /// The property's type.
        expected: DataType,
    },
    /// Below the model's minimum.
    #[error("{value} is below the minimum {minimum}")]
    BelowMinimum {
        /// The text.
        value: String,
        /// The model's minimum.
        minimum: String,
    },
    /// Above the model's maximum.
    #[error("{value} is above the maximum {maximum}")]
    AboveMaximum {
        /// The text.
        value: String,
        /// The model's maximum.
        maximum: String,
    },
    /// Streams have no value.
    #[error("a STREAM property has no value")]
    Stream,
}

/// A value that has been read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// INT
    Int(i64),
    /// FLOAT and DOUBLE
    Number(f64),
    /// STRING
    Text(String),
    /// BOOLEAN
    Bool(bool),
    /// BYTES: base64 text whose alphabet and padding have been checked.
    Bytes(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => int.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) | Self::Bytes(text) => f.write_str(text),
            Self::Bool(bool) => bool.fmt(f),
        }
    }
}

impl Value {
    /// Reads a text as a type.
    ///
    /// Accepts what upstream accepts and a mapper may send: INT is decimal 64-bit; FLOAT must fit 32
    /// bits; BOOLEAN reads `1 t true T TRUE True` and their opposites; BYTES is standard base64.
    ///
    /// # Errors
    /// The text is too long or does not read as the type.
    pub fn parse(data_type: DataType, text: &str) -> Result<Self, ValueError> {
        if text.len() > MAX_VALUE_BYTES {
            return Err(ValueError::TooLong(text.len()));
        }
        let wrong = || ValueError::WrongType {
            value: text.chars().take(64).collect(),
            expected: data_type,
        };
        match data_type {
            DataType::Int => text.parse().map(Self::Int).map_err(|_| wrong()),
            DataType::Float => {
                let number: f64 = text.parse().map_err(|_| wrong())?;
                if number.is_finite() && number.abs() > f64::from(f32::MAX) {
                    return Err(wrong());
                }
                Ok(Self::Number(number))
            }
            DataType::Double => text.parse().map(Self::Number).map_err(|_| wrong()),
            DataType::String => Ok(Self::Text(text.to_owned())),
            DataType::Boolean => match text {
                "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(Self::Bool(true)),
                "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(Self::Bool(false)),
                _ => Err(wrong()),
            },
            DataType::Bytes => {
                is_base64(text).then(|| Self::Bytes(text.to_owned())).ok_or_else(wrong)
            }
            DataType::Stream => Err(ValueError::Stream),
        }
    }
}

/// Checks that a value may be wanted of a property: its type and the model's bounds.
///
/// A property without a type takes any text.
///
/// # Errors
/// See [`ValueError`].
pub fn check(property: &ModelProperty, text: &str) -> Result<(), ValueError> {
    let Some(data_type) = property.data_type else {
        return if text.len() > MAX_VALUE_BYTES {
            Err(ValueError::TooLong(text.len()))
        } else {
            Ok(())
        };
    };
    let value = Value::parse(data_type, text)?;
    if let Some(minimum) = bound(property.minimum.as_ref())
        && is_below(&value, minimum)
    {
        return Err(ValueError::BelowMinimum { value: text.into(), minimum: minimum.into() });
    }
    if let Some(maximum) = bound(property.maximum.as_ref())
        && is_above(&value, maximum)
    {
        return Err(ValueError::AboveMaximum { value: text.into(), maximum: maximum.into() });
    }
    Ok(())
}

/// Whether two texts are the same value of a property: `21.50` is `21.5`, `1` is `true`.
///
/// A FLOAT is compared as 32 bits, since that is all a device of that type can hold. What does not
/// read as the type is compared as text.
#[must_use]
pub fn same(data_type: Option<DataType>, left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    let Some(data_type) = data_type else { return false };
    match (Value::parse(data_type, left), Value::parse(data_type, right)) {
        (Ok(Value::Number(left)), Ok(Value::Number(right))) if data_type == DataType::Float => {
            #[expect(clippy::cast_possible_truncation, reason = "a FLOAT is 32 bits")]
            let (left, right) = (left as f32, right as f32);
            left.to_bits() == right.to_bits() || left == right
        }
        (Ok(left), Ok(right)) => left == right,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn bound(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn is_below(value: &Value, minimum: &str) -> bool {
    compare(value, minimum) == Some(std::cmp::Ordering::Less)
}

fn is_above(value: &Value, maximum: &str) -> bool {
    compare(value, maximum) == Some(std::cmp::Ordering::Greater)
}

/// Integers are compared as integers, so that bounds near 2^63 are exact.
fn compare(value: &Value, bound: &str) -> Option<std::cmp::Ordering> {
    match value {
        Value::Int(int) => match bound.parse::<i64>() {
            Ok(bound) => Some(int.cmp(&bound)),
            #[expect(clippy::cast_precision_loss, reason = "the bound is no integer")]
            Err(_) => (*int as f64).partial_cmp(&bound.parse::<f64>().ok()?),
        },
        Value::Number(number) => number.partial_cmp(&bound.parse::<f64>().ok()?),
        Value::Text(_) | Value::Bool(_) | Value::Bytes(_) => None,
    }
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    text.len().is_multiple_of(4)
        && padding <= 2
        && body.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'+' || c == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(data_type: DataType, minimum: &str, maximum: &str) -> ModelProperty {
        ModelProperty {
            name: "p".into(),
            data_type: Some(data_type),
            minimum: Some(minimum.into()),
            maximum: Some(maximum.into()),
            ..ModelProperty::default()
        }
    }

    #[test]
    fn each_type_reads_its_own_texts_and_no_others() {
        for (data_type, good, bad) in [
            (
                DataType::Int,
                vec!["0", "-7", "9223372036854775807"],
                vec!["", "1.5", "9223372036854775808", "x"],
            ),
            (DataType::Float, vec!["1.5", "-3e38", "7"], vec!["", "1e39", "x"]),
            (DataType::Double, vec!["1e300", "-0"], vec!["", "one"]),
            (DataType::Boolean, vec!["true", "0", "T"], vec!["", "yes", "2"]),
            (DataType::String, vec!["", "25 °C", "{\"a\":1}"], vec![]),
            (DataType::Bytes, vec!["", "AQID", "AQ=="], vec!["AQ=", "A B=", "===="]),
            (DataType::Stream, vec![], vec!["x"]),
        ] {
            for text in good {
                assert!(Value::parse(data_type, text).is_ok(), "{data_type} {text:?}");
            }
            for text in bad {
                assert!(Value::parse(data_type, text).is_err(), "{data_type} {text:?}");
            }
        }
    }

    #[test]
    fn bounds_of_the_model_are_enforced_exactly() {
        let percent = property(DataType::Int, "1", "100");
        assert!(check(&percent, "1").is_ok() && check(&percent, "100").is_ok());
        assert_eq!(check(&percent, "0").unwrap_err().to_string(), "0 is below the minimum 1");
        assert_eq!(check(&percent, "101").unwrap_err().to_string(), "101 is above the maximum 100");
        let big = property(DataType::Int, "", "9223372036854775806");
        assert!(check(&big, "9223372036854775807").is_err());
        assert!(check(&big, "9223372036854775806").is_ok());
    }

    #[test]
    fn a_value_over_64_kib_is_refused_whatever_its_type() {
        let long = "x".repeat(MAX_VALUE_BYTES + 1);
        assert_eq!(
            check(&ModelProperty::default(), &long),
            Err(ValueError::TooLong(MAX_VALUE_BYTES + 1))
        );
    }

    #[test]
    fn the_same_value_in_another_spelling_is_the_same() {
        assert!(same(Some(DataType::Float), "21.50", "21.5"));
        assert!(same(Some(DataType::Float), "0.1", "0.10000000149011612"));
        assert!(!same(Some(DataType::Double), "0.1", "0.10000000149011612"));
        assert!(same(Some(DataType::Boolean), "1", "true"));
        assert!(same(Some(DataType::Int), "007", "7"));
        assert!(!same(Some(DataType::String), "007", "7"));
        assert!(!same(None, "1", "1.0"));
    }
}
