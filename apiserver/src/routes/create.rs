//! POST: creating an object.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::{Call, Target, body, write};
use crate::kinds::{BuiltIn, Kind, resource_name};
use crate::respond::Answer;
use crate::routes::query::{Verb, WriteOptions};
use crate::status::{Result, StatusError};
use crate::store::{CommitError, Expect, Guard, Key, Write};
use crate::{meta, negotiate};

/// How many generated names are tried before giving up.
const GENERATED_TRIES: usize = 8;

pub async fn create(call: &Call, target: Target) -> Result<Answer> {
    // Refused before anything is written.
    negotiate::negotiate(call.accept(), negotiate::Target::Object)?;
    let options = WriteOptions::parse(&call.query, Verb::Create, call.user_agent(), call.now)?;
    let (object, mut warnings) = body::object(call, &target, &options)?;
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(StatusError::plain_failure(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let created = store_new(call, &target, object, &options, false).await?;
    warnings.extend(meta::finalizer_warnings(&created, None));
    write::answer(call, &target.kind, 201, &created, &warnings)
}

/// Creates a decoded object and returns it as stored (or as it would be, on a dry run).
pub async fn store_new(
    call: &Call,
    target: &Target,
    mut object: Value,
    options: &WriteOptions,
    tracked: bool,
) -> Result<Value> {
    let kind = &target.kind;
    let namespace = target.path.namespace.as_str();
    if kind.namespaced {
        check_namespace(call, kind, namespace, &object).await?;
    }
    if kind.custom().is_some_and(|custom| custom.terminating) {
        return Err(StatusError {
            code: 405,
            reason: "MethodNotAllowed",
            message: "create not allowed while custom resource definition is terminating".into(),
            details: None,
        });
    }
    let generate = meta::text(&object, "generateName").to_owned();
    let generated = meta::text(&object, "name").is_empty() && !generate.is_empty();
    if generated {
        set_name(&mut object, &generate);
    }
    write::prepare_create(kind, &mut object, namespace, options, tracked)?;
    meta::metadata_mut(&mut object).remove("resourceVersion");
    for _ in 0..GENERATED_TRIES {
        let key = Key::new(&kind.resource, namespace, meta::text(&object, "name"));
        if options.dry_run {
            return match call.api.store.get(&key).await.map_err(|e| write::read_error(&e))? {
                Some(_) => Err(write::commit_error(kind, &key, CommitError::Exists)),
                None => Ok(object),
            };
        }
        let put = Some(kind.to_storage(object.clone()));
        let guard = if kind.namespaced { Guard::NamespaceExists } else { Guard::None };
        let write = Write { key: key.clone(), expect: Expect::Absent, put, guard };
        match call.api.store.commit(write).await {
            Ok(change) => {
                let stored = change.next.as_ref().map(|next| kind.view(next).into_owned());
                return Ok(stored.unwrap_or(object));
            }
            Err(CommitError::Exists) if generated => set_name(&mut object, &generate),
            Err(error) => return Err(write::commit_error(kind, &key, error)),
        }
    }
    let name = meta::text(&object, "name");
    Err(StatusError::already_exists(&kind.group, &kind.plural, name))
}

fn set_name(object: &mut Value, prefix: &str) {
    let name = meta::generate_name(prefix, rand::rng().random());
    meta::metadata_mut(object).insert("name".into(), json!(name));
}

/// The namespace must exist and must not be on its way out.
async fn check_namespace(call: &Call, kind: &Kind, namespace: &str, object: &Value) -> Result<()> {
    let resource = resource_name("", "namespaces");
    let key = Key::new(&resource, "", namespace);
    let found = call.api.store.get(&key).await.map_err(|error| write::read_error(&error))?;
    let Some(found) = found else {
        return Err(StatusError::not_found("", "namespaces", namespace));
    };
    let terminating = found.value().pointer("/metadata/deletionTimestamp").is_some();
    // Events about the end of a namespace still have to go somewhere; they are removed with it.
    if !terminating || kind.built_in() == Some(BuiltIn::Namespace) {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let name = meta::text(object, "name");
    let mut error = StatusError::forbidden(&kind.group, &kind.plural, name, &why);
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated")}]);
    }
    Err(error)
}
