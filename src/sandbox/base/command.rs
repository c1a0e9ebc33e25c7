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

/// What a driver is doing that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// A record is written.
    Amend,
    /// A container is launched, or a frozen one thawed.
    Start,
    Freeze,
    /// Processes have a grace time to end; the sandbox stays.
    Stop,
    Delete,
}

/// What becomes of a command that comes while its driver is doing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// It is done beside that.
    Beside,
    /// It waits for its turn.
    After,
    /// It waits, and what it waits for is cut short.
    Hasten,
}

impl Command {
    /// What is done for it.
    pub(crate) const fn doing(&self) -> Doing {
        match self {
            Self::Create { .. } | Self::Start { .. } | Self::Resume { .. } => Doing::Start,
            Self::Pause { .. } => Doing::Freeze,
            Self::Stop { .. } => Doing::Stop,
            Self::Delete { .. } => Doing::Delete,
            Self::Claim { .. } | Self::KeepAlive { .. } | Self::Update { .. } => Doing::Amend,
        }
    }

    /// What becomes of it while something else is done.
    ///
    /// A change of the record waits for whatever makes a record of its own or deletes it, so that neither overwrites the
    /// other. A purge throws everything away: there is nothing that a grace time could save.
    pub(crate) const fn meanwhile(&self, doing: Doing) -> Meanwhile {
        match (doing, self) {
            (Doing::Stop, Self::Claim { .. } | Self::KeepAlive { .. } | Self::Update { .. }) => {
                Meanwhile::Beside
            }
            (Doing::Stop | Doing::Delete, Self::Delete { purge: true, .. }) => Meanwhile::Hasten,
            (
                Doing::Stop | Doing::Delete,
                Self::Create { .. }
                | Self::Start { .. }
                | Self::Pause { .. }
                | Self::Resume { .. }
                | Self::Stop { .. }
                | Self::Delete { purge: false, .. },
            )
            | (Doing::Delete, Self::Claim { .. } | Self::KeepAlive { .. } | Self::Update { .. })
            | (
                Doing::Amend | Doing::Start | Doing::Freeze,
                Self::Create { .. }
                | Self::Start { .. }
                | Self::Pause { .. }
                | Self::Resume { .. }
                | Self::Stop { .. }
                | Self::Delete { .. }
                | Self::Claim { .. }
                | Self::KeepAlive { .. }
                | Self::Update { .. },
            ) => Meanwhile::After,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One command of each kind.
    fn all() -> Vec<Command> {
        vec![
            Command::Create { git: None, reply: oneshot::channel().0 },
            Command::Start { why: Why::Use, reply: oneshot::channel().0 },
            Command::Resume { reply: oneshot::channel().0 },
            Command::Pause { why: Why::Idle, reply: oneshot::channel().0 },
            Command::Stop { why: Why::Request, reply: oneshot::channel().0 },
            Command::Delete { purge: false, reply: oneshot::channel().0 },
            Command::Delete { purge: true, reply: oneshot::channel().0 },
            Command::Claim { owner: External::default(), reply: oneshot::channel().0 },
            Command::KeepAlive { until_ms: 0, reply: oneshot::channel().0 },
            Command::Update { update: Update::default(), reply: oneshot::channel().0 },
        ]
    }

    #[test]
    fn the_whole_table_of_what_comes_meanwhile() {
        use Meanwhile::{After, Beside, Hasten};
        let row = |doing| all().iter().map(|command| command.meanwhile(doing)).collect::<Vec<_>>();
        for doing in [Doing::Amend, Doing::Start, Doing::Freeze] {
            assert_eq!(row(doing), [After; 10], "{doing:?}");
        }
        let stop = [After, After, After, After, After, After, Hasten, Beside, Beside, Beside];
        assert_eq!(row(Doing::Stop), stop);
        let delete = [After, After, After, After, After, After, Hasten, After, After, After];
        assert_eq!(row(Doing::Delete), delete);
    }
}
