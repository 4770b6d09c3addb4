//! The database file: opening it, checking it, and bringing an older one up to date.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused.
    #[error("opening the store {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A damaged file could not be moved out of the way.
    #[error("setting the damaged store {path} aside: {source}")]
    SetAside {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A later release wrote it.
    #[error("the store {path} has schema version {found}, and this release knows {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The thread could not be started.
    #[error("starting the store's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Each entry brings a database from its index to its index plus one. Never edited, only appended.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE objects (
        kind INTEGER NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        uid TEXT NOT NULL, revision INTEGER NOT NULL, model TEXT, body TEXT NOT NULL,
        PRIMARY KEY (kind, namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE twins (
        namespace TEXT NOT NULL, name TEXT NOT NULL, property TEXT NOT NULL,
        reported TEXT, reported_ms INTEGER, observed TEXT, observed_ms INTEGER,
        dirty INTEGER NOT NULL,
        PRIMARY KEY (namespace, name, property)
    ) WITHOUT ROWID;
    CREATE TABLE states (
        namespace TEXT NOT NULL, name TEXT NOT NULL,
        state TEXT NOT NULL, from_mapper INTEGER NOT NULL, last_online_ms INTEGER,
        dirty INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE mappers (
        name TEXT PRIMARY KEY, version TEXT NOT NULL, api_version TEXT NOT NULL,
        protocol TEXT NOT NULL, address TEXT NOT NULL, registered_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE accepted (
        mapper TEXT NOT NULL, kind INTEGER NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        has INTEGER NOT NULL, version INTEGER,
        PRIMARY KEY (mapper, kind, namespace, name)
    ) WITHOUT ROWID;
"];

/// Opens the file; a damaged one is set aside, with `unix_ms` in its name, and a new one made.
pub(super) fn open(path: &Path, unix_ms: u64) -> Result<Connection, OpenError> {
    match open_sound(path) {
        Err(OpenError::Sqlite { source, .. }) if is_damage(&source) => {
            set_aside(path, unix_ms)?;
            tracing::error!(
                store = %path.display(), cause = %source,
                "store is damaged and was set aside; starting empty, the cloud will send everything"
            );
            open_sound(path)
        }
        other => other,
    }
}

fn open_sound(path: &Path) -> Result<Connection, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(sqlite)?;
    // FULL: a commit is on disk before it returns. A small cache: the rows that are read are few.
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-512;
             PRAGMA wal_autocheckpoint=500; PRAGMA journal_size_limit=4194304;",
        )
        .map_err(sqlite)?;
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
    if verdict != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(sqlite(rusqlite::Error::SqliteFailure(code, Some(verdict))));
    }
    migrate(&mut connection, path)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction().map_err(sqlite)?;
    transaction
        .execute_batch("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        .map_err(sqlite)?;
    let found: i64 = transaction
        .query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))
        .map_err(sqlite)?;
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    if found < known {
        transaction.execute_batch("DELETE FROM schema_version").map_err(sqlite)?;
        transaction.execute("INSERT INTO schema_version VALUES (?1)", [known]).map_err(sqlite)?;
    }
    transaction.commit().map_err(sqlite)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn set_aside(path: &Path, unix_ms: u64) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let mut to = path.as_os_str().to_owned();
        to.push(format!(".corrupt-{unix_ms}{suffix}"));
        match std::fs::rename(&from, &to) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::SetAside { path: path.to_owned(), source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
