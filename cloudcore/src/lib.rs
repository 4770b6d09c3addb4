//! cloudcore: Kubernetes on one side, nodes on the other.
//!
//! ```text
//! Kubernetes --watches--> placement --subscription--> hub (one session per node) --> gateway
//! Kubernetes <--status--- book <------reports-------- hub
//! Kubernetes <--Node, Lease-- node_objects <--up/down-- hub        enrol --certificate--> gateway
//! ```
//! It holds no state of its own beyond three Secrets: killed anywhere, the next one converges.

pub mod cli;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod hub;
pub mod node_objects;
pub mod ops;
pub mod placement;
pub mod status;
pub mod stop;
pub mod tls;
pub mod watches;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hub_proto::cloud::CloudConfig;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use config::Config;
use enrol::authority::{Authority, ServerCertificate};
use enrol::join::Door;
use enrol::secrets::{SecretError, Secrets};
use hub::connection::Hub;
use hub::nodes::Nodes;
use ops::{Metrics, Ops, Readiness};
use status::Status;
use stop::Stop;
use tls::ClientCertificate;
use watches::Watches;

/// Questions to placement, inputs of status and events of nodes that wait to be taken. When a queue is
/// full its senders wait: connections slow down, and with them only their own gateways.
const QUEUE: usize = 1024;
/// How long the parts get to end.
const STOP_PATIENCE: Duration = Duration::from_secs(4);

/// Runs cloudcore until `shutdown` completes.
///
/// # Errors
/// What cannot be waited for: a bad configuration, an address that cannot be had, unusable Secrets.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (stopper, stop) = stop::pair();
    let metrics = Arc::new(Metrics::default());
    let readiness = Arc::new(Readiness::default());
    let nodes = Arc::new(Nodes::new(config.hub.node_limit));
    let mut parts = JoinSet::new();

    let listener = tls::bind(config.ops.listen, "ops").await?;
    let ops = Ops {
        readiness: Arc::clone(&readiness),
        metrics: Arc::clone(&metrics),
        nodes: Arc::clone(&nodes),
    };
    parts.spawn(ops::serve(listener, ops, stop.clone()));
    let work = serve(&config, metrics, readiness, nodes, &mut parts, &stop);
    tokio::pin!(shutdown);
    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        outcome = work => outcome,
    };
    let outcome = match outcome {
        // Every part runs until told otherwise: one that ends by itself is a failure.
        Ok(()) => tokio::select! {
            () = &mut shutdown => Ok(()),
            Some(ended) = parts.join_next() => match ended {
                Ok(()) => Err(anyhow::anyhow!("a part of cloudcore has stopped by itself")),
                Err(error) => Err(error).context("a part of cloudcore has failed"),
            },
        },
        Err(error) => Err(error),
    };
    tracing::info!("stopping");
    stopper.stop();
    let ended = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
        tracing::warn!("some parts did not end in time");
        parts.abort_all();
    }
    outcome
}

/// Starts every part; returns once all run.
async fn serve(
    config: &Config,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    nodes: Arc<Nodes>,
    parts: &mut JoinSet<()>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let client = connect(config).await?;

    let (status, status_inputs) = mpsc::channel(QUEUE);
    let (placement, requests) = mpsc::channel(QUEUE);
    let (node_objects, node_events) = mpsc::channel(QUEUE);
    let lease = config.nodes.lease_duration;
    let book = Status::new(
        client.clone(),
        config.status.interval,
        lease,
        status_inputs,
        Arc::clone(&metrics),
    );
    parts.spawn(book.run(stop.clone()));
    let watches =
        Watches::new(requests, status.clone(), Arc::clone(&metrics), Arc::clone(&readiness));
    parts.spawn(watches.run(client.clone(), config.watch_namespaces.clone(), stop.clone()));
    if config.nodes.register {
        let metrics = Arc::clone(&metrics);
        parts.spawn(node_objects::run(client.clone(), lease, node_events, metrics, stop.clone()));
    } else {
        parts.spawn(node_objects::ignore(node_events, stop.clone()));
    }

    let secrets = Secrets::new(client, &config.namespace);
    let (authority, server) = credentials(&secrets, config).await?;
    readiness.enrolment.set();

    let optional = tls::server_config(&authority, &server, ClientCertificate::Optional)?;
    let required = tls::server_config(&authority, &server, ClientCertificate::Required)?;
    let door = Door {
        authority: Arc::clone(&authority),
        ttl: config.enrol.node_certificate_ttl,
        metrics: Arc::clone(&metrics),
        rate: std::sync::Mutex::default(),
    };
    let listener = tls::bind(config.enrol.listen, "enrolment").await?;
    let acceptor = TlsAcceptor::from(optional);
    parts.spawn(enrol::join::serve(listener, acceptor, Arc::new(door), stop.clone()));
    parts.spawn(keep_token(secrets, authority, config.enrol.token_ttl, stop.clone()));

    let session =
        CloudConfig { keepalive_timeout: config.hub.keepalive_timeout, ..CloudConfig::default() };
    let hub = Hub { nodes, metrics, session, placement, status, node_objects };
    let listener = tls::bind(config.hub.listen, "hub").await?;
    let acceptor = TlsAcceptor::from(required);
    parts.spawn(hub::listener::serve(listener, acceptor, Arc::new(hub), stop.clone()));
    readiness.hub.set();
    Ok(())
}

/// A client for the Kubernetes API. A kubeconfig that is not there yet is waited for: the API server
/// writes it when it is up.
async fn connect(config: &Config) -> anyhow::Result<Client> {
    let kubernetes = match &config.kubeconfig {
        Some(path) => {
            let mut pause = Pause::default();
            while !path.exists() {
                tracing::warn!(path = %path.display(), "waiting for the kubeconfig to appear");
                pause.wait().await;
            }
            let kubeconfig = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(
                kubeconfig,
                &kube::config::KubeConfigOptions::default(),
            )
            .await
            .with_context(|| format!("cannot use {}", path.display()))?
        }
        None => kube::Config::incluster().context("no kubeconfig is set and this is no pod")?,
    };
    Client::try_from(kubernetes).context("cannot make a Kubernetes client")
}

/// The authority, the server certificate and a token, waiting for the API as long as it takes.
async fn credentials(
    secrets: &Secrets,
    config: &Config,
) -> anyhow::Result<(Arc<Authority>, ServerCertificate)> {
    let mut pause = Pause::default();
    loop {
        let attempt = async {
            let now = clock::unix_secs();
            let authority = secrets.authority(now).await?;
            let server = secrets.server(&authority, &config.enrol.advertise, now).await?;
            secrets.refresh_token(&authority, config.enrol.token_ttl, now).await?;
            Ok((Arc::new(authority), server))
        };
        match attempt.await {
            Ok(credentials) => return Ok(credentials),
            Err(error @ SecretError::Api { .. }) => {
                tracing::warn!(%error, "waiting for the Kubernetes API");
                pause.wait().await;
            }
            Err(
                error @ (SecretError::Content { .. }
                | SecretError::Missing { .. }
                | SecretError::Token(_)),
            ) => return Err(error.into()),
        }
    }
}

/// Keeps a join token in its Secret that has at least half of its life before it.
async fn keep_token(secrets: Secrets, authority: Arc<Authority>, ttl: Duration, stop: Stop) {
    let check = (ttl / 8).clamp(Duration::from_secs(1), Duration::from_secs(600));
    loop {
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(check) => {}
        }
        if let Err(error) = secrets.refresh_token(&authority, ttl, clock::unix_secs()).await {
            tracing::warn!(%error, "join token not refreshed, trying again");
        }
    }
}

/// Growing pauses while something is not there yet: 250 ms doubling to 5 s.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    async fn wait(&mut self) {
        let pause = Duration::from_millis(250).saturating_mul(1 << self.0.min(5));
        self.0 += 1;
        tokio::time::sleep(pause.min(Duration::from_secs(5))).await;
    }
}
