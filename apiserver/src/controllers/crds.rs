//! Definitions become kinds: names are accepted, the definition is established and served; a
//! deleted one takes its objects with it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::edit::{edit, remove_finalizer};
use crate::api::{Api, stopped};
use crate::kinds::custom::{self, condition};
use crate::kinds::{Kind, Kinds, resource_name};
use crate::routes::CRD_CLEANUP;
use crate::routes::delete_by_controller;
use crate::routes::query::Propagation;
use crate::store::{Change, Key, ListQuery};
use crate::{clock, crd, meta};

/// How often terminating definitions are looked at without a change.
const RETRY: Duration = Duration::from_secs(1);

pub struct Definitions {
    api: Arc<Api>,
    changes: broadcast::Receiver<Arc<Change>>,
    resource: Arc<str>,
}

impl Definitions {
    pub fn new(api: Arc<Api>, changes: broadcast::Receiver<Arc<Change>>) -> Self {
        let resource = resource_name("apiextensions.k8s.io", "customresourcedefinitions");
        Self { api, changes, resource }
    }

    /// The first look: what was established before a restart is served from the start.
    pub async fn start(self) -> anyhow::Result<Self> {
        self.reconcile().await?;
        Ok(self)
    }

    pub async fn run(mut self) {
        let mut stopping = self.api.stopping();
        let mut waiting = false;
        loop {
            let look = tokio::select! {
                () = stopped(&mut stopping) => return,
                change = self.changes.recv() => match change {
                    // Deletions of instances matter while a definition waits for them.
                    Ok(change) => {
                        change.key.resource == self.resource || (waiting && change.next.is_none())
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => true,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = tokio::time::sleep(RETRY), if waiting => true,
            };
            if look {
                waiting = self.reconcile().await.unwrap_or_else(|error| {
                    tracing::warn!("could not bring the definitions up to date: {error:#}");
                    true
                });
            }
        }
    }

    /// Looks at all definitions. Answers whether one of them waits for something.
    async fn reconcile(&self) -> anyhow::Result<bool> {
        let query = ListQuery {
            resource: self.resource.clone(),
            namespace: String::new(),
            name: None,
            at: None,
            after: None,
            limit: None,
        };
        let listing = self.api.store.list(query).await?;
        let mut definitions: Vec<Value> =
            listing.items.iter().map(|(_, stored)| stored.value().clone()).collect();
        let now = clock::seconds(clock::now());
        let mut changed = Vec::new();
        for index in 0..definitions.len() {
            let mut definition = definitions[index].clone();
            let others: Vec<&Value> = definitions
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, definition)| definition)
                .collect();
            if crd::establish(&mut definition, &others, &now) {
                changed.push(index);
                definitions[index] = definition;
            }
        }
        // Served before anybody can read that it is established.
        self.serve(&definitions);
        let kinds = self.api.kinds();
        let Some(own) = kinds.by_resource(&self.resource) else { return Ok(false) };
        for index in changed {
            let definition = &definitions[index];
            let key = Key::new(&self.resource, "", meta::text(definition, "name"));
            let uid = meta::text(definition, "uid");
            edit(&self.api, own, &key, |object| {
                let same = meta::text(object, "uid") == uid && object["spec"] == definition["spec"];
                object["status"] = definition["status"].clone();
                same
            })
            .await?;
        }
        let mut waiting = false;
        for definition in definitions.iter().filter(|d| is_terminating(d)) {
            waiting |= self.terminate(own, definition).await?;
        }
        Ok(waiting)
    }

    /// Replaces what is served, keeping the kinds whose definition has not changed, so that watches
    /// on them go on.
    fn serve(&self, definitions: &[Value]) {
        let current = self.api.kinds();
        let mut kinds: Vec<Arc<Kind>> = Vec::new();
        for definition in definitions.iter().filter(|d| condition(d, "Established")) {
            let kept = kept(&current, definition);
            if !kept.is_empty() {
                kinds.extend(kept);
                continue;
            }
            match custom::kinds(definition) {
                Ok(new) => kinds.extend(new),
                Err(error) => {
                    let name = meta::text(definition, "name");
                    tracing::warn!(name, %error, "a stored definition cannot be served");
                }
            }
        }
        let customs: Vec<&Arc<Kind>> =
            current.iter().filter(|kind| kind.custom().is_some()).collect();
        let same = customs.len() == kinds.len()
            && customs.iter().zip(&kinds).all(|(old, new)| Arc::ptr_eq(old, new));
        if !same {
            self.api.set_kinds(Kinds::new(kinds));
        }
    }

    /// Deletes the objects of a terminating definition, then the definition. Answers whether there
    /// is anything left to wait for.
    async fn terminate(&self, own: &Kind, definition: &Value) -> anyhow::Result<bool> {
        let plural = definition.pointer("/spec/names/plural").and_then(Value::as_str);
        let group = definition.pointer("/spec/group").and_then(Value::as_str);
        let resource = resource_name(group.unwrap_or_default(), plural.unwrap_or_default());
        let key = Key::new(&self.resource, "", meta::text(definition, "name"));
        let kinds = self.api.kinds();
        if let Some(kind) = kinds.by_resource(&resource) {
            let policy = Some(Propagation::Background);
            for instance in self.api.store.keys(Some(&resource), "").await? {
                delete_by_controller(&self.api, kind, &instance, policy, None).await?;
            }
            let left = self.api.store.keys(Some(&resource), "").await?;
            if !left.is_empty() {
                return Ok(true);
            }
        }
        let holds = definition.pointer("/metadata/finalizers").and_then(Value::as_array);
        if holds.is_some_and(|list| list.contains(&json!(CRD_CLEANUP))) {
            remove_finalizer(&self.api, own, &key, CRD_CLEANUP).await?;
        }
        Ok(false)
    }
}

fn is_terminating(definition: &Value) -> bool {
    definition.pointer("/metadata/deletionTimestamp").is_some()
}

/// The kinds of a definition that are served already and need not be built again.
fn kept(current: &Kinds, definition: &Value) -> Vec<Arc<Kind>> {
    let uid = meta::text(definition, "uid");
    let generation = definition.pointer("/metadata/generation").and_then(Value::as_i64);
    let same = |kind: &&Arc<Kind>| {
        kind.custom().is_some_and(|custom| {
            custom.crd_uid == uid
                && Some(custom.generation) == generation
                && custom.terminating == is_terminating(definition)
        })
    };
    current.iter().filter(same).cloned().collect()
}
