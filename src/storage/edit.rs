//! Single files and directories: looked at, made, moved, deleted.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::files::Files;
use super::path::FilePath;
use super::place::{self, Place, Rubbish};
use crate::error::FileError;
use model::{FileKind, FileStat};
use sys::fs::{self as sysfs, Links};

/// The bits of a file's mode that a client may set: none that gives rights.
pub(super) const MODE_BITS: u32 = 0o777;

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    }
}

impl Files {
    /// Looks at what a path names; a link is not followed at its end.
    ///
    /// # Errors
    /// Not found, or a link on the way leads out.
    pub fn stat(&self, path: &FilePath) -> Result<FileStat, FileError> {
        let failed = FileError::at("look at", path.as_str());
        if path.is_root() {
            let stat = rustix::fs::fstat(self.directory()).map_err(|e| failed(e.into()))?;
            return Ok(describe(path, &stat, None));
        }
        let place = Place::find(self.directory(), path).map_err(&failed)?;
        let stat = sysfs::stat_name(&place.parent, &place.name).map_err(&failed)?;
        let link = (FileType::from_raw_mode(stat.st_mode) == FileType::Symlink).then(|| {
            // It may be something else by now; then it has no target.
            rustix::fs::readlinkat(&place.parent, &place.name, Vec::new()).ok()
        });
        Ok(describe(path, &stat, link.flatten().map(|l| l.to_string_lossy().into_owned())))
    }

    /// Makes a directory and those above it; one that is there is left as it is.
    ///
    /// # Errors
    /// Something else is there, a link leads out, or the disk is full.
    pub fn make_directory(&self, path: &FilePath, mode: Option<u32>) -> Result<FileStat, FileError> {
        let failed = FileError::at("make the directory", path.as_str());
        let mode = mode.map(checked).transpose()?;
        let (directory, made) =
            place::make_directories(self.directory(), path.as_str(), self.owner()).map_err(&failed)?;
        if let Some(mode) = mode.filter(|_| made) {
            sysfs::chmod_open(&directory, mode).map_err(&failed)?;
        }
        self.stat(path)
    }

    /// Moves a file or a tree; directories above the new place are made. With `overwrite` whatever is there is
    /// replaced in the same instant; what that leaves has to be removed.
    ///
    /// # Errors
    /// Not found, the new place is taken, or is inside what is moved.
    pub fn rename(
        &self,
        from: &FilePath,
        to: &FilePath,
        overwrite: bool,
    ) -> Result<(FileStat, Option<Rubbish>), FileError> {
        let source = Place::find(self.directory(), from).map_err(FileError::at("move", from.as_str()))?;
        sysfs::stat_name(&source.parent, &source.name).map_err(FileError::at("move", from.as_str()))?;
        let failed = FileError::at("move to", to.as_str());
        let target = Place::make(self.directory(), to, self.owner()).map_err(&failed)?;
        let put = target.put(&source.parent, &source.name, overwrite, self.yard());
        let rubbish = put.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => FileError::IntoItself { path: from.as_str().to_owned() },
            _ => failed(error),
        })?;
        Ok((self.stat(to)?, rubbish))
    }

    /// Deletes a file, a link, an empty directory, or with `recursive` a whole tree. It is gone when this
    /// returns; what it leaves has to be removed.
    ///
    /// # Errors
    /// Not found, or a directory that is not empty.
    pub fn delete(&self, path: &FilePath, recursive: bool) -> Result<Option<Rubbish>, FileError> {
        let failed = FileError::at("delete", path.as_str());
        let Place { parent, name } = Place::find(self.directory(), path).map_err(&failed)?;
        let stat = sysfs::stat_name(&parent, &name).map_err(&failed)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && recursive {
            return Rubbish::take(self.yard(), &parent, &name).map(Some).map_err(&failed);
        }
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&parent, &name, flags).map_err(|errno| failed(errno.into()))?;
        Ok(None)
    }

    /// Sets the permissions of a file or directory. Links that stay beneath the base are followed.
    ///
    /// # Errors
    /// Not found, neither file nor directory, bits that may not be set, or a link that leads out.
    pub fn chmod(&self, path: &FilePath, mode: u32) -> Result<FileStat, FileError> {
        let failed = FileError::at("change the permissions of", path.as_str());
        let mode = checked(mode)?;
        let opened: OwnedFd =
            sysfs::open_beneath(self.directory(), path.as_path(), OFlags::PATH, 0, Links::FollowBeneath)
                .map_err(&failed)?;
        let stat = rustix::fs::fstat(&opened).map_err(|e| failed(e.into()))?;
        match kind_of(FileType::from_raw_mode(stat.st_mode)) {
            FileKind::File | FileKind::Dir => {}
            FileKind::Link | FileKind::Other => {
                return Err(FileError::NotRegular { path: path.as_str().to_owned() });
            }
        }
        sysfs::chmod_open(&opened, mode).map_err(&failed)?;
        self.stat(path)
    }
}

fn checked(mode: u32) -> Result<u32, FileError> {
    if mode & !MODE_BITS == 0 { Ok(mode) } else { Err(FileError::Mode) }
}

fn describe(path: &FilePath, stat: &Stat, target: Option<String>) -> FileStat {
    FileStat {
        path: path.as_str().to_owned(),
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        mode: stat.st_mode & 0o7777,
        modified_ms: stat.st_mtime.saturating_mul(1000)
            + i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or_default(),
        target,
    }
}
