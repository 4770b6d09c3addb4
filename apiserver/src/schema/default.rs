//! Filling in defaults.

use serde_json::Value;

use super::{Additional, Node};

pub(super) fn fill_root(root: &Node, object: &mut Value) {
    fill(root, object);
}

/// Absent members with a default get it, then every present value is filled inside: a default of
/// `{}` is itself completed.
pub(super) fn fill(node: &Node, target: &mut Value) {
    match target {
        Value::Object(map) => {
            for (key, child) in &node.properties {
                let missing = map.get(key).is_none_or(|v| v.is_null() && !child.nullable);
                if missing && let Some(default) = &child.default {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, item) in map.iter_mut() {
                match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => fill(child, item),
                    (None, Additional::Of(child)) => fill_item(child, item),
                    (None, Additional::Any | Additional::None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = &node.items {
                items.iter_mut().for_each(|item| fill_item(child, item));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A null where none is allowed takes the default of its own node.
fn fill_item(child: &Node, item: &mut Value) {
    if item.is_null()
        && !child.nullable
        && let Some(default) = &child.default
    {
        *item = default.clone();
    }
    fill(child, item);
}
