//! A process that a client has started.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::base::activity::{Activity, Busy, now_ms};
use crate::base::error::Error;
use crate::running::process::link::Link;
use crate::running::process::nouns::{
    Description, ProcessEnd, ProcessId, ProcessSnapshot, libc_kill, signal_number,
};
use crate::running::process::output::Output;
use crate::running::process::rings::Share;
use crate::running::process::streams::Sources;
use engine::{Ended, Ring};
use protocol::{ExitStatus, Target};
use sys::pty;
use sys::watch::Watched;

/// What a terminal takes for the end of its input.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// A process that a client has started.
#[derive(Debug)]
pub struct Process {
    pub(crate) id: ProcessId,
    pub(crate) description: Description,
    pub(crate) pid: AtomicI32,
    pub(crate) output: Output,
    /// What its ring takes of the host.
    pub(crate) share: Share,
    /// Closed once its end has been asked for.
    pub(crate) input: tokio::sync::Mutex<Option<Arc<Watched<OwnedFd>>>>,
    /// While it has one, where that can be reached here.
    pub(crate) terminal: Mutex<Option<Arc<Watched<OwnedFd>>>>,
    /// Keeps the sandbox awake.
    pub(crate) busy: Mutex<Option<Busy>>,
    /// By which a frozen sandbox is woken.
    pub(crate) activity: OnceLock<Activity>,
    pub(crate) link: Arc<Link>,
    pub(crate) timed_out: AtomicBool,
    /// Cancelled once it has ended.
    pub(crate) ended: CancellationToken,
    /// Cancelled once it is forgotten.
    pub(crate) forgotten: CancellationToken,
}

impl Process {
    /// A process that is yet to be started.
    pub(crate) fn new(
        id: ProcessId,
        description: Description,
        (ring, share): (Ring, Share),
        link: Arc<Link>,
    ) -> io::Result<Arc<Self>> {
        let ended = ring.ended()?;
        let process = Self {
            id,
            description,
            pid: AtomicI32::new(0),
            output: Output::new(ring, ended),
            share,
            input: tokio::sync::Mutex::default(),
            terminal: Mutex::default(),
            busy: Mutex::default(),
            activity: OnceLock::new(),
            link,
            timed_out: AtomicBool::new(ended.is_some_and(|e| e.timed_out)),
            ended: CancellationToken::new(),
            forgotten: CancellationToken::new(),
        };
        if ended.is_some() {
            process.ended.cancel();
        }
        Ok(Arc::new(process))
    }

    /// Notes that it runs now: where its input goes, and that the sandbox is in use.
    pub(crate) fn begin(&self, activity: &Activity, sources: &Sources, input: Option<Arc<Watched<OwnedFd>>>) {
        self.activity.get_or_init(|| activity.clone());
        if self.description.tty && !self.link.is_relayed() {
            *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = sources.stdout.clone();
        }
        if let Ok(mut place) = self.input.try_lock() {
            *place = input;
        }
        if !self.description.detach && !self.ended.is_cancelled() {
            *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = Some(activity.begin());
        }
    }

    /// Waits until all of its output is in the ring, but not for ever.
    pub(crate) async fn closed_within(&self, most: std::time::Duration) {
        let mut seen = self.output.watch();
        let closed = seen.wait_for(|seen| seen.is_closed);
        // One whose output is still open has lost who would close it.
        let _late = tokio::time::timeout(most, closed).await.is_err();
    }

    pub fn id(&self) -> ProcessId {
        self.id
    }

    pub fn snapshot(&self) -> ProcessSnapshot {
        let seen = self.output.seen();
        ProcessSnapshot {
            id: self.id,
            pid: self.pid.load(Ordering::Relaxed),
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
    pub(crate) async fn kill(&self) -> Result<(), Error> {
        self.want();
        self.link.signal(self.id.key(), libc_kill(), Target::Tree).await
    }

    /// Whoever sends it something wakes the sandbox.
    pub(crate) fn want(&self) {
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
    pub(crate) fn has_ended(&self, exit: Option<ExitStatus>) {
        if self.ended.is_cancelled() {
            return;
        }
        let timed_out = self.timed_out.load(Ordering::Relaxed);
        let ended = Ended { exit, timed_out, at: now_ms() };
        self.output.note_end(ended);
        self.detach();
        self.ended.cancel();
    }

    /// Whether nothing can come from it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.output.seen().is_closed
    }
}

fn has_ended() -> Error {
    Error::Conflict("the process has ended".to_owned())
}

/// What the other end of a terminal says when nobody has it open.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
