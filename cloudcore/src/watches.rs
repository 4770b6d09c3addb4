//! Kubernetes watches feed placement and status. One task owns the index; connections subscribe to it.
//!
//! A bad object is skipped and named, the watch lives. After any interruption the watch lists anew and
//! what is gone meanwhile is deleted here too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt, stream};
use hub_proto::cloud::Snapshot;
use hub_proto::id::{NodeName, ObjectKey, ObjectKind};
use kube::api::ApiResource;
use kube::core::DynamicObject;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};

use crate::enrol::secrets::is_code;
use crate::ops::{Metrics, Readiness};
use crate::placement::{Change, Changes, DeviceDoc, ModelDoc, Placement};
use crate::status::{DeviceSeen, ModelSeen, StatusInput, StatusSeen};
use crate::stop::Stop;

/// Changes of one node that its connection has not taken yet. When more come, the connection starts
/// from a snapshot again.
const CHANGES: usize = 256;
/// Objects per list request: parsed pages are the peak of our memory.
const PAGE: u32 = 100;

/// Pause after a watch was interrupted. Not growing: there are three watches per cloudcore, and an API
/// server that comes back, or definitions that are installed at last, are to be noticed at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks for a node's desired state.
pub struct Subscribe {
    /// Whose.
    pub node: NodeName,
    /// Where to.
    pub reply: oneshot::Sender<Subscription>,
}

/// A node's desired state: all of it, and what changes from then on.
pub struct Subscription {
    /// All of it.
    pub snapshot: Snapshot,
    /// Later changes, in order. Ends when the receiver was too slow: subscribe again.
    pub changes: mpsc::Receiver<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Model,
    Device,
    Status,
}

/// One list-and-watch: a kind in one namespace, or in all.
type Scope = (Kind, Option<Arc<str>>);
type Watched = (Scope, watcher::Result<watcher::Event<DynamicObject>>);

/// The task that owns the index.
pub struct Watches {
    placement: Placement,
    /// Keys listed so far, of scopes that are listing.
    listing: BTreeMap<Scope, HashSet<ObjectKey>>,
    /// Scopes that have not listed for the first time.
    unlisted: HashSet<Scope>,
    /// Scopes whose watch does not run at the moment.
    interrupted: HashSet<Scope>,
    /// Keys of statuses, to notice those that went while the watch was down.
    statuses: HashSet<ObjectKey>,
    subscribers: HashMap<NodeName, Vec<mpsc::Sender<Change>>>,
    requests: mpsc::Receiver<Subscribe>,
    status: mpsc::Sender<StatusInput>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

impl Watches {
    /// Prepares the task.
    #[must_use]
    pub fn new(
        requests: mpsc::Receiver<Subscribe>,
        status: mpsc::Sender<StatusInput>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
    ) -> Self {
        Self {
            placement: Placement::default(),
            listing: BTreeMap::new(),
            unlisted: HashSet::new(),
            interrupted: HashSet::new(),
            statuses: HashSet::new(),
            subscribers: HashMap::new(),
            requests,
            status,
            metrics,
            readiness,
        }
    }

    /// Runs until told to stop.
    pub async fn run(mut self, client: Client, namespaces: Vec<String>, stop: Stop) {
        let scopes = scopes(&namespaces);
        self.unlisted = scopes.iter().cloned().collect();
        let mut events: SelectAll<BoxStream<'static, Watched>> =
            stream::select_all(scopes.into_iter().map(|scope| watch(&client, scope)));
        loop {
            let ready = self.unlisted.is_empty();
            tokio::select! {
                () = stop.wait() => return,
                Some((scope, event)) = events.next() => match event {
                    Ok(event) => {
                        if !matches!(event, watcher::Event::Init) && self.interrupted.remove(&scope) {
                            tracing::info!(kind = ?scope.0, namespace = scope.1.as_deref(), "watch runs again");
                        }
                        if self.take(scope, event).await.is_err() {
                            return; // Status has stopped: so does everything.
                        }
                    }
                    Err(error) => self.failed(&scope, &error),
                },
                // Before the lists are complete nobody can tell a deleted object from an unseen one.
                Some(request) = self.requests.recv(), if ready => self.subscribe(request),
                else => return,
            }
        }
    }

    /// Said aloud once per interruption: it repeats until it is over.
    fn failed(&mut self, scope: &Scope, error: &watcher::Error) {
        self.metrics.watch_failures.inc();
        if !self.interrupted.insert(scope.clone()) {
            tracing::debug!(kind = ?scope.0, %error, "watch still interrupted");
            return;
        }
        if is_missing(error) {
            tracing::warn!(kind = ?scope.0, "the API does not know this kind: are the CustomResourceDefinitions installed?");
            return;
        }
        tracing::warn!(kind = ?scope.0, namespace = scope.1.as_deref(), %error, "watch interrupted, trying again");
    }

    async fn take(
        &mut self,
        scope: Scope,
        event: watcher::Event<DynamicObject>,
    ) -> Result<(), Stopped> {
        match event {
            watcher::Event::Init => {
                self.listing.insert(scope, HashSet::new());
                Ok(())
            }
            watcher::Event::InitApply(object) => {
                let key = self.apply(scope.0, object).await?;
                if let (Some(key), Some(listed)) = (key, self.listing.get_mut(&scope)) {
                    listed.insert(key);
                }
                Ok(())
            }
            watcher::Event::InitDone => self.listed(scope).await,
            watcher::Event::Apply(object) => self.apply(scope.0, object).await.map(|_| ()),
            watcher::Event::Delete(object) => match key_of(scope.0, &object) {
                Some(key) => self.delete(scope.0, &key).await,
                None => Ok(()),
            },
        }
    }

    /// A list is complete: what is known and was not listed is gone.
    async fn listed(&mut self, scope: Scope) -> Result<(), Stopped> {
        let listed = self.listing.remove(&scope).unwrap_or_default();
        let namespace = scope.1.as_deref();
        let known = match scope.0 {
            Kind::Model => self.placement.keys(ObjectKind::DeviceModel, namespace),
            Kind::Device => self.placement.keys(ObjectKind::Device, namespace),
            Kind::Status => {
                let here = |key: &&ObjectKey| {
                    namespace.is_none_or(|namespace| key.namespace() == namespace)
                };
                self.statuses.iter().filter(here).cloned().collect()
            }
        };
        for key in known {
            if !listed.contains(&key) {
                self.delete(scope.0, &key).await?;
            }
        }
        if self.unlisted.remove(&scope) && self.unlisted.is_empty() {
            let (models, devices, parked) = self.placement.counts();
            tracing::info!(models, devices, parked, "lists are complete");
            self.tell(StatusInput::Listed).await?;
            self.readiness.lists.set();
        }
        Ok(())
    }

    async fn apply(
        &mut self,
        kind: Kind,
        object: DynamicObject,
    ) -> Result<Option<ObjectKey>, Stopped> {
        let key = key_of(kind, &object);
        match kind {
            Kind::Model => match ModelDoc::read(object) {
                Ok((key, model)) => {
                    if let Err(reason) = &model.spec {
                        self.bad("DeviceModel", &key.to_string(), reason);
                    }
                    let seen = ModelSeen::new(key.clone(), &model);
                    let changes = self.placement.apply_model(&key, model);
                    self.tell(StatusInput::Model(seen)).await?;
                    self.parked_may_differ(&changes).await?;
                    self.publish(changes);
                }
                Err(bad) => self.bad("DeviceModel", &bad.name, &bad.reason),
            },
            Kind::Device => match DeviceDoc::read(object) {
                Ok((key, device)) => {
                    if let Some(reason) = &device.unreadable {
                        self.bad("Device", &key.to_string(), reason);
                    }
                    if let Some(id) = key.device_id() {
                        let mut seen = DeviceSeen::new(id.clone(), &device);
                        let changes = self.placement.apply_device(&id, device);
                        seen.parked = self.placement.parked(&id);
                        seen.revision = self.placement.revision(&id);
                        // Status first: reports can only follow what a session is told next.
                        self.tell(StatusInput::Device(Box::new(seen))).await?;
                        self.publish(changes);
                    }
                }
                Err(bad) => self.bad("Device", &bad.name, &bad.reason),
            },
            Kind::Status => match StatusSeen::read(object) {
                Ok(seen) => {
                    self.statuses.extend(key.clone());
                    self.tell(StatusInput::Observed(Box::new(seen))).await?;
                }
                Err(bad) => self.bad("DeviceStatus", &bad.name, &bad.reason),
            },
        }
        Ok(key)
    }

    async fn delete(&mut self, kind: Kind, key: &ObjectKey) -> Result<(), Stopped> {
        let changes = match kind {
            Kind::Model => {
                let changes = self.placement.delete_model(key);
                self.tell(StatusInput::ModelGone(key.clone())).await?;
                self.parked_may_differ(&changes).await?;
                changes
            }
            Kind::Device => {
                let Some(id) = key.device_id() else { return Ok(()) };
                let changes = self.placement.delete_device(&id);
                self.tell(StatusInput::DeviceGone(id)).await?;
                changes
            }
            Kind::Status => {
                self.statuses.remove(key);
                let Some(id) = key.device_id() else { return Ok(()) };
                self.tell(StatusInput::ObservedGone(id)).await?;
                Changes::new()
            }
        };
        self.publish(changes);
        Ok(())
    }

    /// A model came or went: status shows why its devices are or are not delivered.
    async fn parked_may_differ(&self, changes: &Changes) -> Result<(), Stopped> {
        for (_, change) in changes {
            let id = match change {
                Change::Park(id) => Some(id.clone()),
                Change::Upsert(desired) => desired.key.device_id(),
                Change::Remove(_) => None,
            };
            if let Some(id) = id {
                let parked = self.placement.parked(&id);
                self.tell(StatusInput::Parked { device: id, parked }).await?;
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, request: Subscribe) {
        let snapshot = self.placement.snapshot(&request.node);
        let (sender, changes) = mpsc::channel(CHANGES);
        if request.reply.send(Subscription { snapshot, changes }).is_ok() {
            let subscribers = self.subscribers.entry(request.node).or_default();
            subscribers.retain(|subscriber| !subscriber.is_closed());
            subscribers.push(sender);
        }
    }

    fn publish(&mut self, changes: Changes) {
        let (models, devices) = (self.placement.models(), self.placement.devices());
        self.metrics.placed(models, devices);
        for (node, change) in changes {
            let Some(subscribers) = self.subscribers.get_mut(&node) else { continue };
            // Full or closed: let go. A live connection notices and asks for everything.
            subscribers.retain(|subscriber| subscriber.try_send(change.clone()).is_ok());
            if subscribers.is_empty() {
                self.subscribers.remove(&node);
            }
        }
    }

    async fn tell(&self, input: StatusInput) -> Result<(), Stopped> {
        self.status.send(input).await.map_err(|_| Stopped)
    }

    fn bad(&self, kind: &'static str, name: &str, reason: &str) {
        self.metrics.bad_object(kind);
        tracing::warn!(kind, name, reason, "object cannot be used");
    }
}

struct Stopped;

fn scopes(namespaces: &[String]) -> Vec<Scope> {
    let kinds = [Kind::Model, Kind::Device, Kind::Status];
    let places: Vec<Option<Arc<str>>> = if namespaces.is_empty() {
        vec![None]
    } else {
        namespaces.iter().map(|name| Some(name.as_str().into())).collect()
    };
    kinds.iter().flat_map(|kind| places.iter().map(|place| (*kind, place.clone()))).collect()
}

fn watch(client: &Client, scope: Scope) -> BoxStream<'static, Watched> {
    let resource = match scope.0 {
        Kind::Model => ApiResource::erase::<crds::DeviceModel>(&()),
        Kind::Device => ApiResource::erase::<crds::Device>(&()),
        Kind::Status => ApiResource::erase::<crds::DeviceStatus>(&()),
    };
    let api: Api<DynamicObject> = match &scope.1 {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let events = watcher(api, watcher::Config::default().page_size(PAGE)).backoff(Steady);
    events.map(move |event| (scope.clone(), event)).boxed()
}

struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(PAUSE)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

fn is_missing(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(error) if is_code(error, 404))
}

fn key_of(kind: Kind, object: &DynamicObject) -> Option<ObjectKey> {
    let kind = match kind {
        Kind::Model => ObjectKind::DeviceModel,
        Kind::Device | Kind::Status => ObjectKind::Device,
    };
    let namespace = object.metadata.namespace.as_deref()?;
    ObjectKey::new(kind, namespace, object.metadata.name.as_deref()?).ok()
}
