//! Processes as clients name and see them.

use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use engine::Ended;
use protocol::ExitStatus;

/// Keys have 62 bits: they are marks, which are limits, of which the largest means none.
const KEY_BITS: u32 = 62;

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
pub(crate) struct Description {
    /// Cut at a length that is enough to recognise it.
    pub(crate) cmd: Vec<String>,
    pub(crate) cwd: String,
    #[serde(default)]
    pub(crate) root: bool,
    pub(crate) tty: bool,
    pub(crate) input: bool,
    pub(crate) detach: bool,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) purpose: Purpose,
    /// Unix milliseconds.
    pub(crate) started_at: i64,
    /// The same by the clock that nobody sets; absent if a version before wrote it.
    #[serde(default)]
    pub(crate) started_ms: Option<i64>,
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
    pub(crate) fn generate() -> Self {
        Self(Ulid::new())
    }

    /// By which `sandbox-init` knows the process.
    pub(crate) fn key(self) -> u64 {
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

impl ProcessEnd {
    pub(crate) fn of(ended: &Ended) -> Self {
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

pub(crate) fn libc_kill() -> i32 {
    Signal::SIGKILL as i32
}

pub(crate) fn signal_number(name: &str) -> Option<i32> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>().ok().map(|signal| signal as i32)
}

pub(crate) fn signal_name(number: i32) -> String {
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
