//! `x-kubernetes-list-type`: members of sets and keys of map lists occur once.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{ListKind, Member, Node, join};
use crate::status::Cause;

/// Reports every member that repeats an earlier one, at any depth.
pub(super) fn duplicates(node: &Node, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (key, item) in map {
                if let Member::Declared(child) = node.member(key) {
                    duplicates(child, item, &join(path, key), causes);
                }
            }
        }
        Value::Array(items) => {
            repeated(node, items, path, causes);
            if let Some(child) = &node.items {
                for (i, item) in items.iter().enumerate() {
                    duplicates(child, item, &format!("{path}[{i}]"), causes);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn repeated(node: &Node, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let identity = match &node.list {
            ListKind::Atomic => return,
            ListKind::Set => item.clone(),
            ListKind::Map(keys) => match key_of(item, keys) {
                Some(key) => key,
                None => continue,
            },
        };
        if !seen.insert(identity.to_string()) {
            causes.push(Cause::duplicate(format!("{path}[{i}]"), &identity));
        }
    }
}

/// The key members an item has; an item that is no map has none.
pub(super) fn key_of(item: &Value, keys: &[String]) -> Option<Value> {
    let map = item.as_object()?;
    let pairs = keys.iter().filter_map(|k| map.get(k).map(|v| (k.clone(), v.clone())));
    Some(Value::Object(pairs.collect::<Map<_, _>>()))
}

/// The item of `old` that stands for the same thing as `item` of the list `node`.
pub(super) fn counterpart<'v>(node: &Node, item: &Value, old: &'v Value) -> Option<&'v Value> {
    let items = old.as_array()?;
    match &node.list {
        ListKind::Map(keys) => {
            let key = key_of(item, keys)?;
            items.iter().find(|other| key_of(other, keys).as_ref() == Some(&key))
        }
        ListKind::Atomic | ListKind::Set => None,
    }
}
