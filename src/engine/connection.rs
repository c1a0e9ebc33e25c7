//! The daemon's side of the control socket of a `sandbox-init`.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;

use protocol::{App, Decoder, FrameError, Reply, Request, VERSION, encode};
use sys::socket;

/// The name of the control socket in a sandbox's run directory.
pub const SOCKET_NAME: &str = "control.sock";
/// How many connections may wait for `sandbox-init` to accept them.
const BACKLOG: i32 = 1024;
/// How long `sandbox-init` may take to answer what it can answer at once.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The pause before a connection is tried again when too many wait already.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// How much is read at once.
const READ_BYTES: usize = 4096;

/// Why `sandbox-init` did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{action} the control socket")]
    Socket {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("exchange frames with sandbox-init")]
    Frame(#[source] FrameError),
    #[error("get an answer from sandbox-init: it ended the connection")]
    Ended,
    #[error("learn whether the command was started: sandbox-init ended before it said so")]
    Unanswered,
    #[error("get an answer from sandbox-init within {} s", ANSWER_DEADLINE.as_secs())]
    Silent,
    #[error("understand sandbox-init: it gave an answer that does not belong to the question")]
    Unexpected,
    #[error("understand sandbox-init: it speaks version {0}, this daemon {VERSION}")]
    Version(u32),
    #[error("give sandbox-init its identity: {}", io::Error::from_raw_os_error(*.0))]
    Claim(i32),
    /// The command could not be started; the errno of execve(2), chdir(2) or fork(2), and whether it is that of
    /// the directory.
    #[error("start the command: {}", io::Error::from_raw_os_error(*errno))]
    Exec { errno: i32, cwd: bool },
}

/// How a connection comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `sandbox-init` listens and accepts.
    Accepting,
    /// It can do neither, nor send a descriptor: a pair is made here, and it is given one end, in a datagram to
    /// a socket that it has.
    Given,
}

/// The way to one `sandbox-init`; cheap to clone. It holds no connection.
#[derive(Debug, Clone)]
pub struct Control {
    /// The run directory: the socket is reached through it, so that its path may be of any length.
    directory: Arc<OwnedFd>,
    way: Way,
}

impl Control {
    /// Names the control socket in a run directory.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open(directory: &Path, way: Way) -> Result<Self, ControlError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty());
        let directory = opened.map_err(|e| ControlError::Socket { action: "find", source: e.into() })?;
        Ok(Self { directory: Arc::new(directory), way })
    }

    pub fn way(&self) -> Way {
        self.way
    }

    /// Makes the socket and, where connections are accepted, listens on it, for a `sandbox-init` that is yet to be started.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(&self) -> Result<OwnedFd, ControlError> {
        let make = || {
            let kind = match self.way {
                Way::Accepting => SocketType::STREAM,
                Way::Given => SocketType::DGRAM,
            };
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(self.path(SOCKET_NAME))?)?;
            if self.way == Way::Accepting {
                rustix::net::listen(&socket, BACKLOG)?;
            }
            Ok::<_, rustix::io::Errno>(socket)
        };
        make().map_err(|e| ControlError::Socket { action: "listen on", source: e.into() })
    }

    /// Waits until `sandbox-init` answers.
    ///
    /// # Errors
    /// It has ended, is silent, or is another version.
    pub async fn hello(&self) -> Result<(), ControlError> {
        let mut conversation = self.connect().await?;
        conversation.ask(&Request::Hello, &[]).await?;
        match conversation.answer().await? {
            Reply::Hello { version: VERSION } => Ok(()),
            Reply::Hello { version } => Err(ControlError::Version(version)),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Gives a `sandbox-init` that waits its environment; from then on it takes commands.
    ///
    /// # Errors
    /// It has ended, is silent, or cannot enter its workspace.
    pub async fn claim(&self, env: Vec<String>) -> Result<(), ControlError> {
        let mut conversation = self.connect().await?;
        conversation.ask(&Request::Claim { env }, &[]).await?;
        match conversation.answer().await? {
            Reply::Claimed => Ok(()),
            Reply::Failed { errno } => Err(ControlError::Claim(errno)),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Makes this the sandbox's app; what becomes of it is read from the conversation.
    ///
    /// # Errors
    /// It has ended.
    pub async fn supervise(&self, app: App) -> Result<Conversation, ControlError> {
        let mut conversation = self.connect().await?;
        conversation.ask(&Request::Supervise { app }, &[]).await?;
        Ok(conversation)
    }

    /// Asks everything inside to end; what is left after `grace` is killed.
    ///
    /// # Errors
    /// It has ended, or does not take the order.
    pub async fn terminate(&self, grace: Duration) -> Result<(), ControlError> {
        let mut conversation = self.connect().await?;
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        conversation.ask(&Request::Terminate { grace_ms }, &[]).await
    }

    async fn connect(&self) -> Result<Conversation, ControlError> {
        Ok(Conversation { stream: self.stream().await?, decoder: Decoder::default() })
    }

    pub(super) async fn stream(&self) -> Result<UnixStream, ControlError> {
        let connect = async {
            loop {
                let connected = match self.way {
                    Way::Accepting => UnixStream::connect(self.path(SOCKET_NAME)).await,
                    Way::Given => self.give(),
                };
                match connected {
                    Ok(stream) => return Ok(stream),
                    // The backlog is full: a unix socket says so at once instead of waiting.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(source) => return Err(ControlError::Socket { action: "connect to", source }),
                }
            }
        };
        tokio::time::timeout(ANSWER_DEADLINE, connect).await.unwrap_or(Err(ControlError::Silent))
    }

    /// Gives one end of a new pair; `WouldBlock` when many are waiting to be taken.
    fn give(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let address = SocketAddrUnix::new(self.path(SOCKET_NAME))?;
        socket::send_to(&address, &[0], &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// A file of the run directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }
}

/// One connection to `sandbox-init`.
#[derive(Debug)]
pub struct Conversation {
    stream: UnixStream,
    decoder: Decoder,
}

impl Conversation {
    /// Sends a request; the descriptors ride with its first byte.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn ask(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        send_all(&self.stream, request, descriptors).await
    }

    /// Waits for the next reply, however long that takes.
    ///
    /// # Errors
    /// The connection has ended, or brought what is not a reply.
    ///
    /// # Cancel safety
    /// Cancel safe: what has arrived is kept.
    pub async fn reply(&mut self) -> Result<Reply, ControlError> {
        let mut buffer = [0; READ_BYTES];
        loop {
            if let Some(reply) = self.decoder.take().map_err(ControlError::Frame)? {
                return Ok(reply);
            }
            match self.stream.read(&mut buffer).await {
                Ok(0) => return Err(ControlError::Ended),
                Ok(length) => self.decoder.push(buffer.get(..length).unwrap_or_default()),
                Err(source) => return Err(ControlError::Socket { action: "read from", source }),
            }
        }
    }

    async fn answer(&mut self) -> Result<Reply, ControlError> {
        tokio::time::timeout(ANSWER_DEADLINE, self.reply()).await.unwrap_or(Err(ControlError::Silent))
    }
}

/// Sends a request; the descriptors ride with its first byte.
pub(super) async fn send_all(
    stream: &UnixStream,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ControlError> {
    let frame = encode(request).map_err(ControlError::Frame)?;
    let failed = |source| ControlError::Socket { action: "write to", source };
    let exchange = async {
        let mut rest = frame.as_slice();
        let mut riding = descriptors;
        while !rest.is_empty() {
            let send = || socket::send(stream, rest, riding);
            let sent = stream.async_io(Interest::WRITABLE, send).await.map_err(failed)?;
            rest = rest.get(sent..).unwrap_or_default();
            riding = &[];
        }
        Ok(())
    };
    tokio::time::timeout(ANSWER_DEADLINE, exchange).await.unwrap_or(Err(ControlError::Silent))
}
