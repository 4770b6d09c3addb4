//! PATCH: merge, JSON, strategic merge, and server-side apply.

use std::sync::Arc;

use http::header;
use serde_json::{Value, json};

use super::{Call, Target, body, create, update, write};
use crate::decode::{self, Decoded, Format};
use crate::negotiate::content_type;
use crate::patch::{self, MergeKeys};
use crate::respond::Answer;
use crate::routes::query::{Verb, WriteOptions};
use crate::status::{Cause, Result, StatusError};
use crate::store::{CommitError, Stored};
use crate::{clock, managed, meta, negotiate};

/// A decoded patch.
enum Patch {
    Merge(Value),
    Json(Value),
    Strategic(Value),
    Apply(Value),
}

pub async fn patch(call: &Call, target: Target) -> Result<Answer> {
    negotiate::negotiate(call.accept(), negotiate::Target::Object)?;
    let options = WriteOptions::parse(&call.query, Verb::Patch, call.user_agent(), call.now)?;
    let (patch, duplicates) = read(call, &target)?;
    check_options(&patch, &options)?;
    for _ in 0..write::ATTEMPTS {
        let found = call.api.store.get(&target.key()).await;
        let live = found.map_err(|error| write::read_error(&error))?;
        let outcome = match (&live, &patch) {
            (None, Patch::Apply(config)) if target.path.subresource.is_none() => {
                apply_new(call, &target, config, &duplicates, &options).await
            }
            (None, _) => return Err(target.not_found()),
            (Some(live), patch) => once(call, &target, live, patch, &duplicates, &options).await,
        };
        match outcome {
            Ok(answer) => return Ok(answer),
            Err(Failure::Raced) => {}
            Err(Failure::Refused(error)) => return Err(error),
        }
    }
    let kind = &target.kind;
    Err(StatusError::modified(&kind.group, &kind.plural, target.name()))
}

/// Why one attempt did not succeed.
enum Failure {
    /// Somebody else wrote in between, and the patch does not say which version it is for.
    Raced,
    Refused(StatusError),
}

impl From<StatusError> for Failure {
    fn from(error: StatusError) -> Self {
        Self::Refused(error)
    }
}

fn read(call: &Call, target: &Target) -> Result<(Patch, Vec<String>)> {
    let custom = target.kind.custom().is_some();
    let media = content_type(call.header(header::CONTENT_TYPE));
    let mut types = vec!["application/json-patch+json", "application/merge-patch+json"];
    if !custom {
        types.push("application/strategic-merge-patch+json");
    }
    types.push("application/apply-patch+yaml");
    match media.as_str() {
        "application/json-patch+json" => {
            Ok((Patch::Json(decode::decode_json_patch(&call.body)?), Vec::new()))
        }
        "application/merge-patch+json" => {
            let Decoded { value, duplicates } = decode::decode_merge_patch(&call.body)?;
            Ok((Patch::Merge(value), duplicates))
        }
        "application/strategic-merge-patch+json" if !custom => {
            let Decoded { value, duplicates } = decode::decode_merge_patch(&call.body)?;
            Ok((Patch::Strategic(value), duplicates))
        }
        "application/apply-patch+yaml" => {
            let decoded = decode::decode(&call.body, Format::Yaml);
            let Decoded { value, duplicates } = decoded.map_err(|error| {
                StatusError::bad_request(format!("error decoding YAML: {}", error.message))
            })?;
            Ok((Patch::Apply(value), duplicates))
        }
        _ => Err(StatusError::unsupported_media_type(&types)),
    }
}

fn check_options(patch: &Patch, options: &WriteOptions) -> Result<()> {
    let mut causes = Vec::new();
    if matches!(patch, Patch::Apply(_)) {
        if !options.named_manager {
            causes.push(Cause::required("fieldManager", "is required for apply patch"));
        }
    } else if options.force {
        causes.push(Cause::forbidden("force", "may not be specified for non-apply patch"));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(StatusError::invalid_options("PatchOptions", &causes))
    }
}

/// One read-modify-write.
async fn once(
    call: &Call,
    target: &Target,
    live: &Arc<Stored>,
    patch: &Patch,
    duplicates: &[String],
    options: &WriteOptions,
) -> std::result::Result<Answer, Failure> {
    let kind = &target.kind;
    let part = write::part(target);
    let old = kind.view(live).into_owned();
    let mut warnings = Vec::new();
    let (mut new, tracked) = match patch {
        Patch::Apply(config) => {
            let new = apply(call, target, Some(&old), config, duplicates, options, &mut warnings)?;
            (new, true)
        }
        Patch::Merge(_) | Patch::Json(_) | Patch::Strategic(_) => {
            let new = patched(target, &old, patch, duplicates, options, &mut warnings)?;
            (new, false)
        }
    };
    // A version inside the patch is a precondition; the untouched one is not.
    let versioned = names_version(patch);
    let carrier = if let Patch::Apply(config) = patch { config } else { &new };
    let sent = meta::text(carrier, "resourceVersion");
    if !sent.is_empty() && sent.parse::<u64>().is_err() {
        return Err(update::bad_version(sent).into());
    }
    if versioned && write::version_differs(carrier, live) {
        return Err(StatusError::modified(&kind.group, &kind.plural, target.name()).into());
    }
    write::prepare_update(kind, &old, &mut new, part, options, tracked)?;
    warnings.extend(meta::finalizer_warnings(&new, Some(&old)));
    let key = target.key();
    let commit = write::commit_update(&call.api, kind, &key, live, new, options.dry_run);
    match commit.await {
        Ok(written) => Ok(write::answer_written(call, kind, &written, &warnings)?),
        Err(CommitError::Conflict { .. } | CommitError::NotFound) if !versioned => {
            Err(Failure::Raced)
        }
        Err(error) => Err(write::commit_error(kind, &key, error).into()),
    }
}

fn names_version(patch: &Patch) -> bool {
    match patch {
        Patch::Merge(value) | Patch::Strategic(value) | Patch::Apply(value) => {
            !meta::text(value, "resourceVersion").is_empty()
        }
        Patch::Json(operations) => operations.as_array().into_iter().flatten().any(|operation| {
            let path = operation.get("path").and_then(Value::as_str).unwrap_or_default();
            let writes = matches!(
                operation.get("op").and_then(Value::as_str),
                Some("add" | "replace" | "copy" | "move")
            );
            writes && matches!(path, "/metadata/resourceVersion" | "/metadata" | "")
        }),
    }
}

/// The object after a merge, JSON or strategic patch, known fields only.
fn patched(
    target: &Target,
    old: &Value,
    patch: &Patch,
    duplicates: &[String],
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let kind = &target.kind;
    let mut new = old.clone();
    match patch {
        Patch::Merge(value) => patch::merge(&mut new, value),
        Patch::Json(operations) => patch::json_patch(&mut new, operations)?,
        Patch::Strategic(value) => {
            patch::strategic(&mut new, value, &MergeKeys::of_kind(&kind.kind))?;
        }
        Patch::Apply(_) => {}
    }
    if new.get("kind") != old.get("kind") || new.get("apiVersion") != old.get("apiVersion") {
        body::check_kind(&mut new, kind)?;
    }
    let name = meta::text(&new, "name");
    if name != target.name() {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name()
        )));
    }
    let whole = new.to_string();
    let mut complaints = duplicates.to_vec();
    let refuse = |why: String| {
        let cause = Cause::invalid("patch", &json!(whole), &why);
        StatusError::invalid("", "", "", &[cause])
    };
    // What cannot be decoded is the patch's fault; custom resources say it as for other writes.
    complaints
        .extend(body::normalise(&mut new, kind).map_err(|error| {
            if kind.custom().is_some() { error } else { refuse(error.message) }
        })?);
    warnings.extend(body::judge(complaints, options, refuse)?);
    Ok(new)
}

/// The object after server-side apply.
fn apply(
    call: &Call,
    target: &Target,
    old: Option<&Value>,
    config: &Value,
    duplicates: &[String],
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let kind = &target.kind;
    check_apply(config, target)?;
    warnings.extend(body::judge(duplicates.to_vec(), options, StatusError::bad_request)?);
    let subresource = write::subresource(write::part(target));
    let now = clock::seconds(call.now);
    let manager = &options.manager;
    let mut config = config.clone();
    // Built-in kinds take what they take: a Node's /status may change its labels.
    if kind.status && kind.schema().is_some() {
        managed::restrict(&mut config, subresource);
    }
    let applied =
        managed::apply(old, &config, kind.schema(), manager, subresource, options.force, &now)?;
    let mut new = applied.object;
    body::normalise(&mut new, kind)?;
    let metadata = meta::metadata_mut(&mut new);
    metadata.insert("name".into(), json!(target.name()));
    if kind.namespaced {
        metadata.insert("namespace".into(), json!(target.path.namespace));
    }
    Ok(new)
}

/// What an applied configuration must say about itself.
fn check_apply(config: &Value, target: &Target) -> Result<()> {
    let kind = &target.kind;
    if !config.is_object() {
        return Err(StatusError::bad_request("error decoding YAML: not a map"));
    }
    managed::check_type(config, &kind.api_version(), &kind.kind)?;
    let (name, namespace) = (meta::text(config, "name"), meta::text(config, "namespace"));
    if !name.is_empty() && name != target.name() {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name()
        )));
    }
    if !namespace.is_empty() && namespace != target.path.namespace {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Apply to a name that does not exist creates it.
async fn apply_new(
    call: &Call,
    target: &Target,
    config: &Value,
    duplicates: &[String],
    options: &WriteOptions,
) -> std::result::Result<Answer, Failure> {
    let kind = &target.kind;
    let mut warnings = Vec::new();
    if !meta::text(config, "uid").is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            meta::text(config, "uid")
        );
        let error = StatusError::conflict(&kind.group, &kind.plural, target.name(), &why);
        return Err(error.into());
    }
    let new = apply(call, target, None, config, duplicates, options, &mut warnings)?;
    match create::store_new(call, target, new, options, true).await {
        Ok(created) => {
            warnings.extend(meta::finalizer_warnings(&created, None));
            Ok(write::answer(call, kind, 201, &created, &warnings)?)
        }
        Err(error) if error.reason == "AlreadyExists" => Err(Failure::Raced),
        Err(error) => Err(error.into()),
    }
}
