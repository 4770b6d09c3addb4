//! DELETE of an object or of a selection.

use std::sync::Arc;

use http::header;
use serde_json::{Value, json};

use super::{Call, Target, list, write};
use crate::api::Api;
use crate::controllers::conditions;
use crate::decode::{self, Format};
use crate::kinds::{BuiltIn, Kind};
use crate::negotiate::content_type;
use crate::respond::Answer;
use crate::routes::query::{DeleteOptions, Propagation};
use crate::selection::Selection;
use crate::status::{Result, StatusError};
use crate::store::{CommitError, Expect, Guard, Key, Stored, Write};
use crate::{clock, meta, negotiate, protobuf};

/// Namespaces that the server itself depends on.
const KEPT_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];
pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
pub const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What became of an object that was to be deleted.
enum Deleted {
    /// It is gone; its last state.
    Gone(Value),
    /// It waits for its finalizers.
    Marked(Value),
}

fn options(call: &Call) -> Result<DeleteOptions> {
    let media = content_type(call.header(header::CONTENT_TYPE));
    let body = if call.body.is_empty() {
        Value::Null
    } else if media == "application/vnd.kubernetes.protobuf" {
        protobuf::decode(&call.body)?
    } else {
        let format = if media == "application/yaml" { Format::Yaml } else { Format::Json };
        decode::decode(&call.body, format)?.value
    };
    DeleteOptions::parse(&call.query, &body, call.now)
}

pub async fn delete(call: &Call, target: Target) -> Result<Answer> {
    negotiate::negotiate(call.accept(), negotiate::Target::Object)?;
    let options = options(call)?;
    let kind = &target.kind;
    match one(&call.api, kind, &target.key(), &options).await? {
        Deleted::Marked(object) => write::answer(call, kind, 200, &object, &[]),
        Deleted::Gone(object)
            if kind.built_in().is_some_and(|built_in| built_in.delete_answers_object()) =>
        {
            write::answer(call, kind, 200, &object, &[])
        }
        Deleted::Gone(object) => Ok(success(call, kind, &object)),
    }
}

fn success(call: &Call, kind: &Kind, object: &Value) -> Answer {
    let mut details = json!({"name": meta::text(object, "name"), "kind": kind.plural,
                             "uid": meta::text(object, "uid")});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                        "details": details});
    crate::respond::value(200, &status, negotiate::Media::Json, call.pretty())
}

/// DELETE on a collection: everything selected, as a list of what it was.
pub async fn collection(call: &Call, target: Target) -> Result<Answer> {
    let accepted = negotiate::negotiate(call.accept(), negotiate::Target::List)?;
    let options = options(call)?;
    let kind = &target.kind;
    let selection = Selection::parse(kind, &target.path.namespace, &call.query)?;
    let page = list::select_all(call, kind, &selection).await?;
    for (key, _) in &page.listing.items {
        match one(&call.api, kind, key, &options).await {
            Ok(_) => {}
            // Somebody else was faster: it is gone, as it should be.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    list::render(call, kind, &selection, &page, accepted)
}

/// Deletes for a controller: nothing but the policy is asked for. An object that is gone is fine.
pub async fn by_controller(
    api: &Api,
    kind: &Kind,
    key: &Key,
    propagation: Option<Propagation>,
    uid: Option<String>,
) -> Result<()> {
    let now = clock::now();
    let options = DeleteOptions { dry_run: false, propagation, uid, resource_version: None, now };
    match one(api, kind, key, &options).await {
        Ok(_) => Ok(()),
        Err(error) if error.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

async fn one(api: &Api, kind: &Kind, key: &Key, options: &DeleteOptions) -> Result<Deleted> {
    let (group, plural, name) = (&kind.group, &kind.plural, &key.name);
    if kind.built_in() == Some(BuiltIn::Namespace) && KEPT_NAMESPACES.contains(&name.as_str()) {
        let why = "this namespace may not be deleted";
        return Err(StatusError::forbidden(group, plural, name, why));
    }
    for _ in 0..write::ATTEMPTS {
        let found = api.store.get(key).await.map_err(|error| write::read_error(&error))?;
        let live = found.ok_or_else(|| StatusError::not_found(group, plural, name))?;
        check_preconditions(kind, key, &live, options)?;
        let shown = kind.view(&live).into_owned();
        let marked = mark(kind, &shown, options);
        if options.dry_run {
            let gone = write::finished(kind, &marked);
            return Ok(if gone { Deleted::Gone(shown) } else { Deleted::Marked(marked) });
        }
        match commit(api, kind, key, &live, &shown, marked).await {
            Ok(deleted) => return Ok(deleted),
            Err(CommitError::Conflict { .. }) if options.resource_version.is_none() => {}
            Err(CommitError::NamespaceNotEmpty) => {}
            Err(error) => return Err(write::commit_error(kind, key, error)),
        }
    }
    Err(StatusError::modified(group, plural, name))
}

fn check_preconditions(
    kind: &Kind,
    key: &Key,
    live: &Stored,
    options: &DeleteOptions,
) -> Result<()> {
    let uid = meta::text(live.value(), "uid");
    let why = match (&options.uid, &options.resource_version) {
        (Some(wanted), _) if wanted != uid => {
            format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
                 The object might have been deleted and then recreated"
            )
        }
        (_, Some(wanted)) if *wanted != live.rv.to_string() => format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion \
             in record ({}). The object might have been modified",
            live.rv
        ),
        _ => return Ok(()),
    };
    // The real server puts the kind where other conflicts have the plural.
    Err(StatusError::conflict(&kind.group, &kind.kind, &key.name, &why))
}

/// The object as it is once marked for deletion. Pure. Marking twice changes nothing.
fn mark(kind: &Kind, shown: &Value, options: &DeleteOptions) -> Value {
    let mut object = shown.clone();
    let finalizers = shown.pointer("/metadata/finalizers").and_then(Value::as_array);
    let mut finalizers: Vec<Value> = finalizers.cloned().unwrap_or_default();
    let before = finalizers.clone();
    let is_crd = kind.built_in() == Some(BuiltIn::CustomResourceDefinition);
    match options.propagation {
        Some(Propagation::Background) => {
            finalizers.retain(|name| name != FOREGROUND && name != ORPHAN);
        }
        Some(Propagation::Foreground) => {
            finalizers.retain(|name| name != ORPHAN);
            add(&mut finalizers, FOREGROUND);
        }
        Some(Propagation::Orphan) => {
            finalizers.retain(|name| name != FOREGROUND);
            add(&mut finalizers, ORPHAN);
        }
        None => {}
    }
    let metadata = meta::metadata_mut(&mut object);
    let terminating = metadata.get("deletionTimestamp").is_some_and(|time| !time.is_null());
    if is_crd && !terminating {
        add(&mut finalizers, CRD_CLEANUP);
    }
    if finalizers != before {
        metadata.insert("finalizers".into(), Value::Array(finalizers));
    }
    if terminating {
        return object;
    }
    metadata.insert("deletionTimestamp".into(), json!(clock::seconds(options.now)));
    if kind.built_in() == Some(BuiltIn::Namespace) {
        object["status"] = json!({"phase": "Terminating"});
        return object;
    }
    metadata.insert("deletionGracePeriodSeconds".into(), json!(0));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), json!(generation.saturating_add(1)));
    }
    if is_crd {
        conditions::set(
            &mut object,
            "Terminating",
            true,
            "InstanceDeletionPending",
            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            &clock::seconds(options.now),
        );
    }
    object
}

fn add(finalizers: &mut Vec<Value>, name: &str) {
    if !finalizers.iter().any(|finalizer| finalizer == name) {
        finalizers.push(json!(name));
    }
}

async fn commit(
    api: &Api,
    kind: &Kind,
    key: &Key,
    live: &Arc<Stored>,
    shown: &Value,
    marked: Value,
) -> std::result::Result<Deleted, CommitError> {
    let expect = Expect::Rv(live.rv);
    if write::finished(kind, &marked) {
        let guard = match kind.built_in() {
            Some(BuiltIn::Namespace) => Guard::NamespaceEmpty,
            Some(_) | None => Guard::None,
        };
        api.store.commit(Write { key: key.clone(), expect, put: None, guard }).await?;
        return Ok(Deleted::Gone(shown.clone()));
    }
    if marked == *shown {
        return Ok(Deleted::Marked(marked));
    }
    let put = Some(kind.to_storage(marked.clone()));
    let change =
        api.store.commit(Write { key: key.clone(), expect, put, guard: Guard::None }).await?;
    let stored = change.next.as_ref().map(|next| kind.view(next).into_owned());
    Ok(Deleted::Marked(stored.unwrap_or(marked)))
}
