//! The user's terminal while a process on the other side has it.
//!
//! It is put back on every way out: by `Drop`, by a hook when the program panics (a release build aborts and
//! drops nothing), and by whoever handles the signals that end or stop this process.

use std::io::{self, Write as _};
use std::panic;

use bytes::Bytes;

use client::TerminalSize;
use sys::termios::{Modes, window_size};

use super::failure::Failure;

/// What a process gets that has a terminal when we have none.
const DEFAULT_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// Leaves what a full-screen program may have switched on: the alternate screen, mouse reports, bracketed
/// paste, a hidden cursor, colours (xterm's control sequences).
const LEAVE_MODES: &[u8] =
    b"\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[0m\r\n";

/// A terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub(super) struct RawTerminal(Modes);

impl RawTerminal {
    /// Takes the terminal of standard input.
    ///
    /// # Errors
    /// [`Failure::Terminal`].
    pub(super) fn enter() -> Result<Self, Failure> {
        let enter = || {
            let modes = Modes::save(io::stdin())?;
            let for_panic = modes.try_clone()?;
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                for_panic.restore().ok();
                next(info);
            }));
            modes.make_raw()?;
            Ok(modes)
        };
        enter().map(Self).map_err(Failure::Terminal)
    }

    /// Gives the terminal back for a while: this process is about to be stopped.
    pub(super) fn pause(&self) {
        self.0.restore().ok();
    }

    /// Takes it again.
    pub(super) fn resume(&self) {
        self.0.make_raw().ok();
    }

    /// Leaves the modes of a program that can no longer do so itself.
    pub(super) fn leave_modes(&self) {
        let mut out = io::stdout().lock();
        out.write_all(LEAVE_MODES).and_then(|()| out.flush()).ok();
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.0.restore().ok();
    }
}

/// Returns the size of whichever standard stream is a terminal.
pub(super) fn size() -> TerminalSize {
    let size = window_size(io::stdout()).or_else(|| window_size(io::stdin()));
    size.map_or(DEFAULT_SIZE, |(cols, rows)| TerminalSize { cols, rows })
}

/// Returns `TERM` for a process that gets a terminal: the name of ours where it says something.
pub(super) fn variable() -> (String, String) {
    let ours = std::env::var("TERM").ok().filter(|name| is_terminal_name(name));
    ("TERM".to_owned(), ours.unwrap_or_else(|| "xterm-256color".to_owned()))
}

fn is_terminal_name(name: &str) -> bool {
    !name.is_empty()
        && name != "dumb"
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b))
}

/// Finds the keys that are for us in what is typed: Enter `~` `.` leaves, as with ssh(1); `~~` is one `~`.
#[derive(Debug)]
pub(super) struct Escape {
    is_line_start: bool,
    is_open: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self { is_line_start: true, is_open: false }
    }
}

impl Escape {
    /// Returns what is for the process, and whether the user wants to leave.
    pub(super) fn pass(&mut self, typed: &[u8]) -> (Bytes, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for byte in typed.iter().copied() {
            if std::mem::take(&mut self.is_open) {
                match byte {
                    b'.' => return (passed.into(), true),
                    b'~' => {}
                    _ => passed.push(b'~'),
                }
            } else if byte == b'~' && self.is_line_start {
                (self.is_open, self.is_line_start) = (true, false);
                continue;
            }
            self.is_line_start = matches!(byte, b'\r' | b'\n');
            passed.push(byte);
        }
        (passed.into(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tilde_at_the_beginning_of_a_line_is_ours() {
        let check = |typed: &[&str], passed: &str, leaves: bool| {
            let mut escape = Escape::default();
            let mut all = Vec::new();
            let mut has_left = false;
            for piece in typed {
                let (bytes, left) = escape.pass(piece.as_bytes());
                all.extend_from_slice(&bytes);
                has_left |= left;
            }
            assert_eq!((String::from_utf8(all).unwrap().as_str(), has_left), (passed, leaves), "{typed:?}");
        };
        check(&["ls ~/x\r"], "ls ~/x\r", false);
        check(&["~."], "", true);
        check(&["ls\r", "~", "."], "ls\r", true);
        check(&["ls\r~~."], "ls\r~.", false);
        check(&["\r~x"], "\r~x", false);
        check(&["\r~\r~."], "\r~\r", true);
        check(&["a~."], "a~.", false);
    }
}
