//! What all writes share: from a candidate object to a committed (or refused, or unchanged) one.

use std::sync::Arc;

use serde_json::Value;

use super::{Call, Target};
use crate::api::Api;
use crate::clock;
use crate::kinds::rules::{self, Part};
use crate::kinds::{BuiltIn, Kind};
use crate::meta::{self, NameRule};
use crate::negotiate::{self, Shape};
use crate::respond::{self, Answer};
use crate::routes::query::WriteOptions;
use crate::status::{Cause, Result, StatusError};
use crate::store::{CommitError, Expect, Guard, Key, ReadError, Stored, Write};
use crate::table::{self, Include};
use crate::{crd, managed, schema};

/// How often a write without a version of its own is tried again when it loses a race.
pub const ATTEMPTS: usize = 16;

/// Which part of an object a path writes.
pub fn part(target: &Target) -> Part {
    match target.path.subresource.as_deref() {
        Some("status") => Part::Status,
        Some("finalize") => Part::Finalize,
        Some(_) | None => Part::Main,
    }
}

/// The name under which ownership of a part is recorded.
pub fn subresource(part: Part) -> Option<&'static str> {
    match part {
        Part::Main => None,
        Part::Status => Some("status"),
        Part::Finalize => Some("finalize"),
        Part::Scale => Some("scale"),
    }
}

/// The rule for the names of a kind.
fn name_rule(kind: &Kind) -> NameRule {
    match kind.built_in() {
        Some(BuiltIn::Namespace) => NameRule::Label,
        Some(
            BuiltIn::Role
            | BuiltIn::RoleBinding
            | BuiltIn::ClusterRole
            | BuiltIn::ClusterRoleBinding,
        ) => NameRule::PathSegment,
        Some(
            BuiltIn::Node
            | BuiltIn::ConfigMap
            | BuiltIn::Secret
            | BuiltIn::ServiceAccount
            | BuiltIn::Pod
            | BuiltIn::Event
            | BuiltIn::Lease
            | BuiltIn::EventsEvent
            | BuiltIn::CustomResourceDefinition,
        )
        | None => NameRule::Subdomain,
    }
}

pub fn invalid(kind: &Kind, object: &Value, causes: &[Cause]) -> StatusError {
    // Both kinds of events are validated in their stored form, which is of the core group.
    let events = kind.built_in() == Some(BuiltIn::EventsEvent);
    let group = if events { "" } else { &kind.group };
    StatusError::invalid(group, &kind.kind, meta::text(object, "name"), causes)
}

/// What the decoder of a kind fills in, before ownership of fields is recorded.
pub fn default(kind: &Kind, object: &mut Value) {
    match kind.built_in() {
        Some(BuiltIn::CustomResourceDefinition) => crd::default(object),
        Some(built_in) => rules::default(built_in, object),
        None => {
            if let Some(custom) = kind.custom() {
                custom.schema.default(object);
            }
        }
    }
}

/// Everything the kind and the metadata rules refuse.
fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = meta::validate(new, name_rule(kind), kind.namespaced);
    if matches!(kind.built_in(), Some(BuiltIn::Event | BuiltIn::EventsEvent)) {
        // Recorders use any prefix that ends up as a good name.
        causes.retain(|cause| cause.field != "metadata.generateName");
    }
    if let Some(old) = old {
        causes.extend(meta::validate_update(new, old));
    }
    match kind.built_in() {
        Some(BuiltIn::CustomResourceDefinition) => causes.extend(crd::validate(new, old)),
        Some(built_in) => causes.extend(rules::validate(built_in, new, old)),
        None => {
            if let Some(custom) = kind.custom() {
                causes.extend(custom.schema.validate(new, old));
                if let Some(scale) = &custom.scale {
                    let paths = [scale.spec_replicas.as_str(), &scale.status_replicas];
                    causes.extend(schema::validate_scale(new, &paths));
                }
            }
        }
    }
    causes
}

/// Prepares a new object: server-owned metadata, defaults, ownership, validation.
/// `tracked` says that ownership is recorded already (server-side apply).
pub fn prepare_create(
    kind: &Kind,
    object: &mut Value,
    namespace: &str,
    options: &WriteOptions,
    tracked: bool,
) -> Result<()> {
    if kind.status
        && kind.custom().is_some()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    default(kind, object);
    let now = clock::seconds(options.now);
    let uid = uuid::Uuid::new_v4().to_string();
    let namespace = Some(namespace).filter(|_| kind.namespaced);
    meta::prepare_create(object, namespace, &uid, &now, kind.has_generation());
    if !tracked {
        // A status given on creation belongs to nobody until somebody writes it as such.
        let status =
            object.as_object_mut().filter(|_| kind.status).and_then(|o| o.remove("status"));
        managed::track(None, object, kind.schema(), &options.manager, None, &now);
        if let (Some(status), Some(map)) = (status, object.as_object_mut()) {
            map.insert("status".into(), status);
        }
    }
    match kind.built_in() {
        Some(BuiltIn::CustomResourceDefinition) => crd::initial_status(object),
        Some(built_in) => rules::prepare(built_in, object, None, Part::Main),
        None => {}
    }
    let causes = validate(kind, object, None);
    if causes.is_empty() { Ok(()) } else { Err(invalid(kind, object, &causes)) }
}

/// Prepares a replacement of `live`: what the request may not touch is restored, then as above.
pub fn prepare_update(
    kind: &Kind,
    live: &Value,
    new: &mut Value,
    part: Part,
    options: &WriteOptions,
    tracked: bool,
) -> Result<()> {
    meta::prepare_update(new, live);
    restore(kind, live, new, part);
    default(kind, new);
    if let Some(built_in) = kind.built_in() {
        rules::prepare(built_in, new, Some(live), part);
    }
    let ignored: &[&str] = if kind.status { &["status"] } else { &[] };
    meta::set_generation(new, live, ignored);
    let causes = validate(kind, new, Some(live));
    if !causes.is_empty() {
        return Err(invalid(kind, new, &causes));
    }
    if !tracked {
        let now = clock::seconds(options.now);
        let sub = subresource(part);
        managed::track(Some(live), new, kind.schema(), &options.manager, sub, &now);
    }
    Ok(())
}

/// With a status subresource, main writes keep the status and status writes keep all the rest.
fn restore(kind: &Kind, live: &Value, new: &mut Value, part: Part) {
    if !kind.status || kind.custom().is_none() {
        return;
    }
    let Some(new) = new.as_object_mut() else { return };
    match part {
        Part::Main | Part::Scale => {
            match live.get("status") {
                Some(status) => new.insert("status".into(), status.clone()),
                None => new.remove("status"),
            };
        }
        Part::Status | Part::Finalize => {
            let status = new.remove("status");
            let metadata = new.remove("metadata");
            *new = live.as_object().cloned().unwrap_or_default();
            new.remove("status");
            new.extend(status.map(|status| ("status".to_owned(), status)));
            let own = ["managedFields", "resourceVersion", "uid", "deletionTimestamp"];
            if let (Some(from), Some(Value::Object(to))) = (metadata, new.get_mut("metadata")) {
                for key in own {
                    match from.get(key) {
                        Some(value) => to.insert(key.into(), value.clone()),
                        None => to.remove(key),
                    };
                }
            }
        }
    }
}

/// The outcome of a write that was not refused.
pub enum Written {
    /// Stored, as it is now.
    Stored(Arc<Stored>),
    /// Nothing to store: this is what there is.
    Unchanged(Arc<Stored>),
    /// The write removed the last finalizer of a terminating object; this was its last state.
    Gone(Value),
    /// `dryRun`: what would have been stored.
    Dry(Value),
}

/// Commits a prepared replacement of `live`.
pub async fn commit_update(
    api: &Api,
    kind: &Kind,
    key: &Key,
    live: &Arc<Stored>,
    mut new: Value,
    dry_run: bool,
) -> std::result::Result<Written, CommitError> {
    let old = kind.view(live);
    if managed::settle(&old, &mut new) {
        return Ok(Written::Unchanged(live.clone()));
    }
    let gone = finished(kind, &new);
    if dry_run {
        return Ok(Written::Dry(new));
    }
    let put = if gone { None } else { Some(kind.to_storage(new.clone())) };
    let guard = if gone && kind.built_in() == Some(BuiltIn::Namespace) {
        Guard::NamespaceEmpty
    } else {
        Guard::None
    };
    let write = Write { key: key.clone(), expect: Expect::Rv(live.rv), put, guard };
    let change = api.store.commit(write).await?;
    match &change.next {
        Some(next) => Ok(Written::Stored(next.clone())),
        None => Ok(Written::Gone(new)),
    }
}

/// Whether a terminating object has nothing left that holds it.
pub fn finished(kind: &Kind, object: &Value) -> bool {
    let empty = |pointer: &str| {
        object.pointer(pointer).and_then(Value::as_array).is_none_or(|list| list.is_empty())
    };
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
        && empty("/metadata/finalizers")
        && (kind.built_in() != Some(BuiltIn::Namespace) || empty("/spec/finalizers"))
}

/// What a failed commit answers.
pub fn commit_error(kind: &Kind, key: &Key, error: CommitError) -> StatusError {
    let (group, plural, name) = (&kind.group, &kind.plural, &key.name);
    match error {
        CommitError::Exists => StatusError::already_exists(group, plural, name),
        CommitError::NotFound => StatusError::not_found(group, plural, name),
        CommitError::Conflict { .. } => StatusError::modified(group, plural, name),
        CommitError::NamespaceMissing => StatusError::not_found("", "namespaces", &key.namespace),
        CommitError::NamespaceNotEmpty => {
            StatusError::conflict(group, plural, name, "the namespace still has content")
        }
        CommitError::Database(text) => StatusError::internal(&text),
        CommitError::Closed => StatusError {
            code: 503,
            reason: "ServiceUnavailable",
            message: "the server is stopping".into(),
            details: None,
        },
    }
}

pub fn read_error(error: &ReadError) -> StatusError {
    tracing::error!(%error, "reading the store failed");
    StatusError::internal(&error.to_string())
}

/// Whether a resourceVersion sent as a precondition is another than the live one.
pub fn version_differs(new: &Value, live: &Stored) -> bool {
    let sent = meta::text(new, "resourceVersion");
    !sent.is_empty() && sent != "0" && sent != live.rv.to_string()
}

/// Answers with an object in the accepted shape.
pub fn answer(
    call: &Call,
    kind: &Kind,
    code: u16,
    object: &Value,
    warnings: &[String],
) -> Result<Answer> {
    let accepted = negotiate::negotiate(call.accept(), negotiate::Target::Object)?;
    let mut answer = match accepted.shape {
        Shape::Plain => respond::value(code, object, accepted.media, call.pretty()),
        Shape::Metadata => {
            let partial = table::metadata_only(object, accepted.version);
            respond::value(code, &partial, accepted.media, call.pretty())
        }
        Shape::Table => {
            let include = include(call)?;
            let stored = kind.to_storage(object.clone());
            let version = accepted.version;
            let row = table::row(kind, object, &stored, include, version, call.now);
            let metadata =
                serde_json::json!({"resourceVersion": meta::text(object, "resourceVersion")});
            let table = table::table(metadata, table::columns(kind), vec![row], version);
            respond::value(code, &table, accepted.media, call.pretty())
        }
    };
    respond::warn(&mut answer, warnings);
    Ok(answer)
}

pub fn include(call: &Call) -> Result<Include> {
    Include::parse(call.query.get("includeObject")).map_err(StatusError::bad_request)
}

/// Answers with the outcome of an update.
pub fn answer_written(
    call: &Call,
    kind: &Kind,
    written: &Written,
    warnings: &[String],
) -> Result<Answer> {
    match written {
        Written::Stored(stored) | Written::Unchanged(stored) => {
            answer(call, kind, 200, &kind.view(stored), warnings)
        }
        Written::Gone(value) | Written::Dry(value) => answer(call, kind, 200, value, warnings),
    }
}
