//! Copies of the record: made while it is used, and taken when the record is damaged.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use crate::error::MetadataError;
use crate::paths::BESIDE;
use crate::paths::READ_ONLY;
use crate::paths::beside;
use crate::rows;

/// The copies, the latest first; the others are at least so old when they are replaced.
const COPIES: [&str; 3] = [".backup", ".backup.1", ".backup.2"];
const AGES: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(86_400)];

/// Makes the copy beside the database whenever it has changed and some time has passed.
#[derive(Debug)]
pub(super) struct Keeper {
    database: PathBuf,
    interval: Duration,
    is_changed: bool,
    last: Option<Instant>,
}

impl Keeper {
    /// Keeps no copy when the interval is zero.
    pub(super) fn new(database: &Path, interval: Duration) -> Self {
        Self { database: database.to_owned(), interval, is_changed: true, last: None }
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
        match copy_in_generations(connection, &self.database) {
            Ok(()) => self.is_changed = false,
            // The record itself goes on, and the last copy stays; it is tried again.
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "the record cannot be copied");
            }
        }
    }
}

/// Makes the latest copy, and keeps some of the earlier ones. One that holds nothing never takes the place of one that
/// holds something: that moves on.
fn copy_in_generations(connection: &Connection, database: &Path) -> Result<(), MetadataError> {
    let [latest, older, oldest] = COPIES.map(|suffix| beside(database, suffix));
    let new = write_copy(connection, &latest)?;
    let failed = |source| MetadataError::Copy { path: older.clone(), source };
    let is_full = |path: &Path| holds_something(path).unwrap_or(false);
    let is_due = |path: &Path, age| age_of(path).is_none_or(|since| since >= age);
    let loses = !is_full(&new) && is_full(&latest);
    if is_full(&latest) && (loses || is_due(&older, AGES[0])) {
        if is_full(&older) && is_due(&oldest, AGES[1]) {
            fs::rename(&older, &oldest).map_err(failed)?;
        }
        fs::rename(&latest, &older).map_err(failed)?;
    }
    settle(&new, &latest).map_err(|source| MetadataError::Copy { path: latest.clone(), source })
}

fn holds_something(path: &Path) -> rusqlite::Result<bool> {
    let connection = Connection::open_with_flags(path, READ_ONLY)?;
    rows::holds_nothing(&connection).map(|nothing| !nothing)
}

/// Copies a database that may be in use into one file, which is there as a whole or not at all.
pub(super) fn copy(connection: &Connection, target: &Path) -> Result<(), MetadataError> {
    let new = write_copy(connection, target)?;
    settle(&new, target).map_err(|source| MetadataError::Copy { path: target.to_owned(), source })
}

/// Writes the copy under another name, which is returned.
fn write_copy(connection: &Connection, target: &Path) -> Result<PathBuf, MetadataError> {
    let new = beside(target, ".new");
    let failed = |source| MetadataError::Copy { path: target.to_owned(), source };
    remove(&new).map_err(failed)?;
    // Made here for its mode; SQLite takes an empty file.
    File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let name = new.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(super::error::classify)?;
    Ok(new)
}

/// The copies beside a database, the latest first.
pub(super) fn copies_of(database: &Path) -> Vec<PathBuf> {
    COPIES.iter().map(|suffix| beside(database, suffix)).filter(|path| path.exists()).collect()
}

/// For how long a file has been as it is.
pub(super) fn age_of(path: &Path) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

/// Renames a database and what belongs to it.
pub(super) fn set_aside(database: &Path, why: &str) -> Result<PathBuf, MetadataError> {
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
pub(super) fn take(from: &Path, database: &Path) -> Result<(), MetadataError> {
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
