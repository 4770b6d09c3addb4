//! What an operator sees: /healthz, /readyz with named guards, /metrics, /nodes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hub_proto::cloud::Counters;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::clock;
use crate::hub::nodes::Nodes;
use crate::node_objects::Task;
use crate::status::action::{Outcome, Target};
use crate::stop::Stop;

/// Something that has to be true before cloudcore serves.
#[derive(Debug)]
pub struct Guard {
    name: &'static str,
    is_set: AtomicBool,
}

impl Guard {
    fn new(name: &'static str) -> Self {
        Self { name, is_set: AtomicBool::new(false) }
    }

    /// It is true from now on.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
    }
}

/// The guards of /readyz.
#[derive(Debug)]
pub struct Readiness {
    /// Authority, server certificate and token are in place.
    pub enrolment: Guard,
    /// Models, devices and statuses have been listed.
    pub lists: Guard,
    /// Gateways can connect.
    pub hub: Guard,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            enrolment: Guard::new("enrolment"),
            lists: Guard::new("lists"),
            hub: Guard::new("hub"),
        }
    }
}

impl Readiness {
    fn report(&self) -> (bool, String) {
        let mut text = String::new();
        let mut ready = true;
        for guard in [&self.enrolment, &self.lists, &self.hub] {
            let is_set = guard.is_set.load(Ordering::Acquire);
            ready &= is_set;
            let _ = writeln!(text, "[{}] {}", if is_set { '+' } else { '-' }, guard.name);
        }
        (ready, text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcomes {
    outcome: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Writes {
    target: Word,
    outcome: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kinds {
    kind: Word,
}

/// A label value from our own vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl prometheus_client::encoding::EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// All numbers. Names start with `kedge_cloudcore_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connected: Gauge,
    superseded: Gauge,
    owed: Gauge,
    /// Connections refused before the upgrade.
    pub rejected_connections: Counter,
    /// Messages that made no sense.
    pub unreadable_messages: Counter,
    /// Confirmations that found no session or no room.
    pub lost_confirms: Counter,
    /// Interruptions of watches.
    pub watch_failures: Counter,
    sent: Counter,
    resent: Counter,
    acked: Counter,
    replaced: Counter,
    refused: Counter,
    keepalives: Counter,
    confirmed: Counter,
    reports: Family<Outcomes, Counter>,
    status_writes: Family<Writes, Counter>,
    status_queue: Gauge,
    node_writes: Family<Writes, Counter>,
    bad_objects: Family<Kinds, Counter>,
    enrolments: Family<Outcomes, Counter>,
    models: Gauge,
    devices: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kedge_cloudcore");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                let copy = Clone::clone(&metric);
                registry.register($name, $help, copy);
                metric
            }};
        }
        Self {
            connected: metric!("connected_nodes", "Nodes with a session"),
            superseded: metric!("superseded_sessions", "Sessions ended by a newer one of the node"),
            owed: metric!("owed_objects", "Objects that connected nodes have not acked yet"),
            rejected_connections: metric!("rejected_connections", "Refused before the upgrade"),
            unreadable_messages: metric!("unreadable_messages", "Messages that make no sense"),
            lost_confirms: metric!("lost_confirms", "Confirmations without a session or room"),
            watch_failures: metric!("watch_failures", "Interruptions of Kubernetes watches"),
            sent: metric!("objects_sent", "Object messages sent for the first time"),
            resent: metric!("objects_resent", "Object messages sent again"),
            acked: metric!("objects_acked", "Object messages acked"),
            replaced: metric!("objects_replaced", "Owed changes replaced by a newer one"),
            refused: metric!("objects_refused", "Objects refused by a node, or not answered for"),
            keepalives: metric!("keepalives", "Keepalives received"),
            confirmed: metric!("reports_confirmed", "Reports confirmed to nodes"),
            reports: metric!("reports", "Reports of nodes by what became of them"),
            status_writes: metric!("status_writes", "Status writes by target and outcome"),
            status_queue: metric!("status_queue", "Status writes that are owed"),
            node_writes: metric!("node_writes", "Node and Lease writes by target and outcome"),
            bad_objects: metric!("bad_objects", "Objects that cannot be used, by kind"),
            enrolments: metric!("enrolments", "Requests for a node certificate by outcome"),
            models: metric!("models", "Device models known"),
            devices: metric!("devices", "Devices known"),
            registry,
        }
    }
}

impl Metrics {
    /// Adds what a session did since it was last asked.
    pub fn add_session(&self, before: &Counters, now: &Counters) {
        self.sent.inc_by(now.sent - before.sent);
        self.resent.inc_by(now.resent - before.resent);
        self.acked.inc_by(now.acked - before.acked);
        self.replaced.inc_by(now.superseded - before.superseded);
        self.refused.inc_by(now.refused - before.refused);
        self.keepalives.inc_by(now.keepalives - before.keepalives);
        self.confirmed.inc_by(now.confirmed - before.confirmed);
    }

    /// Counts a report: written, unchanged, refused.
    pub fn report(&self, outcome: &'static str) {
        self.reports.get_or_create(&Outcomes { outcome: Word(outcome) }).inc();
    }

    /// Counts a status write.
    pub fn status_written(&self, target: Target, outcome: &Outcome) {
        let target = Word(match target {
            Target::Reported => "devicestatus",
            Target::Conditions => "device",
        });
        let outcome = Word(match outcome {
            Outcome::Written(_) => "written",
            Outcome::Rejected(_) => "rejected",
            Outcome::Failed(_) => "failed",
        });
        self.status_writes.get_or_create(&Writes { target, outcome }).inc();
    }

    /// Shows how many status writes are owed.
    pub fn status_queue(&self, owed: usize) {
        self.status_queue.set(i64::try_from(owed).unwrap_or(i64::MAX));
    }

    /// Counts a Node or Lease write.
    pub fn node_written(&self, task: Task, well: bool) {
        let target = Word(match task {
            Task::Ready | Task::Unknown => "node",
            Task::Renew => "lease",
        });
        let outcome = Word(if well { "written" } else { "failed" });
        self.node_writes.get_or_create(&Writes { target, outcome }).inc();
    }

    /// Counts an object that cannot be used.
    pub fn bad_object(&self, kind: &'static str) {
        self.bad_objects.get_or_create(&Kinds { kind: Word(kind) }).inc();
    }

    /// Counts a request for a certificate.
    pub fn enrolled(&self, outcome: &'static str) {
        self.enrolments.get_or_create(&Outcomes { outcome: Word(outcome) }).inc();
    }

    /// Shows the size of the index.
    pub fn placed(&self, models: usize, devices: usize) {
        self.models.set(i64::try_from(models).unwrap_or(i64::MAX));
        self.devices.set(i64::try_from(devices).unwrap_or(i64::MAX));
    }

    fn encode(&self, nodes: &Nodes) -> String {
        let (connected, superseded) = nodes.counts();
        self.connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.superseded.set(i64::try_from(superseded).unwrap_or(i64::MAX));
        let owed: usize = nodes.views().iter().map(|(_, _, view)| view.owed).sum();
        self.owed.set(i64::try_from(owed).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// What the endpoints show.
#[derive(Clone)]
pub struct Ops {
    /// Guards of /readyz.
    pub readiness: Arc<Readiness>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Sessions.
    pub nodes: Arc<Nodes>,
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, ops: Ops, stop: Stop) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/nodes", get(nodes))
        .with_state(ops);
    let served =
        axum::serve(listener, router).with_graceful_shutdown(async move { stop.wait().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the ops endpoint has stopped");
    }
}

async fn readyz(State(ops): State<Ops>) -> impl IntoResponse {
    let (ready, report) = ops.readiness.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, report)
}

async fn metrics(State(ops): State<Ops>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], ops.metrics.encode(&ops.nodes))
}

async fn nodes(State(ops): State<Ops>) -> impl IntoResponse {
    let sessions: Vec<_> = ops
        .nodes
        .views()
        .into_iter()
        .map(|(node, peer, view)| {
            serde_json::json!({
                "node": node.as_str(),
                "peer": peer.to_string(),
                "connectedSince": clock::rfc3339(view.since_ms),
                "inSync": view.owed == 0,
                "owed": view.owed,
                "unconfirmedReports": view.unconfirmed,
                "sent": view.counters.sent,
                "resent": view.counters.resent,
                "acked": view.counters.acked,
                "reports": view.counters.reports,
                "lastError": view.last_error,
            })
        })
        .collect();
    let body = serde_json::json!({ "nodes": sessions }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], body)
}
