//! Connections from a preview to an app inside a sandbox.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;

use crate::base::activity::{Busy, Counted};
use crate::base::command::Command;
use crate::base::error::{ConnectError, Error};
use crate::base::events::Why;
use crate::base::view::PreviewStatus;
use crate::books::registry::{Entry, ask};
use crate::running::live::Live;
use crate::serve::serving::Serving;
use model::{HostHeader, SandboxId, Visibility};
use sys::netns::{self, Connecting, Domain};

/// How long an app may take to accept a connection, on the loopback device of its own network.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);
/// The pause between two attempts is this part of the time that has been waited already: what an app takes to
/// start is lengthened by no more, and one that takes long is not asked often.
const RETRY_PART: u32 = 32;
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);
/// How often a request that waits for another one's attempts looks for itself.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// A request that was answered sooner has not been held.
const AT_ONCE: Duration = Duration::from_millis(25);
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

/// Calls a port on the loopback device of a sandbox, where every app can be reached, whether it
/// listens on all addresses or on `localhost` only, of either version. Its sockets outlast a refusal, so that one
/// more call costs a few microseconds.
#[derive(Debug)]
struct Caller {
    live: Arc<Live>,
    port: u16,
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Caller {
    fn new(live: Arc<Live>, port: u16) -> Self {
        Self { live, port, v4: None, v6: None }
    }

    async fn call(&mut self, serving: &Arc<Serving>) -> io::Result<TcpStream> {
        let (netns, port) = (&self.live.netns, self.port);
        match call_one(serving, netns, &mut self.v4, Domain::V4, (Ipv4Addr::LOCALHOST, port).into()).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                call_one(serving, netns, &mut self.v6, Domain::V6, (Ipv6Addr::LOCALHOST, port).into()).await
            }
            other => other,
        }
    }
}

/// Connects to a port of a sandbox, once.
///
/// # Errors
/// Nothing listens, or it does not accept.
pub(crate) async fn dial(serving: &Arc<Serving>, live: &Arc<Live>, port: u16) -> io::Result<TcpStream> {
    Caller::new(Arc::clone(live), port).call(serving).await
}

async fn call_one(
    serving: &Arc<Serving>,
    netns: &Arc<OwnedFd>,
    place: &mut Option<OwnedFd>,
    domain: Domain,
    address: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = match place.take() {
        Some(socket) => socket,
        None => serving.ground.host.socket(Arc::clone(netns), domain).await?,
    };
    let connecting = match netns::connect(&socket, &address) {
        Ok(connecting) => connecting,
        Err(error) => {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                *place = Some(socket);
            }
            return Err(error);
        }
    };
    let stream = TcpStream::from_std(socket.into())?;
    if connecting == Connecting::Pending {
        let decided = tokio::time::timeout(DIAL_DEADLINE, stream.writable()).await;
        decided.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.take_error()?.map_or(Ok(()), Err)?;
    }
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
            tracing::error!(id = %entry.id, error = %crate::chain(&error), "cannot wake a sandbox");
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
    if waited < AT_ONCE {
        ConnectError::NothingListens(port)
    } else {
        ConnectError::TimedOut { port, waited }
    }
}

/// Connects to a port of a sandbox: wakes it if it sleeps, and waits for an app that is starting.
pub(crate) async fn connect(
    serving: &Arc<Serving>,
    id: SandboxId,
    port: u16,
    intent: Intent,
) -> Result<Upstream, ConnectError> {
    let entry = serving.ground.books.find(id).map_err(|_e| ConnectError::UnknownSandbox)?;
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
    let queue = entry.queues.of(port);
    let (mut held, mut turn, mut caller) = (None, None, None);
    loop {
        let live = match entry.live() {
            Some(live) => live,
            None if intent == Intent::Probe => return Err(ConnectError::Asleep),
            None => {
                hold(&entry, &mut held)?;
                wake(&entry).await?
            }
        };
        let caller = caller.get_or_insert_with(|| Caller::new(Arc::clone(&live), port));
        if !Arc::ptr_eq(&caller.live, &live) {
            *caller = Caller::new(Arc::clone(&live), port);
        }
        match caller.call(serving).await {
            Ok(stream) => {
                if turn.is_some() {
                    queue.open.notify_waiters();
                }
                let counted = busy.as_ref().map(|_| entry.activity.count());
                return Ok(Upstream { stream, counted, busy, host_header: record.spec.host_header });
            }
            Err(error) if is_exhausted(&error) => return Err(ConnectError::Overloaded),
            Err(error) => {
                tracing::trace!(%id, port, %error, "the app does not answer yet");
                let waited = begun.elapsed();
                if !is_worth_waiting(serving, &entry, &live, waited) {
                    return Err(given_up(port, waited));
                }
                hold(&entry, &mut held)?;
            }
        }
        if turn.is_some() {
            let pause = (begun.elapsed() / RETRY_PART).clamp(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
            tokio::time::sleep(pause).await;
        } else {
            // One of all that wait for the app asks it; if that one gives up, the next does.
            tokio::select! {
                mine = queue.asking.lock() => turn = Some(mine),
                () = queue.open.notified() => {}
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
    }
}

/// Says whether a request is held on when nothing listens.
pub(crate) fn is_worth_waiting(serving: &Arc<Serving>, entry: &Entry, live: &Live, waited: Duration) -> bool {
    let config = &serving.config;
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
