//! CustomResourceDefinitions: defaults, admission, and the names controller as pure functions.
//!
//! Order on a write: [`default`], [`validate()`], on creation [`initial_status`]; afterwards, and
//! whenever any definition changes, [`establish`] (as recorded from a kube-apiserver 1.36).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::status::quote;

#[cfg(test)]
mod tests;
mod validate;

pub use validate::validate;

/// Writes the defaults of a definition: singular and list names, conversion by rewriting apiVersion.
pub fn default(crd: &mut Value) {
    let Some(Value::Object(spec)) = crd.get_mut("spec") else { return };
    if let Some(Value::Object(names)) = spec.get_mut("names") {
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !kind.is_empty() {
            fill(names, "singular", kind.to_lowercase());
            fill(names, "listKind", format!("{kind}List"));
        }
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    let conversion = spec.entry("conversion").or_insert_with(|| json!({}));
    if let Value::Object(conversion) = conversion {
        fill(conversion, "strategy", "None".into());
    }
}

fn fill(map: &mut Map<String, Value>, key: &str, text: String) {
    let missing = map.get(key).and_then(Value::as_str).unwrap_or_default().is_empty();
    if missing {
        map.insert(key.into(), text.into());
    }
}

/// The status a new definition answers with before its names are looked at.
pub fn initial_status(crd: &mut Value) {
    let stored: Vec<&str> = storage_version(crd).into_iter().collect();
    let status = json!({
        "conditions": null,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": stored,
    });
    if let Value::Object(crd) = crd {
        crd.insert("status".into(), status);
    }
}

/// The version objects are stored in.
#[must_use]
pub fn storage_version(crd: &Value) -> Option<&str> {
    let storage = |v: &&Value| v.get("storage").and_then(Value::as_bool) == Some(true);
    versions(crd).iter().find(storage)?.get("name")?.as_str()
}

/// Whether a definition's resources are served.
#[must_use]
pub fn is_established(crd: &Value) -> bool {
    condition(crd, "Established").and_then(|c| c.get("status")) == Some(&json!("True"))
}

fn versions(crd: &Value) -> &[Value] {
    let list = crd.get("spec").and_then(|s| s.get("versions")).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    let list = crd.get("status")?.get("conditions")?.as_array()?;
    list.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

/// Looks at the names of a definition among the `others`: sets the conditions NamesAccepted and
/// Established and acceptedNames, and adds the storage version to storedVersions. A definition once
/// established stays so. `now` is RFC 3339 in seconds. Returns whether the status changed.
pub fn establish(crd: &mut Value, others: &[&Value], now: &str) -> bool {
    let status = crd.get("status").filter(|s| s.is_object());
    let mut status = status.cloned().unwrap_or_else(|| json!({}));
    let (accepted, conflict) = accept_names(crd, others);
    let was_established = is_established(crd);
    let (names, established) = match &conflict {
        None => (
            Condition::of("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            Condition::of(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        ),
        Some((reason, message)) => (
            Condition::of("NamesAccepted", false, reason, message),
            Condition::of("Established", false, "NotAccepted", "not all names are accepted"),
        ),
    };
    set_condition(&mut status, &names, now);
    if !was_established || conflict.is_none() {
        set_condition(&mut status, &established, now);
    }
    status["acceptedNames"] = accepted;
    add_stored_version(&mut status, storage_version(crd));
    if crd.get("status") == Some(&status) {
        return false;
    }
    if let Value::Object(crd) = crd {
        crd.insert("status".into(), status);
    }
    true
}

fn add_stored_version(status: &mut Value, version: Option<&str>) {
    let Some(version) = version else { return };
    let mut stored: Vec<Value> =
        status.get("storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    if !stored.iter().any(|v| v.as_str() == Some(version)) {
        stored.push(version.into());
        status["storedVersions"] = Value::Array(stored);
    }
}

/// A reason and a message.
type Conflict = (&'static str, String);

/// The names that can be accepted, and the first conflict.
fn accept_names(crd: &Value, others: &[&Value]) -> (Value, Option<Conflict>) {
    let used = UsedNames::of(crd, others);
    let asked = crd.get("spec").and_then(|s| s.get("names")).cloned().unwrap_or_default();
    let before = crd.get("status").and_then(|s| s.get("acceptedNames"));
    let mut accepted = Map::new();
    let mut conflict: Option<Conflict> = None;
    let text = |key: &str| asked.get(key).and_then(Value::as_str).unwrap_or_default();
    let keep_old = |accepted: &mut Map<String, Value>, key: &str| {
        let old = before.and_then(|b| b.get(key)).cloned();
        accepted.extend(old.map(|old| (key.to_owned(), old)));
    };
    for (key, reason, taken) in [
        ("plural", "PluralConflict", &used.resources),
        ("singular", "SingularConflict", &used.resources),
        ("kind", "KindConflict", &used.kinds),
        ("listKind", "ListKindConflict", &used.kinds),
    ] {
        if taken.contains(text(key)) {
            let message = format!("{} is already in use", quote(text(key)));
            conflict.get_or_insert((reason, message));
            keep_old(&mut accepted, key);
        } else {
            accepted.insert(key.into(), text(key).into());
        }
    }
    let shorts = asked.get("shortNames").and_then(Value::as_array).cloned().unwrap_or_default();
    let taken: Vec<String> = shorts
        .iter()
        .filter_map(Value::as_str)
        .filter(|s| used.resources.contains(*s))
        .map(|s| format!("{} is already in use", quote(s)))
        .collect();
    if !taken.is_empty() {
        let message = match taken.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        conflict.get_or_insert(("ShortNamesConflict", message));
        keep_old(&mut accepted, "shortNames");
    } else if !shorts.is_empty() {
        accepted.insert("shortNames".into(), Value::Array(shorts));
    }
    if let Some(categories) = asked.get("categories").filter(|c| !c.is_null()) {
        accepted.insert("categories".into(), categories.clone());
    }
    for key in ["plural", "kind"] {
        accepted.entry(key).or_insert_with(|| "".into());
    }
    (Value::Object(accepted), conflict)
}

/// Names taken by the accepted names of other definitions of the group.
struct UsedNames {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl UsedNames {
    fn of(crd: &Value, others: &[&Value]) -> Self {
        let group = |crd: &Value| crd.get("spec").and_then(|s| s.get("group")).cloned();
        let name = |crd: &Value| crd.get("metadata").and_then(|m| m.get("name")).cloned();
        let mut used = Self { resources: BTreeSet::new(), kinds: BTreeSet::new() };
        for other in others {
            if group(other) != group(crd) || name(other) == name(crd) {
                continue;
            }
            let Some(names) = other.get("status").and_then(|s| s.get("acceptedNames")) else {
                continue;
            };
            let text = |key: &str| names.get(key).and_then(Value::as_str).map(str::to_owned);
            used.resources.extend(["plural", "singular"].into_iter().filter_map(text));
            let shorts = names.get("shortNames").and_then(Value::as_array).into_iter().flatten();
            used.resources.extend(shorts.filter_map(Value::as_str).map(str::to_owned));
            used.kinds.extend(["kind", "listKind"].into_iter().filter_map(text));
        }
        used.resources.remove("");
        used.kinds.remove("");
        used
    }
}

struct Condition<'a> {
    kind: &'a str,
    status: bool,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Condition<'a> {
    fn of(kind: &'a str, status: bool, reason: &'a str, message: &'a str) -> Self {
        Self { kind, status, reason, message }
    }
}

fn set_condition(status: &mut Value, condition: &Condition<'_>, now: &str) {
    if !status.get("conditions").is_some_and(Value::is_array) {
        status["conditions"] = json!([]);
    }
    let Some(Value::Array(list)) = status.get_mut("conditions") else { return };
    let value = if condition.status { "True" } else { "False" };
    let found =
        list.iter().position(|c| c.get("type").and_then(Value::as_str) == Some(condition.kind));
    let before = found.and_then(|at| list.get(at));
    let same = before.is_some_and(|c| c.get("status").and_then(Value::as_str) == Some(value));
    let since = before
        .filter(|_| same)
        .and_then(|c| c.get("lastTransitionTime"))
        .cloned()
        .unwrap_or_else(|| now.into());
    let made = json!({
        "type": condition.kind,
        "status": value,
        "lastTransitionTime": since,
        "reason": condition.reason,
        "message": condition.message,
    });
    match found.and_then(|at| list.get_mut(at)) {
        Some(slot) => *slot = made,
        None => list.push(made),
    }
}
