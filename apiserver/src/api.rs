//! What every request and every controller shares.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::Authenticator;
use crate::kinds::Kinds;
use crate::store::Store;

/// The state of the server: the store, the kinds that are served, and who may ask.
pub struct Api {
    pub store: Store,
    pub authenticator: Authenticator,
    /// `host:port` as clients reach it.
    pub address: String,
    kinds: watch::Sender<Arc<Kinds>>,
    stopping: watch::Receiver<bool>,
}

impl Api {
    pub fn new(
        store: Store,
        authenticator: Authenticator,
        address: String,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let kinds = watch::Sender::new(Arc::new(Kinds::new(Vec::new())));
        Self { store, authenticator, address, kinds, stopping }
    }

    /// The kinds as they are now.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.borrow().clone()
    }

    /// Follows what is served.
    pub fn kinds_changes(&self) -> watch::Receiver<Arc<Kinds>> {
        self.kinds.subscribe()
    }

    /// Replaces what is served. Only the CRD controller does.
    pub fn set_kinds(&self, kinds: Kinds) {
        self.kinds.send_replace(Arc::new(kinds));
    }

    /// Turns true when the server stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.clone()
    }
}

/// Completes when the server stops.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server: an error is the end, too.
    drop(stopping.wait_for(|stop| *stop).await);
}
