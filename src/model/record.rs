//! The durable record of a sandbox.

use std::fmt;
use std::str::FromStr;

use crate::id::LaunchId;
use crate::spec::SandboxSpec;

/// What a sandbox is doing, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Creating,
    Running,
    /// Frozen: it takes no time, and its memory and connections are kept.
    Paused,
    Stopped,
    Error,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Creating, Self::Running, Self::Paused, Self::Stopped, Self::Error];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(())
    }
}

/// A sandbox as the database knows it: what was asked for, and what has become of it.
///
/// Times are milliseconds since 1970 (UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub spec: SandboxSpec,
    pub status: Status,
    /// Why the status is [`Status::Error`], or what is wrong with the app's manifest; for clients.
    pub error_message: Option<String>,
    /// The lease on an address: an index into the network's pool.
    pub address_index: Option<u32>,
    /// What the launch is called on the host while there is anything of it.
    pub launch: Option<LaunchId>,
    /// The first process of the running container, in the daemon's pid namespace.
    pub init_pid: Option<i32>,
    /// That process's start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`): with
    /// the pid it names one process for ever.
    pub init_start_ticks: Option<u64>,
    pub created_at: i64,
    pub updated_at: i64,
    pub last_active_at: i64,
    pub stopped_at: Option<i64>,
    pub keepalive_until: Option<i64>,
}

impl Record {
    /// The record of a sandbox that is about to be made.
    pub fn new(spec: SandboxSpec, now: i64) -> Self {
        Self {
            spec,
            status: Status::Creating,
            error_message: None,
            address_index: None,
            launch: None,
            init_pid: None,
            init_start_ticks: None,
            created_at: now,
            updated_at: now,
            last_active_at: now,
            stopped_at: None,
            keepalive_until: None,
        }
    }
}
