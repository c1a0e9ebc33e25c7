//! The daemon's hold on the processes of one running sandbox, and how the next daemon gets it back.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::output::Output;
use super::pump::{self, Sources};
use super::rings::Share;
use super::{Description, Process, ProcessId, Purpose, relay, table};
use crate::activity::{monotonic_ms, now_ms};
use crate::error::Error;
use crate::error::chain;
use crate::live::Live;
use crate::registry::Entry;
use crate::supervisor::Shared;
use engine::{Attached, Channel, ControlError, Event, Events, Journal, Ring, Way};
use protocol::{Kept, Target};
use sys::pty;
use sys::watch::Watched;

/// Beneath the sandbox's run directory: one ring per process.
const DIRECTORY: &str = "processes";
/// How often ended processes are looked through.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// The pause before a lost connection is tried again.
const ATTACH_PAUSE: Duration = Duration::from_millis(100);

/// Made when the first process is started, or when a sandbox is adopted.
pub(crate) type LinkCell = OnceCell<Arc<Link>>;

/// A connection about processes that is being made.
pub(crate) type Attaching = JoinHandle<Result<Attached, ControlError>>;

/// The hold on the processes of one running sandbox.
///
/// Ended processes are kept for a while, and each keeps this; what takes descriptors is closed with the sandbox.
#[derive(Debug)]
pub(crate) struct Link {
    open: Mutex<Option<Open>>,
    directory: PathBuf,
    way: Way,
    input_deadline: Duration,
}

#[derive(Debug)]
struct Open {
    channel: Arc<Channel>,
    journal: Arc<Journal>,
}

/// The hold on a sandbox's processes; what an earlier daemon had begun goes on.
pub(crate) async fn of(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    live: &Arc<Live>,
) -> Result<Arc<Link>, Error> {
    live.link.get_or_try_init(|| open(shared, entry, live)).await.cloned()
}

/// Takes the hold on a sandbox that has just been started before anybody needs it. Whoever does finds out
/// why it cannot be had.
pub(crate) async fn prepare(shared: &Arc<Shared>, entry: &Arc<Entry>, live: &Arc<Live>) {
    tokio::select! {
        () = live.ended.cancelled() => {}
        () = shared.ending.cancelled() => {}
        opened = of(shared, entry, live) => if let Err(error) = opened {
            tracing::debug!(id = %entry.id, error = %chain(&error), "a new sandbox cannot be spoken to yet");
        }
    }
}

async fn open(shared: &Arc<Shared>, entry: &Arc<Entry>, live: &Arc<Live>) -> Result<Arc<Link>, Error> {
    let Attached { channel, events, journal, kept } = attach(live).await.map_err(Error::Control)?;
    let directory = live.run_directory.join(DIRECTORY);
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&directory);
    made.map_err(|source| Error::RunDirectory { path: directory.display().to_string(), source })?;
    let (channel, journal) = (Arc::new(channel), Arc::new(journal));
    let opened = Open { channel, journal: Arc::clone(&journal) };
    let link = Arc::new(Link {
        open: Mutex::new(Some(opened)),
        directory,
        way: live.control.way(),
        input_deadline: shared.config.processes.input,
    });
    restore(shared, entry, &link, &journal, kept).await;
    shared.tasks.spawn(watch(
        Arc::clone(shared),
        Arc::clone(entry),
        Arc::clone(live),
        Arc::clone(&link),
        events,
    ));
    Ok(link)
}

/// Two must not be made at once: `sandbox-init` tells the last one what ends. So one that was begun stays where it
/// is until it is made, also when whoever waits for it goes away.
async fn attach(live: &Live) -> Result<Attached, ControlError> {
    let mut begun = live.attaching.lock().await;
    if let Some(attaching) = begun.as_mut() {
        let made = attaching.await;
        *begun = None;
        // One that failed may have been too early.
        if let Ok(Ok(attached)) = made {
            return Ok(attached);
        }
    }
    live.control.attach().await
}

impl Link {
    pub(super) fn input_deadline(&self) -> Duration {
        self.input_deadline
    }

    /// # Errors
    /// The sandbox has ended.
    pub(super) fn channel(&self) -> Result<Arc<Channel>, Error> {
        self.lock().as_ref().map(|open| Arc::clone(&open.channel)).ok_or(Error::Control(ControlError::Ended))
    }

    /// # Errors
    /// The sandbox has ended.
    pub(super) fn journal(&self) -> Result<Arc<Journal>, Error> {
        self.lock().as_ref().map(|open| Arc::clone(&open.journal)).ok_or(Error::Control(ControlError::Ended))
    }

    pub(super) fn ring_path(&self, id: ProcessId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    pub(super) fn remove_ring(&self, id: ProcessId) {
        // With the sandbox its directory has gone already.
        let _ignored: io::Result<()> = std::fs::remove_file(self.ring_path(id));
        if self.is_relayed() {
            relay::remove(self, id);
        }
    }

    /// Whether the sandbox cannot hand descriptors back.
    pub(super) fn is_relayed(&self) -> bool {
        self.way == Way::Given
    }

    pub(super) async fn resize(&self, key: u64, columns: u16, rows: u16) -> Result<(), Error> {
        self.channel()?.resize(key, columns, rows).await.map_err(Error::Control)
    }

    pub(super) async fn signal(&self, key: u64, signal: i32, target: Target) -> Result<(), Error> {
        self.channel()?.signal(key, signal, target).await.map_err(Error::Control)
    }

    pub(super) async fn close_input(&self, id: ProcessId) -> Result<(), Error> {
        if self.is_relayed() {
            relay::remove_input(self, id);
        }
        self.channel()?.close_input(id.key()).await.map_err(Error::Control)
    }

    /// Lets `sandbox-init` throw away what it keeps; it has ended if it cannot be told.
    pub(super) async fn forget(&self, key: u64) {
        let Ok(channel) = self.channel() else { return };
        let _ignored: Result<(), _> = channel.forget(key).await;
    }

    async fn kill(&self, key: u64) {
        let _ignored: Result<(), _> = self.signal(key, super::libc_kill(), Target::Tree).await;
        self.forget(key).await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes what ends, until the sandbox does; then forgets it all in time.
async fn watch(shared: Arc<Shared>, entry: Arc<Entry>, live: Arc<Live>, link: Arc<Link>, mut events: Events) {
    loop {
        let event = tokio::select! {
            () = shared.ending.cancelled() => return,
            event = events.next() => event,
            () = tokio::time::sleep(PRUNE_INTERVAL), if !entry.processes.is_empty() => {
                table::prune(&entry);
                continue;
            }
        };
        match event {
            Ok(Event::Exited(key, exit)) => match entry.processes.of_key(key) {
                Some(process) => process.has_ended(Some(exit)),
                None => link.forget(key).await,
            },
            Ok(Event::Unclaimed(key)) => link.kill(key).await,
            Err(error) => {
                tracing::debug!(id = %entry.id, %error, "the connection about processes has ended");
                // Not only once there is another, or the sandbox has ended, which may take long.
                events.hang_up();
                let again = tokio::select! {
                    () = shared.ending.cancelled() => return,
                    again = attach_again(&entry, &live, &link) => again,
                };
                match again {
                    Some(new) => events = new,
                    None => break,
                }
            }
        }
    }
    drop((live, events));
    *link.lock() = None;
    let ours = || entry.processes.all().into_iter().filter(|p| Arc::ptr_eq(&p.link, &link));
    for process in ours() {
        // PID 1 is gone, and the kernel has killed what was left.
        process.has_ended(None);
    }
    while ours().next().is_some() {
        tokio::select! {
            () = shared.ending.cancelled() => return,
            () = tokio::time::sleep(PRUNE_INTERVAL) => table::prune(&entry),
        }
    }
}

/// Connects again and catches up; `None` once the sandbox has ended.
async fn attach_again(entry: &Entry, live: &Live, link: &Arc<Link>) -> Option<Events> {
    loop {
        let attached = tokio::select! {
            biased;
            () = live.wait() => return None,
            attached = live.control.attach() => attached,
        };
        let Ok(Attached { channel, events, kept, .. }) = attached else {
            tokio::time::sleep(ATTACH_PAUSE).await;
            continue;
        };
        if let Some(open) = link.lock().as_mut() {
            open.channel = Arc::new(channel);
        }
        let kept: HashMap<u64, Kept> = kept.into_iter().map(|(kept, _)| (kept.key, kept)).collect();
        for process in entry.processes.all() {
            let is_begun = process.pid.load(std::sync::atomic::Ordering::Relaxed) != 0;
            match kept.get(&process.id.key()) {
                Some(Kept { exit: None, .. }) => {}
                Some(Kept { exit: Some(exit), .. }) => process.has_ended(Some(*exit)),
                None if is_begun && Arc::ptr_eq(&process.link, link) => process.has_ended(None),
                None => {}
            }
        }
        return Some(events);
    }
}

/// Finds the processes of an earlier daemon: what it wrote down of each, and what `sandbox-init` has kept.
async fn restore(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    link: &Arc<Link>,
    journal: &Arc<Journal>,
    kept: Vec<(Kept, Vec<OwnedFd>)>,
) {
    let mut kept: HashMap<u64, _> = kept.into_iter().map(|(kept, fds)| (kept.key, (kept, fds))).collect();
    for file in std::fs::read_dir(&link.directory).into_iter().flatten().flatten() {
        let Some(id) = file.file_name().to_str().and_then(|name| name.parse::<ProcessId>().ok()) else {
            continue;
        };
        let found = kept.remove(&id.key());
        let key_is_kept = found.is_some();
        match restore_one(shared, entry, (link, journal), (id, &file.path()), found) {
            Ok(true) => tracing::info!(id = %entry.id, process = %id, "a process is found again"),
            Ok(false) => link.remove_ring(id),
            Err(error) => {
                tracing::error!(id = %entry.id, process = %id, %error, "cannot find a process again");
                link.remove_ring(id);
                if key_is_kept {
                    link.kill(id.key()).await;
                }
            }
        }
    }
    journal.clear();
    for key in kept.into_keys() {
        link.kill(key).await;
    }
    table::prune(entry);
}

/// Takes over one process; false for one that was never started.
fn restore_one(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    (link, journal): (&Arc<Link>, &Arc<Journal>),
    (id, path): (ProcessId, &Path),
    kept: Option<(Kept, Vec<OwnedFd>)>,
) -> io::Result<bool> {
    let (ring, description) = Ring::open(path, journal)?;
    let description: Description = serde_json::from_slice(&description).map_err(io::Error::other)?;
    let pid = match (ring.pid()?, &kept) {
        (Some(pid), _) => pid,
        (None, Some((kept, _))) => kept.pid,
        (None, None) => return Ok(false),
    };
    let (is_kept, exit) = (kept.is_some(), kept.as_ref().and_then(|(kept, _)| kept.exit));
    let (sources, input) = match kept {
        Some(_) if link.is_relayed() => relay::find(link, id, description.tty, journal)?,
        kept => streams(kept.map(|(_, fds)| fds).unwrap_or_default(), &description, journal)?,
    };
    let share = shared.rings.adopt(ring.capacity());
    let process = Process::new(id, description, (ring, share), Arc::clone(link))?;
    process.pid.store(pid, std::sync::atomic::Ordering::Relaxed);
    process.begin(entry, &sources, input);
    match exit {
        Some(exit) => process.has_ended(Some(exit)),
        // Neither the daemon nor sandbox-init knows of its end.
        None if !is_kept => process.has_ended(None),
        None => {}
    }
    if sources.stdout.is_none() && process.ended.is_cancelled() {
        process.output.complete(true);
    }
    entry.processes.insert(Arc::clone(&process));
    process.spawn_tasks(shared, entry, sources);
    Ok(true)
}

/// Checks what a sandbox says are the other ends of a process's streams.
fn streams(
    descriptors: Vec<OwnedFd>,
    description: &Description,
    journal: &Arc<Journal>,
) -> io::Result<(Sources, Option<Arc<Watched<OwnedFd>>>)> {
    let is_right = |fd: &OwnedFd| if description.tty { pty::is_master(fd) } else { pty::is_pipe(fd) };
    if !descriptors.iter().all(is_right) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut watched = Vec::new();
    for descriptor in descriptors {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        watched.push(Arc::new(Watched::new(descriptor)?));
    }
    let journal = Arc::clone(journal);
    let mut watched = watched.into_iter();
    let stdout = watched.next();
    if description.tty {
        return Ok((Sources { stdout: stdout.clone(), stderr: None, journal }, stdout));
    }
    Ok((Sources { stdout, stderr: watched.next(), journal }, watched.next()))
}

impl Process {
    /// A process that is yet to be started.
    pub(super) fn new(
        id: ProcessId,
        description: Description,
        (ring, share): (Ring, Share),
        link: Arc<Link>,
    ) -> io::Result<Arc<Self>> {
        let ended = ring.ended()?;
        let process = Self {
            id,
            description,
            pid: AtomicI32::new(0),
            output: Output::new(ring, ended),
            share,
            input: tokio::sync::Mutex::default(),
            terminal: Mutex::default(),
            busy: Mutex::default(),
            activity: OnceLock::new(),
            link,
            timed_out: AtomicBool::new(ended.is_some_and(|e| e.timed_out)),
            ended: CancellationToken::new(),
            forgotten: CancellationToken::new(),
        };
        if ended.is_some() {
            process.ended.cancel();
        }
        Ok(Arc::new(process))
    }

    /// Notes that it runs now: where its input goes, and that the sandbox is in use.
    pub(super) fn begin(&self, entry: &Entry, sources: &Sources, input: Option<Arc<Watched<OwnedFd>>>) {
        self.activity.get_or_init(|| entry.activity.clone());
        if self.description.tty && !self.link.is_relayed() {
            *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = sources.stdout.clone();
        }
        if let Ok(mut place) = self.input.try_lock() {
            *place = input;
        }
        if !self.description.detach && !self.ended.is_cancelled() {
            *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry.activity.begin());
        }
    }

    /// Starts what brings its output to the ring, and what ends it in time.
    pub(super) fn spawn_tasks(self: &Arc<Self>, shared: &Arc<Shared>, entry: &Arc<Entry>, sources: Sources) {
        let tasks = &shared.tasks;
        tasks.spawn(pump::run(Arc::clone(shared), Arc::clone(entry), Arc::clone(self), sources));
        if let Some(timeout_ms) = self.description.timeout_ms {
            let passed = match self.description.started_ms {
                Some(begun) => monotonic_ms().saturating_sub(begun),
                None => now_ms().saturating_sub(self.description.started_at),
            };
            let left = timeout_ms.saturating_sub(u64::try_from(passed).unwrap_or_default());
            tasks.spawn(pump::limit(Arc::clone(shared), Arc::clone(self), Duration::from_millis(left)));
        }
        if self.description.purpose == Purpose::Terminal {
            tasks.spawn(pump::hang_up(Arc::clone(shared), Arc::clone(entry), Arc::clone(self)));
        }
    }
}

/// Whether there are processes of an earlier daemon; their directory is made with the first one.
pub(super) fn is_unopened(live: &Live) -> bool {
    !live.link.initialized() && live.run_directory.join(DIRECTORY).exists()
}

/// Finds the processes of a sandbox that was adopted.
pub(crate) async fn restore_after_restart(shared: &Arc<Shared>, entry: &Arc<Entry>, live: &Arc<Live>) {
    if !is_unopened(live) {
        return;
    }
    if let Err(error) = of(shared, entry, live).await {
        tracing::error!(id = %entry.id, error = %chain(&error), "cannot find a sandbox's processes again");
    }
}
