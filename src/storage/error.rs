//! What can go wrong with files.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a workspace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("there is no template {name:?}; there are: {known}")]
    UnknownTemplate { name: String, known: String },
    #[error("use the rootfs {rootfs}: {destination} {problem}; build it again with scripts/build-rootfs")]
    Rootfs {
        rootfs: PathBuf,
        destination: PathBuf,
        problem: &'static str,
        #[source]
        source: Option<io::Error>,
    },
    #[error("{action} {path}")]
    Access {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A failure that a test asked for.
    #[error("pass the fail point {0}")]
    FailPoint(&'static str),
}

/// Why a file cannot be used; the text is for the client.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("not found: {path}")]
    NotFound { path: String },
    #[error("bad path: {reason}")]
    Path { reason: &'static str },
    #[error("is a directory: {path}")]
    IsDirectory { path: String },
    #[error("not a directory: {path}")]
    NotDirectory { path: String },
    #[error("not a regular file: {path}")]
    NotRegular { path: String },
    #[error("a link leads out of the workspace: {path}")]
    Escapes { path: String },
    #[error("exists already: {path}")]
    Exists { path: String },
    #[error("the directory is not empty: {path}; delete it with recursive=true")]
    NotEmpty { path: String },
    #[error("cannot be put into itself: {path}")]
    IntoItself { path: String },
    #[error("only the permission bits 0000 to 0777 can be set")]
    Mode,
    /// A limit of what is allowed, in its unit.
    #[error("too large: more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    /// A lease is held on it, or its path is renamed without end.
    #[error("is held by a program of the sandbox: {path}; try again")]
    Held { path: String },
    #[error("it took longer than {secs} s")]
    TooSlow { secs: u64 },
    /// What is wrong with an archive that was uploaded.
    #[error("the archive is refused: {reason}")]
    Archive { reason: String },
    /// The client went away, or sent less than announced.
    #[error("the transfer broke off")]
    Transfer {
        #[source]
        source: io::Error,
    },
    #[error("the disk is full")]
    NoSpace {
        #[source]
        source: io::Error,
    },
    #[error("the disk cannot be written now")]
    Unwritable {
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
}

impl StorageError {
    /// For `map_err`: says what failed on what.
    pub(super) fn at(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Access { action, path: path.clone(), source }
    }

    /// Says whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Access { source, .. } if is_full(source))
    }

    /// Says whether the disk cannot be written, whether or not there is room.
    pub fn is_unwritable(&self) -> bool {
        matches!(self, Self::Access { source, .. } if is_unwritable(source))
    }
}

impl FileError {
    /// For `map_err`: the error that an errno means for the client.
    pub fn at(action: &'static str, path: &str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match Errno::from_io_error(&source) {
                Some(Errno::NOENT) => Self::NotFound { path },
                Some(Errno::EXIST) => Self::Exists { path },
                Some(Errno::NOTEMPTY) => Self::NotEmpty { path },
                Some(Errno::ISDIR) => Self::IsDirectory { path },
                Some(Errno::NOTDIR) => Self::NotDirectory { path },
                Some(Errno::INVAL | Errno::NXIO) => Self::NotRegular { path },
                Some(Errno::XDEV | Errno::LOOP) => Self::Escapes { path },
                Some(Errno::AGAIN) => Self::Held { path },
                Some(Errno::NAMETOOLONG) => Self::Path { reason: "it is too long" },
                _ if is_full(&source) => Self::NoSpace { source },
                _ if is_unwritable(&source) => Self::Unwritable { source },
                _ => Self::Io { action, path, source },
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Read-only, as the kernel also makes a file system after an error; or failed, damaged or gone.
fn is_unwritable(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::ROFS | Errno::IO | Errno::NODEV | Errno::STALE | Errno::UCLEAN))
}
