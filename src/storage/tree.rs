//! Whole trees: copied from the host, and removed whatever a tenant has made of them.
//!
//! Neither recurses: a tenant can nest directories deeper than any stack.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::StorageError;
use crate::sys::fs::{self as sysfs, Links};

/// The unit of `st_blocks` — man 3 stat.
const BLOCK_BYTES: u64 = 512;
/// How long a tree may take to be removed; what is left then is removed at the next start.
const REMOVAL_MAX: Duration = Duration::from_secs(1800);

/// Removes a tree and counts the bytes it took on disk. Links are removed, not followed; what is
/// mounted in it is not entered, and then the tree cannot be removed.
///
/// # Errors
/// Something in it cannot be removed.
pub(super) fn remove(path: &Path) -> Result<u64, StorageError> {
    let failed = StorageError::at("remove", path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let parent = sysfs::open_directory(parent).map_err(&failed)?;
    remove_at(&parent, name, &|| true).map_err(&failed)
}

/// The same, of a name in a directory of the host's own.
///
/// # Errors
/// Something in it cannot be removed, or `go_on` says no.
pub(super) fn remove_at(
    parent: &OwnedFd,
    name: impl AsRef<Path>,
    go_on: &dyn Fn() -> bool,
) -> io::Result<u64> {
    let name = name.as_ref();
    let stat = match sysfs::stat_name(parent, name) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        return Ok(bytes_of(&stat));
    }
    let root = sysfs::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, 0, Links::Refuse)?;
    let freed = empty(&root, Instant::now() + REMOVAL_MAX, go_on)?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(freed + bytes_of(&stat))
}

/// Removes everything in a directory.
///
/// A directory that is found is taken apart at once: its files are unlinked, and the directories in it are
/// moved up to the top, next to the others. So two descriptors and no memory are enough however deep and
/// wide the tree is.
fn empty(root: &OwnedFd, deadline: Instant, go_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let (mut freed, mut number) = (0, 0_u64);
    loop {
        // Names that come and go while a directory is listed may be missed: the next round finds them.
        let mut found = false;
        for name in sysfs::names(root)? {
            let name = name?;
            found = true;
            // A tenant who had a directory of it open may go on to fill it.
            if Instant::now() > deadline || !go_on() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match unlink(root, &name)? {
                Unlinked::Gone(bytes) => freed += bytes,
                Unlinked::IsDirectory => freed += take_apart(root, &name.bytes, &mut number)?,
            }
        }
        if !found {
            return Ok(freed);
        }
    }
}

/// Empties one directory at the top and removes it.
fn take_apart(root: &OwnedFd, name: &CString, number: &mut u64) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A mount point is refused: what is mounted there is not the tenant's to remove.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let directory = match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
        // A tenant who was removing it too, and had it open, has got there first; so below.
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        opened => opened?,
    };
    let mut freed = bytes_of(&rustix::fs::fstat(&directory)?);
    for inner in sysfs::names(&directory)? {
        let inner = inner?;
        match unlink(&directory, &inner)? {
            Unlinked::Gone(bytes) => freed += bytes,
            Unlinked::IsDirectory => {
                let lifted = format!(".removing-{number}");
                *number += 1;
                match rustix::fs::renameat(&directory, &inner.bytes, root, lifted.as_str()) {
                    Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }
    match rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(freed),
        // Something was missed, or added meanwhile: the next round has it.
        Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

enum Unlinked {
    Gone(u64),
    IsDirectory,
}

fn unlink(directory: &OwnedFd, name: &sysfs::Name) -> io::Result<Unlinked> {
    let name = &name.bytes;
    let stat = match sysfs::stat_name(directory, name) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Unlinked::Gone(0)),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(Unlinked::IsDirectory);
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        // Of a file with several names only the last one frees anything.
        Ok(()) => Ok(Unlinked::Gone(if stat.st_nlink == 1 { bytes_of(&stat) } else { 0 })),
        Err(rustix::io::Errno::NOENT) => Ok(Unlinked::Gone(0)),
        Err(errno) => Err(errno.into()),
    }
}

fn bytes_of(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK_BYTES
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
