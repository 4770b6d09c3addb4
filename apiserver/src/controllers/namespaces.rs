//! Namespaces: the ones that always exist, what every one contains, and how one ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::conditions;
use super::edit::edit;
use crate::api::{Api, stopped};
use crate::clock;
use crate::kinds::{Kind, resource_name};
use crate::routes::delete_by_controller;
use crate::routes::query::Propagation;
use crate::store::{Change, CommitError, Expect, Guard, Key, Write};

const DEFAULTS: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const RETRY: Duration = Duration::from_secs(1);

fn namespaces() -> Arc<str> {
    resource_name("", "namespaces")
}

/// Makes the namespaces that every cluster has.
pub async fn make_defaults(api: &Api) -> anyhow::Result<()> {
    for name in DEFAULTS {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": own_metadata(name, json!({"labels": {"kubernetes.io/metadata.name": name}})),
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        make(api, Key::new(&namespaces(), "", name), object, Guard::None).await?;
    }
    Ok(())
}

fn own_metadata(name: &str, mut metadata: Value) -> Value {
    metadata["name"] = json!(name);
    metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
    metadata["creationTimestamp"] = json!(clock::seconds(clock::now()));
    metadata
}

/// Creates an object unless it exists (or its namespace has gone).
async fn make(api: &Api, key: Key, object: Value, guard: Guard) -> anyhow::Result<()> {
    if api.store.get(&key).await?.is_some() {
        return Ok(());
    }
    let write = Write { key, expect: Expect::Absent, put: Some(object), guard };
    match api.store.commit(write).await {
        Ok(_) | Err(CommitError::Exists | CommitError::NamespaceMissing) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub struct Keeper {
    api: Arc<Api>,
    changes: broadcast::Receiver<Arc<Change>>,
    ca_cert: String,
    /// Namespaces that are being emptied.
    terminating: BTreeSet<String>,
}

impl Keeper {
    pub fn new(api: Arc<Api>, changes: broadcast::Receiver<Arc<Change>>, ca_cert: String) -> Self {
        Self { api, changes, ca_cert, terminating: BTreeSet::new() }
    }

    pub async fn run(mut self) {
        let mut stopping = self.api.stopping();
        loop {
            tokio::select! {
                () = stopped(&mut stopping) => return,
                change = self.changes.recv() => match change {
                    Ok(change) => self.see(&change).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all().await,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = tokio::time::sleep(RETRY), if !self.terminating.is_empty() => {
                    for name in self.terminating.clone() {
                        self.look(&name).await;
                    }
                }
            }
        }
    }

    async fn see(&mut self, change: &Change) {
        if *change.key.resource == *namespaces() {
            self.look(&change.key.name).await;
        } else if change.next.is_none() && self.terminating.contains(&change.key.namespace) {
            let name = change.key.namespace.clone();
            self.look(&name).await;
        }
    }

    /// Tends every namespace there is.
    pub async fn look_at_all(&mut self) {
        match self.api.store.keys(Some(&namespaces()), "").await {
            Ok(keys) => {
                for key in keys {
                    self.look(&key.name).await;
                }
            }
            Err(error) => tracing::warn!(%error, "could not list the namespaces"),
        }
    }

    async fn look(&mut self, name: &str) {
        match self.reconcile(name).await {
            Ok(true) => {
                self.terminating.insert(name.to_owned());
            }
            Ok(false) => {
                self.terminating.remove(name);
            }
            Err(error) => {
                tracing::warn!(namespace = name, "could not tend a namespace: {error:#}");
                self.terminating.insert(name.to_owned());
            }
        }
    }

    /// Fills a new namespace, empties a terminating one. Answers whether to look again.
    async fn reconcile(&self, name: &str) -> anyhow::Result<bool> {
        let key = Key::new(&namespaces(), "", name);
        let Some(namespace) = self.api.store.get(&key).await? else { return Ok(false) };
        if namespace.value().pointer("/metadata/deletionTimestamp").is_none() {
            self.fill(name).await?;
            return Ok(false);
        }
        let kinds = self.api.kinds();
        let Some(own) = kinds.by_resource("namespaces") else { return Ok(false) };
        for content in self.api.store.keys(None, name).await? {
            let Some(kind) = kinds.by_resource(&content.resource) else { continue };
            let policy = Some(Propagation::Background);
            delete_by_controller(&self.api, kind, &content, policy, None).await?;
        }
        let left = self.api.store.keys(None, name).await?;
        if !left.is_empty() {
            self.report(own, &key, &left).await?;
            return Ok(true);
        }
        self.finish(&key).await
    }

    async fn fill(&self, name: &str) -> anyhow::Result<()> {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": own_metadata("default", json!({"namespace": name}))});
        let key = Key::new(&resource_name("", "serviceaccounts"), name, "default");
        make(&self.api, key, account, Guard::NamespaceExists).await?;
        let about = "The certificate of the authority that signs the API server's certificate.";
        let metadata =
            json!({"namespace": name, "annotations": {"kubernetes.io/description": about}});
        let root = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": own_metadata("kube-root-ca.crt", metadata), "data": {"ca.crt": self.ca_cert}});
        let key = Key::new(&resource_name("", "configmaps"), name, "kube-root-ca.crt");
        make(&self.api, key, root, Guard::NamespaceExists).await
    }

    /// The namespace is empty: its own finalizer goes, and with the last one the namespace.
    async fn finish(&self, key: &Key) -> anyhow::Result<bool> {
        let Some(live) = self.api.store.get(key).await? else { return Ok(false) };
        let mut object = live.value().clone();
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("finalizers");
        }
        let held = object.pointer("/metadata/finalizers").and_then(Value::as_array);
        let held = held.is_some_and(|list| !list.is_empty());
        let expect = Expect::Rv(live.rv);
        let (put, guard) = if held && object == *live.value() {
            return Ok(true);
        } else if held {
            (Some(object), Guard::None)
        } else {
            (None, Guard::NamespaceEmpty)
        };
        match self.api.store.commit(Write { key: key.clone(), expect, put, guard }).await {
            Ok(_) => Ok(held),
            Err(CommitError::NotFound) => Ok(false),
            Err(CommitError::Conflict { .. } | CommitError::NamespaceNotEmpty) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Says in the namespace's conditions what it still waits for.
    async fn report(&self, own: &Kind, key: &Key, left: &[Key]) -> anyhow::Result<()> {
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for content in left {
            *counts.entry(content.resource.as_ref()).or_default() += 1;
        }
        let resources: Vec<String> = counts
            .iter()
            .map(|(resource, count)| format!("{resource} has {count} resource instances"))
            .collect();
        let remaining = format!("Some resources are remaining: {}", resources.join(", "));
        let now = clock::seconds(clock::now());
        let facts = [
            (
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered".to_owned(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
            (
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
            ("NamespaceContentRemaining", true, "SomeResourcesRemain", remaining),
            (
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining".to_owned(),
            ),
        ];
        edit(&self.api, own, key, |object| {
            let mut changed = false;
            for (kind, value, reason, message) in &facts {
                changed |= conditions::set(object, kind, *value, reason, message, &now);
            }
            changed
        })
        .await
    }
}
