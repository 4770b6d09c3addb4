//! Strategic merge patch: lists of the built-in kinds merge by key, directives steer the rest.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::status::{Result, StatusError};

/// How the lists of a kind merge; every list not named is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeKeys {
    lists: BTreeMap<&'static str, ListMerge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListMerge {
    /// Items are maps with this key.
    By(&'static str),
    /// Items are scalars, the list is a set.
    Set,
}

impl MergeKeys {
    /// The merge keys of a built-in kind, by its `kind`.
    #[must_use]
    pub fn of_kind(kind: &str) -> Self {
        let mut lists = BTreeMap::from([
            ("metadata.ownerReferences", ListMerge::By("uid")),
            ("metadata.finalizers", ListMerge::Set),
        ]);
        match kind {
            "Node" => {
                lists.insert("status.conditions", ListMerge::By("type"));
                lists.insert("status.addresses", ListMerge::By("type"));
                lists.insert("spec.podCIDRs", ListMerge::Set);
            }
            "Namespace" => {
                lists.insert("status.conditions", ListMerge::By("type"));
            }
            "ServiceAccount" => {
                lists.insert("secrets", ListMerge::By("name"));
                lists.insert("imagePullSecrets", ListMerge::By("name"));
            }
            _ => {}
        }
        Self { lists }
    }
}

/// Applies a strategic merge patch. On an error `target` is half-patched: work on a copy.
///
/// # Errors
/// 400 for directives that make no sense and items without their merge key.
pub fn strategic(target: &mut Value, patch: &Value, keys: &MergeKeys) -> Result<()> {
    let Value::Object(patch) = patch else {
        return Err(StatusError::bad_request("error decoding patch: not a map"));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return Ok(()) };
    merge_map(target, patch, keys, "")
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keys: &MergeKeys,
    path: &str,
) -> Result<()> {
    match directive(patch)? {
        Some(Directive::Replace) => {
            *target = plain_map(patch);
            return Ok(());
        }
        Some(Directive::Delete) => {
            target.clear();
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    if let Some(retained) = patch.get("$retainKeys") {
        let retained = texts(retained)?;
        target.retain(|key, _| retained.contains(&key.as_str()));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().ok_or_else(|| bad("expected a list"))?;
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        merge_member(target, key, value, keys, &path)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$setElementOrder/") {
            let path = if path.is_empty() { list.to_owned() } else { format!("{path}.{list}") };
            let rule = keys.lists.get(path.as_str());
            let order = value.as_array().ok_or_else(|| bad("expected a list"))?;
            if let (Some(rule), Some(Value::Array(items))) = (rule, target.get_mut(list)) {
                reorder(items, order, *rule);
            }
        }
    }
    Ok(())
}

fn merge_member(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    keys: &MergeKeys,
    path: &str,
) -> Result<()> {
    match (target.get_mut(key), value) {
        (_, Value::Null) => {
            target.remove(key);
        }
        (Some(Value::Object(old)), Value::Object(patch)) => merge_map(old, patch, keys, path)?,
        (old, Value::Array(patch)) => {
            let mut items = match old {
                Some(Value::Array(items)) => std::mem::take(items),
                Some(_) | None => Vec::new(),
            };
            match keys.lists.get(path) {
                Some(ListMerge::By(by)) => merge_list(&mut items, patch, by, keys, path)?,
                Some(ListMerge::Set) => {
                    for item in patch {
                        if !items.contains(item) {
                            items.push(item.clone());
                        }
                    }
                }
                None => items = plain_list(patch),
            }
            target.insert(key.to_owned(), Value::Array(items));
        }
        (None, Value::Object(patch)) => {
            let mut made = Map::new();
            merge_map(&mut made, patch, keys, path)?;
            target.insert(key.to_owned(), Value::Object(made));
        }
        (_, value) => {
            target.insert(key.to_owned(), plain(value));
        }
    }
    Ok(())
}

fn merge_list(
    items: &mut Vec<Value>,
    patch: &[Value],
    by: &str,
    keys: &MergeKeys,
    path: &str,
) -> Result<()> {
    let mut directives = Vec::with_capacity(patch.len());
    for item in patch {
        let map = item.as_object().ok_or_else(|| bad("expected a map in the list"))?;
        directives.push((map, directive(map)?));
    }
    if directives.iter().any(|(_, d)| *d == Some(Directive::Replace)) {
        *items = directives
            .into_iter()
            .filter(|(map, d)| *d != Some(Directive::Replace) || map.len() > 1)
            .map(|(map, _)| Value::Object(plain_map(map)))
            .collect();
        return Ok(());
    }
    for (map, directive) in directives {
        let Some(wanted) = map.get(by) else {
            return Err(bad(&format!("map does not contain declared merge key: {by}")));
        };
        let at = items.iter().position(|item| item.get(by) == Some(wanted));
        match (directive, at) {
            (Some(Directive::Delete), _) => items.retain(|item| item.get(by) != Some(wanted)),
            (_, Some(at)) => {
                if let Some(Value::Object(old)) = items.get_mut(at) {
                    merge_map(old, map, keys, path)?;
                }
            }
            (_, None) => items.push(Value::Object(plain_map(map))),
        }
    }
    Ok(())
}

/// Brings the listed items into the given order; items the order does not know stay in front of
/// the listed item they preceded before.
fn reorder(items: &mut Vec<Value>, order: &[Value], rule: ListMerge) {
    let rank = |item: &Value| {
        order.iter().position(|wanted| match rule {
            ListMerge::By(by) => wanted.get(by) == item.get(by),
            ListMerge::Set => wanted == item,
        })
    };
    let mut known: Vec<(usize, Value)> = Vec::new();
    let mut slots: Vec<Option<Value>> = Vec::new();
    for item in items.drain(..) {
        match rank(&item) {
            Some(at) => {
                known.push((at, item));
                slots.push(None);
            }
            None => slots.push(Some(item)),
        }
    }
    known.sort_by_key(|(at, _)| *at);
    let mut known = known.into_iter().map(|(_, item)| item);
    items.extend(slots.into_iter().filter_map(|slot| slot.or_else(|| known.next())));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Replace,
    Merge,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>> {
    match patch.get("$patch") {
        None => Ok(None),
        Some(Value::String(text)) => match text.as_str() {
            "replace" => Ok(Some(Directive::Replace)),
            "merge" => Ok(Some(Directive::Merge)),
            "delete" => Ok(Some(Directive::Delete)),
            other => Err(bad(&format!("unknown patch type: {other}"))),
        },
        Some(other) => Err(bad(&format!("unknown patch type: {other}"))),
    }
}

fn texts(value: &Value) -> Result<Vec<&str>> {
    let items = value.as_array().ok_or_else(|| bad("expected a list"))?;
    Ok(items.iter().filter_map(Value::as_str).collect())
}

/// A value of a patch as data: directives and nulls in maps have done their work.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(items) => Value::Array(plain_list(items)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    let kept = map.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
    kept.map(|(key, value)| (key.clone(), plain(value))).collect()
}

fn plain_list(items: &[Value]) -> Vec<Value> {
    items.iter().map(plain).collect()
}

fn bad(why: &str) -> StatusError {
    StatusError::bad_request(format!("error decoding patch: {why}"))
}
