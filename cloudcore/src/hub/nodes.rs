//! Who is connected: at most one session per node, the newest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_proto::cloud::Counters;
use hub_proto::id::NodeName;
use tokio::sync::oneshot;

/// Tells sessions of the same node apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What a session shows of itself.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Unix milliseconds of the upgrade.
    pub since_ms: u64,
    /// Objects not yet acked as they should be.
    pub owed: usize,
    /// Reports taken and not yet confirmed.
    pub unconfirmed: usize,
    /// The session's counters.
    pub counters: Counters,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// The table of sessions. Locked for lookups only, never across an await.
#[derive(Debug)]
pub struct Nodes {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    here: HashMap<NodeName, Here>,
    superseded: u64,
}

#[derive(Debug)]
struct Here {
    session: SessionId,
    peer: SocketAddr,
    view: Arc<Mutex<View>>,
    /// Dropped to end the session.
    _end: oneshot::Sender<()>,
}

/// A session's place in the table; leaving is dropping it.
#[derive(Debug)]
pub struct Place {
    nodes: Arc<Nodes>,
    node: NodeName,
    /// Which session this is.
    pub session: SessionId,
    /// Kept up to date by the session.
    pub view: Arc<Mutex<View>>,
}

impl Nodes {
    /// An empty table for at most `limit` nodes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, table: Mutex::default() }
    }

    /// Whether a session of this node would be let in: it is connected already, or there is room.
    #[must_use]
    pub fn has_room(&self, node: &NodeName) -> bool {
        let table = self.lock();
        table.here.len() < self.limit || table.here.contains_key(node)
    }

    /// Enters a session. One of the same node that is there already is told to end, at once. `None`
    /// if the table is full.
    pub fn enter(
        self: &Arc<Self>,
        node: &NodeName,
        peer: SocketAddr,
        since_ms: u64,
    ) -> Option<(Place, oneshot::Receiver<()>)> {
        let mut table = self.lock();
        if table.here.len() >= self.limit && !table.here.contains_key(node) {
            return None;
        }
        table.next += 1;
        let session = SessionId(table.next);
        let (end, ended) = oneshot::channel();
        let view = Arc::new(Mutex::new(View { since_ms, ..View::default() }));
        let here = Here { session, peer, view: Arc::clone(&view), _end: end };
        if table.here.insert(node.clone(), here).is_some() {
            table.superseded += 1;
        }
        drop(table);
        let place = Place { nodes: Arc::clone(self), node: node.clone(), session, view };
        Some((place, ended))
    }

    /// Connected nodes, and sessions superseded so far.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        let table = self.lock();
        (table.here.len(), table.superseded)
    }

    /// Every session as it shows itself, by node.
    #[must_use]
    pub fn views(&self) -> Vec<(NodeName, SocketAddr, View)> {
        let table = self.lock();
        let mut views: Vec<_> = table
            .here
            .iter()
            .map(|(node, here)| {
                let view = here.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
                (node.clone(), here.peer, view)
            })
            .collect();
        drop(table);
        views.sort_by(|a, b| a.0.cmp(&b.0));
        views
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.nodes.lock();
        // Only its own entry: a newer session of the node has taken the place over.
        if table.here.get(&self.node).is_some_and(|here| here.session == self.session) {
            table.here.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn peer() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }

    #[test]
    fn a_second_session_of_a_node_ends_the_first_and_outlives_its_end() {
        let nodes = Arc::new(Nodes::new(10));
        let (first, mut first_ended) = nodes.enter(&node("a"), peer(), 0).unwrap();
        assert!(first_ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let (second, mut second_ended) = nodes.enter(&node("a"), peer(), 0).unwrap();
        assert!(first_ended.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        drop(first);
        assert_eq!(nodes.counts(), (1, 1));
        assert!(second_ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        drop(second);
        assert_eq!(nodes.counts(), (0, 1));
    }

    #[test]
    fn the_limit_counts_nodes_not_sessions() {
        let nodes = Arc::new(Nodes::new(1));
        let _first = nodes.enter(&node("a"), peer(), 0).unwrap();
        assert!(!nodes.has_room(&node("b")));
        assert!(nodes.enter(&node("b"), peer(), 0).is_none());
        assert!(nodes.has_room(&node("a")), "a reconnect is let in while its old session counts");
        assert!(nodes.enter(&node("a"), peer(), 0).is_some());
    }
}
