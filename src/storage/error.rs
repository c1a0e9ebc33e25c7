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
    #[error("more than {limit} entries, or too deep")]
    TooMany { limit: usize },
    #[error("the disk is full")]
    NoSpace {
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
}

impl FileError {
    /// For `map_err`: the error that an errno means for the client.
    pub(super) fn at(action: &'static str, path: &str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match Errno::from_io_error(&source) {
                Some(Errno::NOENT) => Self::NotFound { path },
                Some(Errno::ISDIR) => Self::IsDirectory { path },
                Some(Errno::NOTDIR) => Self::NotDirectory { path },
                Some(Errno::INVAL | Errno::NXIO) => Self::NotRegular { path },
                Some(Errno::XDEV | Errno::LOOP) => Self::Escapes { path },
                Some(Errno::NAMETOOLONG) => Self::Path { reason: "it is too long" },
                _ if is_full(&source) => Self::NoSpace { source },
                _ => Self::Io { action, path, source },
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
