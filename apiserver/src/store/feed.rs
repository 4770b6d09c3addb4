//! Committed changes on their way to watchers.
//!
//! Queues are bounded: a receiver that falls more than a queue's length behind is told so
//! (`Lagged`) and reads what it missed from the log. Nothing ever waits for a slow watcher.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};

use super::Change;

const PER_RESOURCE: usize = 512;
const ALL: usize = 2048;

pub struct Feed {
    all: broadcast::Sender<Arc<Change>>,
    resources: Mutex<BTreeMap<Arc<str>, broadcast::Sender<Arc<Change>>>>,
    revision: watch::Sender<u64>,
}

impl Feed {
    pub fn new(rv: u64) -> Self {
        let resources = Mutex::new(BTreeMap::new());
        Self { all: broadcast::Sender::new(ALL), resources, revision: watch::Sender::new(rv) }
    }

    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn subscribe_all(&self) -> broadcast::Receiver<Arc<Change>> {
        self.all.subscribe()
    }

    pub fn subscribe(&self, resource: &Arc<str>) -> broadcast::Receiver<Arc<Change>> {
        let mut resources = self.resources();
        // Resources nobody watches any more cost nothing.
        resources.retain(|_, sender| sender.receiver_count() > 0);
        let sender = resources
            .entry(resource.clone())
            .or_insert_with(|| broadcast::Sender::new(PER_RESOURCE));
        sender.subscribe()
    }

    pub fn watchers(&self, resource: &str) -> usize {
        self.resources().get(resource).map_or(0, broadcast::Sender::receiver_count)
    }

    /// Publishes one transaction's changes, then the revision they reach: whoever sees revision R
    /// finds every change up to R already in its queue.
    pub fn publish(&self, changes: &[Arc<Change>], rv: u64) {
        {
            let resources = self.resources();
            for change in changes {
                if let Some(sender) = resources.get(&change.key.resource) {
                    // An error only says that nobody listens at the moment.
                    let _nobody = sender.send(change.clone());
                }
                let _nobody = self.all.send(change.clone());
            }
        }
        self.revision.send_replace(rv);
    }

    fn resources(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, broadcast::Sender<Arc<Change>>>> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
