//! edgecore: the node. Keeps devices working with the cloud gone.
//!
//! | room | does |
//! |---|---|
//! | [`agent`] | the one loop; every event and every effect passes here |
//! | [`twin`] | pure: what devices said, what the cloud and the disk have yet to learn |
//! | [`fleet`] | pure: devices and mappers, who serves whom, what is owed |
//! | [`store`] | what survives a power cut; one thread owns the database |
//! | [`link`] | the websocket that carries the session (`hub_proto::edge`) |
//! | [`dmi`] | mappers call us, we call mappers |
//! | [`identity`] | joining, the key, the certificate |
//! | [`ops`] | health, metrics, status |

pub mod agent;
pub mod cli;
pub mod config;
pub mod dmi;
pub mod fleet;
pub mod identity;
pub mod link;
pub mod metrics;
pub mod ops;
pub mod store;
pub mod twin;

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use hub_proto::edge::EdgeOptions;
use tokio::sync::{mpsc, watch};

use agent::Agent;
use agent::driver::{self, Inputs};
use config::Config;

/// Frames from the cloud that may wait for the agent.
const LINK_QUEUE: usize = 32;

/// Runs the node until `stop` turns true.
///
/// # Errors
/// The data directory, the DMI socket or the ops port cannot be had, or a part ended that must not.
/// An unreachable cloud is no error.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let _lock = own_data_dir(&config.data_dir)?;
    let now = driver::now();
    let (store, snapshot) = store::open(&config.data_dir, now.unix_ms)?;
    let (objects, mappers) = (snapshot.objects.len(), snapshot.mappers.len());
    let metrics = metrics::Metrics::default();
    let registry = metrics.registry();
    let options = EdgeOptions {
        node: config.node_name.clone(),
        heartbeat: config.cloud.heartbeat,
        seed: rand::random(),
    };
    let (agent, first) = Agent::new(options, snapshot, metrics, now);

    let socket = dmi::server::listen(&config.dmi.socket)?;
    let ops = ops::listen(config.ops.listen).await?;
    let (link_events, link) = mpsc::channel(LINK_QUEUE);
    let (requests, dmi) = mpsc::channel(dmi::server::QUEUE);
    let (questions, status) = mpsc::channel(8);
    let link_options = link::LinkOptions {
        node: config.node_name.clone(),
        cloud: config.cloud.clone(),
        data_dir: config.data_dir.clone(),
        seed: rand::random(),
    };
    tracing::info!(
        node = %config.node_name, objects, mappers,
        dmi = %config.dmi.socket.display(), ops = %config.ops.listen,
        "running"
    );
    let inputs = Inputs { link, dmi, status, stop: stop.clone() };
    let mut parts = tokio::task::JoinSet::new();
    let (link_stop, dmi_stop, ops_stop) = (stop.clone(), stop.clone(), stop.clone());
    parts.spawn(async move {
        link::run(link_options, link_events, link_stop).await;
        anyhow::Ok("link")
    });
    parts.spawn(async move {
        dmi::server::serve(socket, requests, dmi_stop).await.map(|()| "DMI server")
    });
    parts
        .spawn(async move { ops::serve(ops, questions, registry, ops_stop).await.map(|()| "ops") });
    // Nothing ends before the agent does, unless something is wrong or all of it is to stop.
    let mut agent = std::pin::pin!(driver::run(agent, first, store, inputs));
    let result = loop {
        tokio::select! {
            result = &mut agent => break result,
            Some(ended) = parts.join_next() => match ended.context("a part panicked") {
                Ok(Ok(_)) if *stop.borrow() => {}
                Ok(Ok(part)) => break Err(anyhow!("the {part} ended")),
                Ok(Err(error)) | Err(error) => break Err(error),
            },
        }
    };
    parts.shutdown().await;
    if let Err(error) = std::fs::remove_file(&config.dmi.socket) {
        tracing::debug!(%error, "socket not removed");
    }
    if result.is_ok() {
        tracing::info!("stopped");
    }
    result
}

/// Makes the data directory and takes its lock: two edgecores on one store would undo each other.
fn own_data_dir(dir: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making the data directory {}", dir.display()))?;
    let path = dir.join("edgecore.lock");
    let lock = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("another edgecore uses {}", dir.display()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}
