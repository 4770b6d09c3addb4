//! The single writer: takes what has queued up, applies each write in turn inside one SQLite
//! transaction, commits once, publishes, then answers.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::feed::Feed;
use super::schema::{meta, set_meta};
use super::{Change, Command, CommitError, Expect, Guard, Key, Stored, Write};
use crate::clock;

/// How many writes may share one fsync. More would only delay the first of them.
const BATCH: usize = 128;

type Reply = oneshot::Sender<Result<Arc<Change>, CommitError>>;

pub struct Writer {
    connection: Connection,
    rv: u64,
    feed: Arc<Feed>,
}

enum WriteFailure {
    Refused(CommitError),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for WriteFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl Writer {
    pub fn new(connection: Connection, rv: u64, feed: Arc<Feed>) -> Self {
        Self { connection, rv, feed }
    }

    pub fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        let mut stopping = false;
        while !stopping {
            let Some(first) = queue.blocking_recv() else { return };
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Write { write, reply } => batch.push((write, reply)),
                    Command::Compact { before_ms, reply } => {
                        self.commit(std::mem::take(&mut batch));
                        let floor = self.compact(before_ms);
                        let _asker_gone = reply.send(floor);
                    }
                    Command::Stop => {
                        stopping = true;
                        queue.close();
                    }
                }
                if batch.len() < BATCH {
                    next = queue.try_recv().ok();
                }
            }
            self.commit(std::mem::take(&mut batch));
        }
        // Fold the WAL into the file so that a stopped server leaves one file behind.
        if let Err(error) = self.connection.pragma_update(None, "wal_checkpoint", "TRUNCATE") {
            tracing::debug!(%error, "could not checkpoint on close");
        }
    }

    fn commit(&mut self, batch: Vec<(Write, Reply)>) {
        if batch.is_empty() {
            return;
        }
        let (writes, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let count = writes.len();
        let outcomes = self.transaction(writes).unwrap_or_else(|error| {
            tracing::error!(%error, writes = count, "a transaction failed");
            let text = error.to_string();
            (0..count).map(|_| Err(CommitError::Database(text.clone()))).collect()
        });
        let changes: Vec<_> = outcomes.iter().flatten().cloned().collect();
        if !changes.is_empty() {
            self.feed.publish(&changes, self.rv);
        }
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            let _asker_gone = reply.send(outcome);
        }
    }

    /// Applies all writes; one that is refused leaves no trace, a database error undoes them all.
    fn transaction(
        &mut self,
        writes: Vec<Write>,
    ) -> rusqlite::Result<Vec<Result<Arc<Change>, CommitError>>> {
        let at_ms = clock::now().as_millisecond();
        let tx = self.connection.transaction()?;
        let mut rv = self.rv;
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            match apply(&tx, write, rv + 1, at_ms) {
                Ok(change) => {
                    rv += 1;
                    outcomes.push(Ok(Arc::new(change)));
                }
                Err(WriteFailure::Refused(error)) => outcomes.push(Err(error)),
                Err(WriteFailure::Database(error)) => return Err(error),
            }
        }
        if rv == self.rv {
            return Ok(outcomes);
        }
        set_meta(&tx, "rv", rv)?;
        tx.commit()?;
        self.rv = rv;
        Ok(outcomes)
    }

    fn compact(&mut self, before_ms: i64) -> u64 {
        let run = || -> rusqlite::Result<u64> {
            let tx = self.connection.unchecked_transaction()?;
            let newest: Option<i64> =
                tx.query_row("SELECT max(rv) FROM log WHERE at_ms < ?1", [before_ms], |row| {
                    row.get(0)
                })?;
            let mut floor = meta(&tx, "floor")?;
            if let Some(newest) = newest {
                tx.execute("DELETE FROM log WHERE rv <= ?1", [newest])?;
                floor = floor.max(u64::try_from(newest).unwrap_or(0));
                set_meta(&tx, "floor", floor)?;
            }
            tx.commit()?;
            Ok(floor)
        };
        run().unwrap_or_else(|error| {
            tracing::warn!(%error, "could not compact the log; trying again later");
            0
        })
    }
}

fn apply(tx: &Connection, write: Write, rv: u64, at_ms: i64) -> Result<Change, WriteFailure> {
    let Write { key, expect, put, guard } = write;
    let prev = current(tx, &key)?;
    match (expect, &prev) {
        (Expect::Absent, None) => {}
        (Expect::Absent, Some(_)) => return Err(WriteFailure::Refused(CommitError::Exists)),
        (Expect::Rv(_), None) => return Err(WriteFailure::Refused(CommitError::NotFound)),
        (Expect::Rv(wanted), Some(stored)) if stored.rv == wanted => {}
        (Expect::Rv(_), Some(stored)) => {
            return Err(WriteFailure::Refused(CommitError::Conflict { current: stored.rv }));
        }
    }
    check_guard(tx, &key, guard)?;
    let next = match put {
        Some(mut value) => {
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".into(), Value::String(rv.to_string()));
            }
            Some(Stored::from_value(rv, value))
        }
        None => None,
    };
    write_object(tx, &key, rv, next.as_deref())?;
    write_owners(tx, &key, prev.as_deref(), next.as_deref())?;
    let mut log = tx.prepare_cached(
        "INSERT INTO log (rv, at_ms, resource, namespace, name, prev_rv, prev, next)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    log.execute((
        sql(rv),
        at_ms,
        &*key.resource,
        &key.namespace,
        &key.name,
        prev.as_ref().map_or(0, |stored| sql(stored.rv)),
        prev.as_ref().map(|stored| &stored.raw[..]),
        next.as_ref().map(|stored| &stored.raw[..]),
    ))?;
    Ok(Change { rv, key, prev, next })
}

fn current(tx: &Connection, key: &Key) -> rusqlite::Result<Option<Arc<Stored>>> {
    super::read::get(tx, key)
}

fn check_guard(tx: &Connection, key: &Key, guard: Guard) -> Result<(), WriteFailure> {
    match guard {
        Guard::None => Ok(()),
        Guard::NamespaceExists => {
            let mut statement = tx.prepare_cached(
                "SELECT 1 FROM objects WHERE resource = 'namespaces' AND namespace = '' AND name = ?1",
            )?;
            let found: Option<i64> =
                statement.query_row([&key.namespace], |row| row.get(0)).optional()?;
            found.map(|_| ()).ok_or(WriteFailure::Refused(CommitError::NamespaceMissing))
        }
        Guard::NamespaceEmpty => {
            let mut statement =
                tx.prepare_cached("SELECT 1 FROM objects WHERE namespace = ?1 LIMIT 1")?;
            let found: Option<i64> =
                statement.query_row([&key.name], |row| row.get(0)).optional()?;
            match found {
                None => Ok(()),
                Some(_) => Err(WriteFailure::Refused(CommitError::NamespaceNotEmpty)),
            }
        }
    }
}

fn write_object(
    tx: &Connection,
    key: &Key,
    rv: u64,
    next: Option<&Stored>,
) -> rusqlite::Result<()> {
    let Some(stored) = next else {
        let mut statement = tx.prepare_cached(
            "DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3",
        )?;
        statement.execute((&*key.resource, &key.namespace, &key.name))?;
        return Ok(());
    };
    let uid = stored.value().pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let mut statement = tx.prepare_cached(
        "INSERT INTO objects (resource, namespace, name, uid, rv, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET uid = excluded.uid, rv = excluded.rv, body = excluded.body",
    )?;
    statement.execute((
        &*key.resource,
        &key.namespace,
        &key.name,
        uid,
        sql(rv),
        &stored.raw[..],
    ))?;
    Ok(())
}

/// Keeps the owner index equal to the ownerReferences; touched only when they differ.
fn write_owners(
    tx: &Connection,
    key: &Key,
    prev: Option<&Stored>,
    next: Option<&Stored>,
) -> rusqlite::Result<()> {
    let old = prev.map(owner_uids).unwrap_or_default();
    let new = next.map(owner_uids).unwrap_or_default();
    if old == new {
        return Ok(());
    }
    let mut remove = tx.prepare_cached(
        "DELETE FROM owners
         WHERE owner_uid = ?1 AND resource = ?2 AND namespace = ?3 AND name = ?4",
    )?;
    for uid in &old {
        remove.execute((uid, &*key.resource, &key.namespace, &key.name))?;
    }
    let mut add = tx.prepare_cached(
        "INSERT OR IGNORE INTO owners (owner_uid, resource, namespace, name)
         VALUES (?1, ?2, ?3, ?4)",
    )?;
    for uid in &new {
        add.execute((uid, &*key.resource, &key.namespace, &key.name))?;
    }
    Ok(())
}

fn owner_uids(stored: &Stored) -> Vec<String> {
    // Parsing is the expensive part, so objects without the key are told by their text.
    const NEEDLE: &[u8] = b"\"ownerReferences\"";
    if !stored.raw.windows(NEEDLE.len()).any(|window| window == NEEDLE) {
        return Vec::new();
    }
    let owners = stored.value().pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let uid = |owner: &Value| owner.get("uid").and_then(Value::as_str).map(str::to_owned);
    owners.map(|list| list.iter().filter_map(uid).collect()).unwrap_or_default()
}

fn sql(rv: u64) -> i64 {
    i64::try_from(rv).unwrap_or(i64::MAX)
}
