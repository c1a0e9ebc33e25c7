//! A command that runs in a sandbox, and its output.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::connection::{ControlError, Conversation};
use crate::protocol::Reply;
use crate::sys::process::Exit;

/// How much output is handed on at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// After the command itself has ended, how long its output may be silent before it counts as
/// complete: a process that it left in the background keeps the pipes open for ever.
const LINGER: Duration = Duration::from_millis(50);

/// A command that was started in a sandbox. Its output is read no faster than [`Process::next`] is called.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    conversation: Option<Conversation>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    exit: Option<Exit>,
    done: bool,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last event.
    Exited(Exit),
}

impl Process {
    /// Makes the pipes; the second value is what the command gets as stdin, stdout and stderr.
    pub(super) fn prepare() -> Result<(Self, [OwnedFd; 3]), ControlError> {
        let make = || {
            let null = File::open("/dev/null")?;
            let (stdout, stdout_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, stderr_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let stdout = Some(pipe::Receiver::from_owned_fd(stdout)?);
            let stderr = Some(pipe::Receiver::from_owned_fd(stderr)?);
            let process = Self { pid: 0, conversation: None, stdout, stderr, exit: None, done: false };
            Ok::<_, io::Error>((process, [null.into(), stdout_end, stderr_end]))
        };
        make().map_err(|source| ControlError::Socket { action: "make pipes beside", source })
    }

    pub(super) fn started(mut self, pid: i32, conversation: Conversation) -> Self {
        self.pid = pid;
        self.conversation = Some(conversation);
        self
    }

    /// The pid inside the sandbox.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the next piece of output, or for the end; `None` after that.
    ///
    /// # Errors
    /// The sandbox ended under the command.
    ///
    /// # Cancel safety
    /// Cancel safe: output that was read is always returned.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, ControlError> {
        loop {
            if self.done {
                return Ok(None);
            }
            if let (Some(exit), None, None) = (self.exit, &self.stdout, &self.stderr) {
                self.done = true;
                return Ok(Some(ProcessEvent::Exited(exit)));
            }
            let linger = async {
                match self.exit {
                    Some(exit) => {
                        tokio::time::sleep(LINGER).await;
                        exit
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Output first: what was written before the end is told before the end.
                biased;
                read = read_some(&mut self.stdout) => if let Some(bytes) = read {
                    return Ok(Some(ProcessEvent::Stdout(bytes)));
                } else {
                    self.stdout = None;
                },
                read = read_some(&mut self.stderr) => if let Some(bytes) = read {
                    return Ok(Some(ProcessEvent::Stderr(bytes)));
                } else {
                    self.stderr = None;
                },
                reply = end_of(&mut self.conversation) => {
                    self.conversation = None;
                    self.exit = Some(reply?);
                }
                exit = linger => {
                    self.done = true;
                    return Ok(Some(ProcessEvent::Exited(exit)));
                }
            }
        }
    }

    /// Reads and throws away whatever still comes, until every process that holds the output has ended:
    /// closing the pipes instead would kill them at their next line.
    pub async fn discard(mut self) {
        self.done = false;
        while self.stdout.is_some() || self.stderr.is_some() {
            tokio::select! {
                read = read_some(&mut self.stdout) => if read.is_none() { self.stdout = None },
                read = read_some(&mut self.stderr) => if read.is_none() { self.stderr = None },
            }
        }
    }

    /// Says whether nothing can come any more, so that there is nothing to [`Process::discard`].
    pub fn is_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }
}

/// Reads what is there; `None` at the end. Never completes for a pipe that is closed already.
async fn read_some(receiver: &mut Option<pipe::Receiver>) -> Option<Bytes> {
    let Some(open) = receiver else { return std::future::pending().await };
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    match open.read_buf(&mut buffer).await {
        // A pipe that fails is as good as ended.
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.freeze()),
    }
}

async fn end_of(conversation: &mut Option<Conversation>) -> Result<Exit, ControlError> {
    let Some(open) = conversation else { return std::future::pending().await };
    match open.reply().await? {
        Reply::Exited { code: Some(code), .. } => Ok(Exit::Code(code)),
        Reply::Exited { signal: Some(signal), .. } => Ok(Exit::Signal(signal)),
        _ => Err(ControlError::Unexpected),
    }
}
