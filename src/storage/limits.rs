//! How much of a tree is worked on for one request.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::FileError;

/// Directories within directories, counted from where the work begins.
pub(super) const DEPTH_MAX: usize = 64;

/// The most that one request may list, copy, pack or unpack.
#[derive(Debug, Clone, Copy)]
pub struct TreeLimits {
    /// Files, directories and links together.
    pub entries_max: u64,
    /// Bytes of content, unpacked.
    pub bytes_max: u64,
    pub time_max: Duration,
}

/// Whether anybody still waits for what is done; shared by the one who works and the one who waits.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Arc<AtomicBool>);

/// Held by the one who waits: with it goes the wish.
#[derive(Debug)]
pub struct Waiting(Wanted);

impl Wanted {
    /// Returns what the one who waits has to hold.
    pub fn waiting(&self) -> Waiting {
        Waiting(self.clone())
    }

    fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub(super) struct Budget {
    limits: TreeLimits,
    entries: u64,
    bytes: u64,
    end: Instant,
    wanted: Wanted,
}

impl Budget {
    pub(super) fn new(limits: TreeLimits) -> Self {
        let end = Instant::now() + limits.time_max;
        Self { limits, entries: 0, bytes: 0, end, wanted: Wanted::default() }
    }

    /// Is used up once nobody waits any more.
    pub(super) fn wanted(mut self, wanted: &Wanted) -> Self {
        self.wanted = wanted.clone();
        self
    }

    /// Counts one more entry.
    pub(super) fn entry(&mut self) -> Result<(), FileError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(FileError::Limit { what: "entries", limit: self.limits.entries_max });
        }
        self.in_time()
    }

    /// Counts bytes that are about to be read or written.
    pub(super) fn bytes(&mut self, count: u64) -> Result<(), FileError> {
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > self.limits.bytes_max {
            return Err(FileError::Limit { what: "bytes", limit: self.limits.bytes_max });
        }
        self.in_time()
    }

    pub(super) fn limits(&self) -> TreeLimits {
        self.limits
    }

    pub(super) fn in_time(&self) -> Result<(), FileError> {
        if self.wanted.is_given_up() {
            return Err(FileError::Transfer { source: io::ErrorKind::ConnectionAborted.into() });
        }
        if Instant::now() > self.end {
            return Err(FileError::TooSlow { secs: self.limits.time_max.as_secs() });
        }
        Ok(())
    }
}

impl FileError {
    /// Carries an error through an interface that knows only those of the kernel.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Takes out what [`FileError::into_io`] has carried, or says what an errno means.
    pub(super) fn from_io(action: &'static str, path: &str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(carried) => carried,
            Err(error) => Self::at(action, path)(error),
        }
    }
}
