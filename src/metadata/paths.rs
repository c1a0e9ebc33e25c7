//! Where what belongs to a database lies.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;

/// What SQLite keeps beside a database.
pub(super) const BESIDE: [&str; 3] = ["", "-wal", "-shm"];

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// How a database is opened that is not to be changed.
pub(super) const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
