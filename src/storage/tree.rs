//! Whole trees of the host's own, copied.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use crate::error::StorageError;
use crate::owner::Owner;
use sys::fs as sysfs;

/// Copies what is in one directory into another, of files, directories and links; everything belongs
/// to `owner`. The source is the host's own.
///
/// # Errors
/// The disk is full or fails.
pub(super) fn copy(from: &Path, to: &Path, owner: Owner) -> Result<(), StorageError> {
    let failed = StorageError::at("copy from", from);
    let open = |path: &Path| sysfs::open_directory(path).map_err(&failed);
    let mut stack = vec![(open(from)?, open(to)?)];
    while let Some((source, target)) = stack.pop() {
        for name in sysfs::names(&source).map_err(&failed)? {
            let name = name.map_err(&failed)?.bytes;
            if let Some(pair) = copy_one(&source, &target, &name, owner).map_err(&failed)? {
                stack.push(pair);
            }
        }
    }
    Ok(())
}

fn copy_one(
    source: &OwnedFd,
    target: &OwnedFd,
    name: &CString,
    owner: Owner,
) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let stat = sysfs::stat_name(source, name)?;
    // Without the bits that would give rights: set-user-id, set-group-id.
    let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pair = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            match rustix::fs::mkdirat(target, name, mode) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let source = rustix::fs::openat(source, name, directory, Mode::empty())?;
            Some((source, rustix::fs::openat(target, name, directory, Mode::empty())?))
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new())?;
            rustix::fs::symlinkat(&link, target, name)?;
            None
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut from = File::from(rustix::fs::openat(source, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut to = File::from(rustix::fs::openat(target, name, flags, mode)?);
            io::copy(&mut from, &mut to)?;
            None
        }
        // Nothing else belongs in a skeleton or a template.
        _ => return Ok(None),
    };
    owner.take_name(target, name)?;
    Ok(pair)
}
