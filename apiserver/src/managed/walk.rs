//! Comparing, merging and cutting typed values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{Element, Set};
use super::types::{Shape, Type, element, item_type};
use crate::schema::Node;

/// How two values differ.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Difference {
    /// What the newer value brings.
    pub fn brought(&self) -> Set {
        self.added.union(&self.modified)
    }
}

pub(super) fn compare(of: Type<'_>, old: &Value, new: &Value) -> Difference {
    let mut out = Difference::default();
    both(of, Some(old), Some(new), &mut Vec::new(), &mut out);
    out
}

fn both(
    of: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    out: &mut Difference,
) {
    if old == new {
        return;
    }
    let divided = old.is_some_and(|v| has_parts(of, v)) || new.is_some_and(|v| has_parts(of, v));
    if !divided {
        match (old, new) {
            (None, Some(_)) => out.added.insert(path),
            (Some(_), None) => out.removed.insert(path),
            (Some(_), Some(_)) => out.modified.insert(path),
            (None, None) => {}
        }
        return;
    }
    let leaf = |v: Option<&Value>| v.is_some_and(|v| is_value(of, v));
    if leaf(old) || leaf(new) {
        // One side is a plain value, the other has parts.
        out.modified.insert(path);
    }
    maps(of, old, new, path, out);
    lists(of, old, new, path, out);
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// Whether a value has at least one part of its own.
fn has_parts(of: Type<'_>, value: &Value) -> bool {
    match of.shape(value) {
        Shape::Leaf => false,
        Shape::Map(map) => !map.is_empty(),
        Shape::List(items, _) => !items.is_empty(),
    }
}

/// Whether a value is a leaf that says something (null in place of a container does not).
fn is_value(of: Type<'_>, value: &Value) -> bool {
    let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    matches!(of.shape(value), Shape::Leaf) && !(empty && of.is_container())
}

fn maps(
    of: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    out: &mut Difference,
) {
    let none = Value::Object(Map::new());
    let empty = Map::new();
    let (old, new) = (members(of, old).unwrap_or(&empty), members(of, new).unwrap_or(&empty));
    for key in old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))) {
        let part = of.member(key);
        let implied = match part.of {
            Type::Declared(node) => node.implied,
            Type::Object(_) | Type::Deduced => false,
        };
        let or_implied = |v: Option<&'_ Value>| v.is_none() && implied;
        path.push(Element::Field(key.clone()));
        let (before, after) = (old.get(key), new.get(key));
        let before = if or_implied(before) { Some(&none) } else { before };
        let after = if or_implied(after) { Some(&none) } else { after };
        both(part.of, before, after, path, out);
        path.pop();
    }
}

fn members<'v>(of: Type<'_>, value: Option<&'v Value>) -> Option<&'v Map<String, Value>> {
    match of.shape(value?) {
        Shape::Map(map) => Some(map),
        Shape::Leaf | Shape::List(..) => None,
    }
}

fn lists(
    of: Type<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    out: &mut Difference,
) {
    let below = match of {
        Type::Declared(node) => item_type(node),
        Type::Object(_) | Type::Deduced => return,
    };
    let mut groups: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for (name, item) in items(of, old) {
        groups.entry(name).or_default().0.push(item);
    }
    for (name, item) in items(of, new) {
        groups.entry(name).or_default().1.push(item);
    }
    for (name, (before, after)) in groups {
        path.push(name);
        match (before.as_slice(), after.as_slice()) {
            ([], [one]) => both(below, None, Some(one), path, out),
            ([one], []) => both(below, Some(one), None, path, out),
            ([a], [b]) => both(below, Some(a), Some(b), path, out),
            // Stored duplicates have no parts of their own.
            ([], _) => out.added.insert(path),
            (_, []) => out.removed.insert(path),
            (a, b) if a == b => {}
            _ => out.modified.insert(path),
        }
        path.pop();
    }
}

fn items<'v>(of: Type<'_>, value: Option<&'v Value>) -> Vec<(Element, &'v Value)> {
    match value.map(|v| of.shape(v)) {
        Some(Shape::List(items, node)) => items.iter().map(|i| (element(node, i), i)).collect(),
        Some(Shape::Leaf | Shape::Map(_)) | None => Vec::new(),
    }
}

/// `live` with `config` laid over it: maps member by member, sets and map lists item by item,
/// everything else replaced.
pub(super) fn merge(of: Type<'_>, live: &Value, config: &Value) -> Value {
    match (of.shape(live), of.shape(config)) {
        (Shape::Map(live), Shape::Map(config)) => {
            let mut out = live.clone();
            for (key, value) in config {
                let merged = match live.get(key) {
                    Some(old) => merge(of.member(key).of, old, value),
                    None => value.clone(),
                };
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::List(old, node), Shape::List(new, _)) => {
            fn named<'v>(node: &Node, items: &'v [Value]) -> Vec<(Element, &'v Value)> {
                items.iter().map(|i| (element(node, i), i)).collect()
            }
            Value::Array(merge_lists(item_type(node), &named(node, old), &named(node, new)))
        }
        // Null over a container does not empty it: ownership decides what goes.
        (Shape::Map(_) | Shape::List(..), Shape::Leaf) if config.is_null() => live.clone(),
        (Shape::Leaf | Shape::Map(_) | Shape::List(..), _) => config.clone(),
    }
}

/// Items of both sides in one order: shared ones as the config has them, others near where they
/// were.
fn merge_lists(of: Type<'_>, old: &[(Element, &Value)], new: &[(Element, &Value)]) -> Vec<Value> {
    // Of stored duplicates the first one merges.
    let mut in_old: BTreeMap<&Element, &Value> = BTreeMap::new();
    for (name, value) in old {
        in_old.entry(name).or_insert(value);
    }
    let in_new: BTreeSet<&Element> = new.iter().map(|(n, _)| n).collect();
    let join = |name: &Element, value: &Value| match in_old.get(name) {
        Some(before) => merge(of, before, value),
        None => value.clone(),
    };
    let mut shared = new.iter().map(|(n, _)| n).filter(|n| in_old.contains_key(n));
    let mut next_shared = shared.next();
    let mut done = BTreeSet::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if let (Some((left, _)), Some((right, value))) = (old.get(l), new.get(r)) {
            if left == right {
                done.insert(left);
                out.push(join(left, value));
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_new.contains(left) && next_shared.is_some_and(|n| n != left) {
                // Shared, but another shared item comes first.
                l += 1;
                continue;
            }
        }
        if let Some((left, value)) = old.get(l) {
            if !in_new.contains(left) {
                out.push((*value).clone());
                l += 1;
                continue;
            }
            if done.contains(left) {
                l += 1;
            }
        }
        if let Some((right, value)) = new.get(r) {
            done.insert(right);
            out.push(join(right, value));
            r += 1;
            if next_shared == Some(right) {
                next_shared = shared.next();
            }
        } else if l < old.len() && old.get(l).is_some_and(|(n, _)| in_new.contains(n)) {
            // Nothing is left to take on the right: the item was taken before.
            l += 1;
        }
    }
    out
}

/// The value without the paths in `gone`; a container that loses everything becomes null.
pub(super) fn cut(of: Type<'_>, value: &Value, gone: &Set) -> Value {
    match of.shape(value) {
        Shape::Leaf => value.clone(),
        Shape::Map(map) => {
            let mut out = Map::new();
            for (key, item) in map {
                let name = Element::Field(key.clone());
                if gone.members.contains(&name) {
                    continue;
                }
                let kept = match gone.children.get(&name) {
                    Some(below) => cut(of.member(key).of, item, below),
                    None => item.clone(),
                };
                out.insert(key.clone(), kept);
            }
            if out.is_empty() && !map.is_empty() { Value::Null } else { Value::Object(out) }
        }
        Shape::List(items, node) => {
            let mut out = Vec::new();
            for item in items {
                let name = element(node, item);
                if gone.members.contains(&name) {
                    continue;
                }
                out.push(match gone.children.get(&name) {
                    Some(below) => cut(item_type(node), item, below),
                    None => item.clone(),
                });
            }
            if out.is_empty() && !items.is_empty() { Value::Null } else { Value::Array(out) }
        }
    }
}
