//! What the server keeps: objects, a log of their changes, and one counter over all of them.
//!
//! Every accepted write consumes one revision and leaves exactly one row in the log, so a watch can
//! be replayed from the log and continued from memory without a gap. Writes go through one thread
//! (`writer`), which commits whatever has queued up as one SQLite transaction: many writers share
//! one fsync, and each still has its own revision. Reads use their own connections (`read`) and see
//! only committed state. After a commit the changes are published (`feed`) in revision order.
//!
//! The store knows nothing of kinds: a resource is a string such as `devices.devices.kubeedge.io`.

mod feed;
mod read;
mod schema;
mod writer;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use read::{ListQuery, Listing, ReadError, Replay};

/// Where an object lives. `namespace` is empty for cluster-scoped objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `plural.group`, or `plural` for the core group.
    pub resource: Arc<str>,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        Self { resource: resource.clone(), namespace: namespace.into(), name: name.into() }
    }
}

/// One version of an object as stored: its JSON text, and its parsed form once somebody asked.
#[derive(Debug)]
pub struct Stored {
    pub rv: u64,
    raw: Bytes,
    value: OnceLock<Value>,
}

impl Stored {
    pub fn from_raw(rv: u64, raw: impl Into<Bytes>) -> Arc<Self> {
        Arc::new(Self { rv, raw: raw.into(), value: OnceLock::new() })
    }

    pub fn from_value(rv: u64, value: Value) -> Arc<Self> {
        let raw = Bytes::from(value.to_string());
        Arc::new(Self { rv, raw, value: OnceLock::from(value) })
    }

    /// The JSON text, `metadata.resourceVersion` included.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The parsed object. Text that does not parse (a damaged file) reads as null.
    pub fn value(&self) -> &Value {
        self.value.get_or_init(|| {
            serde_json::from_slice(&self.raw).unwrap_or_else(|error| {
                tracing::error!(rv = self.rv, %error, "a stored object is not JSON");
                Value::Null
            })
        })
    }
}

/// One committed change. `prev` is absent for a creation, `next` for a deletion.
#[derive(Debug)]
pub struct Change {
    pub rv: u64,
    pub key: Key,
    pub prev: Option<Arc<Stored>>,
    pub next: Option<Arc<Stored>>,
}

/// What must be true of the stored object for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Rv(u64),
}

/// What must be true of the object's namespace at the moment of the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    None,
    /// The namespace of the key exists (creations of namespaced objects).
    NamespaceExists,
    /// Nothing is left in the namespace that the key names (removal of a namespace).
    NamespaceEmpty,
}

/// One write: `put` is the new state, or `None` to delete.
#[derive(Debug)]
pub struct Write {
    pub key: Key,
    pub expect: Expect,
    pub put: Option<Value>,
    pub guard: Guard,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("the object already exists")]
    Exists,
    #[error("the object does not exist")]
    NotFound,
    #[error("the object changed: it is at revision {current}")]
    Conflict { current: u64 },
    #[error("the namespace does not exist")]
    NamespaceMissing,
    #[error("the namespace is not empty")]
    NamespaceNotEmpty,
    #[error("writing to the database: {0}")]
    Database(String),
    #[error("the store is closed")]
    Closed,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("opening the database {path}: {source}")]
    Database { path: String, source: rusqlite::Error },
    #[error("starting the writer thread: {0}")]
    Thread(std::io::Error),
}

enum Command {
    Write { write: Write, reply: oneshot::Sender<Result<Arc<Change>, CommitError>> },
    Compact { before_ms: i64, reply: oneshot::Sender<u64> },
    Stop,
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    readers: Arc<read::Readers>,
    feed: Arc<feed::Feed>,
}

/// Owns the writer thread. Closing waits until everything accepted is on disk.
pub struct StoreThread {
    commands: mpsc::Sender<Command>,
    thread: std::thread::JoinHandle<()>,
}

impl StoreThread {
    pub async fn close(self) {
        if self.commands.send(Command::Stop).await.is_err() {
            tracing::debug!("the writer thread had already stopped");
        }
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the writer thread panicked");
        }
    }
}

impl Store {
    /// Opens (or creates) the database file and starts its writer thread.
    pub fn open(path: &Path) -> Result<(Self, StoreThread), OpenError> {
        let database = |source| OpenError::Database { path: path.display().to_string(), source };
        let connection = schema::open_writer(path).map_err(database)?;
        let rv = schema::last_revision(&connection).map_err(database)?;
        let feed = Arc::new(feed::Feed::new(rv));
        // Bounded: a producer waits when this many writes are already queued.
        let (commands, queue) = mpsc::channel(1024);
        let writer = writer::Writer::new(connection, rv, feed.clone());
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(queue))
            .map_err(OpenError::Thread)?;
        let readers = Arc::new(read::Readers::new(path));
        let store = Self { commands: commands.clone(), readers, feed };
        Ok((store, StoreThread { commands, thread }))
    }

    /// Performs one write and returns the change after it is on disk and published.
    pub async fn commit(&self, write: Write) -> Result<Arc<Change>, CommitError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Write { write, reply };
        self.commands.send(command).await.map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)?
    }

    /// Drops log rows older than `before` and returns the new floor: watches and exact lists
    /// from below it answer 410.
    pub async fn compact(&self, before: Timestamp) -> Result<u64, CommitError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Compact { before_ms: before.as_millisecond(), reply };
        self.commands.send(command).await.map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)
    }

    /// The newest published revision.
    pub fn revision(&self) -> u64 {
        self.feed.revision()
    }

    /// Follows the newest published revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.feed.revisions()
    }

    /// Changes of one resource from now on. A receiver that lags re-reads the log.
    pub fn subscribe(&self, resource: &Arc<str>) -> broadcast::Receiver<Arc<Change>> {
        self.feed.subscribe(resource)
    }

    /// How many watches follow a resource.
    pub fn watchers(&self, resource: &str) -> usize {
        self.feed.watchers(resource)
    }

    /// Changes of every resource from now on, for controllers.
    pub fn subscribe_all(&self) -> broadcast::Receiver<Arc<Change>> {
        self.feed.subscribe_all()
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Stored>>, ReadError> {
        let key = key.clone();
        self.readers.run(move |c| read::get(c, &key)).await
    }

    pub async fn list(&self, query: ListQuery) -> Result<Listing, ReadError> {
        self.readers.run(move |c| read::list(c, &query)).await
    }

    /// Every change of a resource after `after`, from the log, with the revision it reaches.
    /// `namespace` empty means all.
    pub async fn replay(
        &self,
        resource: &Arc<str>,
        namespace: &str,
        after: u64,
    ) -> Result<Replay, ReadError> {
        let (resource, namespace) = (resource.clone(), namespace.to_owned());
        self.readers.run(move |c| read::replay(c, &resource, &namespace, after)).await
    }

    /// Objects whose ownerReferences name `uid`.
    pub async fn dependents(&self, uid: &str) -> Result<Vec<Key>, ReadError> {
        let uid = uid.to_owned();
        self.readers.run(move |c| read::dependents(c, &uid)).await
    }

    /// Objects that refer to an owner that no longer exists.
    pub async fn orphaned(&self) -> Result<Vec<Key>, ReadError> {
        self.readers.run(read::orphaned).await
    }

    /// Objects whose text contains `word`: a cheap first look before parsing.
    pub async fn mentioning(&self, word: &str) -> Result<Vec<Key>, ReadError> {
        let word = word.to_owned();
        self.readers.run(move |c| read::mentioning(c, &word)).await
    }

    /// Where the object with this uid lives.
    pub async fn find_uid(&self, uid: &str) -> Result<Option<Key>, ReadError> {
        let uid = uid.to_owned();
        self.readers.run(move |c| read::find_uid(c, &uid)).await
    }

    /// Keys of everything in a namespace, or of one resource everywhere.
    pub async fn keys(
        &self,
        resource: Option<&Arc<str>>,
        namespace: &str,
    ) -> Result<Vec<Key>, ReadError> {
        let (resource, namespace) = (resource.cloned(), namespace.to_owned());
        self.readers.run(move |c| read::keys(c, resource.as_deref(), &namespace)).await
    }
}

#[cfg(test)]
mod tests;
