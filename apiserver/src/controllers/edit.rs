//! Read, change, write: how controllers touch an object.

use anyhow::anyhow;
use serde_json::Value;

use crate::api::Api;
use crate::kinds::Kind;
use crate::routes::finished;
use crate::store::{CommitError, Expect, Guard, Key, Write};

const ATTEMPTS: usize = 16;

/// Changes the stored form of an object. `change` answers whether there is anything to write; it
/// runs again when somebody else wrote in between. An object that is gone is fine. An object that
/// has lost its last finalizer is deleted.
pub async fn edit(
    api: &Api,
    kind: &Kind,
    key: &Key,
    mut change: impl FnMut(&mut Value) -> bool,
) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(live) = api.store.get(key).await? else { return Ok(()) };
        let mut object = live.value().clone();
        if !change(&mut object) {
            return Ok(());
        }
        let put = if finished(kind, &object) { None } else { Some(object) };
        let write =
            Write { key: key.clone(), expect: Expect::Rv(live.rv), put, guard: Guard::None };
        match api.store.commit(write).await {
            Ok(_) | Err(CommitError::NotFound) => return Ok(()),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(anyhow!("{} {}/{} keeps changing", key.resource, key.namespace, key.name))
}

/// Removes one finalizer.
pub async fn remove_finalizer(
    api: &Api,
    kind: &Kind,
    key: &Key,
    finalizer: &str,
) -> anyhow::Result<()> {
    edit(api, kind, key, |object| {
        let list = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut);
        let Some(list) = list else { return false };
        let before = list.len();
        list.retain(|name| name != finalizer);
        let removed = list.len() != before;
        let empty = list.is_empty();
        if empty && let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("finalizers");
        }
        removed
    })
    .await
}
