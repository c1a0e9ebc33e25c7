//! A terminal whose master cannot be handed to the daemon: what goes through it is moved here.
//!
//! ```text
//! daemon ─pipe─► (one piece) ─► master ═ terminal ═ process
//!        ◄─pipe─ (one piece) ◄──╯
//! ```
//!
//! At most one piece is held in each direction, so whoever does not read slows down who writes.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;
use rustix::event::PollFlags;

use sys::{process, pty};

/// How much is moved at once.
const PIECE_BYTES: usize = 16 * 1024;

/// One terminal and the two pipes of the daemon's.
#[derive(Debug)]
pub(super) struct Relay {
    master: OwnedFd,
    input: Flow,
    output: Flow,
    /// Whether the leader of its session has ended.
    is_over: bool,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// What goes one way.
#[derive(Debug)]
struct Flow {
    /// The daemon's pipe; `None` once nothing can come any more.
    pipe: Option<OwnedFd>,
    held: Vec<u8>,
}

impl Relay {
    /// Takes a terminal, where its input comes from, and where its output goes.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(master: OwnedFd, input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        for descriptor in [&master, &input, &output] {
            rustix::io::ioctl_fionbio(descriptor, true)?;
        }
        let flow = |pipe| Flow { pipe: Some(pipe), held: Vec::new() };
        Ok(Self { master, input: flow(input), output: flow(output), is_over: false })
    }

    /// Sets its size and tells those who sit before it, which gVisor does not; a terminal that is gone has none.
    pub(super) fn resize(&self, leader: i32, columns: u16, rows: u16) {
        let resized = pty::resize(&self.master, columns, rows);
        let _nobody_waits: io::Result<()> =
            resized.and_then(|()| process::signal_session(leader, Signal::SIGWINCH));
    }

    /// Hangs up: those before it are told, which gVisor leaves to us too.
    pub(super) fn hang_up(self, leader: i32) {
        drop(self);
        // One that is stopped acts on it only once it is continued.
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            let _nobody_waits: io::Result<()> = process::signal_session(leader, signal);
        }
    }

    /// The leader of its session has ended, with whom Linux hangs up a terminal; gVisor leaves it to whoever is
    /// in the background. What was written is still brought out.
    pub(super) fn finish(&mut self) {
        self.is_over = true;
        self.input.pipe = None;
        self.output.step(self.master.as_fd(), Direction::Out, self.is_over);
    }

    /// What it waits for: to read where nothing is held, to write where something is.
    pub(super) fn waits(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let master = self.master.as_fd();
        let wait = move |flow: &Flow, from, to| {
            if flow.held.is_empty() { (from, PollFlags::IN) } else { (to, PollFlags::OUT) }
        };
        let input = self.input.pipe.as_ref().map(|pipe| wait(&self.input, pipe.as_fd(), master));
        let output = self.output.pipe.as_ref().map(|pipe| wait(&self.output, master, pipe.as_fd()));
        [input, output].into_iter().flatten()
    }

    /// Moves what it can; `ready` says of each wait, in their order, whether it is over.
    pub(super) fn turn(&mut self, ready: &mut impl Iterator<Item = bool>) {
        let master = self.master.as_fd();
        let mut is_ready = |flow: &Flow| flow.pipe.is_some() && ready.next().unwrap_or_default();
        let (input, output) = (is_ready(&self.input), is_ready(&self.output));
        if input {
            self.input.step(master, Direction::In, self.is_over);
        }
        if output {
            self.output.step(master, Direction::Out, self.is_over);
        }
    }
}

impl Flow {
    /// Reads a piece if none is held, then writes what it can of it. `is_last`: what is there now is all.
    fn step(&mut self, master: BorrowedFd<'_>, direction: Direction, is_last: bool) {
        let Some(pipe) = &self.pipe else { return };
        let (from, to) = match direction {
            Direction::In => (pipe.as_fd(), master),
            Direction::Out => (master, pipe.as_fd()),
        };
        loop {
            let moved = fill(&mut self.held, from).and_then(|()| empty(&mut self.held, to));
            match moved {
                Ok(true) if is_last => {}
                Ok(false) if is_last && self.held.is_empty() => break,
                Ok(_) => return,
                Err(_) => break,
            }
        }
        // The end of the one is told to the other by closing the pipe between the daemon and here.
        self.pipe = None;
    }
}

/// An error is the end: a terminal that nobody has open any more says EIO.
fn fill(held: &mut Vec<u8>, from: BorrowedFd<'_>) -> io::Result<()> {
    if !held.is_empty() {
        return Ok(());
    }
    held.resize(PIECE_BYTES, 0);
    let read = rustix::io::read(from, held.as_mut_slice());
    held.truncate(*read.as_ref().unwrap_or(&0));
    match read {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Says whether anything went.
fn empty(held: &mut Vec<u8>, to: BorrowedFd<'_>) -> io::Result<bool> {
    if held.is_empty() {
        return Ok(false);
    }
    match rustix::io::write(to, held) {
        Ok(count) => {
            held.drain(..count);
            Ok(count > 0)
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
