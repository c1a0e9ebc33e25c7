//! The database file: made, recognised, brought up to date.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, ffi};

use super::rows::{self, Stamp};
use crate::error::MetadataError;
use crate::paths::READ_ONLY;

/// In order; the schema's version is the number of those that were applied.
pub(super) const MIGRATIONS: [&str; 11] = [
    include_str!("migrations/0001_sandboxes.sql"),
    include_str!("migrations/0002_sleep.sql"),
    include_str!("migrations/0003_host_header.sql"),
    include_str!("migrations/0004_counters.sql"),
    include_str!("migrations/0005_launches.sql"),
    include_str!("migrations/0006_cpu_max.sql"),
    include_str!("migrations/0007_isolation.sql"),
    include_str!("migrations/0008_limits.sql"),
    include_str!("migrations/0009_rootfs.sql"),
    include_str!("migrations/0010_nested_namespaces.sql"),
    include_str!("migrations/0011_spec.sql"),
];
/// The last version in which a sandbox's spec was columns.
pub(super) const COLUMNS_VERSION: usize = 10;
/// `sbxd`: marks the file as ours (`PRAGMA application_id`).
pub(super) const APPLICATION_ID: i64 = 0x7362_7864;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one step of opening it, which is tried again.
const BUSY_TIMEOUT_OPENING: Duration = Duration::from_secs(1);

/// Opens the database, making it if there is none.
pub(super) fn open(path: &Path) -> Result<Connection, MetadataError> {
    // Made here rather than by SQLite, for its mode: it holds the environments of all sandboxes.
    let made =
        File::options().create(true).append(true).mode(0o600).open(path).map_err(MetadataError::File)?;
    let is_new = made.metadata().map_err(MetadataError::File)?.len() == 0;
    drop(made);
    let failed = |source| judged(path, source);
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT_OPENING).map_err(failed)?;
    if !is_new {
        recognise(&connection, path)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    migrate(&mut connection).map_err(|error| match error {
        Migration::Newer { found, known } => MetadataError::Newer { found, known },
        Migration::Sqlite(source) => failed(source),
    })?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

/// A database in memory, with nothing in it.
pub(super) fn scratch() -> Result<Connection, MetadataError> {
    let mut connection = Connection::open_in_memory().map_err(MetadataError::Note)?;
    upgrade(&mut connection)?;
    Ok(connection)
}

/// The same, as it was while a sandbox's spec was columns; [`upgrade`] brings it up to date.
pub(super) fn scratch_of_columns() -> Result<Connection, MetadataError> {
    let connection = Connection::open_in_memory().map_err(MetadataError::Note)?;
    for step in MIGRATIONS.iter().take(COLUMNS_VERSION) {
        connection.execute_batch(step).map_err(MetadataError::Note)?;
    }
    let version = i64::try_from(COLUMNS_VERSION).unwrap_or(i64::MAX);
    connection.pragma_update(None, "user_version", version).map_err(MetadataError::Note)?;
    Ok(connection)
}

/// Brings a database in memory up to date.
pub(super) fn upgrade(connection: &mut Connection) -> Result<(), MetadataError> {
    migrate(connection).map_err(|error| match error {
        Migration::Newer { found, known } => MetadataError::Newer { found, known },
        Migration::Sqlite(source) => MetadataError::Note(source),
    })
}

/// Reads the stamp of a database that is not changed, and not looked at any further.
pub(super) fn stamp_of(path: &Path) -> Result<Stamp, MetadataError> {
    let read = |connection: &Connection| {
        connection.busy_timeout(BUSY_TIMEOUT_OPENING)?;
        rows::stamp(connection)
    };
    let connection = Connection::open_with_flags(path, READ_ONLY);
    connection.and_then(|connection| read(&connection)).map_err(|source| judged(path, source))
}

/// Tells what SQLite says of the content from what it says of the way there: only the former is damage.
fn judged(path: &Path, source: rusqlite::Error) -> MetadataError {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            MetadataError::Damaged { path: path.to_owned(), problem: source.to_string() }
        }
        _ => MetadataError::Open { path: path.to_owned(), source },
    }
}

/// Opens a database that is ours, sound and not newer, to read it only.
pub(super) fn inspect(path: &Path) -> Result<Connection, MetadataError> {
    let failed = |source| judged(path, source);
    let connection = Connection::open_with_flags(path, READ_ONLY).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    recognise(&connection, path)?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let found = version.map_err(failed)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    match found {
        0 => Err(MetadataError::Unusable { path: path.to_owned(), problem: "it is empty".to_owned() }),
        _ if found > known => Err(MetadataError::Newer { found, known }),
        _ => Ok(connection),
    }
}

/// Refuses a file that is damaged or somebody else's; it is not changed.
fn recognise(connection: &Connection, path: &Path) -> Result<(), MetadataError> {
    let unusable = |problem: String| MetadataError::Unusable { path: path.to_owned(), problem };
    let damaged = |problem: String| MetadataError::Damaged { path: path.to_owned(), problem };
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    fail::fail_point!("metadata-read", |_| Err(judged(path, failing_read())));
    let application_id = pragma("application_id").map_err(|e| judged(path, e))?;
    let version = pragma("user_version").map_err(|e| judged(path, e))?;
    // A database that another daemon died making has neither yet.
    if application_id != APPLICATION_ID && (application_id, version) != (0, 0) {
        return Err(unusable("it is another program's".to_owned()));
    }
    let check = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    match check {
        Ok(result) if result == "ok" => Ok(()),
        Ok(result) => match code_in(&result) {
            // The page could not be had; that says nothing of what is in it.
            Some(code) => Err(judged(path, rusqlite::Error::SqliteFailure(code, Some(result)))),
            None => Err(damaged(result)),
        },
        Err(error) => Err(judged(path, error)),
    }
}

/// The code in a line of the check such as `Tree 5 page 7: unable to get the page. error code=266`.
fn code_in(line: &str) -> Option<ffi::Error> {
    let (_, rest) = line.split_once("error code=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(ffi::Error::new)
}

/// A read that the disk has failed, as SQLite tells of it.
#[cfg(feature = "failpoints")]
fn failing_read() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_READ), None)
}

enum Migration {
    Newer { found: i64, known: i64 },
    Sqlite(rusqlite::Error),
}

fn migrate(connection: &mut Connection) -> Result<(), Migration> {
    let transaction = connection.transaction().map_err(Migration::Sqlite)?;
    let found = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let found = found.map_err(Migration::Sqlite)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(Migration::Newer { found, known });
    }
    if found == known {
        // Nothing to write: a start must not need what only a change needs.
        return Ok(());
    }
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(step).map_err(Migration::Sqlite)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(Migration::Sqlite)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(Migration::Sqlite)?;
    transaction.commit().map_err(Migration::Sqlite)
}
