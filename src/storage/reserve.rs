//! Space on the disk that is kept for deletes and starts.
//!
//! A full disk must not keep anybody from giving space back: a purge is recorded before it frees anything, and so is the end
//! of a sandbox; a daemon that was killed while the disk was full writes before it can serve. So some space is held by a
//! file, which is removed for such work where there is no other, and made again once there is room. Until then nothing new
//! is begun.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

use sys::fs as sysfs;

/// The name of the file in the data directory.
const FILE: &str = "reserve";
/// The most that is kept: SQLite's log has 4 MiB until it is folded into the database, which may then grow as much.
const BYTES_MAX: u64 = 16 << 20;
/// The least: below this nothing could be recorded.
const BYTES_MIN: u64 = 256 << 10;
/// The part of a disk that is kept, where that is less.
const PART: u64 = 64;

/// The space that is kept.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    is_whole: Mutex<bool>,
}

impl Reserve {
    /// Finds what an earlier daemon has kept; makes nothing.
    pub(super) fn find(data_dir: &Path) -> Self {
        let total = sysfs::space(data_dir).map_or(0, |space| space.total_bytes);
        let bytes = (total / PART).clamp(BYTES_MIN, BYTES_MAX);
        let path = data_dir.join(FILE);
        let is_whole = fs::metadata(&path).is_ok_and(|found| found.len() >= bytes);
        Self { path, bytes, is_whole: Mutex::new(is_whole) }
    }

    /// Gives the space away, if there is none beside it, for what must not fail.
    pub(super) fn lend(&self) {
        let mut is_whole = self.lock();
        if !*is_whole || self.free().is_none_or(|free| free >= self.bytes) {
            return;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(bytes = self.bytes, "the disk is full; the reserve is released"),
            Err(error) => tracing::error!(%error, "failed to release the reserve of the disk"),
        }
        *is_whole = false;
    }

    /// Keeps the space again, if there is more beside it; says whether it is kept.
    pub(super) fn restore(&self) -> bool {
        let mut is_whole = self.lock();
        if *is_whole {
            return true;
        }
        // A file system that does not tell has no end that could be kept away from.
        let Some(free) = self.free() else { return true };
        if free >= 2 * self.bytes {
            match self.make() {
                Ok(()) => *is_whole = true,
                Err(error) => {
                    tracing::warn!(%error, "failed to keep a reserve on the disk");
                    let _gone: io::Result<()> = fs::remove_file(&self.path);
                }
            }
        }
        *is_whole
    }

    /// Makes sure that there is room for new things, the reserve aside.
    ///
    /// # Errors
    /// `StorageFull`.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.restore() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// The same with a look at the disk.
    ///
    /// # Errors
    /// `StorageFull`.
    pub(super) fn check_free(&self) -> io::Result<()> {
        self.check()?;
        match self.free() {
            Some(free) if free < self.bytes => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn make(&self) -> io::Result<()> {
        let file = File::options().create(true).write(true).truncate(false).open(&self.path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => Ok(()),
            // Written out where the file system cannot set space aside.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                io::copy(&mut io::Read::take(io::repeat(1), self.bytes), &mut &file)?;
                file.sync_all()
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn free(&self) -> Option<u64> {
        let space = self.path.parent().and_then(|directory| sysfs::space(directory).ok());
        space.filter(|space| space.total_bytes > 0).map(|space| space.free_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_while_there_is_room() {
        let data = tempfile::tempdir().unwrap();
        let reserve = Reserve::find(data.path());
        assert!(reserve.restore(), "the disk of this test is full");
        let file = data.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().len(), reserve.bytes);
        // There is room beside it.
        reserve.lend();
        assert!(file.exists() && reserve.check_free().is_ok());
        assert!(*Reserve::find(data.path()).lock(), "the next daemon does not find it");
    }
}
