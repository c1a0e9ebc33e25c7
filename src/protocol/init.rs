//! Between the daemon and `sandbox-init`.

use serde::{Deserialize, Serialize};

/// The version of this protocol; a daemon that adopts a sandbox checks it.
pub const VERSION: u32 = 2;
/// The descriptor number under which `sandbox-init` finds its control socket: a listening one; or, where a
/// sandbox can be given descriptors and cannot give any (see [`Spawn::relayed`]), one for datagrams, of which
/// each brings a connection.
pub const CONTROL_DESCRIPTOR: i32 = 3;

/// What the daemon asks. One connection carries one request and its replies; but the one on which
/// [`Request::Attach`] was sent carries everything about processes, until another one attaches.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::Hello`].
    Hello,
    /// Gives the sandbox its environment, once, after its workspace is in place. Answered by [`Reply::Claimed`] or
    /// [`Reply::Failed`]; `sandbox-init` then executes itself anew with that environment, and whoever connects
    /// meanwhile waits in the socket's backlog.
    Claim { env: Vec<String> },
    /// Makes this the connection about processes. Answered by [`Reply::Attached`].
    Attach,
    /// Gives the two ends of a pipe to be kept for the next daemon.
    Journal,
    /// Starts a process. Without a terminal these descriptors ride along: stdin, stdout and stderr of the
    /// process; then what is kept for the next daemon: the other ends of stdout and stderr and, with
    /// `input`, of stdin. Answered by [`Reply::Started`] and, once it has ended, by [`Reply::Exited`]; or
    /// by [`Reply::NotStarted`]. With [`Spawn::relayed`] a process with a terminal has descriptors too: where
    /// its input is read and its output written; then what is kept, the other ends of the output and the input.
    Spawn(Spawn),
    /// Asks for the kept descriptors of a process. Answered by [`Reply::Taken`].
    Take { key: u64 },
    /// Closes the kept end of a process's stdin.
    CloseInput { key: u64 },
    /// Sets the size of a terminal that is relayed.
    Resize { key: u64, columns: u16, rows: u16 },
    /// Signals; a process that has ended is no error.
    Signal { key: u64, signal: i32, target: Target },
    /// The daemon has everything of this process: what is kept of it may go.
    Forget { key: u64 },
    /// Makes this the app and this connection its watcher: answered by a [`Reply::Process`] or
    /// [`Reply::Build`] whenever one changes, and by [`Reply::ManifestChanged`]. May be sent again on
    /// the same connection.
    Supervise { app: App },
    /// TERM to everything, KILL after the grace time; the connection ends with the sandbox.
    Terminate { grace_ms: u64 },
}

/// What `sandbox-init` answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    Hello {
        version: u32,
    },
    Claimed,
    /// What is kept; the two ends of the journal ride along when there is one.
    Attached {
        journal: bool,
        kept: Vec<Kept>,
    },
    /// The pid inside the sandbox; the master rides along when it has a terminal.
    Started {
        key: u64,
        pid: i32,
        tty: bool,
    },
    Failed {
        errno: i32,
    },
    /// The errno of execve(2), chdir(2) or fork(2); `cwd`: it is that of the directory.
    NotStarted {
        key: u64,
        errno: i32,
        #[serde(default)]
        cwd: bool,
    },
    /// So many descriptors ride along: those of [`Request::Spawn`], or the master of the terminal.
    Taken {
        key: u64,
        descriptors: usize,
    },
    Exited {
        key: u64,
        exit: ExitStatus,
    },
    Process(ProcessState),
    /// `error` is the end of the build's output, when it failed.
    Build {
        running: bool,
        error: Option<String>,
    },
    ManifestChanged,
}

/// A process to be started.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spawn {
    /// Names it on this connection and marks everything that it starts; never used twice.
    pub key: u64,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// Whether it is root's, of the sandbox's user namespace, instead of the user's.
    #[serde(default)]
    pub root: bool,
    /// Columns and rows of its terminal.
    pub tty: Option<(u16, u16)>,
    pub input: bool,
    /// No descriptor can be handed back: the terminal's master stays inside, and what goes through it is
    /// moved by `sandbox-init`; what is kept is opened anew by its name on the host.
    #[serde(default)]
    pub relayed: bool,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Process,
    /// The process group that it leads.
    Group,
    /// Whatever it has started, wherever that has gone.
    Tree,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

/// A process of which something is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    pub key: u64,
    pub pid: i32,
    pub exit: Option<ExitStatus>,
}

impl Request {
    /// How many descriptors ride along.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Journal => 2,
            Self::Spawn(Spawn { tty: Some(_), relayed, .. }) => 4 * usize::from(*relayed),
            Self::Spawn(Spawn { input, .. }) => 5 + usize::from(*input),
            Self::Hello
            | Self::Claim { .. }
            | Self::Attach
            | Self::Take { .. }
            | Self::CloseInput { .. }
            | Self::Resize { .. }
            | Self::Signal { .. }
            | Self::Forget { .. }
            | Self::Supervise { .. }
            | Self::Terminate { .. } => 0,
        }
    }
}

impl Reply {
    /// How many descriptors ride along.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Attached { journal, .. } => 2 * usize::from(*journal),
            Self::Started { tty, .. } => usize::from(*tty),
            Self::Taken { descriptors, .. } => *descriptors,
            _ => 0,
        }
    }
}

/// What is to run by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Runs to its end before the processes start.
    pub build: Option<Build>,
    pub processes: Vec<Process>,
    /// The app directory, where the commands run and the manifest lies.
    pub directory: String,
    /// The manifest that was read to make this; `None` when there is none.
    #[serde(default)]
    pub stamp: Option<Stamp>,
}

/// Enough of stat(2) to see that a file is not the same any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub inode: u64,
    pub modified_s: i64,
    pub modified_ns: i64,
    pub length: u64,
}

/// A command that runs to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub command: String,
    pub timeout_ms: u64,
}

/// A command that is kept running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub kind: ProcessKind,
    pub command: String,
}

/// Which part of the manifest a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    Web,
    Worker,
}

/// How a process of the app is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    pub name: String,
    pub kind: ProcessKind,
    /// The pid inside the sandbox while it runs.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// It ended too often too soon and is not started again.
    pub given_up: bool,
    /// How the run before ended, as a shell shows it.
    #[serde(default)]
    pub exit_code: Option<i32>,
}
