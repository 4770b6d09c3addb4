//! Keeps the Node object and the Lease of every gateway, so that `kubectl get nodes` tells the truth.
//!
//! API budget per connected node: one Lease patch per quarter of the lease duration (10 s by default);
//! one Node read and one status patch per session, one Lease read and one status patch per loss. On a
//! real cluster the node controller watches the Lease as well and comes to the same verdict. Nodes are
//! never deleted here: that is the operator's decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub_proto::Now;
use hub_proto::id::NodeName;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::clock;
use crate::enrol::secrets::is_code;
use crate::hub::nodes::SessionId;
use crate::ops::Metrics;
use crate::stop::Stop;

/// What the VERSION column shows; its end marks a Node as ours.
const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "-kedge");
const MARK: &str = "-kedge";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const EDGE_LABEL: &str = "node-role.kubernetes.io/edge";
/// API requests at the same time.
const WRITERS: usize = 8;
const DEADLINE: Duration = Duration::from_secs(10);
/// After a failed request.
const RETRY: Duration = Duration::from_secs(2);

/// Sessions come and go.
#[derive(Debug)]
pub enum NodeEvent {
    /// A session began.
    Up {
        /// Whose.
        node: NodeName,
        /// Which.
        session: SessionId,
    },
    /// A session ended.
    Down {
        /// Whose.
        node: NodeName,
        /// Which.
        session: SessionId,
    },
}

/// Pure: what is to be done for which node, and when.
#[derive(Debug)]
pub struct Keeper {
    lease: Duration,
    nodes: BTreeMap<NodeName, Kept>,
    schedule: BTreeSet<(Instant, NodeName)>,
}

#[derive(Debug)]
struct Kept {
    session: Option<SessionId>,
    /// What the Node says as far as we know.
    ready: Option<bool>,
    /// When the node counts as gone, if it has no session.
    lost_at: Instant,
    due: Instant,
    busy: bool,
}

/// What to do for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make or mend the Node, say that it is ready, renew the Lease.
    Ready,
    /// Renew the Lease.
    Renew,
    /// Say that nothing is known about it.
    Unknown,
}

impl Keeper {
    /// Keeps nodes whose Lease lasts this long.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, nodes: BTreeMap::new(), schedule: BTreeSet::new() }
    }

    /// A node that was ready when we started: it counts as gone unless it connects in time.
    pub fn found(&mut self, node: NodeName, now: Now) {
        let lost_at = now.instant + self.lease;
        if !self.nodes.contains_key(&node) {
            let kept =
                Kept { session: None, ready: Some(true), lost_at, due: lost_at, busy: false };
            self.nodes.insert(node.clone(), kept);
            self.schedule.insert((lost_at, node));
        }
    }

    /// A session came or went.
    pub fn event(&mut self, event: NodeEvent, now: Now) {
        match event {
            NodeEvent::Up { node, session } => {
                let fresh = Kept {
                    session: None,
                    ready: None,
                    lost_at: now.instant,
                    due: now.instant,
                    busy: false,
                };
                let kept = self.nodes.entry(node.clone()).or_insert(fresh);
                // The Node is looked at with every session: somebody may have deleted it.
                (kept.session, kept.ready) = (Some(session), None);
                self.set_due(&node, now.instant);
            }
            NodeEvent::Down { node, session } => {
                let lost_at = now.instant + self.lease;
                if let Some(kept) = self.nodes.get_mut(&node)
                    && kept.session == Some(session)
                {
                    (kept.session, kept.lost_at) = (None, lost_at);
                    self.set_due(&node, lost_at);
                }
            }
        }
    }

    /// The next thing to do, if one is due. Answer with [`Self::done`].
    pub fn next_task(&mut self, now: Now) -> Option<(NodeName, Task)> {
        while let Some((due, _)) = self.schedule.first()
            && *due <= now.instant
            && let Some((_, node)) = self.schedule.pop_first()
        {
            let Some(kept) = self.nodes.get_mut(&node) else { continue };
            let task = match (kept.session, kept.ready) {
                (Some(_), Some(true)) => Task::Renew,
                (Some(_), _) => Task::Ready,
                (None, Some(false)) => {
                    // Nothing more to say about it; a new session starts it anew.
                    self.nodes.remove(&node);
                    continue;
                }
                (None, _) => Task::Unknown,
            };
            kept.busy = true;
            return Some((node, task));
        }
        None
    }

    /// A task has ended, well or not.
    pub fn done(&mut self, node: &NodeName, task: Task, well: bool, now: Now) {
        let Some(kept) = self.nodes.get_mut(node) else { return };
        kept.busy = false;
        let connected = kept.session.is_some();
        if well {
            match task {
                Task::Ready => kept.ready = Some(true),
                Task::Unknown => kept.ready = Some(false),
                Task::Renew => {}
            }
        }
        let next = match (connected, well) {
            (_, false) => now.instant + RETRY,
            (true, true) if task == Task::Unknown => now.instant,
            (true, true) => now.instant + self.lease / 4,
            (false, true) => kept.lost_at,
        };
        self.set_due(node, next);
    }

    /// When [`Self::next_task`] is wanted next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    fn set_due(&mut self, node: &NodeName, due: Instant) {
        let Some(kept) = self.nodes.get_mut(node) else { return };
        self.schedule.remove(&(kept.due, node.clone()));
        kept.due = due;
        if !kept.busy {
            self.schedule.insert((due, node.clone()));
        }
    }
}

/// The task that keeps Nodes and Leases.
pub async fn run(
    client: Client,
    lease: Duration,
    mut events: mpsc::Receiver<NodeEvent>,
    metrics: Arc<Metrics>,
    stop: Stop,
) {
    let writer = Arc::new(NodeWriter::new(client, lease));
    let mut keeper = Keeper::new(lease);
    let mut tasks = JoinSet::new();
    let mut finding = Some(clock::now().instant);
    loop {
        let now = clock::now();
        if finding.is_some_and(|at| at <= now.instant) {
            match timeout(DEADLINE, writer.ready_nodes()).await {
                Ok(Ok(nodes)) => {
                    nodes.into_iter().for_each(|node| keeper.found(node, clock::now()));
                    finding = None;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot list nodes, trying again");
                    finding = Some(clock::now().instant + RETRY);
                }
                Err(_) => finding = Some(clock::now().instant + RETRY),
            }
        }
        while tasks.len() < WRITERS
            && let Some((node, task)) = keeper.next_task(now)
        {
            let writer = Arc::clone(&writer);
            tasks.spawn(async move {
                let well = writer.perform(&node, task).await;
                (node, task, well)
            });
        }
        let wake = keeper.poll_timeout().filter(|_| tasks.len() < WRITERS);
        let wake = wake.into_iter().chain(finding).min();
        tokio::select! {
            () = stop.wait() => break,
            Some(done) = tasks.join_next() => {
                if let Ok((node, task, well)) = done {
                    metrics.node_written(task, well);
                    keeper.done(&node, task, well, clock::now());
                }
            }
            event = events.recv() => match event {
                Some(event) => keeper.event(event, clock::now()),
                None => break,
            },
            () = sleep_until(wake.unwrap_or(now.instant).into()), if wake.is_some() => {}
        }
    }
    tasks.shutdown().await;
}

/// Takes events and does nothing: for installations that keep their Nodes themselves.
pub async fn ignore(mut events: mpsc::Receiver<NodeEvent>, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.wait() => return,
            event = events.recv() => if event.is_none() { return },
        }
    }
}

struct NodeWriter {
    nodes: Api<Node>,
    leases: Api<Lease>,
    namespaces: Api<k8s_openapi::api::core::v1::Namespace>,
    lease: Duration,
}

impl NodeWriter {
    fn new(client: Client, lease: Duration) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), LEASE_NAMESPACE),
            namespaces: Api::all(client),
            lease,
        }
    }

    /// Nodes of ours that say they are ready.
    async fn ready_nodes(&self) -> Result<Vec<NodeName>, kube::Error> {
        let list = self.nodes.list(&ListParams::default().labels(EDGE_LABEL)).await?;
        let ready = list.items.into_iter().filter(|node| {
            let status = node.status.as_ref();
            let version = status.and_then(|status| status.node_info.as_ref());
            let ours = version.is_some_and(|info| info.kubelet_version.ends_with(MARK));
            ours && is_ready(node)
        });
        Ok(ready.filter_map(|node| NodeName::parse(node.metadata.name.as_deref()?).ok()).collect())
    }

    async fn perform(&self, node: &NodeName, task: Task) -> bool {
        let attempt = async {
            match task {
                Task::Ready => {
                    self.renew(node).await?;
                    self.ready(node).await
                }
                Task::Renew => self.renew(node).await,
                Task::Unknown => self.unknown(node).await,
            }
        };
        match timeout(DEADLINE, attempt).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%node, ?task, %error, "node object not written, trying again");
                false
            }
            Err(_) => {
                tracing::warn!(%node, ?task, "the API server does not answer");
                false
            }
        }
    }

    async fn ready(&self, node: &NodeName) -> Result<(), kube::Error> {
        let mut status = ready_status("True", "EdgeReady", "the gateway is connected");
        if let Some(known) = self.nodes.get_opt(node.as_str()).await? {
            if is_ready(&known) {
                // It did not turn: the time of the last turn stays.
                let condition = status["status"]["conditions"][0].as_object_mut();
                condition.map(|condition| condition.remove("lastTransitionTime"));
            }
            return self.patch_status(node, &status).await;
        }
        let object: Node =
            serde_json::from_value(node_object(node)).map_err(kube::Error::SerdeError)?;
        match self.nodes.create(&PostParams::default(), &object).await {
            Ok(_) => tracing::info!(%node, "created the Node"),
            Err(error) if is_code(&error, 409) => {}
            Err(error) => return Err(error),
        }
        self.patch_status(node, &status).await
    }

    /// Says that nothing is known, unless somebody else keeps the Lease alive or the Node is gone.
    async fn unknown(&self, node: &NodeName) -> Result<(), kube::Error> {
        if let Some(lease) = self.leases.get_opt(node.as_str()).await?
            && let Some(renewed) = lease.spec.and_then(|spec| spec.renew_time)
        {
            let now_ms = i64::try_from(clock::now().unix_ms).unwrap_or(i64::MAX);
            let age = now_ms.saturating_sub(renewed.0.as_millisecond());
            if age < i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX) {
                return Ok(()); // Connected to another cloudcore.
            }
        }
        tracing::info!(%node, "no session for longer than the lease: Unknown");
        let message = "no session with the gateway";
        let status = ready_status("Unknown", "NodeStatusUnknown", message);
        match self.patch_status(node, &status).await {
            Err(error) if is_code(&error, 404) => Ok(()),
            patched => patched,
        }
    }

    async fn patch_status(&self, node: &NodeName, status: &Value) -> Result<(), kube::Error> {
        let patch = Patch::Strategic(status);
        self.nodes.patch_status(node.as_str(), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn renew(&self, node: &NodeName) -> Result<(), kube::Error> {
        let spec = json!({
            "holderIdentity": node.as_str(),
            "leaseDurationSeconds": self.lease.as_secs().max(1),
            "renewTime": micro_time(clock::now().unix_ms),
        });
        let patch = json!({ "spec": &spec });
        let patch = Patch::Merge(&patch);
        match self.leases.patch(node.as_str(), &PatchParams::default(), &patch).await {
            Err(error) if is_code(&error, 404) => {}
            patched => return patched.map(drop),
        }
        let lease = json!({
            "metadata": { "name": node.as_str(), "namespace": LEASE_NAMESPACE },
            "spec": spec,
        });
        let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        match self.leases.create(&PostParams::default(), &lease).await {
            Err(error) if is_code(&error, 409) => Ok(()),
            Err(error) if is_code(&error, 404) => {
                let namespace = json!({ "metadata": { "name": LEASE_NAMESPACE } });
                let namespace =
                    serde_json::from_value(namespace).map_err(kube::Error::SerdeError)?;
                match self.namespaces.create(&PostParams::default(), &namespace).await {
                    Err(error) if !is_code(&error, 409) => return Err(error),
                    Ok(_) | Err(_) => {}
                }
                self.leases.create(&PostParams::default(), &lease).await.map(drop)
            }
            created => created.map(drop),
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn node_object(node: &NodeName) -> Value {
    json!({
        "metadata": {
            "name": node.as_str(),
            "labels": {
                "kubernetes.io/hostname": node.as_str(),
                "kubernetes.io/os": "linux",
                // The gateway does not tell its architecture over this protocol.
                "kubernetes.io/arch": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
                EDGE_LABEL: "",
                "node-role.kubernetes.io/agent": "",
            },
        },
        "spec": { "taints": [{ "key": EDGE_LABEL, "effect": "NoSchedule" }] },
    })
}

fn ready_status(status: &str, reason: &str, message: &str) -> Value {
    let now = clock::rfc3339(clock::now().unix_ms);
    json!({
        "status": {
            "conditions": [{
                "type": "Ready",
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }],
            "nodeInfo": {
                "kubeletVersion": VERSION,
                "operatingSystem": "linux",
                "architecture": "",
                "bootID": "",
                "containerRuntimeVersion": "",
                "kernelVersion": "",
                "kubeProxyVersion": "",
                "machineID": "",
                "osImage": "",
                "systemUUID": "",
            },
        },
    })
}

fn micro_time(unix_ms: u64) -> String {
    let micros = i64::try_from(unix_ms.saturating_mul(1000)).unwrap_or_default();
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests;
