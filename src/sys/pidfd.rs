//! Processes by descriptor: pidfd_open(2), pidfd_send_signal(2).
//!
//! A pid is a number that is used again; a pidfd, and a pid together with its start time, is one
//! process for ever.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, Signal};

/// One process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `pidfd_open(pid, PIDFD_NONBLOCK)` — man 2 pidfd_open.
    ///
    /// # Errors
    /// `ESRCH` when there is no such process.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(Self(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?))
    }

    /// Opens the process only if it is the one that started then.
    ///
    /// # Errors
    /// `ESRCH` when it is gone, also when its pid is used by another process now.
    pub fn open_exactly(pid: i32, start_ticks: u64) -> io::Result<Self> {
        let process = Self::open(pid)?;
        // In this order: the descriptor is taken first, so the start time read next is that of the
        // process it names, or of nothing if that has ended meanwhile.
        if self::start_ticks(pid)? == start_ticks {
            Ok(process)
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }

    /// `pidfd_send_signal(fd, SIGKILL)` — man 2 pidfd_send_signal. A process that has ended is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The descriptor is readable once the process has ended.
impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads when a process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat` — man 5 proc_pid_stat.
///
/// # Errors
/// `ESRCH` or `ENOENT` when there is no such process.
pub fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command in parentheses and may itself hold blanks and parentheses.
    let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let field = after.split_ascii_whitespace().nth(19).and_then(|f| f.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat has no start time"))
}
