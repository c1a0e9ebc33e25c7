//! Puts a directory and a host name into another process's namespaces, on a thread that does nothing else.
//!
//! A thread may enter a mount namespace once its root and working directory are its own: unshare(2) with
//! `CLONE_FS`, then setns(2). It goes there for two system calls and comes back by the descriptor of its own
//! process; one that cannot come back ends and is replaced, so that nobody is served from a foreign place.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, PidfdFlags};
use rustix::thread::UnshareFlags;

use super::mount;

/// How many may wait; each takes about a tenth of a millisecond.
const QUEUE: usize = 1024;

/// Is told on the thread how it went.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The way to the thread.
#[derive(Debug)]
pub struct Furnisher {
    queue: Mutex<SyncSender<Job>>,
}

/// What one process is given.
#[derive(Debug)]
pub struct Furniture {
    /// In the caller's mount namespace.
    pub directory: OwnedFd,
    /// The user namespace by which it is mapped.
    pub ids: Option<OwnedFd>,
    /// Where it goes.
    pub place: &'static Path,
    pub host_name: String,
}

struct Job {
    process: OwnedFd,
    directory: OwnedFd,
    ids: Option<OwnedFd>,
    place: &'static Path,
    host_name: String,
    done: Done,
}

impl Furnisher {
    /// Starts the thread, which ends with the value.
    ///
    /// # Errors
    /// The kernel refuses what the thread needs.
    pub fn start() -> io::Result<Self> {
        Ok(Self { queue: Mutex::new(spawn()?) })
    }

    /// Gives a process, of which this is the pidfd, a directory and a host name; `done` is called once.
    pub fn request(&self, process: BorrowedFd<'_>, furniture: Furniture, done: Done) {
        let Furniture { directory, ids, place, host_name } = furniture;
        let process = match process.try_clone_to_owned() {
            Ok(process) => process,
            Err(error) => return done(Err(error)),
        };
        let job = Job { process, directory, ids, place, host_name, done };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => (job.done)(Err(io::ErrorKind::WouldBlock.into())),
            // A thread that is started here begins where this one is, which is home.
            Err(TrySendError::Disconnected(job)) => match spawn() {
                Ok(new) => {
                    *queue = new;
                    if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                        queue.try_send(job)
                    {
                        (job.done)(Err(io::ErrorKind::BrokenPipe.into()));
                    }
                }
                Err(error) => (job.done)(Err(error)),
            },
        }
    }
}

/// Starts a thread and waits until it is ready.
fn spawn() -> io::Result<SyncSender<Job>> {
    let (queue, jobs) = sync_channel(QUEUE);
    let (ready, is_ready) = sync_channel(1);
    thread::Builder::new().name("furnish".to_owned()).spawn(move || {
        let home = prepare();
        let (told, home) = match home {
            Ok(home) => (Ok(()), Some(home)),
            Err(error) => (Err(error), None),
        };
        // Whoever started it waits for this.
        let _told: Result<(), _> = ready.send(told);
        if let Some(home) = home {
            serve(&jobs, &home);
        }
    })?;
    is_ready.recv().unwrap_or_else(|_ended| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(queue)
}

/// Gives this thread a root and working directory of its own; returns the way back.
fn prepare() -> io::Result<OwnedFd> {
    // SAFETY: the thread's root and working directory become its own copies; no descriptor is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    let own = Pid::from_raw(std::process::id().cast_signed());
    let own = own.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(own, PidfdFlags::empty())?)
}

fn serve(jobs: &Receiver<Job>, home: &OwnedFd) {
    while let Ok(job) = jobs.recv() {
        let result = job.furnish();
        let back = mount::enter(home.as_fd());
        let is_home = back.is_ok();
        (job.done)(result.and(back));
        if !is_home {
            return;
        }
    }
}

impl Job {
    /// The copy of the mount is taken at home, where the directory is, before the thread goes over.
    fn furnish(&self) -> io::Result<()> {
        let tree =
            mount::detached(self.directory.as_fd(), Path::new(""), self.ids.as_ref().map(|fd| fd.as_fd()))?;
        mount::enter(self.process.as_fd())?;
        mount::attach(tree, self.place)?;
        mount::set_host_name(&self.host_name)
    }
}
