//! A look at the rootfs before each launch.
//!
//! libcontainer makes devices and links by paths beneath the rootfs and follows links on the way: with
//! `/dev` a link to a directory of the host it would write there, as root. So nothing is launched
//! unless every place that is mounted over is what it says it is.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::error::StorageError;
use model::PathKind;
use sys::fs::{self as sysfs, Links};

pub(super) fn check(rootfs: &Path, destinations: &[(&Path, PathKind)]) -> Result<(), StorageError> {
    let refuse = |destination: &Path, problem, source| StorageError::Rootfs {
        rootfs: rootfs.to_owned(),
        destination: destination.to_owned(),
        problem,
        source,
    };
    let root =
        sysfs::open_directory(rootfs).map_err(|e| refuse(Path::new("/"), "cannot be opened", Some(e)))?;
    for (destination, kind) in destinations {
        let relative = destination.strip_prefix("/").unwrap_or(destination);
        let opened = sysfs::open_beneath(&root, relative, OFlags::PATH | OFlags::NOFOLLOW, 0, Links::Refuse);
        let opened = opened.map_err(|e| refuse(destination, problem_of(&e), Some(e)))?;
        let stat = rustix::fs::fstat(opened)
            .map_err(|e| refuse(destination, "cannot be looked at", Some(e.into())))?;
        let expected = match kind {
            PathKind::Directory => FileType::Directory,
            PathKind::File => FileType::RegularFile,
        };
        if FileType::from_raw_mode(stat.st_mode) != expected {
            return Err(refuse(destination, "is a link, or not of the right kind", None));
        }
    }
    Ok(())
}

fn problem_of(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "is missing",
        Some(Errno::LOOP | Errno::XDEV) => "is reached through a link",
        _ => "cannot be opened",
    }
}
