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
    // 0 means "whatever there is", as absence does.
    let sent_version = Some(meta::text(&object, "resourceVersion")).filter(|text| *text != "0");
    let sent_version = sent_version.unwrap_or_default().to_owned();
    if !sent_version.is_empty() && sent_version.parse::<u64>().is_err() {
        return Err(StatusError::plain_failure(unparsable(&sent_version)));
    }
    for _ in 0..write::ATTEMPTS {
        let found = call.api.store.get(&target.key()).await;
        let Some(live) = found.map_err(|error| write::read_error(&error))? else {
            return missing(call, target, object, &options, &warnings).await;
        };
        let old = kind.view(&live).into_owned();
        check_uid(kind, &object, &old)?;
        if sent_version.is_empty() && needs_version(kind) {
            let detail = "must be specified for an update";
            let cause = Cause::invalid("metadata.resourceVersion", &version_shown(kind), detail);
            // For custom resources the real server puts the plural here.
            let named = if kind.custom().is_some() { &kind.plural } else { &kind.kind };
            return Err(StatusError::invalid(&kind.group, named, target.name(), &[cause]));
        }
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

fn unparsable(text: &str) -> String {
    format!("strconv.ParseUint: parsing {text:?}: invalid syntax")
}

/// 500 for a version in a query that is no number.
pub fn bad_version(text: &str) -> StatusError {
    let why = unparsable(text);
    StatusError::plain_failure(format!("resourceVersion: Invalid value: {text:?}: {why}"))
}

/// A PUT that names another uid is about another object.
fn check_uid(kind: &Kind, new: &Value, live: &Value) -> Result<()> {
    let (sent, uid) = (meta::text(new, "uid"), meta::text(live, "uid"));
    if sent.is_empty() || sent == uid {
        return Ok(());
    }
    let (namespace, name) = (meta::text(live, "namespace"), meta::text(live, "name"));
    let place = [kind.group.as_str(), &kind.plural, namespace, name];
    let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}, ResourceVersion: 0, \
         AdditionalErrorMsg: Precondition failed: UID in precondition: {sent}, UID in object \
         meta: {uid}",
        place.join("/")
    );
    Err(StatusError::conflict(&kind.group, &kind.plural, name, &why))
}
