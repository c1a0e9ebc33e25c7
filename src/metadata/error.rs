//! Why the record cannot be read or written.

use std::io::ErrorKind;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("open the database {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error(
        "use the database {path}: it is damaged ({problem}), and no copy is beside it; restore one by `sandboxd restore`, or move the file away to start without its sandboxes"
    )]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "use the database {path}: {problem}; restore a copy, or move the file away to start without its sandboxes"
    )]
    Unusable { path: PathBuf, problem: String },
    #[error(
        "use the database {path}: {problem}; {workspaces} workspaces would be without their records. Put back a copy by `sandboxd restore`, or move the workspaces away to start without them"
    )]
    Lost { path: PathBuf, problem: String, workspaces: usize },
    #[error("read the database {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("note the record of what runs")]
    Note(#[source] rusqlite::Error),
    #[error("use the database: it was written by a newer version (schema {found}, this one knows {known})")]
    Newer { found: i64, known: i64 },
    #[error("read the record of {id}: {problem}")]
    Row { id: String, problem: String },
    #[error("copy the record to {path}")]
    Copy {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("write the record: another program holds the database")]
    Busy(#[source] rusqlite::Error),
    #[error("write the record: the disk is full")]
    Full(#[source] rusqlite::Error),
    #[error("write the record: the disk cannot be written")]
    Unwritable(#[source] rusqlite::Error),
    #[error("write the record")]
    Write(#[source] rusqlite::Error),
    #[error("write the record: the writer has ended")]
    Closed,
    #[error("write the record: what goes before it could not be done")]
    NotReached,
    #[error("prepare the database's file")]
    File(#[source] std::io::Error),
}

impl MetadataError {
    /// Says whether another program is in the way.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Busy(_) => true,
            Self::Open { source, .. } => is_busy(source),
            _ => false,
        }
    }

    /// Says whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Open { source, .. } => source.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::File(source) | Self::Copy { source, .. } => {
                matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Says whether the disk cannot be written or read, whether or not there is room.
    pub fn is_unwritable(&self) -> bool {
        match self {
            Self::Unwritable(_) | Self::Unreadable { .. } => true,
            Self::Open { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly))
            }
            _ => false,
        }
    }

    /// Says whether it may be otherwise in a moment, without anything having happened to the content.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_busy() || self.is_unwritable()
    }
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

pub(super) fn classify(error: rusqlite::Error) -> MetadataError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => MetadataError::Full(error),
        Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            MetadataError::Unwritable(error)
        }
        _ if is_busy(&error) => MetadataError::Busy(error),
        _ => MetadataError::Write(error),
    }
}
