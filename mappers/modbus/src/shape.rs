//! Which registers make a value: from the visitor's keys and the model's type. Pure.

use mapper_sdk::DataType;

use crate::config::Visitor;

/// How registers or coils are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One or more coils.
    Bits,
    Int {
        signed: bool,
    },
    /// Zero or not.
    Flag,
    Float32,
    Float64,
    Text,
    Bytes,
}

/// Kind and number of coils.
///
/// # Errors
/// The reason, beginning with the key.
pub(crate) fn bits(visitor: &Visitor, data_type: DataType) -> Result<(Kind, u16), String> {
    let named = visitor.data_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    if !matches!(named.as_str(), "" | "int" | "boolean" | "bool" | "bytes" | "float" | "double") {
        return Err(format!("dataType: {named:?} cannot be read from {}", visitor.register.name()));
    }
    let count = visitor.limit.unwrap_or(1);
    match data_type {
        DataType::Bytes => {}
        DataType::Int if count > 63 => {
            return Err(format!("limit: {count} coils do not fit an INT, 63 do"));
        }
        DataType::Int => {}
        _ if count > 1 => {
            return Err(format!("limit: must be 1 for a {data_type} property on coils"));
        }
        DataType::Float
        | DataType::Double
        | DataType::String
        | DataType::Boolean
        | DataType::Stream => {}
    }
    Ok((Kind::Bits, count))
}

/// Kind and number of registers.
///
/// # Errors
/// The reason, beginning with the key.
pub(crate) fn registers(visitor: &Visitor, data_type: DataType) -> Result<(Kind, u16), String> {
    let named = visitor.data_type.as_deref().unwrap_or_default().trim().to_ascii_lowercase();
    let signed = visitor.signed.unwrap_or(true);
    let fixed = |kind, count| match visitor.limit {
        Some(limit) if limit != count => {
            Err(format!("limit: {limit} contradicts dataType {named:?}, which takes {count}"))
        }
        _ => Ok((kind, count)),
    };
    let by_limit = |default: u16, kinds: [Kind; 3]| {
        let limit = visitor.limit.unwrap_or(default);
        match limit {
            1 => Ok((kinds[0], 1)),
            2 => Ok((kinds[1], 2)),
            4 => Ok((kinds[2], 4)),
            _ => Err(format!("limit: {limit} registers hold no number, 1, 2 and 4 do")),
        }
    };
    let required = |kind| match visitor.limit {
        Some(limit) => Ok((kind, limit)),
        None => Err(format!("limit: is required for dataType {named:?}")),
    };
    let int = Kind::Int { signed };
    match if named.is_empty() { data_type.name() } else { named.as_str() } {
        "int16" => fixed(Kind::Int { signed: true }, 1),
        "uint16" => fixed(Kind::Int { signed: false }, 1),
        "int32" => fixed(Kind::Int { signed: true }, 2),
        "uint32" => fixed(Kind::Int { signed: false }, 2),
        "int64" => fixed(Kind::Int { signed: true }, 4),
        "uint64" => fixed(Kind::Int { signed: false }, 4),
        "float32" => fixed(Kind::Float32, 2),
        "float64" => fixed(Kind::Float64, 4),
        "int" => by_limit(1, [int; 3]),
        "float" => by_limit(2, [int, Kind::Float32, Kind::Float64]),
        "double" => by_limit(4, [int, Kind::Float32, Kind::Float64]),
        "boolean" | "bool" => by_limit(1, [Kind::Flag; 3]),
        "string" | "stream" => required(Kind::Text),
        "bytes" => required(Kind::Bytes),
        other => Err(format!("dataType: {other:?} is not a register type")),
    }
}
