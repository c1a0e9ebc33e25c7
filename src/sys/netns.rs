//! Network namespaces: unshare(2), setns(2), man 7 network_namespaces.
//!
//! A namespace lives for as long as a descriptor or a process uses it: none is ever given a name in
//! the file system, so none can be left over.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// How many requests for sockets may wait.
const QUEUE: usize = 1024;
/// How many threads make sockets.
const MAKERS: usize = 2;

/// Which version of the internet protocol a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    V4,
    V6,
}

/// Takes the socket that was asked for.
pub type Done = Box<dyn FnOnce(io::Result<OwnedFd>) + Send>;

/// `unshare(CLONE_NEWNET)` on a thread of its own, which runs `f` inside and then ends.
///
/// # Errors
/// The kernel's, or that of `f`.
pub fn create<T: Send + 'static>(
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<(OwnedFd, T)> {
    on_thread("netns-create", move || {
        // SAFETY: only the network namespace of this thread changes; no descriptor is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        let own = own()?;
        Ok((own, f()?))
    })
}

/// Opens the network namespace of a process.
///
/// # Errors
/// The process is gone.
pub fn open_of(pid: i32) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/net"))?.into())
}

/// `setns(ns, CLONE_NEWNET)` on a thread of its own, which runs `f` inside and then ends.
///
/// # Errors
/// The kernel's, or that of `f`.
pub fn run_in<T: Send + 'static>(
    ns: BorrowedFd<'_>,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let ns = ns.try_clone_to_owned()?;
    on_thread("netns-run", move || {
        enter(&ns)?;
        f()
    })
}

/// Makes sockets inside other network namespaces, on a few threads that do nothing else.
#[derive(Debug, Clone)]
pub struct SocketMaker {
    queue: SyncSender<Job>,
}

struct Job {
    ns: Arc<OwnedFd>,
    domain: Domain,
    done: Done,
}

impl SocketMaker {
    /// Starts the threads; they end with the last copy of the value.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start() -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let home = Arc::new(own()?);
        for index in 0..MAKERS {
            let (jobs, home) = (Arc::clone(&jobs), Arc::clone(&home));
            thread::Builder::new()
                .name(format!("netns-socket-{index}"))
                .spawn(move || make_sockets(&jobs, &home))?;
        }
        Ok(Self { queue })
    }

    /// Asks for an unconnected, non-blocking TCP socket; `done` is called on one of the threads.
    pub fn request(&self, ns: Arc<OwnedFd>, domain: Domain, done: Done) {
        if let Err(refused) = self.queue.try_send(Job { ns, domain, done }) {
            let (std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job)) =
                refused;
            (job.done)(Err(io::ErrorKind::WouldBlock.into()));
        }
    }
}

/// What has become of an attempt to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connecting {
    Connected,
    /// It is under way: the socket can be written to once that is decided.
    Pending,
}

/// `connect(socket, address)`, twice: on the loopback device it is decided between the calls, and the second says
/// how. A socket that was refused can be used again.
///
/// # Errors
/// The kernel's; `ConnectionRefused` when nobody listens.
pub fn connect(socket: impl AsFd, address: &SocketAddr) -> io::Result<Connecting> {
    for _call in 0..2 {
        match rustix::net::connect(&socket, address) {
            Ok(()) | Err(Errno::ISCONN) => return Ok(Connecting::Connected),
            Err(Errno::INPROGRESS | Errno::ALREADY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Connecting::Pending)
}

fn make_sockets(jobs: &Mutex<Receiver<Job>>, home: &OwnedFd) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { ns, domain, done }) = next else { return };
        let socket = enter(&*ns).and_then(|()| socket(domain));
        // At once, so that a sandbox's network does not live on because this thread is the last in it.
        let back = enter(home);
        drop(ns);
        done(socket.and_then(|socket| back.map(|()| socket)));
    }
}

fn socket(domain: Domain) -> io::Result<OwnedFd> {
    let family = match domain {
        Domain::V4 => AddressFamily::INET,
        Domain::V6 => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

fn enter(ns: impl AsFd) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn own() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn on_thread<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(f)?;
    thread.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread panicked")))
}
