//! Server-side apply and field ownership, as recorded from a kube-apiserver 1.36.
//!
//! [`apply`] answers apply patches, [`track`] records every other write, [`settle`] ends both by
//! recognising writes that changed nothing. The order on a write is: apply (or patch, or body) →
//! prune → default → `track` (not after `apply`) → validate → `settle` → store.
//!
//! The caller cuts what an endpoint does not write before calling: on the main resource of a kind
//! with a status subresource `config`/`new` carries the live status (or none), on `/status`
//! everything but status is the live one. Entries of other versions of the same kind are compared in
//! the version of the request: conversion here only rewrites apiVersion.

use serde_json::{Map, Value};

use crate::meta;
use crate::schema::{Schema, builtin};
use crate::status::{Cause, Result, StatusError};

mod check;
mod entries;
mod set;
#[cfg(test)]
mod tests;
mod types;
mod walk;

use entries::{Entry, Operation, Owner};
use set::{Element, Set};
use types::{Type, fields, with_named_parents};

/// The longest name of a field manager, in bytes.
const MANAGER_LIMIT: usize = 128;
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The outcome of [`apply`].
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The whole object to be defaulted, validated and stored, managedFields included. A
    /// resourceVersion or uid in `config` is in it: compare with the live one (409) as for a PUT.
    pub object: Value,
    /// Whether anything but managedFields differs from the live object. The last word on whether
    /// to store is [`settle`]'s, after defaulting.
    pub changed: bool,
}

/// Checks the `fieldManager` of a request. `kind` names the options (`PatchOptions`, …).
///
/// # Errors
/// 422 for a missing manager when one is `required` (apply), a long or unprintable one.
pub fn check_manager(manager: &str, required: bool, kind: &str) -> Result<()> {
    let cause = if manager.is_empty() && required {
        Cause::required("fieldManager", "is required for apply patch")
    } else if manager.len() > MANAGER_LIMIT {
        Cause::too_long("fieldManager", MANAGER_LIMIT)
    } else if manager.chars().any(char::is_control) {
        Cause::invalid("fieldManager", &manager.into(), "should only contain printable characters")
    } else {
        return Ok(());
    };
    Err(StatusError::invalid_options(kind, &[cause]))
}

/// Checks that an applied object is of the type the URL names.
///
/// # Errors
/// 400 as recorded in 3-devices-raw 432 and 439.
pub fn check_type(config: &Value, api_version: &str, kind: &str) -> Result<()> {
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") == api_version && text("kind") == kind {
        return Ok(());
    }
    // Printed as Go prints a group, version and kind.
    let shown = match text("apiVersion") {
        "" if text("kind").is_empty() => "/".to_owned(),
        given if given.contains('/') => given.to_owned(),
        given => format!("/{given}"),
    };
    let message = format!("invalid object type: {shown}, Kind={}", text("kind"));
    Err(StatusError::bad_request(message))
}

/// Cuts an applied body to what its endpoint writes, for kinds with a status subresource: the main
/// resource does not write `status`, `/status` writes nothing else.
pub fn restrict(config: &mut Value, subresource: Option<&str>) {
    let Value::Object(map) = config else { return };
    if subresource != Some("status") {
        map.remove("status");
        return;
    }
    map.retain(|key, _| ["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()));
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        metadata.retain(|key, _| {
            ["name", "namespace", "uid", "resourceVersion", "managedFields"].contains(&key.as_str())
        });
    }
}

/// Applies `config` (a decoded body, unpruned) to `live` (`None`: it is created). `schema` is the
/// one of the custom resource; built-in kinds pass `None`. `now` is RFC 3339 in seconds.
///
/// # Errors
/// 422 for the manager, 400 for managedFields in the body, 500 for a body that does not fit its
/// type, 409 for conflicts unless forced.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    schema: Option<&Schema>,
    manager: &str,
    subresource: Option<&str>,
    force: bool,
    now: &str,
) -> Result<Applied> {
    check_manager(manager, true, "PatchOptions")?;
    let of = Type::of_object(schema_for(schema, config));
    let claimed = config.get("metadata").and_then(|m| m.get("managedFields"));
    if claimed.is_some_and(|f| f.as_array().is_none_or(|list| !list.is_empty())) {
        return Err(StatusError::bad_request("metadata.managedFields must be nil"));
    }
    check_fit(of, config)?;
    let request = Request { of, manager, subresource, now };
    let outcome = match request.apply(live, config, force) {
        Err(conflicts) if manager == KUBECTL && request.owned_by_client_side(live, &conflicts) => {
            request.apply(live, config, true)
        }
        outcome => outcome,
    };
    let mut applied = outcome.map_err(|conflicts| conflict_error(&conflicts))?;
    // Containers that lost everything are null now: typed objects do not have them.
    meta::metadata_mut(&mut applied.object).retain(|_, value| !value.is_null());
    if schema.is_none()
        && let Some(schema) = schema_for(None, config)
    {
        schema.prune(&mut applied.object);
    }
    Ok(applied)
}

/// Records what a write other than apply changed: sets `metadata.managedFields` of `new` from what
/// `live` (`None` on creation) and `new` (a client may send managedFields) say. Call it with the
/// pruned and defaulted object. `subresource` is `Some("status")`, `Some("scale")`, ….
pub fn track(
    live: Option<&Value>,
    new: &mut Value,
    schema: Option<&Schema>,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) {
    let of = Type::of_object(schema_for(schema, new));
    let entries = known_entries(live, new, subresource.is_some());
    let request = Request { of, manager, subresource, now };
    let entries = if entries.is_empty() && live.is_some() {
        // Reset by a client: untracked until the next apply.
        entries
    } else {
        let before = live.map_or_else(|| Value::Object(Map::new()), without_entries);
        request.update(&before, &without_entries(new), entries)
    };
    set_entries(new, entries);
}

/// Ends a write: when `new` differs from `live` in nothing but managedFields times, `new` becomes
/// `live` again and the answer is `true`: nothing is to be stored.
pub fn settle(live: &Value, new: &mut Value) -> bool {
    if timeless(live) != timeless(new) {
        return false;
    }
    new.clone_from(live);
    true
}

fn timeless(object: &Value) -> Value {
    let mut out = object.clone();
    let list = out.get_mut("metadata").and_then(|m| m.get_mut("managedFields"));
    for entry in list.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(entry) = entry {
            entry.remove("time");
        }
    }
    // Entries are sorted by time among others: without it they need an order of their own.
    if let Some(Value::Array(list)) =
        out.get_mut("metadata").and_then(|m| m.get_mut("managedFields"))
    {
        list.sort_by_key(set::canonical);
    }
    out
}

fn schema_for<'a>(schema: Option<&'a Schema>, object: &Value) -> Option<&'a Schema> {
    if schema.is_some() {
        return schema;
    }
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    builtin(group, text("kind"))
}

fn check_fit(of: Type<'_>, config: &Value) -> Result<()> {
    let problems = check::problems(of, config);
    if problems.is_empty() {
        return Ok(());
    }
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    Err(StatusError::plain_failure(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {}",
        meta::text(config, "namespace"),
        meta::text(config, "name"),
        text("apiVersion"),
        text("kind"),
        check::joined(&problems)
    )))
}

/// A field somebody else owns.
#[derive(Clone, Debug, PartialEq)]
struct Conflict {
    owner: Owner,
    set: Set,
}

struct Request<'a> {
    of: Type<'a>,
    manager: &'a str,
    subresource: Option<&'a str>,
    now: &'a str,
}

impl Request<'_> {
    fn owner(&self, operation: Operation, object: &Value) -> Owner {
        let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        Owner {
            manager: self.manager.to_owned(),
            operation,
            api_version: api_version.to_owned(),
            subresource: self.subresource.unwrap_or_default().to_owned(),
        }
    }

    fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        force: bool,
    ) -> std::result::Result<Applied, Vec<Conflict>> {
        let before = live.map_or_else(|| Value::Object(Map::new()), without_entries);
        let config = without_entries(config);
        let mut entries = live.and_then(entries_of).unwrap_or_default();
        if entries.is_empty() && live.is_some() {
            let first = Request { manager: BEFORE_FIRST_APPLY, subresource: None, ..*self };
            entries = first.update(&Value::Object(Map::new()), &before, entries);
        }
        let owner = self.owner(Operation::Apply, &config);
        let previous = take(&mut entries, &owner);
        let set = stripped(fields(self.of, &config));
        let merged = walk::merge(self.of, &before, &config);
        let merged = match &previous {
            Some(last) => self.prune(merged, &last.set, &entries, &set),
            None => merged,
        };
        let difference = walk::compare(self.of, &before, &merged);
        let brought = difference.brought();
        let conflicts: Vec<Conflict> = entries
            .iter()
            .map(|e| Conflict { owner: e.owner.clone(), set: e.set.intersection(&brought) })
            .filter(|c| !c.set.is_empty())
            .collect();
        if !force && !conflicts.is_empty() && live.is_some() {
            return Err(conflicts);
        }
        for entry in &mut entries {
            entry.set = entry.set.difference(&brought).difference(&difference.removed);
        }
        let changed = live.is_none() || before != merged;
        let time = if changed { Some(self.now.to_owned()) } else { previous.and_then(|p| p.time) };
        entries.push(Entry { owner, time, set });
        let mut object = merged;
        if self.manager == KUBECTL && last_applied(&before).is_some() {
            keep_last_applied(&mut object, &config);
        }
        set_entries(&mut object, entries);
        Ok(Applied { object, changed })
    }

    /// Takes out of `merged` what this manager applied before and applies no more, unless somebody
    /// owns it.
    fn prune(&self, merged: Value, last: &Set, others: &[Entry], now: &Set) -> Value {
        let of = self.of;
        let last = with_named_parents(of, last);
        let pruned = walk::cut(of, &merged, &last);
        let owned = others.iter().fold(now.clone(), |all, e| all.union(&e.set));
        let owned = with_named_parents(of, &owned);
        let all = with_named_parents(of, &fields(of, &merged));
        let left = with_named_parents(of, &fields(of, &pruned));
        // First without everything that nobody owns and that did not survive the cut …
        let pruned = walk::cut(of, &merged, &all.difference(&left.union(&owned)));
        // … then what went along with it but was never this manager's comes back.
        let left = with_named_parents(of, &fields(of, &pruned));
        walk::cut(of, &merged, &all.difference(&left).intersection(&last))
    }

    fn update(&self, before: &Value, after: &Value, mut entries: Vec<Entry>) -> Vec<Entry> {
        let difference = walk::compare(self.of, before, after);
        let brought = difference.brought();
        for entry in &mut entries {
            entry.set = entry.set.difference(&brought).difference(&difference.removed);
        }
        let own = stripped(brought);
        if !own.is_empty() {
            let owner = self.owner(Operation::Update, after);
            let previous = take(&mut entries, &owner);
            let set = previous.map_or_else(|| own.clone(), |p| p.set.union(&own));
            // The scale subresource records no time on the real server either.
            let timed = self.subresource != Some("scale");
            entries.push(Entry { owner, time: timed.then(|| self.now.to_owned()), set });
        }
        entries
    }

    /// Whether every conflict is about a field whose value client-side apply set and nobody changed
    /// since: kubectl may take those over without force.
    fn owned_by_client_side(&self, live: Option<&Value>, conflicts: &[Conflict]) -> bool {
        let Some(live) = live.map(without_entries) else { return false };
        let Some(text) = last_applied(&live) else { return false };
        let decoded = crate::decode::decode(text.as_bytes(), crate::decode::Format::Json);
        let Ok(applied) = decoded.map(|d| d.value) else { return false };
        let difference = walk::compare(self.of, &live, &applied);
        let allowed = fields(self.of, &applied)
            .difference(&difference.brought())
            .difference(&difference.removed);
        conflicts.iter().all(|c| c.set.difference(&allowed).is_empty())
    }
}

fn take(entries: &mut Vec<Entry>, owner: &Owner) -> Option<Entry> {
    let at = entries.iter().position(|e| e.owner == *owner)?;
    Some(entries.remove(at))
}

/// Without what nobody owns: type and identity.
fn stripped(mut set: Set) -> Set {
    let field = |name: &str| Element::Field(name.to_owned());
    for name in ["apiVersion", "kind", "metadata"] {
        set.members.remove(&field(name));
    }
    for name in ["apiVersion", "kind"] {
        set.children.remove(&field(name));
    }
    if let Some(metadata) = set.children.get_mut(&field("metadata")) {
        for name in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            metadata.members.remove(&field(name));
        }
    }
    set
}

fn entries_of(object: &Value) -> Option<Vec<Entry>> {
    entries::read(object.get("metadata")?.get("managedFields")?)
}

/// The entries a write starts from: the client's if it sent readable ones, else the stored ones.
fn known_entries(live: Option<&Value>, new: &Value, subresource: bool) -> Vec<Entry> {
    let sent = new.get("metadata").and_then(|m| m.get("managedFields"));
    if let Some(sent) = sent.filter(|_| !subresource) {
        if entries::is_reset(sent) {
            return Vec::new();
        }
        if let Some(entries) = entries::read(sent).filter(|e| !e.is_empty()) {
            return entries;
        }
    }
    live.and_then(entries_of).unwrap_or_default()
}

fn without_entries(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(Value::Object(metadata)) = out.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    out
}

fn set_entries(object: &mut Value, entries: Vec<Entry>) {
    let metadata = meta::metadata_mut(object);
    match entries::write(entries) {
        Some(fields) => metadata.insert("managedFields".into(), fields),
        None => metadata.remove("managedFields"),
    };
}

fn last_applied(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()
}

/// Keeps the annotation of client-side apply in step, so that users can go back to it.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    let annotations = config.get_mut("metadata").and_then(|m| m.get_mut("annotations"));
    if let Some(Value::Object(annotations)) = annotations {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{}\n", set::canonical(&config));
    let annotations = object.get_mut("metadata").and_then(|m| m.get_mut("annotations"));
    if let Some(Value::Object(annotations)) = annotations {
        annotations.insert(LAST_APPLIED.into(), text.into());
    }
}

fn conflict_error(conflicts: &[Conflict]) -> StatusError {
    let mut by_owner: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|c| (c.owner.shown(), c.set.paths())).collect();
    by_owner.sort();
    let pairs = || by_owner.iter().flat_map(|(who, paths)| paths.iter().map(move |p| (who, p)));
    let causes: Vec<Cause> = pairs()
        .map(|(who, path)| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {who}"),
            field: path.clone(),
        })
        .collect();
    let only = pairs().next().filter(|_| causes.len() == 1);
    let message = if let Some((who, path)) = only {
        format!("Apply failed with 1 conflict: conflict with {who}: {path}")
    } else {
        let mut lines = Vec::new();
        for (who, paths) in &by_owner {
            lines.push(format!("conflicts with {who}:"));
            lines.extend(paths.iter().map(|path| format!("- {path}")));
        }
        format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
    };
    StatusError::apply_conflict(message, &causes)
}
