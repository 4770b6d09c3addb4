//! Garbage collection: dependents go with their owners.
//!
//! The store keeps an index from owner uid to dependents. A change marks objects as dirty; a dirty
//! object is compared with what its owners and finalizers say should be, and brought there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast;

use super::edit::{edit, remove_finalizer};
use crate::api::{Api, stopped};
use crate::kinds::{Kind, Kinds};
use crate::meta;
use crate::routes::query::Propagation;
use crate::routes::{FOREGROUND, ORPHAN, delete_by_controller};
use crate::store::{Change, Key, Stored};

/// How often the whole index is checked for owners that never existed.
const FULL_LOOK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

pub struct Collector {
    api: Arc<Api>,
    changes: broadcast::Receiver<Arc<Change>>,
    dirty: BTreeSet<Key>,
}

impl Collector {
    pub fn new(api: Arc<Api>, changes: broadcast::Receiver<Arc<Change>>) -> Self {
        Self { api, changes, dirty: BTreeSet::new() }
    }

    pub async fn run(mut self) {
        let mut stopping = self.api.stopping();
        let mut full = tokio::time::interval(FULL_LOOK);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => return,
                change = self.changes.recv() => match change {
                    Ok(change) => self.mark(&change).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all().await,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = full.tick() => self.look_at_all().await,
                () = tokio::time::sleep(RETRY), if !self.dirty.is_empty() => {}
            }
            self.work().await;
        }
    }

    /// What a change may have made wrong.
    async fn mark(&mut self, change: &Change) {
        let owned = |stored: &Stored| !owners(stored).is_empty();
        match &change.next {
            Some(next) => {
                let before = change.prev.as_deref();
                let new_owners =
                    owned(next) && before.is_none_or(|prev| owners(prev) != owners(next));
                if new_owners || holds(next, FOREGROUND) || holds(next, ORPHAN) {
                    self.dirty.insert(change.key.clone());
                }
            }
            None => {
                let Some(prev) = &change.prev else { return };
                self.mark_dependents(uid(prev)).await;
                // Owners may have waited for this one.
                for owner in owners(prev) {
                    self.mark_uid(&owner.uid).await;
                }
            }
        }
    }

    async fn mark_dependents(&mut self, uid: &str) {
        match self.api.store.dependents(uid).await {
            Ok(keys) => self.dirty.extend(keys),
            Err(error) => tracing::warn!(%error, "could not read the owner index"),
        }
    }

    async fn mark_uid(&mut self, uid: &str) {
        match self.api.store.find_uid(uid).await {
            Ok(key) => self.dirty.extend(key),
            Err(error) => tracing::warn!(%error, "could not look an owner up"),
        }
    }

    async fn look_at_all(&mut self) {
        match self.api.store.orphaned().await {
            Ok(keys) => self.dirty.extend(keys),
            Err(error) => tracing::warn!(%error, "could not read the owner index"),
        }
        for finalizer in [FOREGROUND, ORPHAN] {
            match self.api.store.mentioning(finalizer).await {
                Ok(keys) => self.dirty.extend(keys),
                Err(error) => tracing::warn!(%error, "could not look for finalizers"),
            }
        }
    }

    async fn work(&mut self) {
        let kinds = self.api.kinds();
        for key in std::mem::take(&mut self.dirty) {
            if let Err(error) = self.reconcile(&kinds, &key).await {
                tracing::warn!(?key, "could not collect: {error:#}");
                self.dirty.insert(key);
            }
        }
    }

    async fn reconcile(&mut self, kinds: &Kinds, key: &Key) -> anyhow::Result<()> {
        let Some(stored) = self.api.store.get(key).await? else { return Ok(()) };
        let Some(kind) = kinds.by_resource(&key.resource) else { return Ok(()) };
        if holds(&stored, ORPHAN) {
            return self.orphan(kinds, kind, key, uid(&stored)).await;
        }
        if holds(&stored, FOREGROUND) {
            return self.foreground(kinds, kind, key, uid(&stored)).await;
        }
        self.check_owners(kind, key, &stored).await
    }

    /// Dependents forget their owner, then the owner may go.
    async fn orphan(
        &mut self,
        kinds: &Kinds,
        kind: &Kind,
        key: &Key,
        uid: &str,
    ) -> anyhow::Result<()> {
        for dependent in self.api.store.dependents(uid).await? {
            if let Some(kind) = kinds.by_resource(&dependent.resource) {
                drop_owners(&self.api, kind, &dependent, &[uid.to_owned()]).await?;
            }
        }
        remove_finalizer(&self.api, kind, key, ORPHAN).await
    }

    /// Dependents go first; only those that block hold the owner back.
    async fn foreground(
        &mut self,
        kinds: &Kinds,
        kind: &Kind,
        key: &Key,
        uid: &str,
    ) -> anyhow::Result<()> {
        let mut blocked = false;
        for dependent in self.api.store.dependents(uid).await? {
            let Some(stored) = self.api.store.get(&dependent).await? else { continue };
            let owners = owners(&stored);
            let blocks = owners.iter().any(|owner| owner.uid == uid && owner.blocks);
            let Some(kind) = kinds.by_resource(&dependent.resource) else { continue };
            // A dependent with another living owner stays, without this one.
            let mut others = false;
            for owner in owners.iter().filter(|owner| owner.uid != uid) {
                others |= self.api.store.find_uid(&owner.uid).await?.is_some();
            }
            if others {
                drop_owners(&self.api, kind, &dependent, &[uid.to_owned()]).await?;
                continue;
            }
            let has_own = !self.api.store.dependents(self::uid(&stored)).await?.is_empty();
            let policy = if has_own { Propagation::Foreground } else { Propagation::Background };
            if stored.value().pointer("/metadata/deletionTimestamp").is_none() {
                delete_by_controller(&self.api, kind, &dependent, Some(policy), None).await?;
            }
            blocked |= blocks && self.api.store.get(&dependent).await?.is_some();
        }
        if blocked {
            return Ok(());
        }
        remove_finalizer(&self.api, kind, key, FOREGROUND).await
    }

    /// An object whose owners are all gone goes too; if only some are, it forgets those.
    async fn check_owners(
        &mut self,
        kind: &Kind,
        key: &Key,
        stored: &Stored,
    ) -> anyhow::Result<()> {
        let owners = owners(stored);
        let mut dead = Vec::new();
        for owner in &owners {
            let found = self.api.store.find_uid(&owner.uid).await?;
            // An owner in another namespace is no owner. What is in no namespace is not deleted for
            // naming one that is: that mistake would be too expensive.
            let alive = found.is_some_and(|found| {
                found.namespace.is_empty()
                    || key.namespace.is_empty()
                    || found.namespace == key.namespace
            });
            if !alive {
                dead.push(owner.uid.clone());
            }
        }
        if dead.is_empty() {
            return Ok(());
        }
        if dead.len() < owners.len() {
            return drop_owners(&self.api, kind, key, &dead).await;
        }
        if stored.value().pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(());
        }
        let uid = Some(uid(stored).to_owned());
        delete_by_controller(&self.api, kind, key, Some(Propagation::Background), uid).await?;
        Ok(())
    }
}

/// One entry of ownerReferences, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    uid: String,
    blocks: bool,
}

fn owners(stored: &Stored) -> Vec<Owner> {
    if !contains(stored.raw(), b"\"ownerReferences\"") {
        return Vec::new();
    }
    let list = stored.value().pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owner = |owner: &Value| {
        Some(Owner {
            uid: owner.get("uid")?.as_str()?.to_owned(),
            blocks: owner.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or(false),
        })
    };
    list.into_iter().flatten().filter_map(owner).collect()
}

fn uid(stored: &Stored) -> &str {
    meta::text(stored.value(), "uid")
}

/// Whether a terminating object has this finalizer.
fn holds(stored: &Stored, finalizer: &str) -> bool {
    if !contains(stored.raw(), finalizer.as_bytes()) {
        return false;
    }
    let metadata = &stored.value()["metadata"];
    let finalizers = metadata["finalizers"].as_array();
    !metadata["deletionTimestamp"].is_null()
        && finalizers.is_some_and(|list| list.iter().any(|name| name == finalizer))
}

/// Most objects can be told not to matter by their text, without parsing it.
fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

async fn drop_owners(api: &Api, kind: &Kind, key: &Key, uids: &[String]) -> anyhow::Result<()> {
    edit(api, kind, key, |object| {
        let list = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
        let Some(list) = list else { return false };
        let before = list.len();
        list.retain(|owner| {
            let uid = owner.get("uid").and_then(Value::as_str).unwrap_or_default();
            !uids.iter().any(|gone| gone == uid)
        });
        let changed = list.len() != before;
        if list.is_empty()
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("ownerReferences");
        }
        changed
    })
    .await
}
