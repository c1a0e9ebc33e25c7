//! Commands that clients run in a sandbox.

use std::time::Instant;

use bytes::Bytes;
use tokio_util::task::TaskTracker;

use super::activity::Busy;
use super::driver::Command;
use super::error::Error;
use super::events::Why;
use super::request::ExecRequest;
use super::sleep::kept_awake;
use super::supervisor::{Supervisor, ask};
use crate::model::SandboxId;
use crate::runtime::{ControlError, Process, ProcessEvent};

/// Where a command runs unless it says otherwise.
const DIRECTORY: &str = "/home/sandbox/workspace";
/// The most bytes of a command's arguments; execve(2) takes 128 KiB in one and 2 MiB in all.
const ARGUMENTS_BYTES_MAX: usize = 1024 * 1024;
/// `ENOENT` and `EACCES` in a shell's words: not found, not executable.
const NOT_FOUND: (i32, i32) = (2, 127);
const NOT_EXECUTABLE: i32 = 126;

/// A running command. Dropping it does not end the command: its output is read on and thrown away.
#[derive(Debug)]
pub struct Exec {
    state: State,
    tasks: TaskTracker,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last event: the exit status, or 128 + n after signal n.
    Exited(i32),
}

#[derive(Debug)]
enum State {
    Running {
        process: Process,
        busy: Busy,
    },
    /// The command could not be started: what a shell would say of it, and its status.
    Failed {
        message: Option<String>,
        code: Option<i32>,
    },
    Done,
}

impl Supervisor {
    /// Runs a command, waking the sandbox if it sleeps.
    ///
    /// A command that cannot be started ends with status 127 or 126 and a message on its stderr, as in a shell.
    ///
    /// # Errors
    /// Not found, not to be woken, or the sandbox ended meanwhile.
    pub async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<Exec, Error> {
        check(&request)?;
        let entry = self.find(id)?;
        let busy = entry.activity.begin();
        let env: Vec<_> =
            request.env.entries().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let cwd = request.cwd.unwrap_or_else(|| DIRECTORY.to_owned());
        let tasks = self.shared.tasks.clone();
        let mut retried = false;
        loop {
            let live = match entry.live() {
                Some(live) => live,
                None => {
                    ask(&entry, |reply| Command::Start { why: Why::Use, reply }).await?;
                    entry.live().ok_or(Error::Ending)?
                }
            };
            let begun = Instant::now();
            let starting = live.control.exec(request.cmd.clone(), env.clone(), cwd.clone());
            let started = kept_awake(&entry, starting).await;
            self.shared.note_phase("exec", "spawn", begun);
            match started {
                Ok(process) => return Ok(Exec { state: State::Running { process, busy }, tasks }),
                Err(ControlError::Exec(errno)) => {
                    return Ok(Exec { state: unstartable(&request.cmd, errno), tasks });
                }
                // It was put to sleep between the look and the command: once more, awake.
                Err(ControlError::Ended | ControlError::Socket { .. }) if !retried => {
                    retried = true;
                    live.wait().await;
                }
                Err(error) => return Err(Error::Control(error)),
            }
        }
    }
}

impl Exec {
    /// Waits for the next piece of output (at most 64 KiB), or for the end, after which there is
    /// nothing. Output is read no faster than this is called.
    ///
    /// # Errors
    /// The sandbox ended under the command.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, Error> {
        match &mut self.state {
            State::Done => Ok(None),
            State::Failed { message, code } => {
                if let Some(text) = message.take() {
                    return Ok(Some(ExecEvent::Stderr(text.into())));
                }
                let code = code.take();
                self.state = State::Done;
                Ok(code.map(ExecEvent::Exited))
            }
            State::Running { process, .. } => match process.next().await.map_err(Error::Control)? {
                Some(ProcessEvent::Stdout(bytes)) => Ok(Some(ExecEvent::Stdout(bytes))),
                Some(ProcessEvent::Stderr(bytes)) => Ok(Some(ExecEvent::Stderr(bytes))),
                Some(ProcessEvent::Exited(exit)) => {
                    self.leave();
                    Ok(Some(ExecEvent::Exited(exit.shell_code())))
                }
                None => Ok(None),
            },
        }
    }

    /// Lets go of the process: what it or its children still write is thrown away.
    fn leave(&mut self) {
        if let State::Running { process, busy } = std::mem::replace(&mut self.state, State::Done) {
            // The command itself no longer counts as a use; what it left in the background does not.
            drop(busy);
            if !process.is_closed() {
                self.tasks.spawn(process.discard());
            }
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.leave();
    }
}

fn check(request: &ExecRequest) -> Result<(), Error> {
    let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
    let bytes: usize = request.cmd.iter().map(|argument| argument.len() + 1).sum();
    if request.cmd.first().is_none_or(String::is_empty) {
        return invalid(
            "\"cmd\" is a list of strings that begins with a program, for example [\"bash\",\"-lc\",\"ls\"]",
        );
    }
    if request.cmd.iter().any(|argument| argument.contains('\0')) {
        return invalid("\"cmd\" has a NUL character");
    }
    if bytes > ARGUMENTS_BYTES_MAX {
        return invalid("\"cmd\" has more than 1 MiB");
    }
    if request.cwd.as_deref().is_some_and(|cwd| !cwd.starts_with('/') || cwd.contains('\0')) {
        return invalid("\"cwd\" is an absolute path");
    }
    Ok(())
}

fn unstartable(cmd: &[String], errno: i32) -> State {
    let program: String = cmd.first().into_iter().flat_map(|name| name.chars().take(200)).collect();
    let reason = std::io::Error::from_raw_os_error(errno);
    let code = if errno == NOT_FOUND.0 { NOT_FOUND.1 } else { NOT_EXECUTABLE };
    State::Failed { message: Some(format!("{program}: {reason}\n")), code: Some(code) }
}
