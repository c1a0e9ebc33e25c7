//! Signals as descriptors: signalfd(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A descriptor that is readable when one of its signals is pending.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals for the calling thread and its future threads, and makes the descriptor.
    ///
    /// `sigprocmask(SIG_BLOCK)`, `signalfd(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK)` — man 2 signalfd.
    ///
    /// # Errors
    /// The kernel's.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in signals {
            mask.add(*signal);
        }
        mask.thread_block()?;
        Ok(Self(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Takes one pending signal, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self) -> io::Result<Option<Signal>> {
        let Some(info) = self.0.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).unwrap_or_default();
        Ok(Signal::try_from(number).ok())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs a step with no signal blocked, for the sake of a process that it starts: std lets children
/// inherit the mask — man 7 signal.
///
/// A SIGCHLD that arrives meanwhile is lost: whoever waits for it must look for children afterwards.
///
/// # Errors
/// The kernel's, or the step's.
pub fn with_none_blocked<T>(step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let blocked = SigSet::thread_get_mask()?;
    SigSet::empty().thread_set_mask()?;
    let result = step();
    blocked.thread_set_mask()?;
    result
}

/// Gives every signal but SIGPIPE its default action back: what is ignored stays so across execve(2), and a shell cannot
/// even trap what was ignored when it began — man 7 signal, POSIX `trap`.
///
/// `rt_sigaction` itself, since C libraries keep the first real-time signals from their callers. SIGPIPE is std's: ignored
/// here, default again in what std starts.
pub fn restore_defaults() {
    /// The kernel's `struct sigaction`: handler, flags, restorer, mask.
    const DEFAULT: [u64; 4] = [0; 4];
    for number in (1..=64).filter(|number| *number != libc::SIGPIPE) {
        // SAFETY: the kernel reads 32 bytes from an array of that size; SIG_DFL runs nothing in signal context.
        // KILL and STOP are refused (EINVAL), and need none.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                DEFAULT.as_ptr(),
                std::ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Lets the kernel reap the caller's children by itself: `signal(SIGCHLD, SIG_IGN)` — man 2 wait, NOTES.
///
/// # Errors
/// The kernel's.
pub fn ignore_children() -> io::Result<()> {
    // SAFETY: SIG_IGN is not a handler function, so nothing runs in signal context.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    Ok(())
}

/// Makes children waitable again: `signal(SIGCHLD, SIG_DFL)`.
///
/// # Errors
/// The kernel's.
pub fn keep_children() -> io::Result<()> {
    // SAFETY: SIG_DFL is not a handler function, so nothing runs in signal context.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}
