//! Health, metrics and status over plain HTTP on loopback.
//!
//! | path | answer |
//! |---|---|
//! | /healthz | 200 while the process runs its loop |
//! | /readyz | 200 if the store can write and mappers can register; 503 with the guard that fails. The link is no guard: a node without its cloud works |
//! | /metrics | Prometheus text |
//! | /status | everything the agent knows, as JSON |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::Question;

/// The agent answers in milliseconds, if it answers.
const DEADLINE: Duration = Duration::from_secs(5);

/// After a kill the old process may still hold the port.
const BIND_RETRIES: u32 = 50;
const BIND_WAIT: Duration = Duration::from_millis(100);

type Questions = mpsc::Sender<Question>;

#[derive(Clone)]
struct Ops {
    questions: Questions,
    registry: Arc<Registry>,
}

/// Listens; tries for five seconds while the port is in use.
///
/// # Errors
/// The port cannot be had.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries < BIND_RETRIES => {
                tries += 1;
                tokio::time::sleep(BIND_WAIT).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("ops: listening on {address}"));
            }
        }
    }
}

/// Serves until `stop`.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    questions: Questions,
    registry: Registry,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let router = axum::Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(Ops { questions, registry: Arc::new(registry) });
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await
        .context("serving ops")
}

impl Ops {
    async fn ask(&self, with_devices: bool) -> Option<serde_json::Value> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.questions.send(Question { with_devices, reply }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(DEADLINE, asked).await.ok().flatten()
    }
}

async fn healthz(State(ops): State<Ops>) -> Response {
    match ops.ask(false).await {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer\n").into_response(),
    }
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let Some(status) = ops.ask(false).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "agent: does not answer\n").into_response();
    };
    match status["store"]["problem"].as_str() {
        None => "agent: ok\nstore: ok\ndmi: ok\n".into_response(),
        Some(problem) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("store: {problem}\n")).into_response()
        }
    }
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let _ = ops.ask(false).await; // brings the gauges up to date
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &ops.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], text).into_response()
}

async fn status(State(ops): State<Ops>) -> Response {
    match ops.ask(true).await {
        Some(status) => {
            ([(header::CONTENT_TYPE, "application/json")], format!("{status}\n")).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
