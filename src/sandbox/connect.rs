//! Connections from a preview to an app inside a sandbox.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::SemaphorePermit;

use super::activity::{Busy, Counted};
use super::driver::Command;
use super::error::{ConnectError, Error};
use super::events::Why;
use super::live::Live;
use super::registry::Entry;
use super::supervisor::{Shared, Supervisor, ask};
use super::view::PreviewStatus;
use crate::model::{HostHeader, SandboxId, Visibility};
use crate::sys::netns::Domain;

/// How long an app may take to accept a connection, on the loopback device of its own network.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);
/// The first pause between two attempts; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(25);
/// When a client that was refused for lack of memory should come back, in seconds.
const RETRY_AFTER_SECS: u32 = 30;

/// A connection to an app. Whoever moves bytes through it marks the sandbox as used.
#[derive(Debug)]
pub struct Upstream {
    pub stream: TcpStream,
    /// Absent for a health check, whose bytes are no use.
    pub counted: Option<Counted>,
    /// Which host name the app is shown.
    pub host_header: HostHeader,
    /// Keeps the sandbox awake until the app has begun to answer.
    pub busy: Option<Busy>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Use,
    /// To see whether it is well: it neither wakes nor keeps awake.
    Probe,
}

impl Supervisor {
    /// Connects to a port of a sandbox: wakes it if it sleeps, and waits for an app that is starting.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Cancel safe: a wake that has begun goes on.
    pub async fn connect(&self, id: SandboxId, port: u16, intent: Intent) -> Result<Upstream, ConnectError> {
        let entry = self.find(id).map_err(|_e| ConnectError::UnknownSandbox)?;
        let record = entry.record();
        if record.spec.visibility == Visibility::Private {
            return Err(ConnectError::Private);
        }
        let web_port = entry.state.borrow().app.preview.port;
        if !record.spec.ports.contains(&port) && web_port != Some(port) {
            return Err(ConnectError::PortNotExposed(port));
        }
        // In use from the first byte: a sandbox is not put to sleep under a request that is held for it.
        let busy = (intent == Intent::Use).then(|| entry.activity.begin());
        let begun = Instant::now();
        let mut pause = RETRY_PAUSE;
        let mut held = None;
        loop {
            let live = match entry.live() {
                Some(live) => live,
                None if intent == Intent::Probe => return Err(ConnectError::Asleep),
                None => {
                    hold(&entry, &mut held)?;
                    wake(&entry).await?
                }
            };
            match dial(&self.shared, &live, port).await {
                Ok(stream) => {
                    let counted = busy.as_ref().map(|_| entry.activity.count());
                    return Ok(Upstream { stream, counted, busy, host_header: record.spec.host_header });
                }
                Err(error) if is_exhausted(&error) => return Err(ConnectError::Overloaded),
                Err(error) => {
                    tracing::debug!(%id, port, %error, "the app does not answer yet");
                    let waited = begun.elapsed();
                    if !self.is_worth_waiting(&entry, &live, waited) {
                        return Err(given_up(port, waited));
                    }
                    hold(&entry, &mut held)?;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Says whether a request is held on when nothing listens.
    fn is_worth_waiting(&self, entry: &Entry, live: &Live, waited: Duration) -> bool {
        let config = &self.shared.config;
        match entry.state.borrow().app.preview.status {
            // Something is known to be on its way.
            PreviewStatus::Starting => waited < config.wake_timeout,
            PreviewStatus::Error => false,
            // Nothing is known of an app; one that was started by hand may come up soon after the sandbox did.
            PreviewStatus::None | PreviewStatus::Down | PreviewStatus::Ready => {
                live.uptime() < config.ready_timeout
            }
        }
    }
}

/// Connects to a port on the loopback device of a sandbox, where every app can be reached, whether it
/// listens on all addresses or on `localhost` only, of either version.
///
/// # Errors
/// Nothing listens, or it does not accept.
pub(super) async fn dial(shared: &Arc<Shared>, live: &Live, port: u16) -> io::Result<TcpStream> {
    match dial_one(shared, live, Domain::V4, SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            dial_one(shared, live, Domain::V6, SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)).await
        }
        other => other,
    }
}

async fn dial_one(
    shared: &Arc<Shared>,
    live: &Live,
    domain: Domain,
    address: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = shared.socket(Arc::clone(&live.netns), domain).await?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let connected = tokio::time::timeout(DIAL_DEADLINE, socket.connect(address)).await;
    let stream = connected.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn wake(entry: &Arc<Entry>) -> Result<Arc<Live>, ConnectError> {
    let not_started = |message: String| ConnectError::NotStarted { message };
    match ask(entry, |reply| Command::Start { why: Why::Use, reply }).await {
        Ok(_) => entry.live().ok_or_else(|| not_started("it ended at once".to_owned())),
        Err(Error::NotFound(_)) => Err(ConnectError::UnknownSandbox),
        Err(Error::Refused { reason, mem_available_percent }) => {
            Err(ConnectError::Refused { reason, mem_available_percent, retry_after_secs: RETRY_AFTER_SECS })
        }
        Err(error) => {
            tracing::error!(id = %entry.id, error = %super::provision::chain(&error), "cannot wake a sandbox");
            Err(not_started(error.message()))
        }
    }
}

/// Notes that a request waits for a sandbox, if it does not yet.
fn hold<'a>(entry: &'a Entry, held: &mut Option<SemaphorePermit<'a>>) -> Result<(), ConnectError> {
    if held.is_none() {
        *held = Some(entry.held.try_acquire().map_err(|_full| ConnectError::TooManyHeld)?);
    }
    Ok(())
}

/// Says whether it is not the app that lacks something, but this process or the host.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

fn given_up(port: u16, waited: Duration) -> ConnectError {
    if waited < RETRY_PAUSE_MAX {
        ConnectError::NothingListens(port)
    } else {
        ConnectError::TimedOut { port, waited }
    }
}
