//! What a sandbox's driver is asked.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::base::error::Error;
use crate::base::events::Why;
use model::{External, GitSource, IdlePolicy, LimitsChange, SleepPolicy};
use telemetry::Trace;

/// How many requests may wait for one sandbox's driver.
pub(crate) const MAILBOX: usize = 64;

/// Where the answer goes; whoever asked may have gone.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What is asked of a driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Launches the new sandbox; on failure everything of it is gone again.
    Create {
        git: Option<GitSource>,
        reply: Reply<()>,
    },
    /// The value says whether it had to be launched.
    Start {
        why: Why,
        reply: Reply<bool>,
    },
    /// Freezes what runs.
    Pause {
        why: Why,
        reply: Reply<()>,
    },
    /// Thaws what is frozen; a stopped sandbox is refused.
    Resume {
        reply: Reply<()>,
    },
    Stop {
        why: Why,
        reply: Reply<()>,
    },
    /// The value is the number of bytes freed.
    Delete {
        purge: bool,
        reply: Reply<u64>,
    },
    Claim {
        owner: External,
        reply: Reply<()>,
    },
    KeepAlive {
        until_ms: i64,
        reply: Reply<()>,
    },
    Update {
        update: Update,
        reply: Reply<()>,
    },
}

/// What is changed about a sandbox; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Update {
    pub(crate) idle_policy: Option<IdlePolicy>,
    /// `Some(None)`: as the instance says.
    pub(crate) sleep: Option<Option<SleepPolicy>>,
    pub(crate) limits: LimitsChange,
}

/// A command, and where its phases are noted.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) command: Command,
    pub(crate) trace: Trace,
    pub(crate) asked: Instant,
}

impl Command {
    /// The operation's name among the figures.
    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Start { .. } => "wake",
            Self::Stop { .. } => "stop",
            Self::Delete { purge: true, .. } => "purge",
            Self::Delete { purge: false, .. } => "delete",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Claim { .. } | Self::KeepAlive { .. } | Self::Update { .. } => "amend",
        }
    }
}
