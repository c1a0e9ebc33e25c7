//! Bounds of archives, and what is said of one that passes them.

use std::io;

use crate::error::FileError;

/// Larger pieces make no difference; smaller ones cost system calls. Each transfer has one or two.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;

/// Of gzip and zip: packs source code nearly as well as the default, at three times the speed.
pub(super) const LEVEL: u32 = 3;

/// How much larger than the packed form content may be, once there is much of it. Deflate cannot do more than
/// 1032; text seldom passes 20.
pub(super) const RATIO_MAX: u64 = 200;

/// So much content may be packed as tightly as it likes.
pub(super) const RATIO_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Of content.
    pub bytes: u64,
}

/// What an error of reading an archive means.
pub(super) fn broken(error: io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => refused("it is cut short"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => refused("it is damaged"),
        io::ErrorKind::ConnectionAborted => FileError::Transfer { source: error },
        _ => match error.downcast::<FileError>() {
            Ok(carried) => carried,
            Err(source) => FileError::Transfer { source },
        },
    }
}

pub(super) fn refused(reason: impl Into<String>) -> FileError {
    FileError::Archive { reason: reason.into() }
}
