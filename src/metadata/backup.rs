//! Copies of the record: made while it is used, and taken when the record is damaged.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags};

use super::{MetadataError, schema};

/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["", "-wal", "-shm"];

/// Makes the copy beside the database whenever it has changed and some time has passed.
#[derive(Debug)]
pub(super) struct Keeper {
    target: PathBuf,
    interval: Duration,
    is_changed: bool,
    last: Option<Instant>,
}

/// A damaged record that was replaced by the copy beside it.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub problem: String,
    /// Where the damaged one is kept.
    pub kept_as: PathBuf,
    /// How old the copy was: what happened since is not in it.
    pub age: Option<Duration>,
}

impl Keeper {
    /// Keeps no copy when the interval is zero.
    pub(super) fn new(database: &Path, interval: Duration) -> Self {
        Self { target: beside(database, ".backup"), interval, is_changed: true, last: None }
    }

    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// In how much time a copy is to be made; `None`: not before something changes.
    pub(super) fn due(&self) -> Option<Duration> {
        let since = self.last.map_or(self.interval, |last| last.elapsed());
        (self.is_changed && !self.interval.is_zero()).then(|| self.interval.saturating_sub(since))
    }

    pub(super) fn make(&mut self, connection: &Connection) {
        self.last = Some(Instant::now());
        match copy(connection, &self.target) {
            Ok(()) => self.is_changed = false,
            // The record itself goes on, and the last copy stays; it is tried again.
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "the record cannot be copied");
            }
        }
    }
}

/// Copies a database that may be in use into one file, which is there as a whole or not at all.
pub(super) fn copy(connection: &Connection, target: &Path) -> Result<(), MetadataError> {
    let new = beside(target, ".new");
    let failed = |source| MetadataError::Copy { path: target.to_owned(), source };
    remove(&new).map_err(failed)?;
    // Made here for its mode; SQLite takes an empty file.
    File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let name = new.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(super::writer::classify)?;
    settle(&new, target).map_err(failed)
}

/// `sandboxd backup`: copies the record of a daemon that may be running.
///
/// # Errors
/// There is none, it is damaged, or the copy cannot be written.
pub fn save(database: &Path, target: &Path) -> Result<(), MetadataError> {
    let connection = schema::inspect(database)?;
    copy(&connection, target)
}

/// `sandboxd restore`: puts a copy in the place of the record, which is kept beside it; returns its new name.
///
/// # Errors
/// The copy is damaged, foreign or newer, or the files cannot be written.
pub fn restore(database: &Path, from: &Path) -> Result<Option<PathBuf>, MetadataError> {
    drop(schema::inspect(from)?);
    let kept = if database.exists() { Some(set_aside(database, "replaced")?) } else { None };
    take(from, database)?;
    Ok(kept)
}

/// Opens the database; one that is damaged is kept aside, and the copy beside it is taken, if that is sound.
pub(super) fn open(path: &Path) -> Result<(Connection, Option<Recovered>), MetadataError> {
    let damaged = match schema::open(path) {
        Ok(connection) => return Ok((connection, None)),
        Err(error @ MetadataError::Damaged { .. }) => error,
        Err(error) => return Err(error),
    };
    let backup = beside(path, ".backup");
    if schema::inspect(&backup).is_err() {
        return Err(damaged);
    }
    let age = fs::metadata(&backup).ok().and_then(|m| m.modified().ok()?.elapsed().ok());
    let kept_as = set_aside(path, "damaged")?;
    take(&backup, path)?;
    let problem = damaged.to_string();
    Ok((schema::open(path)?, Some(Recovered { problem, kept_as, age })))
}

/// Renames a database and what belongs to it.
fn set_aside(database: &Path, why: &str) -> Result<PathBuf, MetadataError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = beside(database, &format!(".{why}-{now}"));
    for suffix in BESIDE {
        let (from, to) = (beside(database, suffix), beside(&kept, suffix));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(MetadataError::Copy { path: to, source: error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(kept)
}

/// Puts a copy of a file in the place of a database that has been set aside.
fn take(from: &Path, database: &Path) -> Result<(), MetadataError> {
    let failed = |source| MetadataError::Copy { path: database.to_owned(), source };
    let new = beside(database, ".new");
    remove(&new).map_err(failed)?;
    let write = || -> io::Result<()> {
        let mut target = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        io::copy(&mut File::open(from)?, &mut target)?;
        settle(&new, database)
    };
    write().map_err(failed)
}

/// Makes a file last and gives it its name.
fn settle(new: &Path, target: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, target)?;
    let directory = target.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// How a database is opened that is not to be changed.
pub(super) const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
