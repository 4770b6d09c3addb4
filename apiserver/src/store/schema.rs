//! The database file: its tables and how connections to it are set up.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    uid TEXT NOT NULL, rv INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
);
CREATE INDEX IF NOT EXISTS objects_uid ON objects (uid);
CREATE INDEX IF NOT EXISTS objects_namespace ON objects (namespace);
CREATE TABLE IF NOT EXISTS log (
    rv INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL,
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    prev_rv INTEGER NOT NULL, prev BLOB, next BLOB
);
CREATE INDEX IF NOT EXISTS log_resource ON log (resource, rv);
CREATE TABLE IF NOT EXISTS owners (
    owner_uid TEXT NOT NULL,
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (owner_uid, resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// The form of the tables above; a later form migrates from this number.
const FORMAT: i64 = 1;

pub fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    // It holds secrets: readable by its owner only, and so are the files that SQLite puts beside it.
    let mut file = std::fs::OpenOptions::new();
    if let Err(error) = file.write(true).create(true).truncate(false).mode(0o600).open(path) {
        tracing::debug!(%error, "could not make the database file; SQLite will say why");
    }
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit that was answered survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch(TABLES)?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    Ok(connection)
}

pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

pub fn meta(connection: &Connection, key: &str) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    let value: Option<i64> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0))
}

pub fn set_meta(connection: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?;
    statement.execute((key, i64::try_from(value).unwrap_or(i64::MAX)))?;
    Ok(())
}

/// Where the counter stands. A new database starts at 1, because clients read 0 as "any".
pub fn last_revision(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(meta(connection, "rv")?.max(1))
}
