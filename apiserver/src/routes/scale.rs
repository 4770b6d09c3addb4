//! The scale subresource: a view of three fields of a custom resource.

use http::header;
use serde_json::{Value, json};

use super::{Call, Target, body, write};
use crate::decode::{self, Format};
use crate::kinds::rules::Part;
use crate::kinds::{Kind, Scale};
use crate::negotiate::content_type;
use crate::respond::{self, Answer};
use crate::routes::query::{Verb, WriteOptions};
use crate::status::{Result, StatusError};
use crate::store::{CommitError, Stored};
use crate::{meta, patch};

pub async fn answer(call: &Call, target: Target) -> Result<Answer> {
    let Some(scale) = target.kind.custom().and_then(|custom| custom.scale.clone()) else {
        return Err(target.not_found());
    };
    let verb = match call.method.as_str() {
        "GET" | "HEAD" => None,
        "PUT" => Some(Verb::Update),
        "PATCH" => Some(Verb::Patch),
        _ => {
            let kind = &target.kind;
            let verb = call.method.as_str().to_ascii_lowercase();
            return Err(StatusError::verb_not_supported(&verb, &kind.group, &kind.plural));
        }
    };
    for _ in 0..write::ATTEMPTS {
        let found = call.api.store.get(&target.key()).await;
        let stored = found.map_err(|error| write::read_error(&error))?;
        let stored = stored.ok_or_else(|| target.not_found())?;
        let live = target.kind.view(&stored).into_owned();
        let Some(verb) = verb else {
            return Ok(respond::json(200, &view(&scale, &live)));
        };
        let options = WriteOptions::parse(&call.query, verb, call.user_agent(), call.now)?;
        let wanted = wanted(call, &scale, &live, verb)?;
        let versioned = !meta::text(&wanted, "resourceVersion").is_empty();
        if verb == Verb::Update && write::version_differs(&wanted, &stored) {
            let kind = &target.kind;
            return Err(StatusError::modified(&kind.group, &kind.plural, target.name()));
        }
        match write_scale(call, &target, &scale, &stored, &live, &wanted, &options).await? {
            Some(scaled) => return Ok(respond::json(200, &view(&scale, &scaled))),
            None if versioned && verb == Verb::Update => break,
            None => {}
        }
    }
    let kind = &target.kind;
    Err(StatusError::modified(&kind.group, &kind.plural, target.name()))
}

/// The Scale object that the request asks for.
fn wanted(call: &Call, scale: &Scale, live: &Value, verb: Verb) -> Result<Value> {
    if verb == Verb::Update {
        return Ok(body::decode(call, "Scale")?.value);
    }
    let mut wanted = view(scale, live);
    match content_type(call.header(header::CONTENT_TYPE)).as_str() {
        "application/json-patch+json" => {
            patch::json_patch(&mut wanted, &decode::decode_json_patch(&call.body)?)?;
        }
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            patch::merge(&mut wanted, &decode::decode_merge_patch(&call.body)?.value);
        }
        "application/apply-patch+yaml" => {
            patch::merge(&mut wanted, &decode::decode(&call.body, Format::Yaml)?.value);
        }
        _ => {
            return Err(StatusError::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ]));
        }
    }
    Ok(wanted)
}

/// Writes the wanted replicas; `None` when somebody else wrote in between.
async fn write_scale(
    call: &Call,
    target: &Target,
    scale: &Scale,
    stored: &std::sync::Arc<Stored>,
    live: &Value,
    wanted: &Value,
    options: &WriteOptions,
) -> Result<Option<Value>> {
    let kind: &Kind = &target.kind;
    let replicas = wanted.pointer("/spec/replicas").cloned().unwrap_or(json!(0));
    let mut new = live.clone();
    set(&mut new, &scale.spec_replicas, replicas);
    write::prepare_update(kind, live, &mut new, Part::Scale, options, false)?;
    let key = target.key();
    let commit = write::commit_update(&call.api, kind, &key, stored, new, options.dry_run);
    match commit.await {
        Ok(write::Written::Stored(stored) | write::Written::Unchanged(stored)) => {
            Ok(Some(kind.view(&stored).into_owned()))
        }
        Ok(write::Written::Gone(value) | write::Written::Dry(value)) => Ok(Some(value)),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => Err(write::commit_error(kind, &key, error)),
    }
}

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}

/// The Scale of an object. Pure.
fn view(scale: &Scale, object: &Value) -> Value {
    let read = |path: &str| object.pointer(&pointer(path)).cloned();
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{key}")) {
            metadata[key] = value.clone();
        }
    }
    let mut status = json!({"replicas": read(&scale.status_replicas).unwrap_or(json!(0))});
    if let Some(selector) = scale.label_selector.as_deref().and_then(read) {
        status["selector"] = selector;
    }
    let mut spec = json!({});
    if let Some(replicas) = read(&scale.spec_replicas) {
        spec["replicas"] = replicas;
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
           "spec": spec, "status": status})
}
