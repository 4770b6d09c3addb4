//! A Kubernetes API for one machine.
//!
//! Objects live in SQLite (`store`); kinds are a fixed table plus what definitions add (`kinds`);
//! requests come in through `server`, are understood by `routes` and answered from the store;
//! `watch` turns the store's changes into streams; `controllers` do what a cluster's background
//! loops would do. The rules of the API itself are pure modules, listed apart below.

// Pure rules: no IO, no clock, no runtime.
pub mod crd;
pub mod decode;
pub mod discovery;
pub mod kinds;
pub mod managed;
pub mod meta;
pub mod negotiate;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod schema;
pub mod selection;
pub mod selector;
pub mod status;
pub mod table;

// Drivers around them.
pub mod api;
pub mod auth;
pub mod clock;
pub mod config;
pub mod controllers;
pub mod pki;
pub mod respond;
pub mod routes;
pub mod server;
pub mod store;
pub mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::task::JoinSet;

use api::Api;
use config::Config;
use store::{Store, StoreThread};

/// A server that listens, with its kubeconfig written.
pub struct Server {
    pub address: SocketAddr,
    pub kubeconfig: PathBuf,
    api: Arc<Api>,
    stop: tokio::sync::watch::Sender<bool>,
    tasks: JoinSet<()>,
    store: StoreThread,
}

/// Serves until `shutdown` completes, then stops within a few seconds.
pub async fn run(config: &Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let server = Server::start(config).await?;
    server.run(shutdown).await
}

impl Server {
    /// Opens the store, prepares the keys, listens, and starts the controllers.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("making the data directory {}", data_dir.display()))?;
        let pki = pki::Pki::load_or_make(&data_dir.join("pki"), &pki::hostname())?;
        let listener = server::bind(config.listen).await?;
        let address = listener.local_addr().context("reading the listening address")?;
        let (store, store_thread) = Store::open(&data_dir.join("state.db"))?;
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let authenticator = auth::Authenticator::new(&pki.admin_token);
        let api = Arc::new(Api::new(store, authenticator, address.to_string(), stopping));
        let tls = server::tls(&pki)?;
        let mut tasks = JoinSet::new();
        controllers::start(&api, &pki.ca_cert, config.history(), &mut tasks).await?;
        tasks.spawn(server::accept(listener, tls, api.clone()));
        let kubeconfig = config.kubeconfig_path();
        pki::write_file(&kubeconfig, &pki.kubeconfig(reachable(address)), 0o600)?;
        tracing::info!(%address, kubeconfig = %kubeconfig.display(), "serving the Kubernetes API");
        Ok(Self { address, kubeconfig, api, stop, tasks, store: store_thread })
    }

    /// What the server shares with its requests; for tests and measurements.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Serves until `shutdown` completes. A part that ends by itself is an error.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        tokio::select! {
            () = shutdown => tracing::info!("stopping"),
            ended = self.tasks.join_next() => {
                outcome = Err(match ended {
                    Some(Err(error)) => anyhow::Error::new(error).context("a part of the server died"),
                    Some(Ok(())) | None => anyhow::anyhow!("a part of the server ended by itself"),
                });
            }
        }
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(server::GRACE + server::GRACE, ended).await.is_err() {
            tracing::warn!("some parts did not stop in time");
            self.tasks.shutdown().await;
        }
        drop(self.api);
        self.store.close().await;
        outcome
    }
}

/// The address to put into a kubeconfig: a wildcard is not one that can be dialled.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}
