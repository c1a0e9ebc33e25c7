//! The processes that clients run in a sandbox.
//!
//! ```text
//!  process ─pipe─► pump ──► ring ──► follower ──► client       (as many followers as there are clients)
//!     ▲              ╰── waits while the slowest follower would be overtaken
//!     └─ started, signalled, told of by ─ link ◄─ sandbox-init, which keeps copies of the pipes
//! ```
//!
//! A process belongs to nobody: a client that goes away changes nothing, and anybody who knows its id can
//! follow its output from any offset that the ring still has. While somebody follows, nothing is dropped:
//! the process is slowed down instead. With nobody there the oldest bytes make way and are counted. The
//! daemon's memory holds one piece per follower, however much is written.
//!
//! The daemon may be killed at any moment: the rings are files, and `sandbox-init` keeps the pipes and
//! the exit status until they have been written down. [`link`] finds all of it again.

pub(crate) mod follow;
pub(crate) mod link;
pub(crate) mod output;
pub(crate) mod pump;
pub(crate) mod relay;
pub(crate) mod rings;
pub(crate) mod start;
pub(crate) mod table;

use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use self::link::Link;
use self::output::Output;
use super::activity::{Activity, Busy, now_ms};
use super::error::Error;
use engine::Ended;
use protocol::ExitStatus;
use sys::pty;
use sys::watch::Watched;

pub use engine::Stream;
pub use follow::{Follower, Piece};
pub use protocol::Target;
pub use start::ProcessRequest;

/// Keys have 62 bits: they are marks, which are limits, of which the largest means none.
const KEY_BITS: u32 = 62;
/// What a terminal takes for the end of its input.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// How processes are kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many may run at once in one sandbox.
    pub running_max: usize,
    /// How much output of each is kept.
    pub output_bytes: u64,
    /// How long a client that reads nothing may hold up a process.
    pub stall: Duration,
    /// How long a process may leave its input unread while somebody wants to write to it.
    pub input: Duration,
    /// How long a terminal waits for somebody to come back to it.
    pub hang_up: Duration,
}

/// Names a process; a ULID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(Ulid);

/// Why a process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A client wants to keep it in view.
    Process,
    /// A client waits for its end.
    Exec,
    /// A person sits before it.
    Terminal,
}

/// What is written down of a process before it is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    /// Cut at a length that is enough to recognise it.
    cmd: Vec<String>,
    cwd: String,
    #[serde(default)]
    root: bool,
    tty: bool,
    input: bool,
    detach: bool,
    timeout_ms: Option<u64>,
    purpose: Purpose,
    /// Unix milliseconds.
    started_at: i64,
    /// The same by the clock that nobody sets; absent if a version before wrote it.
    #[serde(default)]
    started_ms: Option<i64>,
}

/// A process that a client has started.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    description: Description,
    pid: std::sync::atomic::AtomicI32,
    output: Output,
    /// What its ring takes of the host.
    share: rings::Share,
    /// Closed once its end has been asked for.
    input: tokio::sync::Mutex<Option<Arc<Watched<OwnedFd>>>>,
    /// While it has one, where that can be reached here.
    terminal: Mutex<Option<Arc<Watched<OwnedFd>>>>,
    /// Keeps the sandbox awake.
    busy: Mutex<Option<Busy>>,
    /// By which a frozen sandbox is woken.
    activity: OnceLock<Activity>,
    link: Arc<Link>,
    timed_out: std::sync::atomic::AtomicBool,
    /// Cancelled once it has ended.
    ended: CancellationToken,
    /// Cancelled once it is forgotten.
    forgotten: CancellationToken,
}

/// A process as it is at one moment.
#[derive(Debug, Clone)]
pub struct ProcessSnapshot {
    pub id: ProcessId,
    pub pid: i32,
    pub cmd: Vec<String>,
    pub cwd: String,
    /// Root's of the sandbox's user namespace, not its user's.
    pub root: bool,
    pub tty: bool,
    /// Unix milliseconds.
    pub started_at: i64,
    pub ended: Option<ProcessEnd>,
    /// The first offset that can still be read, and the one after the last.
    pub output: (u64, u64),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessEnd {
    /// The status it gave, or 128 + n after signal n.
    pub exit_code: i32,
    /// Without `SIG`.
    pub signal: Option<String>,
    pub timed_out: bool,
    /// The sandbox ended under it.
    pub is_lost: bool,
    /// Unix milliseconds.
    pub at: i64,
}

impl ProcessId {
    fn generate() -> Self {
        Self(Ulid::new())
    }

    /// By which `sandbox-init` knows the process.
    fn key(self) -> u64 {
        let mask = (1_u128 << KEY_BITS) - 1;
        u64::try_from(self.0.random() & mask).unwrap_or_default()
    }
}

impl FromStr for ProcessId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let id = Ulid::from_string(&text.to_ascii_uppercase()).map_err(|_e| ())?;
        // The library reads some letters as digits; an id has one spelling per case.
        if id.to_string().eq_ignore_ascii_case(text) { Ok(Self(id)) } else { Err(()) }
    }
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Process {
    pub fn id(&self) -> ProcessId {
        self.id
    }

    pub fn snapshot(&self) -> ProcessSnapshot {
        let seen = self.output.seen();
        ProcessSnapshot {
            id: self.id,
            pid: self.pid.load(std::sync::atomic::Ordering::Relaxed),
            cmd: self.description.cmd.clone(),
            cwd: self.description.cwd.clone(),
            root: self.description.root,
            tty: self.description.tty,
            started_at: self.description.started_at,
            // Whoever sees that it has ended finds all of its output.
            ended: seen.ended.filter(|_| seen.is_complete).map(|ended| ProcessEnd::of(&ended)),
            output: self.output.range(),
        }
    }

    /// Follows the output from an offset; what is older than the ring is told as dropped.
    ///
    /// # Errors
    /// There is no such offset yet.
    pub fn follow(self: &Arc<Self>, from: u64) -> Result<Follower, Error> {
        Follower::new(Arc::clone(self), from)
    }

    /// Writes to its stdin, as fast as it reads.
    ///
    /// # Errors
    /// It has none, has closed it, or does not read it.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        self.want();
        let input = self.input.lock().await;
        let Some(input) = &*input else {
            return Err(Error::Conflict("the process has no input, or its end was sent already".to_owned()));
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let write = input.write_with(|fd| Ok(rustix::io::write(fd, rest)?));
            let written = tokio::select! {
                written = write => written,
                () = self.ended.cancelled() => return Err(has_ended()),
                () = tokio::time::sleep(self.link.input_deadline()) => {
                    let secs = self.link.input_deadline().as_secs();
                    return Err(Error::Conflict(format!("the process has not read its input for {secs} s")));
                }
            };
            match written {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe) || is_gone(&error) => {
                    return Err(Error::Conflict("the process has closed its input".to_owned()));
                }
                Err(source) => return Err(Error::ProcessOutput { action: "write to a process", source }),
            }
        }
        Ok(())
    }

    /// Ends its stdin; a terminal gets what Ctrl-D sends.
    ///
    /// # Errors
    /// The terminal does not take it.
    pub async fn close_input(&self) -> Result<(), Error> {
        if self.description.tty {
            return self.write(END_OF_TRANSMISSION).await;
        }
        self.want();
        drop(self.input.lock().await.take());
        self.link.close_input(self.id).await
    }

    /// Signals it, its group, or whatever it has started.
    ///
    /// # Errors
    /// There is no such signal; it has ended, and with it its group.
    pub async fn signal(&self, name: &str, target: Target) -> Result<(), Error> {
        let signal = signal_number(name).ok_or_else(|| {
            Error::Invalid(format!("\"signal\" is a name such as TERM, INT, KILL or HUP, not {name:?}"))
        })?;
        if target != Target::Tree && self.ended.is_cancelled() {
            return Err(has_ended());
        }
        self.want();
        self.link.signal(self.id.key(), signal, target).await
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// It has none.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        if self.link.is_relayed() && self.description.tty && !self.ended.is_cancelled() {
            self.want();
            return self.link.resize(self.id.key(), columns, rows).await;
        }
        let terminal = self.terminal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(terminal) = terminal else {
            return Err(Error::Conflict("the process has no terminal, or has ended".to_owned()));
        };
        self.want();
        pty::resize(terminal.get(), columns, rows)
            .map_err(|source| Error::ProcessOutput { action: "resize a terminal", source })
    }

    /// Kills it with everything that it has started.
    async fn kill(&self) -> Result<(), Error> {
        self.want();
        self.link.signal(self.id.key(), libc_kill(), Target::Tree).await
    }

    /// Whoever sends it something wakes the sandbox.
    fn want(&self) {
        if let Some(activity) = self.activity.get() {
            activity.want();
        }
    }

    /// The offset after the last byte.
    pub fn output_end(&self) -> u64 {
        self.output.range().1
    }

    /// Lets the sandbox fall asleep although it runs.
    pub fn detach(&self) {
        drop(self.busy.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Notes how it ended, first where it lasts.
    fn has_ended(&self, exit: Option<ExitStatus>) {
        if self.ended.is_cancelled() {
            return;
        }
        let timed_out = self.timed_out.load(std::sync::atomic::Ordering::Relaxed);
        let ended = Ended { exit, timed_out, at: now_ms() };
        self.output.note_end(ended);
        self.detach();
        self.ended.cancel();
    }

    /// Whether nothing can come from it any more.
    fn is_over(&self) -> bool {
        self.output.seen().is_closed
    }
}

impl ProcessEnd {
    fn of(ended: &Ended) -> Self {
        let (exit_code, signal) = match ended.exit {
            Some(ExitStatus::Code(code)) => (code, None),
            Some(ExitStatus::Signal(signal)) => (128 + signal, Some(signal)),
            // PID 1 has gone, and the kernel kills with it whatever is left — man 7 pid_namespaces.
            None => (128 + libc_kill(), Some(libc_kill())),
        };
        Self {
            exit_code,
            signal: signal.map(signal_name),
            timed_out: ended.timed_out,
            is_lost: ended.exit.is_none(),
            at: ended.at,
        }
    }
}

fn has_ended() -> Error {
    Error::Conflict("the process has ended".to_owned())
}

/// What the other end of a terminal says when nobody has it open.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn libc_kill() -> i32 {
    Signal::SIGKILL as i32
}

fn signal_number(name: &str) -> Option<i32> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>().ok().map(|signal| signal as i32)
}

fn signal_name(number: i32) -> String {
    let name =
        Signal::try_from(number).ok().map(|signal| signal.as_str().trim_start_matches("SIG").to_owned());
    name.unwrap_or_else(|| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!((signal_number("TERM"), signal_number("sigkill")), (Some(15), Some(9)));
        assert_eq!((signal_number("9"), signal_number("NOPE"), signal_number("")), (None, None, None));
        assert_eq!((signal_name(9), signal_name(40)), ("KILL".to_owned(), "40".to_owned()));
    }

    #[test]
    fn ids_are_read_strictly_and_give_keys() {
        let id = ProcessId::generate();
        assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        for bad in ["", "web", "0O000000000000000000000000", "../../../../../../../../etc"] {
            assert!(bad.parse::<ProcessId>().is_err(), "{bad}");
        }
        assert!(id.key() < 1 << KEY_BITS && id.key() != ProcessId::generate().key());
    }
}
