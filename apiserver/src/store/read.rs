//! Reading: point reads, lists (newest or as of a revision), log replay, the owner index.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::Semaphore;

use super::schema::{self, meta};
use super::{Change, Key, Stored};

/// How many reads run at once; more wait. Each connection holds about 1 MiB of cache at most.
const CONNECTIONS: usize = 4;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log no longer reaches back that far.
    #[error("revision {asked} is older than the oldest kept, {floor}")]
    Compacted { asked: u64, floor: u64 },
    #[error("reading the database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the reading task failed: {0}")]
    Task(String),
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    pub resource: Arc<str>,
    /// Empty: all namespaces.
    pub namespace: String,
    /// Only this name.
    pub name: Option<String>,
    /// As of this revision; the newest when absent.
    pub at: Option<u64>,
    /// Strictly after this (namespace, name).
    pub after: Option<(String, String)>,
    /// At most this many; one more is read to learn whether there is more.
    pub limit: Option<usize>,
}

/// A list as of revision `rv`, ordered by namespace and name.
#[derive(Debug)]
pub struct Listing {
    pub rv: u64,
    pub items: Vec<(Key, Arc<Stored>)>,
    /// How many more objects follow the last item (0 when complete).
    pub remaining: u64,
}

/// Changes after some revision, and the revision up to which they are complete.
#[derive(Debug)]
pub struct Replay {
    pub rv: u64,
    pub changes: Vec<Arc<Change>>,
}

/// A few read-only connections, opened when first needed.
pub struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub fn new(path: &Path) -> Self {
        let idle = Mutex::new(Vec::new());
        Self { path: path.to_owned(), idle, permits: Semaphore::new(CONNECTIONS) }
    }

    pub async fn run<T, E, F>(self: &Arc<Self>, read: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        E: Into<ReadError>,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let _permit =
            self.permits.acquire().await.map_err(|error| ReadError::Task(error.to_string()))?;
        let readers = self.clone();
        tokio::task::spawn_blocking(move || {
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => schema::open_reader(&readers.path)?,
            };
            // One read transaction: rows and revision belong together.
            let tx = connection.unchecked_transaction()?;
            let outcome = read(&tx).map_err(Into::into);
            drop(tx);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            outcome
        })
        .await
        .map_err(|error| ReadError::Task(error.to_string()))?
    }
}

pub fn get(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Arc<Stored>>> {
    let mut statement = connection.prepare_cached(
        "SELECT rv, body FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3",
    )?;
    statement
        .query_row((&*key.resource, &key.namespace, &key.name), |row| {
            Ok(Stored::from_raw(unsigned(row, 0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()
}

pub fn list(connection: &Connection, query: &ListQuery) -> Result<Listing, ReadError> {
    let newest = schema::last_revision(connection)?;
    match query.at {
        Some(at) if at < newest => list_at(connection, query, at),
        _ => list_newest(connection, query, newest),
    }
}

const SELECTED: &str = "resource = :resource AND (:all OR namespace = :namespace)
    AND (:name IS NULL OR name = :name)";

fn list_newest(connection: &Connection, query: &ListQuery, rv: u64) -> Result<Listing, ReadError> {
    let (after_namespace, after_name) = query.after.clone().unwrap_or_default();
    let limit = query.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let mut statement = connection.prepare_cached(&format!(
        "SELECT namespace, name, rv, body FROM objects WHERE {SELECTED}
         AND (namespace, name) > (:after_namespace, :after_name)
         ORDER BY namespace, name LIMIT :limit"
    ))?;
    let mut items = Vec::new();
    let mut rows = statement.query(rusqlite::named_params! {
        ":resource": &*query.resource, ":all": query.namespace.is_empty(),
        ":namespace": query.namespace, ":name": query.name,
        ":after_namespace": after_namespace, ":after_name": after_name, ":limit": limit,
    })?;
    while let Some(row) = rows.next()? {
        let key = Key::new(&query.resource, &row.get::<_, String>(0)?, &row.get::<_, String>(1)?);
        items.push((key, Stored::from_raw(unsigned(row, 2)?, row.get::<_, Vec<u8>>(3)?)));
    }
    let mut remaining = 0;
    if query.limit == Some(items.len())
        && let Some((last, _)) = items.last()
    {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT count(*) FROM objects WHERE {SELECTED}
             AND (namespace, name) > (:after_namespace, :after_name)"
        ))?;
        remaining = statement.query_row(
            rusqlite::named_params! {
                ":resource": &*query.resource, ":all": query.namespace.is_empty(),
                ":namespace": query.namespace, ":name": query.name,
                ":after_namespace": last.namespace, ":after_name": last.name,
            },
            |row| unsigned(row, 0),
        )?;
    }
    Ok(Listing { rv, items, remaining })
}

/// The list as it was at revision `at`: rows not touched since, and for the rest what the first
/// later change replaced.
fn list_at(connection: &Connection, query: &ListQuery, at: u64) -> Result<Listing, ReadError> {
    check_floor(connection, at)?;
    let mut all = std::collections::BTreeMap::new();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT namespace, name, rv, body FROM objects WHERE {SELECTED} AND rv <= :at"
    ))?;
    let at_sql = i64::try_from(at).unwrap_or(i64::MAX);
    let parameters = rusqlite::named_params! {
        ":resource": &*query.resource, ":all": query.namespace.is_empty(),
        ":namespace": query.namespace, ":name": query.name, ":at": at_sql,
    };
    let mut rows = statement.query(parameters)?;
    while let Some(row) = rows.next()? {
        let key = Key::new(&query.resource, &row.get::<_, String>(0)?, &row.get::<_, String>(1)?);
        let stored = Stored::from_raw(unsigned(row, 2)?, row.get::<_, Vec<u8>>(3)?);
        all.insert(key, Some(stored));
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT namespace, name, prev_rv, prev FROM log WHERE {SELECTED} AND rv > :at ORDER BY rv"
    ))?;
    let mut rows = statement.query(parameters)?;
    while let Some(row) = rows.next()? {
        let key = Key::new(&query.resource, &row.get::<_, String>(0)?, &row.get::<_, String>(1)?);
        let rv = unsigned(row, 2)?;
        let prev: Option<Vec<u8>> = row.get(3)?;
        all.entry(key).or_insert_with(|| prev.map(|body| Stored::from_raw(rv, body)));
    }
    let mut items: Vec<_> =
        all.into_iter().filter_map(|(key, stored)| Some((key, stored?))).collect();
    if let Some((namespace, name)) = &query.after {
        items.retain(|(key, _)| (&key.namespace, &key.name) > (namespace, name));
    }
    let total = items.len();
    items.truncate(query.limit.unwrap_or(usize::MAX));
    let remaining = u64::try_from(total - items.len()).unwrap_or(0);
    Ok(Listing { rv: at, items, remaining })
}

pub fn replay(
    connection: &Connection,
    resource: &Arc<str>,
    namespace: &str,
    after: u64,
) -> Result<Replay, ReadError> {
    check_floor(connection, after)?;
    let rv = schema::last_revision(connection)?;
    let mut statement = connection.prepare_cached(
        "SELECT rv, namespace, name, prev_rv, prev, next FROM log
         WHERE resource = ?1 AND rv > ?2 AND (?3 = '' OR namespace = ?3) ORDER BY rv",
    )?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut rows = statement.query((&**resource, after, namespace))?;
    let mut changes = Vec::new();
    while let Some(row) = rows.next()? {
        let rv = unsigned(row, 0)?;
        let key = Key::new(resource, &row.get::<_, String>(1)?, &row.get::<_, String>(2)?);
        let prev_rv = unsigned(row, 3)?;
        let prev = row.get::<_, Option<Vec<u8>>>(4)?.map(|body| Stored::from_raw(prev_rv, body));
        let next = row.get::<_, Option<Vec<u8>>>(5)?.map(|body| Stored::from_raw(rv, body));
        changes.push(Arc::new(Change { rv, key, prev, next }));
    }
    Ok(Replay { rv, changes })
}

fn check_floor(connection: &Connection, asked: u64) -> Result<(), ReadError> {
    let floor = meta(connection, "floor")?;
    if asked < floor { Err(ReadError::Compacted { asked, floor }) } else { Ok(()) }
}

pub fn dependents(connection: &Connection, uid: &str) -> rusqlite::Result<Vec<Key>> {
    let mut statement = connection
        .prepare_cached("SELECT resource, namespace, name FROM owners WHERE owner_uid = ?1")?;
    let rows = statement.query_map([uid], key)?;
    rows.collect()
}

pub fn orphaned(connection: &Connection) -> rusqlite::Result<Vec<Key>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT resource, namespace, name FROM owners
         WHERE NOT EXISTS (SELECT 1 FROM objects WHERE uid = owner_uid)",
    )?;
    let rows = statement.query_map([], key)?;
    rows.collect()
}

pub fn mentioning(connection: &Connection, word: &str) -> rusqlite::Result<Vec<Key>> {
    let mut statement = connection.prepare_cached(
        "SELECT resource, namespace, name FROM objects WHERE instr(body, CAST(?1 AS BLOB)) > 0",
    )?;
    let rows = statement.query_map([word], key)?;
    rows.collect()
}

pub fn find_uid(connection: &Connection, uid: &str) -> rusqlite::Result<Option<Key>> {
    let mut statement = connection
        .prepare_cached("SELECT resource, namespace, name FROM objects WHERE uid = ?1 LIMIT 1")?;
    statement.query_row([uid], key).optional()
}

pub fn keys(
    connection: &Connection,
    resource: Option<&str>,
    namespace: &str,
) -> rusqlite::Result<Vec<Key>> {
    let mut statement = connection.prepare_cached(
        "SELECT resource, namespace, name FROM objects
         WHERE (?1 IS NULL OR resource = ?1) AND (?2 = '' OR namespace = ?2)
         ORDER BY resource, namespace, name",
    )?;
    let rows = statement.query_map((resource, namespace), key)?;
    rows.collect()
}

fn key(row: &Row<'_>) -> rusqlite::Result<Key> {
    let resource: String = row.get(0)?;
    Ok(Key { resource: resource.into(), namespace: row.get(1)?, name: row.get(2)? })
}

fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0))
}
