//! JSON merge patch, JSON patch with Go's habits, and the way to strategic merge.

use serde_json::Value;

use crate::decode::MAX_DEPTH;
use crate::status::{BODY_LIMIT, Result, StatusError};

mod strategic;

pub use strategic::{MergeKeys, strategic};

/// The most operations a JSON patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// JSON merge patch (RFC 7386): maps merge, `null` deletes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// JSON patch (RFC 6902) as Go's evanphx v4 performs it: `test` of null on an absent path
/// succeeds, `replace` of an absent key adds it, negative indexes count from the end. `patch` is
/// what [`crate::decode::decode_json_patch`] returned. On an error `target` is half-patched: work on
/// a copy. Copying is limited to 3 MiB in sum and results to the depth of bodies.
///
/// # Errors
/// 422 "the server rejected our request due to an error in our request".
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<()> {
    let operations = patch.as_array().ok_or_else(StatusError::patch_rejected)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(StatusError::patch_rejected());
    }
    let mut copied = 0_usize;
    operations
        .iter()
        .try_for_each(|op| perform(target, op, &mut copied))
        .ok_or_else(StatusError::patch_rejected)
}

/// Performs one operation; `None` is a failure of any kind, for they are all answered alike.
fn perform(target: &mut Value, op: &Value, copied: &mut usize) -> Option<()> {
    let path = Pointer::parse(op.get("path")?.as_str()?)?;
    let value = op.get("value");
    match op.get("op")?.as_str()? {
        "add" => path.add(target, value.cloned().unwrap_or_default()),
        "replace" => path.replace(target, value.cloned().unwrap_or_default()),
        "remove" => path.remove(target).map(drop),
        "move" => {
            let moved = Pointer::parse(op.get("from")?.as_str()?)?.remove(target)?;
            path.add(target, moved)
        }
        "copy" => {
            let from = Pointer::parse(op.get("from")?.as_str()?)?;
            let value = from.get(target)?.clone();
            *copied += value.to_string().len();
            if *copied > BODY_LIMIT {
                return None;
            }
            path.add(target, value)
        }
        "test" => {
            path.parent(target)?;
            let wanted = value.unwrap_or(&Value::Null);
            (path.get(target).unwrap_or(&Value::Null) == wanted).then_some(())
        }
        _ => None,
    }
}

struct Pointer {
    parents: Vec<String>,
    last: String,
}

impl Pointer {
    /// A pointer to a member; the root itself cannot be addressed, as in Go.
    fn parse(text: &str) -> Option<Self> {
        let mut parts: Vec<String> =
            text.split('/').skip(1).map(|p| p.replace("~1", "/").replace("~0", "~")).collect();
        let last = parts.pop()?;
        Some(Self { parents: parts, last })
    }

    fn parent<'v>(&self, target: &'v Value) -> Option<&'v Value> {
        self.parents.iter().try_fold(target, |value, key| child(value, key))
    }

    fn parent_mut<'v>(&self, target: &'v mut Value) -> Option<&'v mut Value> {
        self.parents.iter().try_fold(target, |value, key| match value {
            Value::Object(map) => map.get_mut(key),
            Value::Array(items) => {
                let at = index(key, items.len())?;
                items.get_mut(at)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }

    fn get<'v>(&self, target: &'v Value) -> Option<&'v Value> {
        child(self.parent(target)?, &self.last)
    }

    fn add(&self, target: &mut Value, value: Value) -> Option<()> {
        self.check_depth(&value)?;
        match self.parent_mut(target)? {
            Value::Object(map) => {
                map.insert(self.last.clone(), value);
            }
            Value::Array(items) => {
                let at = match self.last.as_str() {
                    "-" => items.len(),
                    // The list counts as one longer here, so that -1 appends.
                    key => index(key, items.len() + 1)?,
                };
                items.insert(at, value);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        }
        Some(())
    }

    fn replace(&self, target: &mut Value, value: Value) -> Option<()> {
        self.check_depth(&value)?;
        match self.parent_mut(target)? {
            Value::Object(map) => {
                map.insert(self.last.clone(), value);
            }
            Value::Array(items) => {
                let at = index(&self.last, items.len())?;
                *items.get_mut(at)? = value;
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        }
        Some(())
    }

    fn remove(&self, target: &mut Value) -> Option<Value> {
        match self.parent_mut(target)? {
            Value::Object(map) => map.remove(&self.last),
            Value::Array(items) => {
                let at = index(&self.last, items.len())?;
                Some(items.remove(at))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    }

    /// Repeated copies into oneself would nest without end: keeps the result readable again.
    fn check_depth(&self, value: &Value) -> Option<()> {
        (self.parents.len() + 1 + depth(value) <= MAX_DEPTH).then_some(())
    }
}

fn child<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(index(key, items.len())?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A list index below `len`; negative ones count from the end.
fn index(key: &str, len: usize) -> Option<usize> {
    let at: i64 = key.parse().ok()?;
    let len_signed = i64::try_from(len).ok()?;
    let at = if at < 0 { at.checked_add(len_signed)? } else { at };
    let at = usize::try_from(at).ok()?;
    (at < len).then_some(at)
}

/// How deep maps and lists nest in a value: 0 for scalars.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0) + 1,
        Value::Object(map) => map.values().map(depth).max().unwrap_or(0) + 1,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests;
