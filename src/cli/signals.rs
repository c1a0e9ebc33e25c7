//! The signals that this process gets while a process on the other side runs.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// A signal that is passed on or ends the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caught {
    Interrupt,
    Quit,
    Terminate,
    HangUp,
    User1,
    User2,
    /// The terminal has another size.
    Resized,
    /// Somebody stops this process, and not by a key that the process on the other side has read.
    Suspend,
    Continued,
}

/// All of them; made before the process is started, so that none is missed.
#[derive(Debug)]
pub(super) struct Signals {
    streams: [(Caught, Signal); 9],
}

impl Caught {
    /// Returns the name without `SIG`, as the API wants it; `None` for what concerns the terminal alone.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Interrupt => Some("INT"),
            Self::Quit => Some("QUIT"),
            Self::Terminate => Some("TERM"),
            Self::HangUp => Some("HUP"),
            Self::User1 => Some("USR1"),
            Self::User2 => Some("USR2"),
            Self::Resized | Self::Suspend | Self::Continued => None,
        }
    }

    /// Returns what a shell would show for a process that it ends.
    pub(super) const fn exit_code(self) -> u8 {
        128 + match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::User1 => 10,
            Self::User2 => 12,
            Self::Terminate => 15,
            Self::Continued => 18,
            Self::Suspend => 20,
            Self::Resized => 28,
        }
    }
}

impl Signals {
    /// Begins to catch them.
    ///
    /// # Errors
    /// [`Failure::Runtime`].
    pub(super) fn catch() -> Result<Self, Failure> {
        let stream = |caught, kind| signal(kind).map(|stream| (caught, stream)).map_err(Failure::Runtime);
        Ok(Self {
            streams: [
                stream(Caught::Interrupt, SignalKind::interrupt())?,
                stream(Caught::Quit, SignalKind::quit())?,
                stream(Caught::Terminate, SignalKind::terminate())?,
                stream(Caught::HangUp, SignalKind::hangup())?,
                stream(Caught::User1, SignalKind::user_defined1())?,
                stream(Caught::User2, SignalKind::user_defined2())?,
                stream(Caught::Resized, SignalKind::window_change())?,
                stream(Caught::Suspend, SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?,
                stream(Caught::Continued, SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            ],
        })
    }

    /// Returns the next one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn next(&mut self) -> Caught {
        std::future::poll_fn(|cx| {
            for (caught, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*caught);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
