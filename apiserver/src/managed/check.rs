//! Whether an applied object fits its type.

use std::collections::BTreeSet;

use serde_json::Value;

use super::set::Element;
use super::types::{Shape, Type, element, item_type};
use crate::schema::{Kind, ListKind, Node};

/// What does not fit, each `.path: why`.
pub(super) fn problems(of: Type<'_>, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check(of, value, "", &mut out);
    out
}

/// Several problems as one text, as the real server joins them.
pub(super) fn joined(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => {
            let lines = many.iter().map(|p| format!("  {p}"));
            std::iter::once("errors:".to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
        }
    }
}

fn check(of: Type<'_>, value: &Value, path: &str, out: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    if let Type::Declared(node) = of
        && let Some(problem) = mismatch(node, value)
    {
        out.push(format!("{path}: {problem}"));
        return;
    }
    match of.shape(value) {
        Shape::Leaf => {}
        Shape::Map(map) => {
            for (key, item) in map {
                let part = of.member(key);
                let path = format!("{path}{}", Element::Field(key.clone()));
                if part.foreign {
                    out.push(format!("{path}: field not declared in schema"));
                } else {
                    check(part.of, item, &path, out);
                }
            }
        }
        Shape::List(items, node) => {
            let mut seen = BTreeSet::new();
            let mut reported = BTreeSet::new();
            for item in items {
                if matches!(node.list, ListKind::Map(_)) && !item.is_object() {
                    let kind = if item.is_null() { "a null element" } else { "non-map elements" };
                    let why = format!("associative list with keys may not have {kind}");
                    out.push(format!("{path}: {why}"));
                    continue;
                }
                let name = element(node, item);
                if !seen.insert(name.clone()) && reported.insert(name.clone()) {
                    out.push(format!("{path}: duplicate entries for key {name}"));
                }
                check(item_type(node), item, &format!("{path}{name}"), out);
            }
        }
    }
}

fn mismatch(node: &Node, value: &Value) -> Option<String> {
    let scalar = !value.is_array() && !value.is_object();
    if node.int_or_string {
        return (!scalar).then(|| format!("expected any scalar, got {}", go_value(value)));
    }
    let (fits, wanted) = match node.kind? {
        Kind::String => (value.is_string(), "string"),
        Kind::Boolean => (value.is_boolean(), "boolean"),
        Kind::Integer | Kind::Number => (value.is_number(), "numeric (int or float)"),
        Kind::Array => (value.is_array(), "list"),
        Kind::Object => (value.is_object(), "map"),
    };
    if fits {
        return None;
    }
    let found = match node.kind? {
        Kind::Integer | Kind::Number => go_type(value).to_owned(),
        Kind::String => format!("&value.valueUnstructured{{Value:{}}}", go_literal(value)),
        Kind::Boolean | Kind::Array | Kind::Object => format!("&{{{}}}", go_value(value)),
    };
    Some(format!("expected {wanted}, got {found}"))
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

/// As Go's `%v` prints it.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(k, v)| format!("{k}:{}", go_value(v)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
    }
}

/// As Go's `%#v` prints scalars; containers by their type.
fn go_literal(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => go_type(value).to_owned(),
        Value::String(text) => crate::status::quote(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
