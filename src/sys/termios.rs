//! The caller's own terminal: termios(3).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios};

/// A terminal whose modes are remembered and can be put back.
#[derive(Debug)]
pub struct Modes {
    terminal: OwnedFd,
    saved: Termios,
}

impl Modes {
    /// Remembers the modes: `tcgetattr(terminal)`.
    ///
    /// # Errors
    /// `ENOTTY` for what is no terminal, and the kernel's others.
    pub fn save(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let saved = rustix::termios::tcgetattr(&terminal)?;
        Ok(Self { terminal, saved })
    }

    /// Passes every byte on as it is typed and lets no key be a signal: `cfmakeraw`, `tcsetattr(TCSADRAIN)`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.saved.clone();
        raw.make_raw();
        Ok(rustix::termios::tcsetattr(&self.terminal, OptionalActions::Drain, &raw)?)
    }

    /// Puts back what was remembered; what was typed and not read stays for whoever reads next.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore(&self) -> io::Result<()> {
        // Not `Drain`: output that a stopped terminal holds back would keep this from returning.
        Ok(rustix::termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.saved)?)
    }

    /// A second handle on the same terminal and the same remembered modes.
    ///
    /// # Errors
    /// The kernel's: no descriptor is free.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { terminal: self.terminal.try_clone()?, saved: self.saved.clone() })
    }
}

/// `tcgetwinsize(terminal)`: columns and rows; `None` where they are not known.
pub fn window_size(terminal: impl AsFd) -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
