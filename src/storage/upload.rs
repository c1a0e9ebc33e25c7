//! A file that is written beside its place and then put there.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::path::FilePath;
use super::place::Place;
use super::walk::TEMPORARY;
use super::{FileError, OWNER};
use crate::sys::fs as sysfs;

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
    committed: bool,
}

impl Upload {
    pub(super) fn begin(root: &OwnedFd, path: &FilePath) -> Result<Self, FileError> {
        let shown = path.as_str().to_owned();
        let failed = FileError::at("write", path.as_str());
        let Place { parent: directory, name } = Place::make(root, path).map_err(&failed)?;
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
        let upload = Self { directory, file, temporary, name, shown, written: 0, committed: false };
        sysfs::give(upload.file.as_fd(), OWNER, OWNER).map_err(&failed)?;
        rustix::fs::fchmod(&upload.file, Mode::from_raw_mode(mode)).map_err(|e| failed(e.into()))?;
        Ok(upload)
    }

    /// Adds to the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write(&mut self, pieces: &[impl AsRef<[u8]>]) -> Result<(), FileError> {
        for piece in pieces.iter().map(AsRef::as_ref) {
            self.file.write_all(piece).map_err(FileError::at("write", &self.shown))?;
            self.written += u64::try_from(piece.len()).unwrap_or_default();
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
