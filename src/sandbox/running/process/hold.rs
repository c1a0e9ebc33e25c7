//! Getting hold of the processes of a sandbox, and getting it back from the daemon before.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::error::{Error, chain};
use crate::running::live::Live;
use crate::running::process::child::Process;
use crate::running::process::link::{DIRECTORY, Link, Open};
use crate::running::process::nouns::{Description, ProcessId};
use crate::running::process::streams::Sources;
use crate::running::process::table::Processes;
use crate::running::process::{pump, relay};
use engine::{Attached, ControlError, Event, Events, Journal, Ring};
use protocol::Kept;
use sys::pty;
use sys::watch::Watched;

/// How often ended processes are looked through.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// The pause before a lost connection is tried again.
const ATTACH_PAUSE: Duration = Duration::from_millis(100);

/// The hold on a sandbox's processes; what an earlier daemon had begun goes on.
pub(crate) async fn of(processes: &Arc<Processes>, live: &Arc<Live>) -> Result<Arc<Link>, Error> {
    live.link.get_or_try_init(|| open(processes, live)).await.cloned()
}

/// Takes the hold on a sandbox that has just been started before anybody needs it. Whoever does finds out
/// why it cannot be had.
pub(crate) async fn prepare(processes: &Arc<Processes>, live: &Arc<Live>) {
    tokio::select! {
        () = live.ended.cancelled() => {}
        () = processes.host.tasks.ending.cancelled() => {}
        opened = of(processes, live) => if let Err(error) = opened {
            tracing::debug!(id = %processes.id, error = %chain(&error), "a new sandbox cannot be spoken to yet");
        }
    }
}

async fn open(processes: &Arc<Processes>, live: &Arc<Live>) -> Result<Arc<Link>, Error> {
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
        input_deadline: processes.host.config.input,
    });
    restore(processes, &link, &journal, kept).await;
    processes.host.tasks.spawn(watch(Arc::clone(processes), Arc::clone(live), Arc::clone(&link), events));
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

/// Notes what ends, until the sandbox does; then forgets it all in time.
async fn watch(processes: Arc<Processes>, live: Arc<Live>, link: Arc<Link>, mut events: Events) {
    loop {
        let event = tokio::select! {
            () = processes.host.tasks.ending.cancelled() => return,
            event = events.next() => event,
            () = tokio::time::sleep(PRUNE_INTERVAL), if !processes.is_empty() => {
                processes.prune();
                continue;
            }
        };
        match event {
            Ok(Event::Exited(key, exit)) => match processes.of_key(key) {
                Some(process) => process.has_ended(Some(exit)),
                None => link.forget(key).await,
            },
            Ok(Event::Unclaimed(key)) => link.kill(key).await,
            Err(error) => {
                tracing::debug!(id = %processes.id, %error, "the connection about processes has ended");
                // Not only once there is another, or the sandbox has ended, which may take long.
                events.hang_up();
                let again = tokio::select! {
                    () = processes.host.tasks.ending.cancelled() => return,
                    again = attach_again(&processes, &live, &link) => again,
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
    let ours = || processes.all().into_iter().filter(|p| Arc::ptr_eq(&p.link, &link));
    for process in ours() {
        // PID 1 is gone, and the kernel has killed what was left.
        process.has_ended(None);
    }
    while ours().next().is_some() {
        tokio::select! {
            () = processes.host.tasks.ending.cancelled() => return,
            () = tokio::time::sleep(PRUNE_INTERVAL) => processes.prune(),
        }
    }
}

/// Connects again and catches up; `None` once the sandbox has ended.
async fn attach_again(processes: &Processes, live: &Live, link: &Arc<Link>) -> Option<Events> {
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
        for process in processes.all() {
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
    processes: &Arc<Processes>,
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
        match restore_one(processes, (link, journal), (id, &file.path()), found) {
            Ok(true) => tracing::info!(id = %processes.id, process = %id, "a process is found again"),
            Ok(false) => link.remove_ring(id),
            Err(error) => {
                tracing::error!(id = %processes.id, process = %id, %error, "cannot find a process again");
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
    processes.prune();
}

/// Takes over one process; false for one that was never started.
fn restore_one(
    processes: &Arc<Processes>,
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
        Some(_) if link.is_relayed() => relay::find(&link.ring_path(id), description.tty, journal)?,
        kept => streams(kept.map(|(_, fds)| fds).unwrap_or_default(), &description, journal)?,
    };
    let share = processes.host.rings.adopt(ring.capacity());
    let process = Process::new(id, description, (ring, share), Arc::clone(link))?;
    process.pid.store(pid, std::sync::atomic::Ordering::Relaxed);
    process.begin(&processes.activity, &sources, input);
    match exit {
        Some(exit) => process.has_ended(Some(exit)),
        // Neither the daemon nor sandbox-init knows of its end.
        None if !is_kept => process.has_ended(None),
        None => {}
    }
    if sources.stdout.is_none() && process.ended.is_cancelled() {
        process.output.complete(true);
    }
    processes.insert(Arc::clone(&process));
    pump::spawn_tasks(&process, processes, sources);
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

/// Whether there are processes of an earlier daemon; their directory is made with the first one.
pub(crate) fn is_unopened(live: &Live) -> bool {
    !live.link.initialized() && live.run_directory.join(DIRECTORY).exists()
}

/// Finds the processes of a sandbox that was adopted.
pub(crate) async fn restore_after_restart(processes: &Arc<Processes>, live: &Arc<Live>) {
    if !is_unopened(live) {
        return;
    }
    if let Err(error) = of(processes, live).await {
        tracing::error!(id = %processes.id, error = %chain(&error), "cannot find a sandbox's processes again");
    }
}
