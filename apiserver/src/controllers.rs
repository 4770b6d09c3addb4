//! The background loops that a cluster would have: definitions become kinds, owners take their
//! dependents with them, namespaces their content, and old things are swept away.
//!
//! Each is one task, driven by the store's changes and a slow clock, level-triggered: what it
//! missed, its next full look finds.

pub mod conditions;
mod crds;
mod edit;
mod gc;
mod namespaces;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::api::Api;

/// Brings the store to a servable state, then starts the controllers as tasks that end when the
/// server stops.
pub async fn start(
    api: &Arc<Api>,
    ca_cert: &str,
    history: Duration,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    // Subscribed first: what happens while the first look runs is looked at again.
    let changes = || api.store.subscribe_all();
    let definitions = crds::Definitions::new(api.clone(), changes());
    let collector = gc::Collector::new(api.clone(), changes());
    let mut keeper = namespaces::Keeper::new(api.clone(), changes(), ca_cert.to_owned());
    namespaces::make_defaults(api).await.context("making the default namespaces")?;
    let definitions = definitions.start().await.context("reading the definitions")?;
    // What every namespace contains is there before the first client can look.
    keeper.look_at_all().await;
    tasks.spawn(definitions.run());
    tasks.spawn(collector.run());
    tasks.spawn(keeper.run());
    tasks.spawn(sweep::run(api.clone(), history));
    Ok(())
}
