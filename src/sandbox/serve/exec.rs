//! Commands for whose end a client waits.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::base::error::Error;
use crate::base::request::ExecRequest;
use crate::books::registry::Entry;
use crate::running::process::follow::{Follower, Piece};
use crate::running::process::nouns::Purpose;
use crate::serve::files::kept::Kept;
use crate::serve::processes::{self, ProcessRequest, start_process};
use crate::serve::serving::Serving;
use engine::Stream;
use model::SandboxId;
use storage::Spool;

/// A running command. Dropping it changes nothing for the command, which can be found among the processes.
#[derive(Debug)]
pub struct Exec {
    state: State,
    serving: Arc<Serving>,
    entry: Arc<Entry>,
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
    Running(Box<Follower>),
    /// The command could not be started: what a shell would say of it, and its status.
    Failed {
        message: Option<String>,
        code: Option<i32>,
    },
    Done,
}

impl Exec {
    /// Begins to keep what is to be told of it.
    pub fn keep(&self) -> Spool {
        self.serving.ground.host.storage.spool()
    }

    /// Runs a step that may wait for the disk.
    ///
    /// # Errors
    /// Too much is being done for this sandbox, and those of the step.
    pub async fn on_a_thread<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.entry.share.run(step).await
    }

    /// Makes the answer of what was kept.
    pub fn kept(&self, spools: impl IntoIterator<Item = Spool>) -> Kept {
        Kept::new(spools, &self.entry.share)
    }

    /// Waits for the next piece of output, or for the end, after which there is nothing. The command
    /// is slowed down if this is not called.
    ///
    /// # Errors
    /// This was not called for so long that the command was let go on without it.
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
            State::Running(follower) => match follower.next(true, 0).await {
                Some(Piece::Output { stream: Stream::Stdout, bytes, .. }) => {
                    Ok(Some(ExecEvent::Stdout(bytes.into())))
                }
                Some(Piece::Output { stream: Stream::Stderr, bytes, .. }) => {
                    Ok(Some(ExecEvent::Stderr(bytes.into())))
                }
                Some(Piece::Ended(end)) => {
                    processes::finish(&self.entry, follower.process());
                    self.state = State::Done;
                    Ok(Some(ExecEvent::Exited(end.exit_code)))
                }
                Some(Piece::Dropped { .. } | Piece::Cut) => {
                    self.state = State::Done;
                    let text = "the output was not read for too long; the command goes on without it";
                    Err(Error::Conflict(text.to_owned()))
                }
                None => Ok(None),
            },
        }
    }
}

fn unstartable(error: &Error) -> State {
    State::Failed { message: Some(error.message() + "\n"), code: error.exit_code() }
}

/// Runs a command, waking the sandbox if it sleeps.
pub(crate) async fn exec(serving: &Arc<Serving>, id: SandboxId, request: ExecRequest) -> Result<Exec, Error> {
    let ExecRequest { cmd, env, cwd, root } = request;
    let request = ProcessRequest { env, cwd, root, ..ProcessRequest::of(cmd, Purpose::Exec) };
    let begun = Instant::now();
    let started = start_process(serving, id, request).await;
    serving.ground.books.note_phase("exec", "spawn", begun);
    let entry = serving.ground.books.find(id)?;
    let state = match started {
        Ok(follower) => State::Running(Box::new(follower)),
        Err(error @ Error::Unstartable { .. }) => unstartable(&error),
        Err(error) => return Err(error),
    };
    Ok(Exec { state, serving: Arc::clone(serving), entry })
}
