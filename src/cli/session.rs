//! A process on the other side, followed to its end: its output here, our input there.
//!
//! ```text
//! attach from an offset → output until its exit
//!        ▲                   │ the connection breaks
//!        └── wait a little ◄─┘   and the offset says what has been shown
//! ```
//!
//! No byte of output is shown twice or left out over a break; what the server no longer kept is told. Input is
//! another matter: what was on its way when the connection broke may or may not have arrived, so a
//! process that reads a file or a pipe is given up with a message rather than fed one with a hole in it.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use client::{
    ClientError, OutputError, OutputStream, ProcessEvent, ProcessExit, ProcessInput, ProcessOutput,
};

use super::context::Context;
use super::failure::Failure;
use super::terminal::{self, Escape};
use super::text::printable;

/// How often the connection is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Without any answer for so long, it does not.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How long to try to attach again: longer than a restart of the server takes.
const REATTACH_FOR: Duration = Duration::from_secs(60);
const REATTACH_PAUSE_MAX: Duration = Duration::from_secs(2);
const INPUT_BYTES: usize = 64 * 1024;
/// Of each stream, for `--json`, which shows them when the process has ended.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Which process, from where, and whether it has a terminal.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) context: &'a Context,
    pub(super) sandbox: &'a str,
    pub(super) process: &'a str,
    /// The next byte of its output to show.
    pub(super) next: Cell<u64>,
    /// Otherwise only what there is already.
    pub(super) follow: bool,
    pub(super) is_tty: bool,
    pub(super) owns: bool,
    /// Whether the user's terminal is in raw mode.
    pub(super) is_raw: bool,
    /// Told when the window has another size.
    pub(super) resized: &'a tokio::sync::Notify,
}

/// How following it ended.
#[derive(Debug)]
pub(super) enum Ending {
    Exit(ProcessExit),
    /// The process goes on without us.
    Left,
}

/// What comes from standard input.
#[derive(Debug)]
pub(super) enum Typed {
    Data(Bytes),
    End,
}

/// Where output goes.
#[derive(Debug)]
pub(super) enum Sink {
    Through { stdout: tokio::io::Stdout, stderr: tokio::io::Stderr },
    Kept(Kept),
}

/// Output that is shown at the end.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) is_truncated: bool,
    pub(super) dropped_bytes: u64,
}

/// Input by its number: what was sent, and what the server has said it took.
#[derive(Debug, Default)]
struct Marks {
    sent: Cell<u64>,
    taken: Cell<u64>,
    /// Whether more is on its way than the connection takes.
    is_blocked: Cell<bool>,
    is_ended: Cell<bool>,
}

/// Why one connection is over.
enum Over {
    Ending(Ending),
    Lost(ClientError),
    Failed(Failure),
}

impl Sink {
    pub(super) fn through() -> Self {
        Self::Through { stdout: tokio::io::stdout(), stderr: tokio::io::stderr() }
    }

    async fn write(&mut self, stream: OutputStream, data: &[u8]) -> Result<(), Failure> {
        let written = match (self, stream) {
            (Self::Kept(kept), stream) => {
                kept.take(stream, data);
                Ok(())
            }
            (Self::Through { stdout, .. }, OutputStream::Stdout) => write_all(stdout, data).await,
            (Self::Through { stderr, .. }, OutputStream::Stderr) => write_all(stderr, data).await,
        };
        written.map_err(Failure::output)
    }
}

impl Kept {
    fn take(&mut self, stream: OutputStream, data: &[u8]) {
        let kept = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let room = KEPT_BYTES_MAX - kept.len();
        kept.extend_from_slice(data.get(..room).unwrap_or(data));
        self.is_truncated |= data.len() > room;
    }
}

async fn write_all(out: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    out.write_all(data).await?;
    out.flush().await
}

/// Reads standard input on a thread of its own, since a read of a terminal cannot be taken back; the
/// thread ends with the process.
pub(super) fn read_input() -> Result<mpsc::Receiver<Typed>, Failure> {
    let (sender, receiver) = mpsc::channel(4);
    let read = move || {
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            let typed = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => Typed::End,
                Ok(length) => Typed::Data(Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A terminal that is gone.
                Err(_) => Typed::End,
            };
            let is_end = matches!(typed, Typed::End);
            if sender.blocking_send(typed).is_err() || is_end {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read).map_err(Failure::Runtime)?;
    Ok(receiver)
}

impl Session<'_> {
    /// Follows the process until it ends or the user leaves.
    ///
    /// # Errors
    /// Output cannot be written here, or the process can no longer be followed.
    pub(super) async fn follow(
        &self,
        mut input: Option<mpsc::Receiver<Typed>>,
        sink: &mut Sink,
    ) -> Result<Ending, Failure> {
        let marks = Marks::default();
        marks.is_ended.set(input.is_none());
        let mut escape = Escape::default();
        let mut attached = self.attach().await.map_err(|error| self.failed(error))?;
        loop {
            let (to, mut from) = attached;
            let over = tokio::select! {
                over = self.show(&mut from, sink, &marks) => over,
                () = self.type_in(to, &mut input, &marks, &mut escape) => Over::Ending(Ending::Left),
            };
            match over {
                Over::Ending(ending) => return Ok(ending),
                Over::Failed(failure) => return Err(failure),
                // The end of what there was.
                Over::Lost(_) if !self.follow => return Ok(Ending::Left),
                Over::Lost(error) => {
                    if !self.is_tty && marks.sent.get() > marks.taken.get() {
                        return Err(self.input_lost(error));
                    }
                    self.note(&format!(
                        "the connection was lost after byte {}; attaching again",
                        self.next.get()
                    ));
                    attached = self.attach_again(error).await?;
                    let typed = if self.is_tty && marks.sent.get() > marks.taken.get() {
                        "; what was typed last may be lost"
                    } else {
                        ""
                    };
                    marks.taken.set(marks.sent.get());
                    self.note(&format!("attached again at byte {}{typed}", self.next.get()));
                }
            }
        }
    }

    async fn attach(&self) -> Result<(ProcessInput, ProcessOutput), ClientError> {
        self.context.client.follow_process(self.sandbox, self.process, self.next.get(), self.follow).await
    }

    async fn attach_again(&self, mut error: ClientError) -> Result<(ProcessInput, ProcessOutput), Failure> {
        let end = Instant::now() + REATTACH_FOR;
        let mut pause = Duration::from_millis(100);
        while Instant::now() < end {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REATTACH_PAUSE_MAX);
            error = match self.attach().await {
                Ok(attached) => return Ok(attached),
                // The server is there and says no.
                Err(error) if error.refusal().is_some_and(|refusal| !refusal.retryable) => {
                    return Err(self.failed(error));
                }
                Err(error) => error,
            };
        }
        Err(self.failed(error))
    }

    /// Passes on what is typed; ends when the user wants to leave, and never for a broken connection: that is
    /// for the reader to notice, which knows what it has shown.
    async fn type_in(
        &self,
        mut to: ProcessInput,
        input: &mut Option<mpsc::Receiver<Typed>>,
        marks: &Marks,
        escape: &mut Escape,
    ) {
        let typing = async {
            if self.is_tty {
                to.resize(terminal::size()).await?;
            }
            // An end that was on its way may be told twice, unlike bytes.
            if input.is_some() && marks.is_ended.get() {
                to.finish().await?;
            }
            let mut pings = tokio::time::interval(PING_EVERY);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let receive = async {
                    match input.as_mut() {
                        Some(input) if !marks.is_ended.get() => input.recv().await.unwrap_or(Typed::End),
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    typed = receive => if self.pass_on(&mut to, typed, marks, escape).await? { return Ok(()) },
                    () = self.resized.notified() => to.resize(terminal::size()).await?,
                    _ = pings.tick() => to.mark(marks.sent.get()).await?,
                }
            }
        };
        let result: Result<(), OutputError> = typing.await;
        if result.is_err() {
            marks.is_blocked.set(false);
            std::future::pending::<()>().await;
        }
    }

    /// Returns whether the user wants to leave.
    async fn pass_on(
        &self,
        to: &mut ProcessInput,
        typed: Typed,
        marks: &Marks,
        escape: &mut Escape,
    ) -> Result<bool, OutputError> {
        marks.is_blocked.set(true);
        if matches!(typed, Typed::Data(_)) {
            marks.sent.set(marks.sent.get() + 1);
        }
        match typed {
            Typed::Data(data) if self.is_raw => {
                let (data, leaves) = escape.pass(&data);
                if !data.is_empty() {
                    to.send(data).await?;
                }
                if leaves {
                    return Ok(true);
                }
            }
            Typed::Data(data) => to.send(data).await?,
            Typed::End => {
                marks.is_ended.set(true);
                to.finish().await?;
            }
        }
        to.mark(marks.sent.get()).await?;
        marks.is_blocked.set(false);
        Ok(false)
    }

    /// Shows output until the connection or the process ends.
    async fn show(&self, from: &mut ProcessOutput, sink: &mut Sink, marks: &Marks) -> Over {
        loop {
            let event = match tokio::time::timeout(SILENCE_MAX, from.next()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error @ OutputError::Form(_))) => return Over::Failed(self.failed(error.into())),
                Ok(Err(error)) => return Over::Lost(error.into()),
                // Behind input that nobody takes no question can be asked.
                Err(_elapsed) if marks.is_blocked.get() => continue,
                Err(_elapsed) => return Over::Lost(OutputError::Closed.into()),
            };
            match event {
                ProcessEvent::Output { stream, offset, data } => {
                    self.missing(offset, sink);
                    // What was shown before the connection broke is not shown again.
                    let seen = usize::try_from(self.next.get().saturating_sub(offset)).unwrap_or(usize::MAX);
                    let fresh = data.get(seen..).unwrap_or_default();
                    if let Err(failure) = sink.write(stream, fresh).await {
                        return Over::Failed(failure);
                    }
                    self.next.set(self.next.get() + fresh.len() as u64);
                }
                ProcessEvent::Dropped { from: _, to } => self.missing(to, sink),
                ProcessEvent::Marked(mark) => marks.taken.set(mark.max(marks.taken.get())),
                ProcessEvent::Alive => {}
                // A process that reads no input is no news to whoever started it.
                ProcessEvent::Complaint(_) if self.owns => {}
                ProcessEvent::Complaint(text) => self.note(&text),
                ProcessEvent::Exit(exit) => return Over::Ending(Ending::Exit(exit)),
            }
        }
    }

    /// Goes on at an offset; tells if that leaves something out.
    fn missing(&self, offset: u64, sink: &mut Sink) {
        let next = self.next.get();
        if offset <= next {
            return;
        }
        if let Sink::Kept(kept) = sink {
            kept.dropped_bytes += offset - next;
        }
        self.note(&format!("bytes {next} to {offset} of the output are no longer kept by the server"));
        self.next.set(offset);
    }

    fn note(&self, text: &str) {
        note(self.context, self.is_raw, text);
    }

    fn failed(&self, error: ClientError) -> Failure {
        let context = format!("follow process {} in sandbox {}", self.process, self.sandbox);
        let is_refused = error.refusal().is_some_and(|refusal| !refusal.retryable);
        let failure = self.context.failure(context, error);
        if is_refused {
            return failure;
        }
        Failure::Session {
            failure: Box::new(failure),
            remedy: format!(
                "the process may still run: `sandboxctl attach --from {} {} {}` follows it",
                self.next.get(),
                self.sandbox,
                self.process
            ),
        }
    }

    fn input_lost(&self, error: ClientError) -> Failure {
        let context = format!("send all input to process {} in sandbox {}", self.process, self.sandbox);
        Failure::Session {
            failure: Box::new(self.context.failure(context, error)),
            remedy: format!(
                "the process still runs, and its input may have a hole: `sandboxctl kill {} {}` ends it",
                self.sandbox, self.process
            ),
        }
    }
}

/// Tells people something on a line of its own, also when the terminal is raw.
pub(super) fn note(context: &Context, is_raw: bool, text: &str) {
    if !context.is_json {
        let (before, after) = if is_raw { ("\r\n", "\r\n") } else { ("", "\n") };
        // A note that cannot be written is no reason to fail.
        write!(io::stderr(), "{before}sandboxctl: {}{after}", printable(text)).ok();
    }
}
