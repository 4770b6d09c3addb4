//! Dropping what the schema does not know.

use serde_json::{Map, Value};

use super::{Member, Node, join};
use crate::meta;

const IMPLIED: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Prunes a whole object; its own apiVersion, kind and metadata stay as they are.
pub(super) fn object(root: &Node, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Value::Object(map) = object {
        map_of(root, map, "", true, &mut unknown);
    }
    unknown.sort();
    unknown
}

/// Prunes a part of an object, such as a default.
pub(super) fn part(node: &Node, target: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    value(node, target, "", &mut unknown);
    unknown
}

fn value(node: &Node, target: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match target {
        Value::Object(map) => {
            map_of(node, map, path, node.embedded, unknown);
            if node.embedded
                && let Some(metadata) = map.get_mut("metadata")
                && let Ok(dropped) = meta::decode(metadata, &join(path, "metadata"))
            {
                unknown.extend(dropped);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                let path = format!("{path}[{i}]");
                match &node.items {
                    Some(items) => value(items, item, &path, unknown),
                    None if node.preserve => {}
                    None => all(item, &path, unknown),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn map_of(
    node: &Node,
    map: &mut Map<String, Value>,
    path: &str,
    whole_object: bool,
    unknown: &mut Vec<String>,
) {
    map.retain(|key, item| {
        if whole_object && IMPLIED.contains(&key.as_str()) {
            return true;
        }
        match node.member(key) {
            Member::Declared(child) if item.is_null() => child.nullable,
            Member::Declared(child) => {
                value(child, item, &join(path, key), unknown);
                true
            }
            Member::Free => true,
            Member::Unknown => {
                unknown.push(join(path, key));
                false
            }
        }
    });
}

/// Items of a list without a schema: nothing in them is known.
fn all(target: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match target {
        Value::Object(map) => {
            unknown.extend(map.keys().map(|key| join(path, key)));
            map.clear();
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                all(item, &format!("{path}[{i}]"), unknown);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
