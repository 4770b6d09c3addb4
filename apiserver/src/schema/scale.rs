//! The paths of the scale subresource inside an object.

use serde_json::Value;

use crate::status::{Cause, show};

/// Checks the values the scale subresource reads: replica counts are non-negative integers. `paths`
/// are `specReplicasPath` and `statusReplicasPath` as written in the CRD (`.spec.replicas`).
#[must_use]
pub fn validate_scale(object: &Value, paths: &[&str]) -> Vec<Cause> {
    paths.iter().filter_map(|path| replicas_problem(object, path)).collect()
}

fn replicas_problem(object: &Value, path: &str) -> Option<Cause> {
    let mut value = object;
    for key in path.trim_start_matches('.').split('.') {
        match value {
            Value::Object(map) => value = map.get(key)?,
            Value::Null => return None,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                let kind = go_type(value);
                let shown = value.as_str().map_or_else(|| show(value), str::to_owned);
                let detail = format!(
                    "{path} accessor error: {shown} is of the type {kind}, expected \
                     map[string]interface{{}}"
                );
                return Some(Cause::invalid(path, &0.into(), &detail));
            }
        }
    }
    match value.as_i64() {
        Some(count) if count < 0 => {
            Some(Cause::invalid(path, value, "should be a non-negative integer"))
        }
        Some(count) if count > i64::from(i32::MAX) => {
            let detail = format!("should be less than or equal to {}", i32::MAX);
            Some(Cause::invalid(path, value, &detail))
        }
        Some(_) => None,
        None if value.is_null() => None,
        None => {
            let shown = value.as_str().map_or_else(|| show(value), str::to_owned);
            let kind = go_type(value);
            let detail =
                format!("{path} accessor error: {shown} is of the type {kind}, expected int64");
            Some(Cause::invalid(path, &0.into(), &detail))
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
