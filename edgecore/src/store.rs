//! What survives a power cut: desired objects, the last twin of each property, device states, and
//! the mappers with what each has accepted.
//!
//! One thread owns the database. Writes come in over a bounded channel and everything that waits is
//! committed as one transaction, with `synchronous=FULL`; only then is each write answered. So an
//! answer means: on disk.

mod db;
pub mod rules;
mod schema;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::thread::JoinHandle;

use hub_proto::id::{DeviceId, MessageId, ObjectKey};
use hub_proto::message::ObjectChange;
use tokio::sync::mpsc;

use db::Database;
pub use schema::OpenError;

/// Writes that may wait for the disk. The agent stops reading from the link long before this.
pub const QUEUE: usize = 512;

/// How many writes one transaction takes at most; bounds how long the first of them waits.
const GROUP: usize = 256;

/// Everything the store held when it was opened.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The desired objects, models first: key, uid, JSON text.
    pub objects: Vec<(ObjectKey, String, String)>,
    /// The last twin of each property.
    pub twins: Vec<TwinRow>,
    /// The last state of each device.
    pub states: Vec<StateRow>,
    /// The mappers.
    pub mappers: Vec<MapperRow>,
    /// What each mapper has, by its name.
    pub accepted: BTreeMap<String, Vec<(ObjectKey, Has)>>,
}

/// What a mapper has of an object, as far as we know. No entry: it does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has {
    /// It accepted this version.
    Version(u64),
    /// It has the object, and which version is not known: an update was cut off.
    Some,
    /// A first offer or a removal was cut off or refused: it may have the object, then in this
    /// version, or in any if `None`.
    Maybe(Option<u64>),
}

/// A property's twin as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinRow {
    /// The device.
    pub device: DeviceId,
    /// The property.
    pub property: String,
    /// What the device said, and when it was sampled (ms since the epoch).
    pub reported: Option<(String, u64)>,
    /// The desired value the mapper works with, and when it said so.
    pub observed: Option<(String, u64)>,
    /// Not confirmed by the cloud.
    pub dirty: bool,
}

/// A device's state as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// The device.
    pub device: DeviceId,
    /// online, offline, ok, unhealthy, unknown.
    pub state: String,
    /// Said by the mapper, not concluded by us.
    pub from_mapper: bool,
    /// When the device was last online, ms since the epoch.
    pub last_online_ms: Option<u64>,
    /// Not confirmed by the cloud.
    pub dirty: bool,
}

/// A mapper as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapperRow {
    /// Its name; the key.
    pub name: String,
    /// Its version, as it says.
    pub version: String,
    /// The DMI version it speaks, as it says.
    pub api_version: String,
    /// The protocol it serves.
    pub protocol: String,
    /// Path of its socket; empty if it takes no calls.
    pub address: String,
    /// When it registered last, ms since the epoch.
    pub registered_ms: u64,
}

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Write {
    /// The link came up: forget which objects were delivered over the last one.
    LinkUp,
    /// A delivery of the cloud. Answered with [`Done::Delivered`].
    Deliver {
        /// Names the message.
        delivery: MessageId,
        /// What it wants.
        change: ObjectChange,
    },
    /// The cloud's list of devices: remove what was held before this connection and is not in it,
    /// and models that nothing refers to any more. Answered with [`Done::Retained`].
    Retain(Vec<DeviceId>),
    /// Remove models that were held before this connection and that nothing refers to any more.
    /// Answered with [`Done::Retained`].
    DropUnusedModels,
    /// Twins and states, newest wins. Rows of devices that are not held are skipped. Answered with
    /// [`Done::Flushed`].
    Flush {
        /// Twins.
        twins: Vec<TwinRow>,
        /// Properties that are gone.
        gone: Vec<(DeviceId, String)>,
        /// States.
        states: Vec<StateRow>,
    },
    /// A mapper registered; what it had accepted is replaced. Answered with [`Done::Registered`].
    Mapper(MapperRow, Vec<(ObjectKey, Has)>),
    /// A mapper is forgotten.
    ForgetMapper(String),
    /// What a mapper has of an object; `None` if it does not have it.
    Accepted(String, ObjectKey, Option<Has>),
}

/// What became of a write. Failures carry the reason.
#[derive(Debug)]
pub enum Done {
    /// See [`Write::Deliver`]. `applied` is false if the store already held as new or newer.
    Delivered {
        /// Names the message.
        delivery: MessageId,
        /// The change, to be applied in memory now.
        change: ObjectChange,
        /// Whether it changed anything, or why it could not be stored.
        applied: Result<bool, String>,
    },
    /// See [`Write::Retain`] and [`Write::DropUnusedModels`]: what was removed.
    Retained(Result<Vec<ObjectKey>, String>),
    /// See [`Write::Mapper`].
    Registered(Result<(), String>),
    /// See [`Write::Flush`].
    Flushed {
        /// The properties and devices that were to be written, to be tried again on failure.
        twins: Vec<(DeviceId, String)>,
        /// Likewise.
        states: Vec<DeviceId>,
        /// Whether it worked.
        result: Result<(), String>,
    },
    /// Any other write.
    Other(Result<(), String>),
}

/// The handle of the store's thread. Dropping [`Store::writes`] ends it after the last write.
#[derive(Debug)]
pub struct Store {
    /// Takes writes.
    pub writes: mpsc::Sender<Write>,
    /// Gives one answer per write, in order.
    pub done: mpsc::Receiver<Done>,
    /// The thread.
    pub thread: JoinHandle<()>,
}

/// Opens the database in `data_dir` and starts its thread.
///
/// A file that fails its integrity check is set aside as `edgecore.db.corrupt-<ms>` and an empty one
/// takes its place; the cloud's next connection fills it. `unix_ms` only names that file.
///
/// # Errors
/// The directory or file cannot be opened, or was written by a newer release.
pub fn open(data_dir: &Path, unix_ms: u64) -> Result<(Store, Snapshot), OpenError> {
    let mut database = Database::open(&data_dir.join("edgecore.db"), unix_ms)?;
    let snapshot = database.snapshot()?;
    let (writes, mut incoming) = mpsc::channel(QUEUE);
    let (outgoing, done) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("store".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            let mut delivered = HashSet::new();
            let mut group = Vec::new();
            while incoming.blocking_recv_many(&mut group, GROUP) > 0 {
                for answer in database.commit(std::mem::take(&mut group), &mut delivered) {
                    if outgoing.blocking_send(answer).is_err() {
                        return; // the agent is gone, and with it whoever wanted to know
                    }
                }
            }
            database.close();
        })
        .map_err(OpenError::Thread)?;
    Ok((Store { writes, done, thread }, snapshot))
}

#[cfg(test)]
mod tests;
