//! Between the daemon and `sandbox-init`.

use serde::{Deserialize, Serialize};

/// The version of this protocol; a daemon that adopts a sandbox checks it.
pub const VERSION: u32 = 1;
/// The descriptor number under which `sandbox-init` finds its listening control socket.
pub const CONTROL_DESCRIPTOR: i32 = 3;

/// What the daemon asks; one connection carries one request and its replies.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::Hello`].
    Hello,
    /// Gives the sandbox its environment, once, after its workspace is in place. Answered by [`Reply::Claimed`] or
    /// [`Reply::Failed`]; `sandbox-init` then executes itself anew with that environment, and whoever connects
    /// meanwhile waits in the socket's backlog.
    Claim { env: Vec<String> },
    /// Starts a process; stdin, stdout and stderr ride along as three descriptors.
    /// Answered by [`Reply::Started`] and, once it has ended, [`Reply::Exited`]; or by [`Reply::Failed`].
    Exec { argv: Vec<String>, env: Vec<(String, String)>, cwd: String },
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
    /// The pid inside the sandbox.
    Started {
        pid: i32,
    },
    /// The process could not be started; the errno of execve(2), chdir(2) or fork(2).
    Failed {
        errno: i32,
    },
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
    },
    Process(ProcessState),
    /// `error` is the end of the build's output, when it failed.
    Build {
        running: bool,
        error: Option<String>,
    },
    ManifestChanged,
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
