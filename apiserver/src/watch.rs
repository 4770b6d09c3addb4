//! Watches: a stream of changes that starts from a list, from the log, or from now.
//!
//! A watch is pulled by the connection that serves it: when the client goes, the stream is dropped
//! and with it everything the watch held. What a slow client does not read waits in the bounded
//! queue of the feed; when that overflows, the watch reads the rest from the log.

mod frames;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::api::Api;
use crate::kinds::{Kind, Kinds};
use crate::negotiate::Accepted;
use crate::selection::Selection;
use crate::status::StatusError;
use crate::store::{Change, ListQuery, ReadError, Stored};
use crate::table::Include;
use frames::Frames;

/// Without changes, a bookmark this often tells the client how far it has seen.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before the end of the watch the last bookmark comes.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Frames are gathered into chunks of about this many bytes when many are ready at once.
const CHUNK: usize = 32 * 1024;

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what exists, as additions.
    Existing,
    /// With the first change after this revision.
    After(u64),
    /// With the next change.
    Now,
}

/// Everything a watch request asks for.
pub struct WatchRequest {
    pub kind: Arc<Kind>,
    pub selection: Selection,
    pub accepted: Accepted,
    pub include: Include,
    pub start: Start,
    pub bookmarks: bool,
    pub timeout: Duration,
}

/// Starts a watch; the stream yields chunks of newline-terminated JSON frames.
pub fn stream(api: Arc<Api>, request: WatchRequest) -> impl Stream<Item = Bytes> + Send + 'static {
    let watcher = Watcher::new(api, request);
    futures_util::stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next_chunk().await?;
        Some((chunk, watcher))
    })
}

/// What is ready to be sent; objects are rendered only when their turn comes.
enum Ready {
    Existing(Arc<Stored>),
    Bytes(Bytes),
}

struct Watcher {
    api: Arc<Api>,
    kind: Arc<Kind>,
    selection: Selection,
    frames: Frames,
    start: Option<Start>,
    bookmarks: bool,
    changes: broadcast::Receiver<Arc<Change>>,
    kinds: watch::Receiver<Arc<Kinds>>,
    stopping: watch::Receiver<bool>,
    /// Every change up to this revision has been seen.
    seen: u64,
    ready: VecDeque<Ready>,
    end: Instant,
    next_bookmark: Instant,
    finished: bool,
}

impl Watcher {
    fn new(api: Arc<Api>, request: WatchRequest) -> Self {
        let WatchRequest { kind, selection, accepted, include, start, bookmarks, timeout } =
            request;
        // Subscribed before anything is read, so that nothing falls between list and changes.
        let changes = api.store.subscribe(&kind.resource);
        let (mut kinds, stopping) = (api.kinds_changes(), api.stopping());
        kinds.mark_unchanged();
        let now = Instant::from_std(crate::clock::instant());
        let end = now + timeout;
        let first_bookmark = (now + BOOKMARK_EVERY).min(last_bookmark(now, end));
        Self {
            frames: Frames::new(kind.clone(), accepted, include),
            api,
            kind,
            selection,
            start: Some(start),
            bookmarks,
            changes,
            kinds,
            stopping,
            seen: 0,
            ready: VecDeque::new(),
            end,
            next_bookmark: first_bookmark,
            finished: false,
        }
    }

    async fn next_chunk(&mut self) -> Option<Bytes> {
        if let Some(start) = self.start.take() {
            self.begin(start).await;
        }
        while self.ready.is_empty() {
            if self.finished {
                return None;
            }
            self.wait().await;
        }
        Some(self.take_chunk())
    }

    fn take_chunk(&mut self) -> Bytes {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK {
            let Some(ready) = self.ready.pop_front() else { break };
            let bytes = match ready {
                Ready::Bytes(bytes) => bytes,
                Ready::Existing(stored) => self.frames.added(&stored),
            };
            if chunk.is_empty() && self.ready.is_empty() {
                return bytes;
            }
            chunk.extend_from_slice(&bytes);
        }
        chunk.freeze()
    }

    async fn begin(&mut self, start: Start) {
        match start {
            Start::Now => self.seen = self.api.store.revision(),
            // A revision from the future waits quietly: nothing is replayed until it is reached.
            Start::After(rv) if rv >= self.api.store.revision() => self.seen = rv,
            Start::After(rv) => {
                self.seen = rv;
                self.catch_up().await;
            }
            Start::Existing => self.list().await,
        }
    }

    async fn list(&mut self) {
        let query = ListQuery {
            resource: self.kind.resource.clone(),
            namespace: self.selection.namespace.clone(),
            name: self.selection.name().map(str::to_owned),
            at: None,
            after: None,
            limit: None,
        };
        match self.api.store.list(query).await {
            Ok(listing) => {
                self.seen = listing.rv;
                for (_, stored) in listing.items {
                    if self.selection.matches(&self.kind, &stored) {
                        self.ready.push_back(Ready::Existing(stored));
                    }
                }
                if self.bookmarks {
                    // Rendered last, after the first frame has carried the column definitions.
                    let marker = self.frames.bookmark(self.seen, true);
                    self.ready.push_back(Ready::Bytes(marker));
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    async fn wait(&mut self) {
        let bookmark = if self.bookmarks { self.next_bookmark } else { self.end };
        tokio::select! {
            biased;
            received = self.changes.recv() => match received {
                Ok(change) => {
                    self.take(&change);
                    self.drain();
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up().await,
                Err(broadcast::error::RecvError::Closed) => self.finished = true,
            },
            () = tokio::time::sleep_until(bookmark), if self.bookmarks => self.send_bookmark(),
            () = tokio::time::sleep_until(self.end) => self.finished = true,
            changed = self.kinds.changed() => self.check_kind(changed.is_err()),
            _ = self.stopping.changed() => self.finished = true,
        }
    }

    /// Takes what else is queued, so that a burst becomes few chunks.
    fn drain(&mut self) {
        while self.ready.len() < 256 {
            match self.changes.try_recv() {
                Ok(change) => self.take(&change),
                // Whatever else there is to say, the next wait says it.
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, change: &Change) {
        if change.rv <= self.seen {
            return;
        }
        self.seen = change.rv;
        if let Some(seen) = self.selection.see(&self.kind, change) {
            let frame = self.frames.change(seen, change);
            self.ready.push_back(Ready::Bytes(frame));
        }
    }

    async fn catch_up(&mut self) {
        let store = &self.api.store;
        match store.replay(&self.kind.resource, &self.selection.namespace, self.seen).await {
            Ok(replay) => {
                for change in replay.changes {
                    self.take(&change);
                }
                self.seen = self.seen.max(replay.rv);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn send_bookmark(&mut self) {
        // The revision first, then what is queued: every change up to it was queued before it
        // was announced.
        let revision = self.api.store.revision();
        self.drain();
        if self.changes.is_empty() {
            self.seen = self.seen.max(revision);
        }
        let frame = self.frames.bookmark(self.seen, false);
        self.ready.push_back(Ready::Bytes(frame));
        let now = Instant::from_std(crate::clock::instant());
        let last = last_bookmark(now, self.end);
        self.next_bookmark =
            if now < last { (now + BOOKMARK_EVERY).min(last) } else { self.end + BOOKMARK_EVERY };
    }

    /// Ends when the kind is gone or served differently now: the client has to look again.
    fn check_kind(&mut self, gone: bool) {
        let kinds = self.kinds.borrow_and_update();
        let current = kinds.get(&self.kind.group, &self.kind.version, &self.kind.plural);
        // While a definition ends its objects go one by one, which the watch still tells.
        let ending = |kind: &Kind| kind.custom().is_some_and(|custom| custom.terminating);
        let same = current.is_some_and(|c| Arc::ptr_eq(c, &self.kind) || ending(c));
        if gone || !same {
            self.finished = true;
        }
        drop(kinds);
        // What happened before that is still told.
        self.drain();
    }

    fn fail(&mut self, error: &ReadError) {
        let status = match error {
            ReadError::Compacted { asked, floor } => {
                StatusError::expired(format!("too old resource version: {asked} ({floor})"))
            }
            ReadError::Database(_) | ReadError::Task(_) => {
                tracing::error!(%error, "a watch could not read the store");
                StatusError::internal(&error.to_string())
            }
        };
        self.ready.push_back(Ready::Bytes(frames::error(&status)));
        self.finished = true;
    }
}

fn last_bookmark(now: Instant, end: Instant) -> Instant {
    end.checked_sub(BOOKMARK_BEFORE_END).map_or(now, |at| at.max(now))
}
