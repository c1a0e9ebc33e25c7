//! The nouns of the domain as validated values.
//!
//! No I/O, no async, and no serde except on single values with a stable text form
//! ([`SandboxId`], [`ByteSize`]): how a sandbox looks on the wire or on disk is decided there.

mod check;
mod file;
mod id;
mod ids;
mod isolation;
mod limits;
pub mod manifest;
mod record;
mod size;
mod spec;
mod spec_error;

pub use check::{Finding, PathKind};
pub use file::{ArchiveFormat, FileBase, FileKind, FileStat};
pub use id::{IdError, LaunchId, SandboxId};
pub use ids::{IDS, IdBase, IdBaseError, IdExtent, IdRange, SANDBOX_USER};
pub use isolation::Isolation;
pub use limits::{Ceiling, CpuMax, IoMax, LimitError, Limits, LimitsChange};
pub use record::{Record, Status};
pub use size::{ByteSize, SizeError};
pub use spec::{
    AppName, Environment, External, GitSource, HostHeader, IdlePolicy, RootFs, SandboxSpec, SleepPolicy,
    TemplateName, Tier, Visibility,
};
pub use spec_error::SpecError;
