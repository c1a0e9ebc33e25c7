//! Files beneath a directory that somebody else is changing: openat2(2) and its kin.
//!
//! Every name is resolved by the kernel beneath a directory descriptor; nothing here ever joins a
//! tenant's text to a path of the host.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};

/// Whether a link that stays beneath the directory may be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    FollowBeneath,
    Refuse,
}

/// One name in a directory.
#[derive(Debug)]
pub struct Name {
    pub bytes: CString,
    /// `None` where the file system does not say: then stat(2) does.
    pub kind: Option<FileType>,
}

/// Opens a directory by a path of the host's own; the last component must not be a link.
///
/// # Errors
/// The kernel's.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `openat2(directory, path, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)` — man 2 openat2.
///
/// # Errors
/// `EXDEV` for a path that leads out, `ELOOP` for a link that is refused, and the kernel's others.
pub fn open_beneath(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: u32,
    links: Links,
) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    loop {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(directory.as_fd(), path, flags, Mode::from_raw_mode(mode), resolve) {
            // Something was renamed while the kernel resolved; it asks for another try.
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens a regular file beneath a directory for reading; what is not one cannot make the caller wait.
///
/// # Errors
/// `EINVAL` for what is not a regular file, `EISDIR` for a directory, and those of [`open_beneath`].
pub fn open_file_beneath(directory: impl AsFd, path: &Path, links: Links) -> io::Result<(File, Stat)> {
    // Without NONBLOCK the open of a FIFO waits for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_beneath(directory, path, flags, 0, links)?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file.into(), stat)),
        FileType::Directory => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Lists a directory without `.` and `..`; the descriptor is read from its beginning.
///
/// # Errors
/// The kernel's.
pub fn names(directory: impl AsFd) -> io::Result<impl Iterator<Item = io::Result<Name>>> {
    let mut dir = Dir::read_from(directory)?;
    Ok(std::iter::from_fn(move || {
        loop {
            let entry = match dir.read()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno.into())),
            };
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                let kind = Some(entry.file_type()).filter(|k| *k != FileType::Unknown);
                return Some(Ok(Name { bytes: entry.file_name().to_owned(), kind }));
            }
        }
    }))
}

/// `fstatat(directory, name, AT_SYMLINK_NOFOLLOW)`.
///
/// # Errors
/// The kernel's.
pub fn stat_name(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Stat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives what a name stands for, itself and not where it leads, to a user.
///
/// # Errors
/// The kernel's.
pub fn give_name(directory: impl AsFd, name: impl rustix::path::Arg, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives an open file to a user.
///
/// # Errors
/// The kernel's.
pub fn give(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// Writes a state file of the host's own whole or not at all, and makes it last:
/// temporary, fsync, rename, fsync of the directory.
///
/// # Errors
/// The kernel's.
pub fn write_state(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = open_directory(parent)?;
    let temporary = [OsStr::new("."), name, OsStr::new(".new")].map(OsStr::as_bytes).concat();
    let temporary = CString::new(temporary)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(&directory, &temporary, flags, Mode::from_raw_mode(mode))?);
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    rustix::fs::renameat(&directory, &temporary, &directory, name)?;
    Ok(rustix::fs::fsync(&directory)?)
}
