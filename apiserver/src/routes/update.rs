//! PUT: replacing an object, its status, or (namespaces) its finalizers.

use serde_json::{Value, json};

use super::{Call, Target, body, create, write};
use crate::kinds::Kind;
use crate::respond::Answer;
use crate::routes::query::{Verb, WriteOptions};
use crate::status::{Cause, Result, StatusError};
use crate::store::CommitError;
use crate::{meta, negotiate};

pub async fn update(call: &Call, target: Target) -> Result<Answer> {
    negotiate::negotiate(call.accept(), negotiate::Target::Object)?;
    let options = WriteOptions::parse(&call.query, Verb::Update, call.user_agent(), call.now)?;
    let (object, mut warnings) = body::object(call, &target, &options)?;
    let kind = &target.kind;
    let sent_version = meta::text(&object, "resourceVersion").to_owned();
    if !sent_version.is_empty() && sent_version.parse::<u64>().is_err() {
        return Err(bad_version(&sent_version));
    }
    for _ in 0..write::ATTEMPTS {
        let found = call.api.store.get(&target.key()).await;
        let Some(live) = found.map_err(|error| write::read_error(&error))? else {
            return missing(call, target, object, &options, &warnings).await;
        };
        if sent_version.is_empty() && needs_version(kind) {
            let detail = "must be specified for an update";
            let cause = Cause::invalid("metadata.resourceVersion", &version_shown(kind), detail);
            return Err(write::invalid(kind, &object, &[cause]));
        }
        let old = kind.view(&live).into_owned();
        check_uid(kind, &object, &old)?;
        if write::version_differs(&object, &live) {
            return Err(StatusError::modified(&kind.group, &kind.plural, target.name()));
        }
        let mut new = object.clone();
        let part = write::part(&target);
        write::prepare_update(kind, &old, &mut new, part, &options, false)?;
        let late = meta::finalizer_warnings(&new, Some(&old));
        let key = target.key();
        let commit = write::commit_update(&call.api, kind, &key, &live, new, options.dry_run);
        match commit.await {
            Ok(written) => {
                warnings.extend(late);
                return write::answer_written(call, kind, &written, &warnings);
            }
            // Without a version of its own the write wins over whoever was faster.
            Err(CommitError::Conflict { .. } | CommitError::NotFound)
                if sent_version.is_empty() => {}
            Err(error) => return Err(write::commit_error(kind, &key, error)),
        }
    }
    Err(StatusError::modified(&kind.group, &kind.plural, target.name()))
}

/// PUT to a name that does not exist: some kinds are created that way.
async fn missing(
    call: &Call,
    target: Target,
    mut object: Value,
    options: &WriteOptions,
    warnings: &[String],
) -> Result<Answer> {
    let creates = target.kind.built_in().is_some_and(|built_in| built_in.put_creates());
    if !creates || target.path.subresource.is_some() {
        return Err(target.not_found());
    }
    meta::metadata_mut(&mut object).remove("resourceVersion");
    let created = create::store_new(call, &target, object, options, false).await?;
    write::answer(call, &target.kind, 201, &created, warnings)
}

fn needs_version(kind: &Kind) -> bool {
    kind.built_in().is_none_or(|built_in| built_in.put_needs_version())
}

/// Custom resources print the absent version as a number, built-in kinds as text.
fn version_shown(kind: &Kind) -> Value {
    if kind.custom().is_some() { json!(0) } else { json!("") }
}

/// 500 for a version that is no number.
pub fn bad_version(text: &str) -> StatusError {
    StatusError::plain_failure(format!(
        "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
    ))
}

/// A PUT that names another uid is about another object.
fn check_uid(kind: &Kind, new: &Value, live: &Value) -> Result<()> {
    let (sent, uid) = (meta::text(new, "uid"), meta::text(live, "uid"));
    if sent.is_empty() || sent == uid {
        return Ok(());
    }
    let why =
        format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {uid}");
    Err(StatusError::conflict(&kind.group, &kind.plural, meta::text(live, "name"), &why))
}
