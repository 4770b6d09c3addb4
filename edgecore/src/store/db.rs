//! What is in the database: reading all of it, and the transaction that takes a group of writes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use hub_proto::id::{DeviceId, ObjectKey, ObjectKind, Revision};
use hub_proto::message::{Change, ObjectChange};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rules::{self, Decision, Held};
use super::schema::{self, OpenError};
use super::{Done, Has, MapperRow, Snapshot, StateRow, TwinRow, Write};

pub(super) struct Database {
    connection: Connection,
}

impl Database {
    /// See [`schema::open`].
    pub(super) fn open(path: &Path, unix_ms: u64) -> Result<Self, OpenError> {
        schema::open(path, unix_ms).map(|connection| Self { connection })
    }

    pub(super) fn snapshot(&mut self) -> Result<Snapshot, OpenError> {
        let path = self.connection.path().unwrap_or_default().into();
        self.read_snapshot().map_err(|source| OpenError::Sqlite { path, source })
    }

    /// Rows that do not parse are skipped: one bad record must not hide the others.
    fn read_snapshot(&self) -> rusqlite::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let all = |sql: &str, take: &mut dyn FnMut(&Row<'_>) -> rusqlite::Result<()>| {
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                take(row)?;
            }
            Ok::<(), rusqlite::Error>(())
        };
        all(
            "SELECT kind, namespace, name, uid, body FROM objects ORDER BY kind, namespace, name",
            &mut |row| {
                if let Some(key) = key_at(row, 0)? {
                    snapshot.objects.push((key, row.get(3)?, row.get(4)?));
                }
                Ok(())
            },
        )?;
        all(
            "SELECT namespace, name, property, reported, reported_ms, observed, observed_ms, dirty FROM twins",
            &mut |row| {
                if let Some(device) = device_at(row)? {
                    snapshot.twins.push(TwinRow {
                        device,
                        property: row.get(2)?,
                        reported: pair(row.get(3)?, row.get(4)?),
                        observed: pair(row.get(5)?, row.get(6)?),
                        dirty: row.get(7)?,
                    });
                }
                Ok(())
            },
        )?;
        all(
            "SELECT namespace, name, state, from_mapper, last_online_ms, dirty FROM states",
            &mut |row| {
                if let Some(device) = device_at(row)? {
                    snapshot.states.push(StateRow {
                        device,
                        state: row.get(2)?,
                        from_mapper: row.get(3)?,
                        last_online_ms: row.get::<_, Option<i64>>(4)?.map(unsigned),
                        dirty: row.get(5)?,
                    });
                }
                Ok(())
            },
        )?;
        all(
            "SELECT name, version, api_version, protocol, address, registered_ms FROM mappers",
            &mut |row| {
                snapshot.mappers.push(MapperRow {
                    name: row.get(0)?,
                    version: row.get(1)?,
                    api_version: row.get(2)?,
                    protocol: row.get(3)?,
                    address: row.get(4)?,
                    registered_ms: unsigned(row.get(5)?),
                });
                Ok(())
            },
        )?;
        let mut accepted: BTreeMap<String, Vec<(ObjectKey, Has)>> = BTreeMap::new();
        all("SELECT kind, namespace, name, has, version, mapper FROM accepted", &mut |row| {
            if let Some(key) = key_at(row, 0)? {
                let has = has_from(row.get(3)?, row.get(4)?);
                accepted.entry(row.get(5)?).or_default().push((key, has));
            }
            Ok(())
        })?;
        snapshot.accepted = accepted;
        Ok(snapshot)
    }

    /// Commits a group as one transaction and says what became of each write. If the transaction
    /// fails, every write of the group has failed.
    pub(super) fn commit(
        &mut self,
        group: Vec<Write>,
        delivered: &mut HashSet<ObjectKey>,
    ) -> Vec<Done> {
        match self.try_commit(&group, delivered) {
            Ok(outcomes) => group
                .into_iter()
                .zip(outcomes)
                .map(|(write, outcome)| done(write, Ok(outcome)))
                .collect(),
            Err(error) => {
                tracing::error!(cause = %error, writes = group.len(), "store cannot write");
                let reason = format!("the node's store cannot write: {error}");
                group.into_iter().map(|write| done(write, Err(reason.clone()))).collect()
            }
        }
    }

    fn try_commit(
        &mut self,
        group: &[Write],
        delivered: &mut HashSet<ObjectKey>,
    ) -> rusqlite::Result<Vec<Outcome>> {
        let transaction = self.connection.transaction()?;
        let mut outcomes = Vec::with_capacity(group.len());
        for write in group {
            outcomes.push(apply(&transaction, write, delivered)?);
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    /// Folds the write-ahead log into the file, so that the next start has nothing to replay.
    pub(super) fn close(self) {
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(cause = %error, "store was not closed cleanly; nothing is lost");
        }
    }
}

enum Outcome {
    Applied(bool),
    Removed(Vec<ObjectKey>),
    Written,
}

fn done(write: Write, outcome: Result<Outcome, String>) -> Done {
    match write {
        Write::Deliver { delivery, change } => Done::Delivered {
            delivery,
            change,
            applied: outcome.map(|outcome| matches!(outcome, Outcome::Applied(true))),
        },
        Write::Retain(_) | Write::DropUnusedModels => {
            Done::Retained(outcome.map(|outcome| match outcome {
                Outcome::Removed(keys) => keys,
                Outcome::Applied(_) | Outcome::Written => Vec::new(),
            }))
        }
        Write::Flush { twins, gone: _, states } => Done::Flushed {
            twins: twins.into_iter().map(|row| (row.device, row.property)).collect(),
            states: states.into_iter().map(|row| row.device).collect(),
            result: outcome.map(|_| ()),
        },
        Write::Mapper(..) => Done::Registered(outcome.map(|_| ())),
        Write::LinkUp | Write::ForgetMapper(_) | Write::Accepted(..) => {
            Done::Other(outcome.map(|_| ()))
        }
    }
}

fn apply(
    db: &Connection,
    write: &Write,
    delivered: &mut HashSet<ObjectKey>,
) -> rusqlite::Result<Outcome> {
    match write {
        Write::LinkUp => delivered.clear(),
        Write::Deliver { delivery: _, change } => {
            let applied = deliver(db, change)?;
            delivered.insert(change.key.clone());
            return Ok(Outcome::Applied(applied));
        }
        Write::Retain(devices) => return retain(db, devices, delivered).map(Outcome::Removed),
        Write::DropUnusedModels => return drop_unused(db, delivered).map(Outcome::Removed),
        Write::Flush { twins, gone, states } => {
            for (device, property) in gone {
                db.prepare_cached(
                    "DELETE FROM twins WHERE namespace=?1 AND name=?2 AND property=?3",
                )?
                .execute(params![device.namespace(), device.name(), property])?;
            }
            for row in twins {
                put_twin(db, row)?;
            }
            for row in states {
                put_state(db, row)?;
            }
        }
        Write::Mapper(mapper, accepted) => {
            db.prepare_cached("INSERT OR REPLACE INTO mappers VALUES (?1,?2,?3,?4,?5,?6)")?
                .execute(params![
                    mapper.name,
                    mapper.version,
                    mapper.api_version,
                    mapper.protocol,
                    mapper.address,
                    signed(mapper.registered_ms)
                ])?;
            db.prepare_cached("DELETE FROM accepted WHERE mapper=?1")?.execute([&mapper.name])?;
            for (key, has) in accepted {
                put_accepted(db, &mapper.name, key, *has)?;
            }
        }
        Write::ForgetMapper(name) => {
            db.prepare_cached("DELETE FROM mappers WHERE name=?1")?.execute([name])?;
            db.prepare_cached("DELETE FROM accepted WHERE mapper=?1")?.execute([name])?;
        }
        Write::Accepted(mapper, key, Some(has)) => put_accepted(db, mapper, key, *has)?,
        Write::Accepted(mapper, key, None) => {
            db.prepare_cached(
                "DELETE FROM accepted WHERE mapper=?1 AND kind=?2 AND namespace=?3 AND name=?4",
            )?
            .execute(params![
                mapper,
                number(key.kind()),
                key.namespace(),
                key.name()
            ])?;
        }
    }
    Ok(Outcome::Written)
}

fn deliver(db: &Connection, change: &ObjectChange) -> rusqlite::Result<bool> {
    let key = &change.key;
    let held = db
        .prepare_cached(
            "SELECT uid, revision FROM objects WHERE kind=?1 AND namespace=?2 AND name=?3",
        )?
        .query_row(params![number(key.kind()), key.namespace(), key.name()], |row| {
            Ok(Held { uid: row.get(0)?, revision: Revision(unsigned(row.get(1)?)) })
        })
        .optional()?;
    let uid = change.uid.as_deref();
    let decision = match &change.change {
        Change::Upsert { .. } => rules::upsert(held.as_ref(), uid, change.revision),
        Change::Delete => rules::delete(held.as_ref(), uid),
    };
    match (decision, &change.change) {
        (Decision::Replace, Change::Upsert { object, .. }) => {
            if held
                .is_some_and(|held| uid.is_some_and(|uid| !held.uid.is_empty() && uid != held.uid))
            {
                remove(db, key)?; // a successor of the same name starts with a clean twin
            }
            db.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1,?2,?3,?4,?5,?6,?7)")?
                .execute(params![
                    number(key.kind()),
                    key.namespace(),
                    key.name(),
                    uid.unwrap_or_default(),
                    signed(change.revision.unwrap_or_default().0),
                    model_of(key, object.get()),
                    object.get()
                ])?;
        }
        (Decision::Remove, _) => remove(db, key)?,
        (Decision::Keep, _) | (Decision::Replace, Change::Delete) => return Ok(false),
    }
    Ok(true)
}

/// The list decides about what was held when the link came up. What has been delivered since is
/// decided by its own messages, which are acked and in order; a list that was made a moment before
/// one of them must not undo it.
fn retain(
    db: &Connection,
    devices: &[DeviceId],
    delivered: &HashSet<ObjectKey>,
) -> rusqlite::Result<Vec<ObjectKey>> {
    let listed: HashSet<&DeviceId> = devices.iter().collect();
    let mut removed = Vec::new();
    for key in keys(db, "SELECT kind, namespace, name FROM objects WHERE kind=1")? {
        let is_listed = key.device_id().is_some_and(|device| listed.contains(&device));
        if !is_listed && !delivered.contains(&key) {
            remove(db, &key)?;
            removed.push(key);
        }
    }
    removed.extend(drop_unused(db, delivered)?);
    Ok(removed)
}

fn drop_unused(
    db: &Connection,
    delivered: &HashSet<ObjectKey>,
) -> rusqlite::Result<Vec<ObjectKey>> {
    let mut removed = Vec::new();
    let unused = "SELECT kind, namespace, name FROM objects AS model WHERE kind=0 AND NOT EXISTS
        (SELECT 1 FROM objects WHERE kind=1 AND namespace=model.namespace AND objects.model=model.name)";
    for key in keys(db, unused)? {
        if !delivered.contains(&key) {
            remove(db, &key)?;
            removed.push(key);
        }
    }
    Ok(removed)
}

fn remove(db: &Connection, key: &ObjectKey) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM objects WHERE kind=?1 AND namespace=?2 AND name=?3")?
        .execute(params![number(key.kind()), key.namespace(), key.name()])?;
    if key.kind() == ObjectKind::Device {
        for table in ["twins", "states"] {
            db.prepare_cached(&format!("DELETE FROM {table} WHERE namespace=?1 AND name=?2"))?
                .execute([key.namespace(), key.name()])?;
        }
    }
    Ok(())
}

fn put_twin(db: &Connection, row: &TwinRow) -> rusqlite::Result<()> {
    let (reported, reported_ms) = unpair(row.reported.as_ref());
    let (observed, observed_ms) = unpair(row.observed.as_ref());
    db.prepare_cached(
        "INSERT OR REPLACE INTO twins SELECT ?1,?2,?3,?4,?5,?6,?7,?8
         WHERE EXISTS (SELECT 1 FROM objects WHERE kind=1 AND namespace=?1 AND name=?2)",
    )?
    .execute(params![
        row.device.namespace(),
        row.device.name(),
        row.property,
        reported,
        reported_ms,
        observed,
        observed_ms,
        row.dirty
    ])?;
    Ok(())
}

fn put_state(db: &Connection, row: &StateRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO states SELECT ?1,?2,?3,?4,?5,?6
         WHERE EXISTS (SELECT 1 FROM objects WHERE kind=1 AND namespace=?1 AND name=?2)",
    )?
    .execute(params![
        row.device.namespace(),
        row.device.name(),
        row.state,
        row.from_mapper,
        row.last_online_ms.map(signed),
        row.dirty
    ])?;
    Ok(())
}

fn put_accepted(db: &Connection, mapper: &str, key: &ObjectKey, has: Has) -> rusqlite::Result<()> {
    let (kind, version) = match has {
        Has::Version(version) => (0, Some(version)),
        Has::Some => (1, None),
        Has::Maybe(version) => (2, version),
    };
    db.prepare_cached("INSERT OR REPLACE INTO accepted VALUES (?1,?2,?3,?4,?5,?6)")?.execute(
        params![mapper, number(key.kind()), key.namespace(), key.name(), kind, version.map(signed)],
    )?;
    Ok(())
}

fn has_from(kind: i64, version: Option<i64>) -> Has {
    let version = version.map(unsigned);
    match (kind, version) {
        (0, Some(version)) => Has::Version(version),
        (1, _) => Has::Some,
        _ => Has::Maybe(version),
    }
}

fn keys(db: &Connection, sql: &str) -> rusqlite::Result<Vec<ObjectKey>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.extend(key_at(row, 0)?);
    }
    Ok(keys)
}

/// The model that a device refers to, kept beside it so that unused models can be found.
fn model_of(key: &ObjectKey, body: &str) -> Option<String> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Head {
        spec: Spec,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Spec {
        device_model_ref: Option<Reference>,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Reference {
        name: String,
    }
    match key.kind() {
        ObjectKind::Device => {
            serde_json::from_str::<Head>(body).ok()?.spec.device_model_ref.map(|model| model.name)
        }
        ObjectKind::DeviceModel => None,
    }
}

fn number(kind: ObjectKind) -> i64 {
    match kind {
        ObjectKind::DeviceModel => 0,
        ObjectKind::Device => 1,
    }
}

fn key_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<ObjectKey>> {
    let kind = match row.get::<_, i64>(column)? {
        0 => ObjectKind::DeviceModel,
        1 => ObjectKind::Device,
        _ => return Ok(None),
    };
    let namespace: String = row.get(column + 1)?;
    let name: String = row.get(column + 2)?;
    Ok(ObjectKey::new(kind, &namespace, &name).ok())
}

fn device_at(row: &Row<'_>) -> rusqlite::Result<Option<DeviceId>> {
    let namespace: String = row.get(0)?;
    let name: String = row.get(1)?;
    Ok(DeviceId::new(&namespace, &name).ok())
}

fn pair(value: Option<String>, at: Option<i64>) -> Option<(String, u64)> {
    value.map(|value| (value, unsigned(at.unwrap_or_default())))
}

fn unpair(value: Option<&(String, u64)>) -> (Option<&str>, Option<i64>) {
    (value.map(|(value, _)| value.as_str()), value.map(|(_, at)| signed(*at)))
}

// SQLite integers are signed; revisions, hashes and times keep their 64 bits.
fn signed(value: u64) -> i64 {
    value.cast_signed()
}

fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}
