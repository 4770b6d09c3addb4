//! Object metadata: what names look like, which fields the server owns, what must not change.
//!
//! Everything is a pure function over `metadata` or whole objects as JSON; time, uid and random
//! bytes are arguments. Messages as recorded (3-devices-raw 005–011, 107–146).

use serde_json::{Map, Value, json};

use crate::status::{Cause, quote};

mod decode;
mod names;

pub use decode::{MetaProblem, decode};
pub use names::{NameRule, label_value_problem, name_problem, qualified_name_problem};

/// The largest sum of annotation keys and values, in bytes.
pub const ANNOTATION_LIMIT: usize = 256 * 1024;

/// The most bytes of a generateName prefix that are kept in front of the suffix.
const GENERATED_PREFIX: usize = 58;
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Appends the five-character suffix of `generateName`, cutting the prefix to 58 bytes.
/// Each random byte picks one character.
#[must_use]
pub fn generate_name(prefix: &str, random: [u8; 5]) -> String {
    let mut end = prefix.len().min(GENERATED_PREFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let pick = |b: u8| char::from(SUFFIX_ALPHABET[usize::from(b) % SUFFIX_ALPHABET.len()]);
    prefix[..end].chars().chain(random.into_iter().map(pick)).collect()
}

/// A text member of an object's metadata, `""` when absent.
#[must_use]
pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The metadata map of an object, made if it is missing or not a map.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_of(map_of(object).entry("metadata").or_insert(Value::Null))
}

/// The value as a map; what is none becomes an empty one.
fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("made a map just above")
        }
    }
}

/// Makes a decoded body ready to be created: the server's uid, creationTimestamp (`now`, RFC 3339
/// seconds, `Z`) and namespace replace the client's, server-owned leftovers go. `generation` 1 is
/// set for kinds that have one.
pub fn prepare_create(
    object: &mut Value,
    namespace: Option<&str>,
    uid: &str,
    now: &str,
    has_generation: bool,
) {
    let meta = metadata_mut(object);
    for key in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        meta.remove(key);
    }
    meta.insert("uid".into(), uid.into());
    meta.insert("creationTimestamp".into(), now.into());
    match namespace {
        Some(ns) => {
            meta.insert("namespace".into(), ns.into());
        }
        None => {
            meta.remove("namespace");
        }
    }
    if has_generation {
        meta.insert("generation".into(), 1.into());
    }
}

/// Makes a decoded body ready to replace `old`: what the server owns is taken from `old`, absent
/// identity is filled in. A wrong uid or deletionTimestamp is left for [`validate_update`].
pub fn prepare_update(new: &mut Value, old: &Value) {
    let old_meta = old.get("metadata").cloned().unwrap_or_default();
    let meta = metadata_mut(new);
    meta.remove("selfLink");
    for key in ["creationTimestamp", "generation"] {
        keep(meta, &old_meta, key);
    }
    for key in ["name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let absent = meta.get(key).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
        if absent {
            keep(meta, &old_meta, key);
        }
    }
}

fn keep(meta: &mut Map<String, Value>, old_meta: &Value, key: &str) {
    match old_meta.get(key) {
        Some(value) => meta.insert(key.into(), value.clone()),
        None => meta.remove(key),
    };
}

/// Sets `metadata.generation` of `new`: one more than `old` when anything outside `metadata` and
/// the members in `ignored` (`["status"]` for kinds with a status subresource) differs.
pub fn set_generation(new: &mut Value, old: &Value, ignored: &[&str]) {
    let Some(generation) = old.get("metadata").and_then(|m| m.get("generation")) else { return };
    let generation = generation.as_i64().unwrap_or_default();
    let differs = differs_outside(new, old, ignored);
    let next = if differs { generation.saturating_add(1) } else { generation };
    metadata_mut(new).insert("generation".into(), next.into());
}

fn differs_outside(new: &Value, old: &Value, ignored: &[&str]) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new != old };
    let counts =
        |key: &str| !["metadata", "apiVersion", "kind"].contains(&key) && !ignored.contains(&key);
    new.keys().chain(old.keys()).any(|key| counts(key) && new.get(key) != old.get(key))
}

/// Checks the metadata of an object about to be created or updated.
#[must_use]
pub fn validate(object: &Value, rule: NameRule, namespaced: bool) -> Vec<Cause> {
    let empty = json!({});
    let meta = object.get("metadata").unwrap_or(&empty);
    let mut causes = Vec::new();
    validate_names(object, rule, namespaced, &mut causes);
    validate_labels(meta, &mut causes);
    causes.extend(validate_annotations(meta));
    validate_owners(meta, &mut causes);
    validate_finalizers(meta, &mut causes);
    causes
}

fn validate_names(object: &Value, rule: NameRule, namespaced: bool, causes: &mut Vec<Cause>) {
    let generate = text(object, "generateName");
    if !generate.is_empty()
        && let Some(problem) = names::prefix_problem(generate, rule)
    {
        causes.push(Cause::invalid("metadata.generateName", &generate.into(), &problem));
    }
    let name = text(object, "name");
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(problem) = name_problem(name, rule) {
        causes.push(Cause::invalid("metadata.name", &name.into(), &problem));
    }
    let namespace = text(object, "namespace");
    if namespaced {
        if namespace.is_empty() {
            causes.push(Cause::required("metadata.namespace", ""));
        } else if let Some(problem) = name_problem(namespace, NameRule::Label) {
            causes.push(Cause::invalid("metadata.namespace", &namespace.into(), &problem));
        }
    } else if !namespace.is_empty() {
        causes.push(Cause::forbidden("metadata.namespace", "not allowed on this type"));
    }
}

fn validate_labels(meta: &Value, causes: &mut Vec<Cause>) {
    for (key, value) in entries(meta, "labels") {
        if let Some(problem) = qualified_name_problem(key) {
            causes.push(Cause::invalid("metadata.labels", &key.as_str().into(), &problem));
        }
        let text = value.as_str().unwrap_or_default();
        if let Some(problem) = label_value_problem(text) {
            causes.push(Cause::invalid("metadata.labels", value, &problem));
        }
    }
}

/// Annotation keys are qualified names in any case; all together at most [`ANNOTATION_LIMIT`].
fn validate_annotations(meta: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut total = 0_usize;
    for (key, value) in entries(meta, "annotations") {
        if let Some(problem) = qualified_name_problem(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), &problem));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATION_LIMIT {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATION_LIMIT));
    }
    causes
}

fn validate_owners(meta: &Value, causes: &mut Vec<Cause>) {
    let Some(owners) = meta.get("ownerReferences").and_then(Value::as_array) else { return };
    let mut controllers: Vec<String> = Vec::new();
    for owner in owners {
        for key in ["apiVersion", "kind", "name", "uid"] {
            let value = owner.get(key).and_then(Value::as_str).unwrap_or_default();
            if value.is_empty() {
                let part = if key == "apiVersion" { "version" } else { key };
                let field = format!("metadata.ownerReferences.{key}");
                let problem = if part == "version" {
                    "version must not be empty"
                } else {
                    "must not be empty"
                };
                causes.push(Cause::invalid(field, &value.into(), problem));
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let part = |key| owner.get(key).and_then(Value::as_str).unwrap_or_default();
            controllers.push(format!("{}/{}", part("kind"), part("name")));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for \
             {first} and {second}"
        );
        let shown = ordered_owners(owners);
        causes.push(Cause {
            message: format!("Invalid value: {shown}: {detail}"),
            ..Cause::invalid("metadata.ownerReferences", &Value::Null, "")
        });
    }
}

/// Owner references as the real server prints them: members in declaration order.
fn ordered_owners(owners: &[Value]) -> String {
    let order = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let one = |owner: &Value| {
        let member = |key: &&str| owner.get(*key).map(|value| format!("{}:{value}", quote(key)));
        format!("{{{}}}", order.iter().filter_map(member).collect::<Vec<_>>().join(","))
    };
    format!("[{}]", owners.iter().map(one).collect::<Vec<_>>().join(","))
}

fn validate_finalizers(meta: &Value, causes: &mut Vec<Cause>) {
    let names = finalizers(meta);
    for name in &names {
        if let Some(problem) = qualified_name_problem(name) {
            causes.push(Cause::invalid("metadata.finalizers", &(*name).into(), &problem));
        }
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        let shown: Vec<Value> = names.iter().map(|n| (*n).into()).collect();
        causes.push(Cause::invalid(
            "metadata.finalizers",
            &Value::Array(shown),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

/// The finalizers in a metadata map.
fn finalizers(meta: &Value) -> Vec<&str> {
    let list = meta.get("finalizers").and_then(Value::as_array);
    list.map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Finalizers without a domain are accepted with a warning each, when `new` brings them in.
#[must_use]
pub fn finalizer_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.and_then(|o| o.get("metadata")).map(finalizers).unwrap_or_default();
    let names = new.get("metadata").map(finalizers).unwrap_or_default();
    let standard = ["orphan", "foregroundDeletion"];
    names
        .into_iter()
        .filter(|n| !n.contains('/') && !standard.contains(n) && !known.contains(n))
        .map(|name| {
            format!(
                "metadata.finalizers: {}: prefer a domain-qualified finalizer name to avoid \
                 accidental conflicts with other finalizer writers",
                quote(name)
            )
        })
        .collect()
}

/// Checks what an update must not touch: identity, timestamps, and new finalizers on an object
/// that is being deleted. Run after [`prepare_update`].
#[must_use]
pub fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let empty = json!({});
    let new_meta = new.get("metadata").unwrap_or(&empty);
    let old_meta = old.get("metadata").unwrap_or(&empty);
    let mut causes = Vec::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if new_meta.get(key) != old_meta.get(key) {
            let value = new_meta.get(key).cloned().unwrap_or_default();
            causes.push(Cause::invalid(format!("metadata.{key}"), &value, "field is immutable"));
        }
    }
    if old_meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let before = finalizers(old_meta);
        let added: Vec<String> = finalizers(new_meta)
            .into_iter()
            .filter(|name| !before.contains(name))
            .map(quote)
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
    causes
}

fn entries<'a>(meta: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    meta.get(key).and_then(Value::as_object).into_iter().flatten()
}

#[cfg(test)]
mod tests;
