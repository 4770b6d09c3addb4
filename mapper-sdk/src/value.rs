//! Property values: the seven types of a device model, their text form on the wire, and the checks
//! that stand between a desired text and a driver. Start at [`Value::parse`].

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// The type of a property, as its device model declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// 64-bit signed integer, decimal text.
    Int,
    /// 32-bit float, shortest decimal text.
    Float,
    /// 64-bit float, shortest decimal text.
    Double,
    /// Any UTF-8 text.
    String,
    /// `true` or `false`; `1 t T TRUE True 0 f F FALSE False` are read too.
    Boolean,
    /// Bytes, as standard base64 text with padding.
    Bytes,
    /// The address of a stream. Readable, never writable.
    Stream,
}

impl DataType {
    /// Reads the type name of a model, in any letter case. `None` for a name that is no type.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "int" | "integer" => Self::Int,
            "float" => Self::Float,
            "double" => Self::Double,
            "string" => Self::String,
            "boolean" | "bool" => Self::Boolean,
            "bytes" => Self::Bytes,
            "stream" => Self::Stream,
            _ => return None,
        })
    }

    /// The lower-case name, as it stands in `metadata.type` of a report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Double => "double",
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Bytes => "bytes",
            Self::Stream => "stream",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the model lets a desired value be written to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read only; a desired value is refused and never reaches the driver.
    ReadOnly,
    /// Read and written.
    ReadWrite,
}

/// The bounds of a numeric property; both inclusive, both optional.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Range {
    /// Smallest allowed value.
    pub minimum: Option<f64>,
    /// Largest allowed value.
    pub maximum: Option<f64>,
}

/// One value of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`DataType::Int`].
    Int(i64),
    /// See [`DataType::Float`].
    Float(f32),
    /// See [`DataType::Double`].
    Double(f64),
    /// See [`DataType::String`].
    String(String),
    /// See [`DataType::Boolean`].
    Boolean(bool),
    /// See [`DataType::Bytes`].
    Bytes(Vec<u8>),
    /// See [`DataType::Stream`].
    Stream(String),
}

/// Why a text or a value does not fit a property.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// The text is not of the type.
    #[error("{text:?} is not a value of type {data_type}")]
    NotOfType {
        /// The text, cut to 64 characters.
        text: String,
        /// What was expected.
        data_type: DataType,
    },
    /// The number lies outside the model's bounds.
    #[error("{value} is {side} the {bound_name} {bound}")]
    OutOfRange {
        /// The number.
        value: String,
        /// "below" or "above".
        side: &'static str,
        /// "minimum" or "maximum".
        bound_name: &'static str,
        /// The bound.
        bound: f64,
    },
    /// A value of one type where another was declared, and no exact conversion.
    #[error("the value {value} ({from}) does not fit the declared type {to}")]
    WrongType {
        /// The value as text.
        value: String,
        /// What it is.
        from: DataType,
        /// What it should be.
        to: DataType,
    },
    /// Streams are read only.
    #[error("a stream cannot be written")]
    StreamNotWritable,
}

impl Value {
    /// Reads a desired text as a value of the given type.
    ///
    /// # Errors
    /// [`ValueError::NotOfType`]; NaN and infinities are refused as desired numbers, and so is a
    /// FLOAT too large for 32 bits. [`ValueError::StreamNotWritable`] for [`DataType::Stream`].
    pub fn parse(text: &str, data_type: DataType) -> Result<Self, ValueError> {
        let refused = || ValueError::NotOfType { text: text.chars().take(64).collect(), data_type };
        Ok(match data_type {
            DataType::Int => Self::Int(text.parse().map_err(|_| refused())?),
            DataType::Float => {
                let float: f32 = text.parse().map_err(|_| refused())?;
                Self::Float(Some(float).filter(|f| f.is_finite()).ok_or_else(refused)?)
            }
            DataType::Double => {
                let float: f64 = text.parse().map_err(|_| refused())?;
                Self::Double(Some(float).filter(|f| f.is_finite()).ok_or_else(refused)?)
            }
            DataType::String => Self::String(text.to_owned()),
            DataType::Boolean => Self::Boolean(match text {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
                "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
                _ => return Err(refused()),
            }),
            DataType::Bytes => Self::Bytes(BASE64.decode(text).map_err(|_| refused())?),
            DataType::Stream => return Err(ValueError::StreamNotWritable),
        })
    }

    /// The type of this value.
    #[must_use]
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::Int(_) => DataType::Int,
            Self::Float(_) => DataType::Float,
            Self::Double(_) => DataType::Double,
            Self::String(_) => DataType::String,
            Self::Boolean(_) => DataType::Boolean,
            Self::Bytes(_) => DataType::Bytes,
            Self::Stream(_) => DataType::Stream,
        }
    }

    /// The value as a number: integers, floats, and booleans as 0 or 1.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "bounds and scales are 64-bit floats")]
            Self::Int(int) => Some(*int as f64),
            Self::Float(float) => Some(f64::from(*float)),
            Self::Double(float) => Some(*float),
            Self::Boolean(flag) => Some(f64::from(u8::from(*flag))),
            Self::String(_) | Self::Bytes(_) | Self::Stream(_) => None,
        }
    }

    /// Turns what a driver read into the type the model declares.
    ///
    /// A driver may return the nearest natural type: an integer where a float is declared, 0 and 1
    /// where a boolean is, anything where a string is. Nothing is rounded except DOUBLE to FLOAT.
    ///
    /// # Errors
    /// [`ValueError::WrongType`] where the conversion would lose something.
    pub fn into_type(self, data_type: DataType) -> Result<Self, ValueError> {
        let from = self.data_type();
        if from == data_type {
            return Ok(self);
        }
        let wrong = |value: &Self| ValueError::WrongType {
            value: value.to_string().chars().take(64).collect(),
            from,
            to: data_type,
        };
        Ok(match (data_type, &self) {
            (DataType::Int, Self::Boolean(flag)) => Self::Int(i64::from(*flag)),
            (DataType::Int, Self::Float(_) | Self::Double(_)) => {
                Self::Int(self.as_f64().and_then(exact_integer).ok_or_else(|| wrong(&self))?)
            }
            (DataType::Float, Self::Int(_) | Self::Double(_) | Self::Boolean(_)) =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "FLOAT is declared 32 bits")]
                Self::Float(self.as_f64().unwrap_or_default() as f32)
            }
            (DataType::Double, Self::Float(float)) => Self::Double(widen(*float)),
            (DataType::Double, Self::Int(_) | Self::Boolean(_)) => {
                Self::Double(self.as_f64().unwrap_or_default())
            }
            (DataType::Boolean, Self::Int(0)) => Self::Boolean(false),
            (DataType::Boolean, Self::Int(1)) => Self::Boolean(true),
            (DataType::Bytes, Self::String(text)) => Self::Bytes(text.clone().into_bytes()),
            (DataType::String, _) => Self::String(self.to_string()),
            (DataType::Stream, Self::String(address)) => Self::Stream(address.clone()),
            _ => return Err(wrong(&self)),
        })
    }

    /// Checks a number against the model's bounds; other types have none.
    ///
    /// # Errors
    /// [`ValueError::OutOfRange`].
    pub fn check_range(&self, range: &Range) -> Result<(), ValueError> {
        if matches!(self, Self::Boolean(_)) {
            return Ok(());
        }
        let Some(number) = self.as_f64() else { return Ok(()) };
        // A FLOAT bound of 0.1 must admit the FLOAT 0.1, which is a little more as a double.
        let number = if let Self::Float(float) = self { widen(*float) } else { number };
        let outside = |side, bound_name, bound| {
            Err(ValueError::OutOfRange { value: self.to_string(), side, bound_name, bound })
        };
        match (range.minimum, range.maximum) {
            (Some(minimum), _) if number < minimum => outside("below", "minimum", minimum),
            (_, Some(maximum)) if number > maximum => outside("above", "maximum", maximum),
            _ => Ok(()),
        }
    }

    /// Whether two values are the same for the purpose of "does the device hold what is desired":
    /// floats may differ by a millionth, as a trip through a scaled register makes them.
    #[must_use]
    pub fn is_close_to(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(_) | Self::Double(_), _) | (_, Self::Float(_) | Self::Double(_)) => {
                match (self.as_f64(), other.as_f64()) {
                    (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()),
                    _ => false,
                }
            }
            _ => self == other,
        }
    }
}

/// The wire text: decimal numbers without exponent, `true`/`false`, base64 for bytes.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => write!(f, "{int}"),
            Self::Float(float) => write!(f, "{float}"),
            Self::Double(float) => write!(f, "{float}"),
            Self::String(text) | Self::Stream(text) => f.write_str(text),
            Self::Boolean(flag) => write!(f, "{flag}"),
            Self::Bytes(bytes) => f.write_str(&BASE64.encode(bytes)),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}
value_from! {
    i64 => Int, i32 => Int, i16 => Int, u32 => Int, u16 => Int, u8 => Int,
    f32 => Float, f64 => Double, bool => Boolean, String => String, &str => String, Vec<u8> => Bytes,
}

/// The shortest decimal of a 32-bit float, as a double: 0.1 stays 0.1.
fn widen(float: f32) -> f64 {
    float.to_string().parse().unwrap_or_else(|_| f64::from(float))
}

fn exact_integer(float: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0; // 2^63
    if float.fract() != 0.0 || !(-LIMIT..LIMIT).contains(&float) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 64 bits")]
    Some(float as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_type_reads_its_text_and_refuses_others() {
        assert_eq!(Value::parse("-7", DataType::Int), Ok(Value::Int(-7)));
        assert_eq!(Value::parse("40.5", DataType::Float), Ok(Value::Float(40.5)));
        assert_eq!(Value::parse("True", DataType::Boolean), Ok(Value::Boolean(true)));
        assert_eq!(Value::parse("aGk=", DataType::Bytes), Ok(Value::Bytes(b"hi".to_vec())));
        for (text, data_type) in [
            ("7.0", DataType::Int),
            ("9223372036854775808", DataType::Int),
            ("warm", DataType::Double),
            ("NaN", DataType::Double),
            ("inf", DataType::Float),
            ("1e39", DataType::Float),
            ("yes", DataType::Boolean),
            ("not base64!", DataType::Bytes),
        ] {
            assert!(Value::parse(text, data_type).is_err(), "{text} as {data_type}");
        }
        assert_eq!(Value::parse("x", DataType::Stream), Err(ValueError::StreamNotWritable));
    }

    #[test]
    fn bounds_are_inclusive_and_named_when_crossed() {
        let range = Range { minimum: Some(0.1), maximum: Some(90.0) };
        assert_eq!(Value::Float(0.1).check_range(&range), Ok(()));
        assert_eq!(Value::Int(90).check_range(&range), Ok(()));
        assert_eq!(
            Value::Int(91).check_range(&range).unwrap_err().to_string(),
            "91 is above the maximum 90"
        );
        assert!(Value::Double(0.0999).check_range(&range).is_err());
        assert_eq!(Value::String("200".into()).check_range(&range), Ok(()));
    }

    #[test]
    fn a_driver_may_return_the_nearest_natural_type() {
        assert_eq!(Value::Int(3).into_type(DataType::Float), Ok(Value::Float(3.0)));
        assert_eq!(Value::Double(3.0).into_type(DataType::Int), Ok(Value::Int(3)));
        assert_eq!(Value::Float(0.1).into_type(DataType::Double), Ok(Value::Double(0.1)));
        assert_eq!(Value::Int(1).into_type(DataType::Boolean), Ok(Value::Boolean(true)));
        assert_eq!(Value::Int(5).into_type(DataType::String), Ok(Value::String("5".into())));
        assert!(Value::Double(3.5).into_type(DataType::Int).is_err());
        assert!(Value::Int(2).into_type(DataType::Boolean).is_err());
        assert!(Value::Double(1e300).into_type(DataType::Int).is_err());
    }

    #[test]
    fn closeness_forgives_float_noise_only() {
        assert!(Value::Double(0.3).is_close_to(&Value::Double(0.1 + 0.2)));
        assert!(Value::Float(40.0).is_close_to(&Value::Double(40.0)));
        assert!(!Value::Double(40.0).is_close_to(&Value::Double(40.1)));
        assert!(!Value::Int(1).is_close_to(&Value::Int(2)));
    }

    proptest! {
        #[test]
        fn every_value_survives_its_text(int in any::<i64>(), single in any::<f32>(), double in any::<f64>(), bytes in proptest::collection::vec(any::<u8>(), 0..40), text in ".*") {
            for value in [Value::Int(int), Value::Bytes(bytes), Value::String(text)] {
                prop_assert_eq!(Value::parse(&value.to_string(), value.data_type()), Ok(value));
            }
            if single.is_finite() {
                let value = Value::Float(single);
                prop_assert_eq!(Value::parse(&value.to_string(), DataType::Float), Ok(value));
            }
            if double.is_finite() {
                let value = Value::Double(double);
                prop_assert_eq!(Value::parse(&value.to_string(), DataType::Double), Ok(value));
            }
        }
    }
}
