//! Pipes with names.
//!
//! A sandbox that can be given descriptors and cannot hand any back keeps the ends of its pipes open all
//! the same; the next daemon opens them by these names. The names are the host's: no sandbox sees them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

/// Makes a pipe unless there is one, and opens both of its ends, where to read and where to write; neither blocks.
///
/// # Errors
/// The kernel's.
pub fn pipe(path: &Path) -> io::Result<[OwnedFd; 2]> {
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    // In this order: an end to write to can be opened only when there is one to read from.
    Ok([reader(path)?, open(path, OFlags::WRONLY)?])
}

/// Opens where to read; it has nothing more to give if nobody can write.
///
/// # Errors
/// The kernel's.
pub fn reader(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlags::RDONLY)
}

/// Opens where to write; `None` if nobody can read it.
///
/// # Errors
/// The kernel's.
pub fn writer(path: &Path) -> io::Result<Option<OwnedFd>> {
    match open(path, OFlags::WRONLY) {
        Ok(end) => Ok(Some(end)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(path: &Path, side: OFlags) -> io::Result<OwnedFd> {
    let flags = side | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_by_name_while_somebody_holds_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p");
        let [kept, write] = pipe(&path).unwrap();
        rustix::io::write(&write, b"before").unwrap();
        drop(write);
        // As after the death of a daemon: only the end that the sandbox keeps is left.
        let mut buffer = [0; 16];
        let again = reader(&path).unwrap();
        assert_eq!(rustix::io::read(&again, &mut buffer), Ok(6));
        assert_eq!(rustix::io::read(&again, &mut buffer), Ok(0));
        assert!(writer(&path).unwrap().is_some());
        drop((kept, again));
        assert!(writer(&path).unwrap().is_none());
    }
}
