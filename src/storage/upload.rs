//! A file that is written beside its place and then put there.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::path::FilePath;
use super::{FileError, OWNER};
use crate::sys::fs::{self as sysfs, Links};

/// Begins the name of a file that is being written; listings hide it.
const TEMPORARY: &str = ".upload-";

/// A file that is being written. Until [`Upload::commit`] the old one is as it was; dropped before
/// that, nothing is left.
#[derive(Debug)]
pub struct Upload {
    directory: OwnedFd,
    file: File,
    temporary: String,
    name: String,
    shown: String,
    written: u64,
    committed: bool,
}

impl Upload {
    pub(super) fn begin(root: &OwnedFd, path: &FilePath) -> Result<Self, FileError> {
        let shown = path.as_str().to_owned();
        let failed = FileError::at("write", path.as_str());
        let (parent, name) = path.split();
        let directory = make_parents(root, parent).map_err(&failed)?;
        let mut mode = 0o644;
        match sysfs::stat_name(&directory, name) {
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
            Self { directory, file, temporary, name: name.to_owned(), shown, written: 0, committed: false };
        sysfs::give(upload.file.as_fd(), OWNER, OWNER).map_err(&failed)?;
        rustix::fs::fchmod(&upload.file, Mode::from_raw_mode(mode)).map_err(|e| failed(e.into()))?;
        Ok(upload)
    }

    /// Adds to the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(FileError::at("write", &self.shown))?;
        self.written += u64::try_from(bytes.len()).unwrap_or_default();
        Ok(())
    }

    /// Makes the content last and puts it in place: a link that stands there is replaced, never written
    /// through. Returns the size.
    ///
    /// # Errors
    /// The disk is full or fails, or a directory is in the way.
    pub fn commit(mut self) -> Result<u64, FileError> {
        let failed = FileError::at("write", &self.shown);
        self.file.sync_all().map_err(&failed)?;
        let renamed = rustix::fs::renameat(
            &self.directory,
            self.temporary.as_str(),
            &self.directory,
            self.name.as_str(),
        );
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

/// Opens the directory above a file, making those that are missing, one by one beneath the last.
fn make_parents(root: &OwnedFd, parent: Option<&str>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = root.try_clone()?;
    let mut path = String::new();
    for component in parent.into_iter().flat_map(|p| p.split('/')) {
        path = if path.is_empty() { component.to_owned() } else { format!("{path}/{component}") };
        // From the root each time, so that a link may lead anywhere beneath it, and nowhere else.
        let opened = match sysfs::open_beneath(root, Path::new(&path), flags, 0, Links::FollowBeneath) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&directory, component, Mode::from_raw_mode(0o755)) {
                    Ok(()) => sysfs::give_name(&directory, component, OWNER, OWNER)?,
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                sysfs::open_beneath(root, Path::new(&path), flags, 0, Links::FollowBeneath)?
            }
            other => other?,
        };
        directory = opened;
    }
    Ok(directory)
}
