//! What is written, and what is read.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::MetadataError;
use model::{External, Record, SandboxId};

/// What a write has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The daemon's death: the write has reached the kernel.
    Process,
    /// A power loss: the write has reached the disk.
    Power,
}

/// A workspace without a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    pub id: SandboxId,
    pub retirement: Retirement,
}

/// What becomes of the workspace of a sandbox that is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retirement {
    /// Its owner may have it again.
    Kept(External),
    Purging,
}

/// Called on the writer's thread once the write is as durable as asked, or has failed.
pub type Done = Box<dyn FnOnce(Result<(), MetadataError>) + Send>;

/// What is done on the writer's thread before a write, and says whether the write is to be made. It must be short:
/// everybody waits for it.
pub type Step = Box<dyn FnOnce() -> bool + Send>;

/// Everything that the database holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub records: Vec<Record>,
    pub retired: Vec<Retired>,
    /// The highest number of an event that may have been given out.
    pub events_given_out: u64,
    /// Set when the database was damaged, gone or older than it must be.
    pub recovered: Option<Recovered>,
}

/// What was done about a record that was damaged, gone, or older than it must be.
#[derive(Debug, Clone)]
pub struct Recovered {
    pub problem: String,
    /// Where the one that was replaced is kept; `None`: it was the newest that there was.
    pub kept_as: Option<PathBuf>,
    /// How old the one is that is used: what happened since is not in it.
    pub age: Option<Duration>,
    /// How many records were restored from the notes of what runs.
    pub restored: usize,
    /// Workspaces whose records are lost.
    pub unknown: Vec<SandboxId>,
}
