//! Registers to values and back. Pure. Start at [`Layout::resolve`].

use mapper_sdk::{DataType, Value};

use crate::{
    config::{Table, Visitor},
    shape::{Kind, bits, registers},
};

/// Most registers in one read request, by the protocol.
pub const MAX_READ_REGISTERS: u16 = 125;
/// Most registers in one write request, by the protocol.
pub const MAX_WRITE_REGISTERS: u16 = 123;
/// Most coils in one read request, by the protocol.
pub const MAX_READ_COILS: u16 = 2000;
/// Most coils in one write request, by the protocol.
pub const MAX_WRITE_COILS: u16 = 1968;

/// How a property lies in its registers or coils.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    /// Number of registers or coils.
    pub count: u16,
    kind: Kind,
    /// What the model declares.
    data_type: DataType,
    swap_bytes: bool,
    swap_words: bool,
    scale: f64,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

/// Why a value cannot be read from, or written to, its registers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CodecError {
    /// The device sent another number of registers or coils than asked for.
    #[error("the device answered with {got} registers or coils, {wanted} were asked for")]
    Length {
        /// How many were asked for.
        wanted: usize,
        /// How many came.
        got: usize,
    },
    /// The number in the registers does not fit the model's type.
    #[error("the registers hold {0}, which does not fit an INT")]
    TooLarge(String),
    /// The value to write does not fit the registers.
    #[error("{value} does not fit {what}")]
    DoesNotFit {
        /// The value, after scaling.
        value: String,
        /// The register type.
        what: &'static str,
    },
    /// The value to write is outside `min` and `max` of the visitor.
    #[error("{value} is outside the visitor's min and max")]
    OutOfBounds {
        /// The physical value.
        value: f64,
    },
    /// The value to write is of a type that the registers cannot hold.
    #[error("a value of type {from} cannot be written as {what}")]
    WrongType {
        /// The value's type.
        from: DataType,
        /// The register type.
        what: &'static str,
    },
}

impl Layout {
    /// Decides how a property of the given type lies in the registers its visitor names.
    ///
    /// # Errors
    /// The reason, beginning with the key.
    pub fn resolve(visitor: &Visitor, data_type: DataType) -> Result<Self, String> {
        let scale = visitor.scale.unwrap_or(1.0);
        if scale == 0.0 || !scale.is_finite() {
            return Err(format!("scale: {scale} makes every value the same"));
        }
        let (kind, count) = if visitor.register.is_bits() {
            bits(visitor, data_type)?
        } else {
            registers(visitor, data_type)?
        };
        let most = if visitor.register.is_bits() { MAX_READ_COILS } else { MAX_READ_REGISTERS };
        if count == 0 || count > most {
            return Err(format!("limit: {count} is not between 1 and {most}"));
        }
        if visitor.offset.checked_add(count - 1).is_none() {
            return Err(format!("limit: {count} from offset {} ends past 65535", visitor.offset));
        }
        Ok(Self {
            count,
            kind,
            data_type,
            swap_bytes: visitor.is_swap,
            swap_words: visitor.is_register_swap,
            scale,
            minimum: visitor.min,
            maximum: visitor.max,
        })
    }

    /// Reads registers.
    ///
    /// # Errors
    /// [`CodecError::Length`], [`CodecError::TooLarge`].
    pub fn decode(&self, registers: &[u16]) -> Result<Value, CodecError> {
        self.check_length(registers.len())?;
        let bytes = self.to_bytes(registers);
        Ok(match self.kind {
            Kind::Int { signed } => self.decode_int(integer(&bytes, signed))?,
            Kind::Flag | Kind::Bits => Value::Boolean(bytes.iter().any(|byte| *byte != 0)),
            Kind::Float32 => {
                let float = f32::from_be_bytes(fixed(&bytes));
                if self.is_plain() { Value::Float(float) } else { self.physical(f64::from(float)) }
            }
            Kind::Float64 => self.physical(f64::from_be_bytes(fixed(&bytes))),
            Kind::Text => {
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                Value::String(String::from_utf8_lossy(&bytes[..end]).into_owned())
            }
            Kind::Bytes => Value::Bytes(bytes),
        })
    }

    /// Reads coils, the first one being the lowest bit.
    ///
    /// # Errors
    /// [`CodecError::Length`].
    pub fn decode_bits(&self, coils: &[bool]) -> Result<Value, CodecError> {
        self.check_length(coils.len())?;
        Ok(match (coils, self.data_type) {
            ([coil], data_type) if data_type != DataType::Bytes => Value::Boolean(*coil),
            (coils, DataType::Bytes) => Value::Bytes(
                coils
                    .chunks(8)
                    .map(|byte| byte.iter().rev().fold(0, |bits, coil| bits << 1 | u8::from(*coil)))
                    .collect(),
            ),
            (coils, _) => {
                Value::Int(coils.iter().rev().fold(0, |bits, coil| bits << 1 | i64::from(*coil)))
            }
        })
    }

    /// Turns a value into registers.
    ///
    /// # Errors
    /// A value that does not fit the registers, the visitor's bounds, or the register type.
    #[expect(clippy::wildcard_enum_match_arm, reason = "one exact case among all numbers")]
    pub fn encode(&self, value: &Value) -> Result<Vec<u16>, CodecError> {
        let bytes: Vec<u8> = match self.kind {
            Kind::Int { signed } => {
                let what = self.int_name(signed);
                let raw = self.raw_integer(value, what)?;
                let width = usize::from(self.count) * 2;
                let bits = u32::try_from(width * 8).unwrap_or(64);
                let (low, high) = if signed {
                    (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
                } else {
                    (0, (1_i128 << bits) - 1)
                };
                if raw < low || raw > high {
                    return Err(CodecError::DoesNotFit { value: raw.to_string(), what });
                }
                raw.to_be_bytes()[16 - width..].to_vec()
            }
            Kind::Flag | Kind::Bits => {
                let flag = as_flag(value, "a flag")?;
                let mut bytes = vec![0; usize::from(self.count) * 2];
                if let Some(last) = bytes.last_mut() {
                    *last = u8::from(flag);
                }
                bytes
            }
            Kind::Float32 => {
                let raw = match value {
                    Value::Float(float) if self.is_plain() => {
                        self.check_bounds(f64::from(*float))?;
                        *float
                    }
                    _ => {
                        #[expect(clippy::cast_possible_truncation, reason = "checked right after")]
                        let raw = self.unscaled(value, "a 32-bit float")? as f32;
                        raw
                    }
                };
                if !raw.is_finite() {
                    let what = "a 32-bit float";
                    return Err(CodecError::DoesNotFit { value: value.to_string(), what });
                }
                raw.to_be_bytes().to_vec()
            }
            Kind::Float64 => self.unscaled(value, "a 64-bit float")?.to_be_bytes().to_vec(),
            Kind::Text => self.padded(value.to_string().into_bytes(), "the registers of a text")?,
            Kind::Bytes => match value {
                Value::Bytes(bytes) if bytes.len() == usize::from(self.count) * 2 => bytes.clone(),
                Value::Bytes(bytes) => {
                    return Err(CodecError::DoesNotFit {
                        value: format!("a value of {} bytes", bytes.len()),
                        what: "the registers exactly",
                    });
                }
                Value::Int(_)
                | Value::Float(_)
                | Value::Double(_)
                | Value::String(_)
                | Value::Boolean(_)
                | Value::Stream(_) => {
                    return Err(CodecError::WrongType { from: value.data_type(), what: "bytes" });
                }
            },
        };
        Ok(self.to_registers(&bytes))
    }

    /// Turns a value into coils.
    ///
    /// # Errors
    /// A value that does not fit the number of coils.
    pub fn encode_bits(&self, value: &Value) -> Result<Vec<bool>, CodecError> {
        let count = usize::from(self.count);
        let too_wide = || CodecError::DoesNotFit { value: value.to_string(), what: "the coils" };
        match value {
            Value::Bytes(bytes) => {
                let bit =
                    |index: usize| bytes.get(index / 8).is_some_and(|b| b >> (index % 8) & 1 == 1);
                if bytes.len() != count.div_ceil(8) || (count..bytes.len() * 8).any(bit) {
                    return Err(too_wide());
                }
                Ok((0..count).map(bit).collect())
            }
            Value::Int(int) if count > 1 => {
                if *int < 0 || (count < 63 && int >> count != 0) {
                    return Err(too_wide());
                }
                Ok((0..count).map(|index| int >> index.min(63) & 1 == 1).collect())
            }
            Value::Int(_)
            | Value::Float(_)
            | Value::Double(_)
            | Value::String(_)
            | Value::Boolean(_)
            | Value::Stream(_) => {
                if count == 1 {
                    return Ok(vec![as_flag(value, "one coil")?]);
                }
                let what = "several coils";
                Err(CodecError::WrongType { from: value.data_type(), what })
            }
        }
    }

    fn check_length(&self, got: usize) -> Result<(), CodecError> {
        let wanted = usize::from(self.count);
        if got == wanted { Ok(()) } else { Err(CodecError::Length { wanted, got }) }
    }

    fn to_bytes(self, registers: &[u16]) -> Vec<u8> {
        let ordered = |register: &u16| {
            if self.swap_bytes { register.to_le_bytes() } else { register.to_be_bytes() }
        };
        if self.swap_words {
            registers.iter().rev().flat_map(ordered).collect()
        } else {
            registers.iter().flat_map(ordered).collect()
        }
    }

    fn to_registers(self, bytes: &[u8]) -> Vec<u16> {
        let mut registers: Vec<u16> = bytes
            .chunks_exact(2)
            .map(|pair| {
                let register = u16::from_be_bytes(fixed(pair));
                if self.swap_bytes { register.swap_bytes() } else { register }
            })
            .collect();
        if self.swap_words {
            registers.reverse();
        }
        registers
    }

    fn decode_int(&self, raw: i128) -> Result<Value, CodecError> {
        if self.is_plain() {
            return match i64::try_from(raw) {
                Ok(int) => Ok(Value::Int(int)),
                // The upper half of a uint64: exact nowhere but as text, close enough as a float.
                Err(_) if self.data_type == DataType::String => Ok(Value::String(raw.to_string())),
                Err(_) if self.data_type == DataType::Int => {
                    Err(CodecError::TooLarge(raw.to_string()))
                }
                #[expect(clippy::cast_precision_loss, reason = "the model asks for a float")]
                Err(_) => Ok(Value::Double(raw as f64)),
            };
        }
        #[expect(clippy::cast_precision_loss, reason = "a scaled integer is a float")]
        Ok(self.physical(raw as f64))
    }

    /// A raw number as the physical value, in the type that suits the model.
    fn physical(&self, raw: f64) -> Value {
        let physical = match self.divisor() {
            // 3 x 0.1 is 0.30000000000000004, 3 / 10 is 0.3.
            Some(divisor) => raw / divisor,
            None => raw * self.scale,
        };
        if self.data_type == DataType::Int {
            let rounded = physical.round();
            if rounded.abs() < 9.2e18 {
                #[expect(clippy::cast_possible_truncation, reason = "whole and within 64 bits")]
                return Value::Int(rounded as i64);
            }
        }
        Value::Double(physical)
    }

    fn unscaled(&self, value: &Value, what: &'static str) -> Result<f64, CodecError> {
        let wrong = || CodecError::WrongType { from: value.data_type(), what };
        let physical = number(value).ok_or_else(wrong)?;
        self.check_bounds(physical)?;
        Ok(match self.divisor() {
            Some(divisor) => physical * divisor,
            None => physical / self.scale,
        })
    }

    fn raw_integer(&self, value: &Value, what: &'static str) -> Result<i128, CodecError> {
        if let (Value::Int(int), true) = (value, self.is_plain()) {
            #[expect(clippy::cast_precision_loss, reason = "bounds are 64-bit floats")]
            self.check_bounds(*int as f64)?;
            return Ok(i128::from(*int));
        }
        let raw = self.unscaled(value, what)?.round();
        if raw.abs() > 1e30 {
            return Err(CodecError::DoesNotFit { value: raw.to_string(), what });
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole and far below 128 bits")]
        Ok(raw as i128)
    }

    fn check_bounds(&self, value: f64) -> Result<(), CodecError> {
        let low = self.minimum.is_some_and(|minimum| value < minimum);
        let high = self.maximum.is_some_and(|maximum| value > maximum);
        if low || high { Err(CodecError::OutOfBounds { value }) } else { Ok(()) }
    }

    fn padded(&self, mut bytes: Vec<u8>, what: &'static str) -> Result<Vec<u8>, CodecError> {
        let room = usize::from(self.count) * 2;
        if bytes.len() > room {
            let value = format!("a text of {} bytes", bytes.len());
            return Err(CodecError::DoesNotFit { value, what });
        }
        bytes.resize(room, 0);
        Ok(bytes)
    }

    /// Whether the register value is the physical value.
    fn is_plain(&self) -> bool {
        (self.scale - 1.0).abs() < f64::EPSILON
    }

    /// The whole number that the scale is one part of (10 for 0.1), where there is one.
    fn divisor(&self) -> Option<f64> {
        let divisor = self.scale.recip().round();
        let exact = divisor != 0.0 && (divisor * self.scale - 1.0).abs() < 1e-12;
        (exact && divisor.abs() < 1e15).then_some(divisor)
    }

    const fn int_name(&self, signed: bool) -> &'static str {
        match (self.count, signed) {
            (1, true) => "a signed 16-bit register",
            (1, false) => "an unsigned 16-bit register",
            (2, true) => "two signed registers (32 bits)",
            (2, false) => "two unsigned registers (32 bits)",
            (_, true) => "four signed registers (64 bits)",
            (_, false) => "four unsigned registers (64 bits)",
        }
    }
}

/// Big-endian bytes, at most 8, as a number.
fn integer(bytes: &[u8], signed: bool) -> i128 {
    let unsigned = bytes.iter().fold(0_i128, |number, byte| number << 8 | i128::from(*byte));
    let bits = bytes.len() * 8;
    if signed && unsigned >> (bits.saturating_sub(1)) & 1 == 1 {
        unsigned - (1_i128 << bits)
    } else {
        unsigned
    }
}

/// The number that a user wrote: a FLOAT 0.1 counts as 0.1, not as the double next to it.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(float) => float.to_string().parse().ok(),
        Value::Int(_) | Value::Double(_) | Value::Boolean(_) => value.as_f64(),
        Value::String(_) | Value::Bytes(_) | Value::Stream(_) => None,
    }
}

fn as_flag(value: &Value, what: &'static str) -> Result<bool, CodecError> {
    match number(value) {
        Some(0.0) => Ok(false),
        Some(1.0) => Ok(true),
        Some(_) => Err(CodecError::DoesNotFit { value: value.to_string(), what }),
        None => Err(CodecError::WrongType { from: value.data_type(), what }),
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().zip(bytes) {
        *to = *from;
    }
    array
}

/// Whether a table takes this many registers or coils in one write request.
pub(crate) const fn fits_one_write(table: Table, count: u16) -> bool {
    count <= if table.is_bits() { MAX_WRITE_COILS } else { MAX_WRITE_REGISTERS }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
