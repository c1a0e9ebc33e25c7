//! Files beneath a directory that somebody else is changing: openat2(2) and its kin.
//!
//! Every name is resolved by the kernel beneath a directory descriptor; nothing here ever joins a
//! tenant's text to a path of the host.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC`, statfs(2).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;
const RAMFS: rustix::fs::FsWord = 0x8584_58f6;
/// How often the kernel is asked to resolve a path again; see [`open_beneath`].
const RESOLVE_TRIES: u32 = 128;
/// So many of them follow one another at once: what others rename is done within microseconds.
const RESOLVE_TRIES_AT_ONCE: u32 = 32;
/// Between the later ones.
const RESOLVE_PAUSE: Duration = Duration::from_micros(100);
/// How much is copied before the caller is asked again whether to go on.
const COPY_STEP_BYTES: u64 = 8 * 1024 * 1024;

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

/// The names in a directory that have not been read yet, by a descriptor of its own.
#[derive(Debug)]
pub struct Names(Dir);

/// `fstatfs(file)`: whether what is written to it stays in memory — man 2 statfs. If the kernel does not say, it
/// does not.
pub fn is_in_memory(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| is_memory(found.f_type))
}

/// Whether a kind of file system is one without a disk.
pub(super) const fn is_memory(kind: rustix::fs::FsWord) -> bool {
    matches!(kind, TMPFS | RAMFS)
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// Without what only a process with `CAP_SYS_RESOURCE` may take.
    pub free_bytes: u64,
}

/// `statvfs(path)`: the room on the file system that holds a path: man 3 statvfs.
///
/// # Errors
/// The kernel's.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Space { total_bytes: bytes(found.f_blocks), free_bytes: bytes(found.f_bavail) })
}

/// `fchmod(open(path, O_DIRECTORY | O_NOFOLLOW))`: sets the permissions of a directory of the host's own.
///
/// # Errors
/// The kernel's.
pub fn set_directory_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(open_directory(path)?, Mode::from_raw_mode(mode))?)
}

/// Opens a directory by a path of the host's own; the last component must not be a link.
///
/// # Errors
/// The kernel's.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `openat(directory, ".", O_TMPFILE)`: makes a file without a name and lets it go; nothing is left of it.
///
/// # Errors
/// The kernel's, but not that the file system knows no such files.
pub fn check_writable(directory: impl AsFd) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// `openat2(directory, path, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)` — man 2 openat2.
///
/// # Errors
/// `EXDEV` for a path that leads out, `ELOOP` for a link that is refused, and the kernel's others. `EAGAIN` for a path
/// on which names are renamed without end and, with `O_NONBLOCK`, for a file that somebody holds a lease on (man 2
/// fcntl): neither may hold a thread of the caller's.
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
    let flags = flags | OFlags::CLOEXEC;
    for tried in 1..RESOLVE_TRIES {
        match rustix::fs::openat2(directory.as_fd(), path, flags, Mode::from_raw_mode(mode), resolve) {
            // Something was renamed while the kernel resolved, and it asks for another try; or it is a lease, for
            // which it says the same. A tenant can keep up either.
            Err(rustix::io::Errno::AGAIN) if tried > RESOLVE_TRIES_AT_ONCE => {
                std::thread::sleep(RESOLVE_PAUSE);
            }
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Opens a regular file beneath a directory for reading; what is not one cannot make the caller wait.
///
/// # Errors
/// `EINVAL` for what is not a regular file, `EISDIR` for a directory, and those of [`open_beneath`].
pub fn open_file_beneath(directory: impl AsFd, path: &Path, links: Links) -> io::Result<(File, Stat)> {
    // Without NONBLOCK the open of a FIFO waits for its other end, and that of a leased file for the lease's holder.
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
pub fn names(directory: impl AsFd) -> io::Result<Names> {
    Ok(Names(Dir::read_from(directory)?))
}

impl Iterator for Names {
    type Item = io::Result<Name>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.0.read()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno.into())),
            };
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                let kind = Some(entry.file_type()).filter(|k| *k != FileType::Unknown);
                return Some(Ok(Name { bytes: entry.file_name().to_owned(), kind }));
            }
        }
    }
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

/// Opens what one name in a directory stands for, if it is a directory and not a link.
///
/// # Errors
/// `ENOTDIR` or `ELOOP` for anything else, and the kernel's others.
pub fn open_subdirectory(directory: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Opens what one name in a directory stands for, if it is a regular file; a FIFO does not make the caller
/// wait.
///
/// # Errors
/// `EINVAL` for what is not a regular file, `ELOOP` for a link, and the kernel's others.
pub fn open_file_at(directory: impl AsFd, name: &CStr) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file.into(), stat)),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Changes the permissions of what a descriptor stands for, also of one that was opened with `O_PATH`, which
/// fchmod(2) refuses.
///
/// # Errors
/// The kernel's.
pub fn chmod_open(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(own_path(file), Mode::from_raw_mode(mode))?)
}

/// The path by which this process reaches what a descriptor stands for, whatever its name is by now:
/// for calls that take no descriptor.
pub fn own_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Copies at most `length` bytes of one file to another within the kernel, holes as holes, and passes the
/// number of bytes of each step to `account`, which may end it.
///
/// # Errors
/// The kernel's, and those of `account`.
pub fn copy_data(
    from: &File,
    to: &File,
    length: u64,
    mut account: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // The rest is a hole.
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(length);
        let (mut read, mut written) = (start, start);
        while read < end {
            let wanted = (end - read).min(COPY_STEP_BYTES);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            // It moves both offsets on.
            let copied = rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), wanted)?;
            if copied == 0 {
                // It has become shorter meanwhile.
                return Ok(());
            }
            account(u64::try_from(copied).unwrap_or(u64::MAX))?;
        }
        at = end.max(at + 1);
    }
    Ok(rustix::fs::ftruncate(to, length)?)
}

/// Reads at most `length` bytes of a file from a position on into memory that nothing has to clear first: fewer
/// at its end, none beyond it.
///
/// # Errors
/// The kernel's.
pub fn read_at(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    read_with(file, at, length, 0)
}

/// The same from the page cache alone, as `RWF_NOWAIT` has it: what would have to wait for the disk, or a file
/// system that cannot tell, is `None`, and less than `length` may come.
///
/// # Errors
/// The kernel's.
pub fn read_cached_at(file: &File, at: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    match read_with(file, at, length, libc::RWF_NOWAIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `preadv2(file, one buffer, at, flags)` — man 2 preadv2.
fn read_with(file: &File, at: u64, length: usize, flags: libc::c_int) -> io::Result<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::with_capacity(length);
    let at = libc::off_t::try_from(at).map_err(io::Error::other)?;
    loop {
        let piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
        // SAFETY: `piece` names the `length` bytes that `bytes` has just reserved, and both live until the call is
        // over; the kernel does not keep them.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const piece, 1, at, flags) };
        if let Ok(read) = usize::try_from(read) {
            // SAFETY: the kernel has written the first `read` bytes, and never more than the `length` it was given.
            unsafe { bytes.set_len(read) };
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// `sync_file_range(file, at, length, SYNC_FILE_RANGE_WRITE)` — man 2 sync_file_range: begins to bring a part of a
/// file to the disk and does not wait for it. It makes nothing durable; a later fsync(2) has less to do.
///
/// # Errors
/// The kernel's.
pub fn start_writing_back(file: &File, at: u64, length: u64) -> io::Result<()> {
    let at = libc::off64_t::try_from(at).map_err(io::Error::other)?;
    let length = libc::off64_t::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the call takes numbers alone, and the descriptor is open for as long as `file` is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), at, length, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the time of the last change of an open file, in seconds and nanoseconds.
///
/// # Errors
/// The kernel's.
pub fn set_modified(file: impl AsFd, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_far_as_they_go() {
        let path = std::env::temp_dir().join(format!("sandboxd-fs-{}", std::process::id()));
        let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for (at, length) in [(0, 100_000), (1, 10), (99_990, 50), (100_000, 10), (200_000, 10), (5, 0)] {
            let start = usize::try_from(at).unwrap().min(content.len());
            let expected = &content[start..(start + length).min(content.len())];
            assert_eq!(read_at(&file, at, length).unwrap(), expected, "{length} from {at}");
            // It was just written: where the file system can tell, it is in the cache.
            if let Some(cached) = read_cached_at(&file, at, length).unwrap() {
                assert_eq!(cached, expected, "{length} from {at}");
            }
        }
        assert!(read_at(&file, u64::MAX, 1).is_err());
    }
}
