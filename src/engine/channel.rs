//! The connection to one `sandbox-init` over which processes are started, signalled and told of.
//!
//! One connection for all of them: to start a process costs one frame each way. What arrives may come
//! from a hostile sandbox: it names keys, which are looked up, and descriptors, whose kind is checked.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::connection::{Control, ControlError, Way, send_all};
use super::named;
use super::ring::Journal;
use protocol::{Decoder, ExitStatus, Kept, Reply, Request, Spawn, Target};
use sys::{pty, socket};

/// How much is read at once.
const READ_BYTES: usize = 2048;
/// The name of the journal in a sandbox's run directory, where it has one.
const JOURNAL_NAME: &str = "journal";

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// Inside the sandbox.
    pub pid: i32,
    /// Of its terminal, if it has one.
    pub master: Option<OwnedFd>,
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Started, ControlError>>>;

/// The side that asks.
#[derive(Debug)]
pub struct Channel {
    stream: Arc<UnixStream>,
    /// Held while a frame is written.
    turn: tokio::sync::Mutex<()>,
    waiting: Arc<Mutex<Waiting>>,
}

/// The side that is told.
#[derive(Debug)]
pub struct Events {
    stream: Arc<UnixStream>,
    incoming: Incoming,
    waiting: Arc<Mutex<Waiting>>,
}

/// What the sandbox tells unasked; the value is a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Exited(u64, ExitStatus),
    /// It was started after whoever asked had lost patience.
    Unclaimed(u64),
}

/// What a daemon finds when it attaches.
#[derive(Debug)]
pub struct Attached {
    pub channel: Channel,
    pub events: Events,
    pub journal: Journal,
    pub kept: Vec<(Kept, Vec<OwnedFd>)>,
}

/// What has arrived.
#[derive(Debug, Default)]
struct Incoming {
    decoder: Decoder,
    descriptors: Vec<OwnedFd>,
}

impl Control {
    /// Opens the connection about processes; what an earlier daemon had begun comes with it.
    ///
    /// # Errors
    /// It has ended, or is silent.
    pub async fn attach(&self) -> Result<Attached, ControlError> {
        tokio::time::timeout(super::connection::ANSWER_DEADLINE, self.attach_now())
            .await
            .unwrap_or(Err(ControlError::Silent))
    }

    async fn attach_now(&self) -> Result<Attached, ControlError> {
        let stream = self.stream().await?;
        let mut incoming = Incoming::default();
        send_all(&stream, &Request::Attach, &[]).await?;
        let (reply, mut given) = incoming.next(&stream).await?;
        let Reply::Attached { kept: listed, .. } = reply else { return Err(ControlError::Unexpected) };
        let failed = |source| ControlError::Socket { action: "make a pipe beside", source };
        // A journal that is not a pipe of ours is a sandbox's joke.
        let journal = match (given.pop(), given.pop()) {
            (Some(write), Some(read)) if pty::is_pipe(&write) && pty::is_pipe(&read) => {
                Journal::of(read, write)
            }
            _ => {
                let journal = match self.way() {
                    Way::Accepting => Journal::new(),
                    Way::Given => {
                        named::pipe(&self.path(JOURNAL_NAME)).map(|[read, write]| Journal::of(read, write))
                    }
                };
                let journal = journal.map_err(failed)?;
                let copies = journal.with_ends(|[read, write]| {
                    Ok::<_, io::Error>([read.try_clone_to_owned()?, write.try_clone_to_owned()?])
                });
                let [read, write] = copies.map_err(failed)?;
                send_all(&stream, &Request::Journal, &[read.as_fd(), write.as_fd()]).await?;
                journal
            }
        };
        let mut kept = Vec::with_capacity(listed.len());
        let mut early = Vec::new();
        for process in listed {
            send_all(&stream, &Request::Take { key: process.key }, &[]).await?;
            loop {
                match incoming.next(&stream).await? {
                    (Reply::Taken { key, .. }, descriptors) if key == process.key => {
                        kept.push((process, descriptors));
                        break;
                    }
                    // One that has ended since the list was made.
                    (Reply::Exited { key, exit }, _) => early.push((key, exit)),
                    _ => return Err(ControlError::Unexpected),
                }
            }
        }
        for (process, _) in &mut kept {
            let late = early.iter().find(|(key, _)| *key == process.key);
            process.exit = process.exit.or_else(|| late.map(|(_, exit)| *exit));
        }
        let (stream, waiting) = (Arc::new(stream), Arc::new(Mutex::default()));
        let channel = Channel {
            stream: Arc::clone(&stream),
            turn: tokio::sync::Mutex::default(),
            waiting: Arc::clone(&waiting),
        };
        Ok(Attached { channel, events: Events { stream, incoming, waiting }, journal, kept })
    }
}

impl Channel {
    /// Starts a process; see [`Request::Spawn`] for the descriptors.
    ///
    /// # Errors
    /// [`ControlError::Exec`] when the command itself cannot be started; [`ControlError::Unanswered`] or `Silent`
    /// when it may have been. After any other nothing was started.
    pub async fn spawn(&self, spawn: Spawn, descriptors: &[BorrowedFd<'_>]) -> Result<Started, ControlError> {
        let (sender, receiver) = oneshot::channel();
        let key = spawn.key;
        lock(&self.waiting).insert(key, sender);
        let answered = async {
            self.ask(&Request::Spawn(spawn), descriptors).await?;
            // Read or not by `sandbox-init`: who cannot know must not ask twice.
            receiver.await.unwrap_or(Err(ControlError::Unanswered))
        };
        let deadline = super::connection::ANSWER_DEADLINE;
        let result = tokio::time::timeout(deadline, answered).await.unwrap_or(Err(ControlError::Silent));
        lock(&self.waiting).remove(&key);
        result
    }

    /// Signals a process, its group, or whatever it has started.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn signal(&self, key: u64, signal: i32, target: Target) -> Result<(), ControlError> {
        self.ask(&Request::Signal { key, signal, target }, &[]).await
    }

    /// Has the kept end of a process's stdin closed.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn close_input(&self, key: u64) -> Result<(), ControlError> {
        self.ask(&Request::CloseInput { key }, &[]).await
    }

    /// Sets the size of a terminal that `sandbox-init` relays.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn resize(&self, key: u64, columns: u16, rows: u16) -> Result<(), ControlError> {
        self.ask(&Request::Resize { key, columns, rows }, &[]).await
    }

    /// Has everything that is kept of a process thrown away.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn forget(&self, key: u64) -> Result<(), ControlError> {
        self.ask(&Request::Forget { key }, &[]).await
    }

    async fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let _turn = self.turn.lock().await;
        let sent = send_all(&self.stream, request, descriptors).await;
        if sent.is_err() {
            // Half a frame may have gone: nothing after it would be understood.
            let _gone: rustix::io::Result<()> =
                rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Both);
        }
        sent
    }
}

impl Events {
    /// Waits for the next event.
    ///
    /// # Errors
    /// The connection has ended, or brought what does not belong on it. Whoever waits for a start is told.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Event, ControlError> {
        loop {
            let (reply, mut descriptors) = self.incoming.next(&self.stream).await?;
            let (key, result) = match reply {
                Reply::Exited { key, exit } => return Ok(Event::Exited(key, exit)),
                Reply::NotStarted { key, errno, cwd } => (key, Err(ControlError::Exec { errno, cwd })),
                Reply::Started { key, pid, tty } => {
                    let master = descriptors.pop().filter(|fd| pty::is_master(fd));
                    let result = if tty == master.is_some() {
                        Ok(Started { pid, master })
                    } else {
                        Err(ControlError::Unexpected)
                    };
                    (key, result)
                }
                _ => return Err(ControlError::Unexpected),
            };
            let waits = lock(&self.waiting).remove(&key);
            let is_started = result.is_ok();
            let is_claimed = waits.is_some_and(|waits| waits.send(result).is_ok());
            if is_started && !is_claimed {
                return Ok(Event::Unclaimed(key));
            }
        }
    }

    /// Ends the connection: whoever has asked something on it learns now that there will be no answer, and
    /// nothing can be asked any more.
    pub fn hang_up(&self) {
        let _gone: rustix::io::Result<()> = rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Both);
        // They are told by the closing of what they wait on.
        lock(&self.waiting).clear();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl Incoming {
    /// Waits for the next reply and takes the descriptors that ride with it.
    async fn next(&mut self, stream: &UnixStream) -> Result<(Reply, Vec<OwnedFd>), ControlError> {
        let mut buffer = [0; READ_BYTES];
        loop {
            if let Some(reply) = self.decoder.take::<Reply>().map_err(ControlError::Frame)? {
                if reply.descriptors() > self.descriptors.len() {
                    return Err(ControlError::Unexpected);
                }
                let rest = self.descriptors.split_off(reply.descriptors());
                return Ok((reply, std::mem::replace(&mut self.descriptors, rest)));
            }
            let received = stream.async_io(Interest::READABLE, || socket::receive(stream, &mut buffer)).await;
            match received {
                Ok((0, _)) => return Err(ControlError::Ended),
                Ok((length, descriptors)) => {
                    self.decoder.push(buffer.get(..length).unwrap_or_default());
                    self.descriptors.extend(descriptors);
                    // Nobody has reason to send so many.
                    if self.descriptors.len() > 2 * socket::DESCRIPTORS_MAX {
                        return Err(ControlError::Unexpected);
                    }
                }
                Err(source) => return Err(ControlError::Socket { action: "read from", source }),
            }
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_an_answer_is_told_when_none_can_come() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (stream, waiting) = (Arc::new(ours), Arc::new(Mutex::default()));
        let channel = Channel {
            stream: Arc::clone(&stream),
            turn: tokio::sync::Mutex::default(),
            waiting: Arc::clone(&waiting),
        };
        let events = Events { stream, incoming: Incoming::default(), waiting };
        let spawn = |key| Spawn {
            key,
            argv: vec!["true".to_owned()],
            env: Vec::new(),
            cwd: "/".to_owned(),
            root: false,
            tty: None,
            input: false,
            relayed: false,
        };
        let begun = std::time::Instant::now();
        // The other side has the question and lives on.
        let lost = async {
            theirs.readable().await.unwrap();
            events.hang_up();
        };
        let (answer, ()) = tokio::join!(channel.spawn(spawn(1), &[]), lost);
        assert!(matches!(answer, Err(ControlError::Unanswered)), "{answer:?}");
        let again = channel.spawn(spawn(2), &[]).await;
        assert!(matches!(again, Err(ControlError::Socket { .. })), "it was not asked: {again:?}");
        assert!(begun.elapsed() < super::super::connection::ANSWER_DEADLINE / 2);
    }
}
