//! A file that is written beside its place and then put there.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::path::FilePath;
use super::place::Place;
use super::walk::TEMPORARY;
use crate::error::FileError;
use crate::owner::Owner;
use sys::fs as sysfs;

/// After so much the disk is told to begin: what is left for the end, which waits for it, is little.
const WRITE_BACK_BYTES: u64 = 8 * 1024 * 1024;

/// A file that is being written. Until [`Upload::commit`] the old one is as it was; dropped before
/// that, nothing is left.
#[derive(Debug)]
pub struct Upload {
    directory: OwnedFd,
    file: File,
    temporary: String,
    name: CString,
    shown: String,
    written: u64,
    /// So much of it is on its way to the disk.
    given_to_disk: u64,
    committed: bool,
}

impl Upload {
    pub(super) fn begin(root: &OwnedFd, path: &FilePath, owner: Owner) -> Result<Self, FileError> {
        let shown = path.as_str().to_owned();
        let failed = FileError::at("write", path.as_str());
        let Place { parent: directory, name } = Place::make(root, path, owner).map_err(&failed)?;
        let mut mode = 0o644;
        match sysfs::stat_name(&directory, &name) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(FileError::IsDirectory { path: shown });
            }
            // The file that is replaced may have been executable.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                mode = stat.st_mode & 0o777;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let temporary = format!("{TEMPORARY}{}", ulid::Ulid::new());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, temporary.as_str(), flags, Mode::from_raw_mode(0o600));
        let file = File::from(file.map_err(|e| failed(e.into()))?);
        let upload =
            Self { directory, file, temporary, name, shown, written: 0, given_to_disk: 0, committed: false };
        owner.take(&upload.file).map_err(&failed)?;
        rustix::fs::fchmod(&upload.file, Mode::from_raw_mode(mode)).map_err(|e| failed(e.into()))?;
        Ok(upload)
    }

    /// Adds to the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write(&mut self, pieces: &[impl AsRef<[u8]>]) -> Result<(), FileError> {
        let failed = FileError::at("write", &self.shown);
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece.as_ref())).collect();
        let mut left = slices.as_mut_slice();
        // Empty ones would make the end of the pieces look like a disk that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let count = match self.file.write_vectored(left) {
                Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            self.written += u64::try_from(count).unwrap_or_default();
            IoSlice::advance_slices(&mut left, count);
        }
        let waiting = self.written - self.given_to_disk;
        if waiting >= WRITE_BACK_BYTES {
            // Only a hint: what the disk refuses, the fsync at the end reports.
            let _ignored: io::Result<()> = sysfs::start_writing_back(&self.file, self.given_to_disk, waiting);
            self.given_to_disk = self.written;
        }
        Ok(())
    }

    /// Makes the content last and puts it in place: a link that stands there is replaced, never written
    /// through. Returns the size.
    ///
    /// # Errors
    /// The disk is full or fails, or a directory is in the way.
    pub fn commit(&mut self) -> Result<u64, FileError> {
        let failed = FileError::at("write", &self.shown);
        self.file.sync_all().map_err(&failed)?;
        let renamed =
            rustix::fs::renameat(&self.directory, self.temporary.as_str(), &self.directory, &self.name);
        renamed.map_err(|e| failed(e.into()))?;
        self.committed = true;
        rustix::fs::fsync(&self.directory).map_err(|e| failed(e.into()))?;
        Ok(self.written)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.committed {
            // If the tenant has moved it, it is one of his files now.
            let _ignored: rustix::io::Result<()> =
                rustix::fs::unlinkat(&self.directory, self.temporary.as_str(), AtFlags::empty());
        }
    }
}
