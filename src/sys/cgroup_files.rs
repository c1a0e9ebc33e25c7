//! Files of control groups, and what can go wrong with them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Limits the receive buffers of UDP too: the kernel charges both by the same function
/// (`__sk_mem_raise_allocated`, `memcg1_charge_skmem`).
pub(super) const SOCKETS_FILE: &str = "memory.kmem.tcp.limit_in_bytes";

/// Why control groups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("find a mounted cgroup file system with the controllers memory and pids: {0}")]
    Detect(&'static str),
    #[error("{action} {path}")]
    Access {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("empty the cgroup {0}: processes are left after they were killed")]
    Busy(PathBuf),
    #[error("freeze the cgroup {path}: a process cannot be stopped within {} ms", waited.as_millis())]
    Unfrozen { path: PathBuf, waited: Duration },
    #[error("freeze a cgroup: no hierarchy has a freezer")]
    NoFreezer,
}

/// `ESRCH` is what the kernel says of a process, `ENODEV` of a file whose cgroup was removed while it was open.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|e| access("read", path, e))
}

/// One write(2) without truncation or creation, as control files want it.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    let opened = OpenOptions::new().write(true).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| access("write", path, e))
}

pub(super) fn access(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Access { action, path: path.to_owned(), source }
}

pub(super) fn remove_directory(path: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(access("remove", path, error)),
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(access("make", path, error)),
    }
}
