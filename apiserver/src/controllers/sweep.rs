//! Old things go: log rows that no watch should still need, and events after their time.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{Api, stopped};
use crate::clock;
use crate::kinds::{events, resource_name};
use crate::routes::delete_by_controller;
use crate::store::ListQuery;

const EVERY: Duration = Duration::from_secs(60);
/// How long events are kept after they were last seen.
const EVENT_TTL: Duration = Duration::from_secs(3600);

pub async fn run(api: Arc<Api>, history: Duration) {
    let mut stopping = api.stopping();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = sweep(&api, history).await {
            tracing::warn!("could not sweep: {error:#}");
        }
    }
}

async fn sweep(api: &Api, history: Duration) -> anyhow::Result<()> {
    let now = clock::now();
    let floor = api.store.compact(clock::before(now, history)).await?;
    tracing::debug!(floor, "compacted the log");
    let kinds = api.kinds();
    let Some(kind) = kinds.by_resource("events") else { return Ok(()) };
    let query = ListQuery {
        resource: resource_name("", "events"),
        namespace: String::new(),
        name: None,
        at: None,
        after: None,
        limit: None,
    };
    let oldest = clock::before(now, EVENT_TTL);
    for (key, stored) in api.store.list(query).await?.items {
        if events::last_seen(stored.value()).is_none_or(|seen| seen < oldest) {
            delete_by_controller(api, kind, &key, None, None).await?;
        }
    }
    Ok(())
}
