//! What a device and its properties say in `configData`. Start at [`Protocol`] and [`Visitor`].

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// Longest wait for one answer, unless `timeout` says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(2000);

/// `spec.protocol.configData` of a Modbus device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ProtocolKeys")]
pub struct Protocol {
    /// Where the device is.
    pub endpoint: Endpoint,
    /// The unit id.
    pub unit: u8,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

/// How the device is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Modbus TCP.
    Tcp {
        /// Address or host name.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Modbus RTU on a serial line.
    Rtu(SerialLine),
}

/// The settings of a serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialLine {
    /// Device file, for example `/dev/ttyUSB0`.
    pub port: String,
    /// Bits per second.
    pub baud_rate: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// 1 or 2.
    pub stop_bits: u8,
    /// Parity bit.
    pub parity: Parity,
}

/// The parity bit of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Even parity.
    Even,
    /// Odd parity.
    Odd,
}

#[derive(Deserialize)]
struct ProtocolKeys {
    #[serde(default, rename = "communicateMode")]
    mode: Option<String>,
    #[serde(default)]
    ip: Option<String>,
    #[serde(default, deserialize_with = "number")]
    port: Option<u16>,
    #[serde(default, rename = "slaveID", alias = "slaveId", deserialize_with = "number")]
    slave_id: Option<u8>,
    #[serde(default, deserialize_with = "number")]
    timeout: Option<u32>,
    #[serde(default, rename = "serialPort")]
    serial_port: Option<String>,
    #[serde(default, rename = "baudRate", deserialize_with = "number")]
    baud_rate: Option<u32>,
    #[serde(default, rename = "dataBits", deserialize_with = "number")]
    data_bits: Option<u8>,
    #[serde(default, rename = "stopBits", deserialize_with = "number")]
    stop_bits: Option<u8>,
    #[serde(default)]
    parity: Option<String>,
}

impl TryFrom<ProtocolKeys> for Protocol {
    type Error = String;

    fn try_from(keys: ProtocolKeys) -> Result<Self, String> {
        let mode = keys.mode.as_deref().unwrap_or("TCP");
        let endpoint = if mode.eq_ignore_ascii_case("TCP") {
            let host = keys.ip.filter(|ip| !ip.trim().is_empty()).ok_or("ip: is required")?;
            Endpoint::Tcp { host: host.trim().to_owned(), port: keys.port.unwrap_or(502) }
        } else if mode.eq_ignore_ascii_case("RTU") {
            Endpoint::Rtu(SerialLine {
                port: keys.serial_port.ok_or("serialPort: is required with communicateMode RTU")?,
                baud_rate: keys.baud_rate.unwrap_or(9600),
                data_bits: within("dataBits", keys.data_bits.unwrap_or(8), 5..=8)?,
                stop_bits: within("stopBits", keys.stop_bits.unwrap_or(1), 1..=2)?,
                parity: match keys.parity.as_deref().map(str::to_ascii_lowercase).as_deref() {
                    None | Some("" | "none" | "n") => Parity::None,
                    Some("even" | "e") => Parity::Even,
                    Some("odd" | "o") => Parity::Odd,
                    Some(other) => {
                        return Err(format!("parity: {other:?} is not even, odd or none"));
                    }
                },
            })
        } else {
            return Err(format!("communicateMode: {mode:?} is neither TCP nor RTU"));
        };
        let timeout = match keys.timeout {
            None => DEFAULT_TIMEOUT,
            Some(0) => return Err("timeout: must not be 0".to_owned()),
            Some(millis) => Duration::from_millis(millis.into()),
        };
        Ok(Self { endpoint, unit: keys.slave_id.unwrap_or(1), timeout })
    }
}

fn within(key: &str, value: u8, range: std::ops::RangeInclusive<u8>) -> Result<u8, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{key}: {value} is not between {} and {}", range.start(), range.end()))
}

/// One of the four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Table {
    /// Single bits, read and written.
    #[serde(rename = "CoilRegister")]
    Coil,
    /// Single bits, read only.
    #[serde(rename = "DiscreteInputRegister")]
    DiscreteInput,
    /// 16-bit registers, read and written.
    #[serde(rename = "HoldingRegister")]
    Holding,
    /// 16-bit registers, read only.
    #[serde(rename = "InputRegister")]
    Input,
}

impl Table {
    /// Whether the table holds bits rather than registers.
    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::DiscreteInput)
    }

    /// Whether the protocol has a function that writes the table.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::Coil | Self::Holding)
    }

    /// The name in `configData`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coil => "CoilRegister",
            Self::DiscreteInput => "DiscreteInputRegister",
            Self::Holding => "HoldingRegister",
            Self::Input => "InputRegister",
        }
    }
}

/// `visitors.configData` of a property. See the crate's documentation for the meaning of each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Visitor {
    /// The table.
    pub register: Table,
    /// Protocol address of the first register or coil.
    #[serde(deserialize_with = "required_number")]
    pub offset: u16,
    /// How many registers or coils.
    #[serde(default, deserialize_with = "number")]
    pub limit: Option<u16>,
    /// Factor from register value to physical value.
    #[serde(default, deserialize_with = "number")]
    pub scale: Option<f64>,
    /// Swap the bytes of every register.
    #[serde(default)]
    pub is_swap: bool,
    /// Reverse the order of registers.
    #[serde(default)]
    pub is_register_swap: bool,
    /// How to read the registers.
    #[serde(default)]
    pub data_type: Option<String>,
    /// Whether `int` is signed.
    #[serde(default)]
    pub signed: Option<bool>,
    /// Smallest physical value that may be written.
    #[serde(default, deserialize_with = "number")]
    pub min: Option<f64>,
    /// Largest physical value that may be written.
    #[serde(default, deserialize_with = "number")]
    pub max: Option<f64>,
}

fn required_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    number(deserializer)?.ok_or_else(|| de::Error::custom("a number is required"))
}

/// A number, or the text of one: published manifests have both.
fn number<'de, D: Deserializer<'de>, T: FromNumber>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);
    impl<T: FromNumber> de::Visitor<'_> for Visitor<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }
        fn visit_i64<E: de::Error>(self, int: i64) -> Result<Self::Value, E> {
            let found = de::Unexpected::Signed(int);
            T::from_i64(int).map(Some).ok_or_else(|| E::invalid_value(found, &self))
        }
        fn visit_u64<E: de::Error>(self, int: u64) -> Result<Self::Value, E> {
            let found = de::Unexpected::Unsigned(int);
            let int = i64::try_from(int).ok().and_then(T::from_i64);
            int.map(Some).ok_or_else(|| E::invalid_value(found, &self))
        }
        fn visit_f64<E: de::Error>(self, float: f64) -> Result<Self::Value, E> {
            let found = de::Unexpected::Float(float);
            T::from_f64(float).map(Some).ok_or_else(|| E::invalid_value(found, &self))
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            if text.trim().is_empty() {
                return Ok(None);
            }
            let found = de::Unexpected::Str(text);
            T::from_text(text.trim()).map(Some).ok_or_else(|| E::invalid_value(found, &self))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Visitor(std::marker::PhantomData))
}

trait FromNumber: Sized {
    const EXPECTED: &'static str;
    fn from_i64(int: i64) -> Option<Self>;
    fn from_text(text: &str) -> Option<Self>;
    fn from_f64(_: f64) -> Option<Self> {
        None
    }
}

macro_rules! whole_numbers {
    ($($int:ty: $expected:literal),*) => {$(
        impl FromNumber for $int {
            const EXPECTED: &'static str = $expected;
            fn from_i64(int: i64) -> Option<Self> {
                Self::try_from(int).ok()
            }
            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
whole_numbers! {
    u8: "a whole number from 0 to 255",
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295"
}

impl FromNumber for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_i64(int: i64) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a scale or bound, not an identifier")]
        Some(int as Self)
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|float: &Self| float.is_finite())
    }
    fn from_f64(float: f64) -> Option<Self> {
        float.is_finite().then_some(float)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn protocol(json: Value) -> Result<Protocol, String> {
        from_value(json).map_err(|error| error.to_string())
    }

    fn visitor(json: Value) -> Result<Visitor, String> {
        from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn the_published_samples_are_read() {
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        let first = protocol(json!({"ip": "172.17.0.3", "port": 1502})).unwrap();
        assert_eq!((first.endpoint, first.unit), (tcp("172.17.0.3", 1502), 1));
        let second =
            json!({"communicateMode": "TCP", "port": "5502", "slaveID": 7, "ip": "127.0.0.1"});
        let second = protocol(second).unwrap();
        assert_eq!((second.endpoint, second.unit), (tcp("127.0.0.1", 5502), 7));
        let text = protocol(json!({"ip": "h", "slaveID": "12"})).unwrap();
        assert_eq!((text.unit, text.timeout), (12, Duration::from_secs(2)));
        let visitor = visitor(json!({
            "dataType": "float", "register": "HoldingRegister", "offset": 0, "limit": 1,
            "scale": 0.1, "isSwap": false, "isRegisterSwap": false, "max": 100, "min": 1.0,
        }));
        let visitor = visitor.unwrap();
        assert_eq!((visitor.register, visitor.scale), (Table::Holding, Some(0.1)));
        assert_eq!((visitor.min, visitor.max), (Some(1.0), Some(100.0)));
    }

    #[test]
    fn a_serial_line_is_read_with_defaults_and_checked() {
        let line = protocol(json!({"communicateMode": "rtu", "serialPort": "/dev/ttyS1",
            "baudRate": 19200, "parity": "even"}));
        let Endpoint::Rtu(line) = line.unwrap().endpoint else { panic!() };
        assert_eq!((line.baud_rate, line.data_bits, line.stop_bits), (19200, 8, 1));
        assert_eq!(line.parity, Parity::Even);
        let wrong = json!({"communicateMode": "RTU", "serialPort": "/dev/x", "dataBits": 9});
        assert!(protocol(wrong).unwrap_err().contains("dataBits"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        for (json, named) in [
            (json!({"port": 502}), "ip"),
            (json!({"ip": "h", "slaveID": 256}), "0 to 255"),
            (json!({"ip": "h", "port": "http"}), "0 to 65535"),
            (json!({"ip": "h", "port": 1.5}), "0 to 65535"),
            (json!({"ip": "h", "communicateMode": "UDP"}), "communicateMode"),
            (json!({"ip": "h", "timeout": 0}), "timeout"),
        ] {
            let error = protocol(json.clone()).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
        for (json, named) in [
            (json!({"offset": 1}), "register"),
            (json!({"register": "Coil", "offset": 1}), "CoilRegister"),
            (json!({"register": "CoilRegister"}), "offset"),
            (json!({"register": "CoilRegister", "offset": -1}), "0 to 65535"),
            (json!({"register": "CoilRegister", "offset": 1, "scale": "big"}), "a number"),
        ] {
            let error = visitor(json.clone()).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
    }
}
