//! What `exec`, `shell`, `attach` and `logs` share: a process that is followed while signals come.
//!
//! Signals go by requests of their own and not behind the input, so that Ctrl-C reaches a process that does not
//! read what it is sent.

use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tokio::sync::Notify;

use client::{ClientError, ProcessExit, SignalTarget};
use sys::process::stop_self;

use super::context::Context;
use super::failure::{ExitStatus, Failure};
use super::session::{Ending, Session, Sink, note, read_input};
use super::signals::{Caught, Signals};
use super::terminal::RawTerminal;

/// How long a signal may take to be passed on.
const SIGNAL_WAIT: Duration = Duration::from_secs(5);
/// How long a kill may take, which waits for everything to have ended.
const KILL_WAIT: Duration = Duration::from_secs(15);
/// The Ctrl-C that kills, and after which the next one leaves.
const INTERRUPTS_MAX: u32 = 3;

/// What to follow and how.
#[derive(Debug)]
pub(super) struct Attached<'a> {
    pub(super) context: &'a Context,
    pub(super) sandbox: &'a str,
    pub(super) process: &'a str,
    pub(super) from: u64,
    pub(super) follow: bool,
    pub(super) is_tty: bool,
    /// Whether standard input is passed on.
    pub(super) forwards: bool,
    /// Whether the process is ours: then signals are for it, otherwise they end the following only.
    pub(super) owns: bool,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Exit(ProcessExit),
    /// The process goes on.
    Left,
    /// A signal ended this program, with this code.
    Signalled(u8),
}

impl Attached<'_> {
    /// Follows the process to its end.
    ///
    /// # Errors
    /// It can no longer be followed, or its output cannot be written.
    pub(super) async fn run(&self, signals: &mut Signals, sink: &mut Sink) -> Result<Outcome, Failure> {
        let takes_terminal = self.is_tty && self.forwards && io::stdin().is_terminal();
        let raw = takes_terminal.then(RawTerminal::enter).transpose()?;
        let input = self.forwards.then(read_input).transpose()?;
        let resized = Notify::new();
        let session = Session {
            context: self.context,
            sandbox: self.sandbox,
            process: self.process,
            next: Cell::new(self.from),
            follow: self.follow,
            is_tty: self.is_tty,
            owns: self.owns,
            is_raw: raw.is_some(),
            resized: &resized,
        };
        let outcome = tokio::select! {
            ending = session.follow(input, sink) => match ending {
                Ok(Ending::Exit(exit)) => Ok(Outcome::Exit(exit)),
                Ok(Ending::Left) => Ok(Outcome::Left),
                Err(failure) => Err(failure),
            },
            code = self.guard(signals, raw.as_ref(), &resized) => Ok(Outcome::Signalled(code)),
        };
        if let Some(raw) = raw.as_ref().filter(|_| !matches!(outcome, Ok(Outcome::Exit(_)))) {
            raw.leave_modes();
        }
        if self.owns && matches!(outcome, Err(Failure::BrokenPipe)) {
            // What it would have got here.
            self.signal("PIPE").await.ok();
        }
        drop(raw);
        if self.follow && matches!(outcome, Ok(Outcome::Left)) {
            let (sandbox, process) = (self.sandbox, self.process);
            let text = format!(
                "process {process} goes on: `sandboxctl attach {sandbox} {process}` follows it, `sandboxctl kill {sandbox} {process}` ends it"
            );
            note(self.context, false, &text);
        }
        outcome
    }

    /// Handles signals; returns the exit code when one ends this program.
    async fn guard(&self, signals: &mut Signals, raw: Option<&RawTerminal>, resized: &Notify) -> u8 {
        let mut interrupts = 0;
        loop {
            let caught = signals.next().await;
            let sent = match caught {
                Caught::Resized => {
                    resized.notify_one();
                    continue;
                }
                Caught::Suspend => {
                    raw.inspect(|raw| raw.pause());
                    stop_self().ok();
                    continue;
                }
                Caught::Continued => {
                    raw.inspect(|raw| raw.resume());
                    resized.notify_one();
                    continue;
                }
                _ if !self.owns => return caught.exit_code(),
                // Keys reach the process as bytes; this is the end of the terminal.
                _ if raw.is_some() => {
                    self.signal("HUP").await.ok();
                    return caught.exit_code();
                }
                Caught::Interrupt => {
                    interrupts += 1;
                    match interrupts {
                        ..INTERRUPTS_MAX => self.signal("INT").await,
                        INTERRUPTS_MAX => {
                            note(self.context, false, "killing the process and all it has started");
                            self.kill().await
                        }
                        _ => return caught.exit_code(),
                    }
                }
                Caught::Quit | Caught::Terminate | Caught::HangUp | Caught::User1 | Caught::User2 => {
                    self.signal(caught.name().unwrap_or("TERM")).await
                }
            };
            // A process that has just ended cannot be signalled; its exit is on its way.
            if let Err(error) = sent
                && error.as_ref().is_none_or(|error| error.refusal().is_none())
            {
                let (sandbox, process) = (self.sandbox, self.process);
                note(
                    self.context,
                    false,
                    &format!(
                        "the signal did not reach process {process} in sandbox {sandbox}, which may still run"
                    ),
                );
                return caught.exit_code();
            }
        }
    }

    /// Sends a signal; an error without a cause is one of time.
    async fn signal(&self, name: &str) -> Result<(), Option<ClientError>> {
        let client = &self.context.client;
        let sending = client.signal_process(self.sandbox, self.process, name, SignalTarget::Group);
        within(SIGNAL_WAIT, sending).await
    }

    async fn kill(&self) -> Result<(), Option<ClientError>> {
        within(KILL_WAIT, self.context.client.kill_process(self.sandbox, self.process)).await
    }
}

async fn within(
    wait: Duration,
    sending: impl Future<Output = Result<(), ClientError>>,
) -> Result<(), Option<ClientError>> {
    match tokio::time::timeout(wait, sending).await {
        Ok(result) => result.map_err(Some),
        Err(_elapsed) => Err(None),
    }
}

/// Returns the exit code for this process.
pub(super) fn exit_code(exit: &ProcessExit) -> u8 {
    if exit.timed_out {
        return ExitStatus::TimedOut.code();
    }
    // Exit codes have eight bits; what has more, or is negative, is a failure all the same.
    u8::try_from(exit.exit_code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_fit_and_never_become_success() {
        let check = |exit_code, timed_out, expected| {
            let exit = ProcessExit { exit_code, signal: None, timed_out };
            assert_eq!(super::exit_code(&exit), expected, "{exit:?}");
        };
        check(0, false, 0);
        check(137, false, 137);
        check(256, false, 255);
        check(-1, false, 255);
        check(i64::MIN, false, 255);
        check(137, true, 124);
    }
}
