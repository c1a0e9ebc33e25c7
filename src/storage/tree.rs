//! Whole trees: copied from the host, and removed whatever a tenant has made of them.
//!
//! Neither recurses: a tenant can nest directories deeper than any stack.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::StorageError;
use crate::sys::fs as sysfs;

/// The unit of `st_blocks` — man 3 stat.
const BLOCK_BYTES: u64 = 512;

/// Removes a tree and counts the bytes it took on disk. Links are removed, not followed; what is
/// mounted in it is not entered, and then the tree cannot be removed.
///
/// # Errors
/// Something in it cannot be removed.
pub(super) fn remove(path: &Path) -> Result<u64, StorageError> {
    let failed = StorageError::at("remove", path);
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        Err(errno) => return Err(failed(errno.into())),
    };
    let size = |blocks: i64| u64::try_from(blocks).unwrap_or_default() * BLOCK_BYTES;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlink(path).map_err(|e| failed(e.into()))?;
        return Ok(size(stat.st_blocks));
    }
    let root = sysfs::open_directory(path).map_err(&failed)?;
    let freed = empty(&root).map_err(&failed)?;
    rustix::fs::rmdir(path).map_err(|e| failed(e.into()))?;
    Ok(freed + size(stat.st_blocks))
}

/// Removes everything in a directory.
///
/// A directory that is found is first moved up to the top, next to the others, so that two descriptors
/// are enough however deep the tree is.
fn empty(root: &OwnedFd) -> io::Result<u64> {
    let mut freed = 0;
    let mut number = 0_u64;
    // Each round takes the directories at the top apart; what was in them is at the top for the next.
    loop {
        let mut directories = Vec::new();
        freed += unlink_files(root, &mut directories)?;
        if directories.is_empty() {
            return Ok(freed);
        }
        for name in directories {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // A mount point is refused: what is mounted there is not the tenant's to remove.
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let directory = rustix::fs::openat2(root, &name, flags, Mode::empty(), resolve)?;
            let mut inner = Vec::new();
            freed += unlink_files(&directory, &mut inner)?;
            for name in inner {
                let lifted = format!(".removing-{number}");
                number += 1;
                rustix::fs::renameat(&directory, &name, root, lifted.as_str())?;
            }
            rustix::fs::unlinkat(root, &name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Unlinks what is not a directory; collects the names of what is.
fn unlink_files(directory: &OwnedFd, directories: &mut Vec<CString>) -> io::Result<u64> {
    let mut freed = 0;
    for name in sysfs::names(directory)? {
        let name = name?.bytes;
        let stat = match sysfs::stat_name(directory, &name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            freed += u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK_BYTES;
            directories.push(name);
            continue;
        }
        // Of a file with several names only the last one frees anything.
        if stat.st_nlink == 1 {
            freed += u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK_BYTES;
        }
        match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(freed)
}

/// Copies what is in one directory into another, of files, directories and links; everything belongs
/// to `owner`. The source is the host's own.
///
/// # Errors
/// The disk is full or fails.
pub(super) fn copy(from: &Path, to: &Path, owner: u32) -> Result<(), StorageError> {
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
    owner: u32,
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
    sysfs::give_name(target, name, owner, owner)?;
    Ok(pair)
}
