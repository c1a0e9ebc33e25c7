//! The task that brings one process's output to its ring.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::output::Taken;
use super::{Process, table};
use crate::runtime::{Journal, Stream};
use crate::sandbox::registry::Entry;
use crate::sandbox::supervisor::Shared;
use crate::sys::watch::Watched;

/// After the process itself has ended, how long its output may be silent before it counts as
/// complete: what it left in the background keeps the pipes open for ever.
const LINGER: Duration = Duration::from_millis(50);
/// The pause before more is taken when the file system had no room.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// How often it is looked whether somebody has come back to a terminal.
const HANG_UP_LOOKS: u32 = 10;

/// Where output comes from; closed ones are gone.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) stdout: Option<Arc<Watched<OwnedFd>>>,
    pub(super) stderr: Option<Arc<Watched<OwnedFd>>>,
    /// Through which it goes; what a sandbox leaves in its pipes when it ends is taken as well.
    pub(super) journal: Arc<Journal>,
}

/// Runs until nothing can come any more, or the process is forgotten.
pub(super) async fn run(shared: Arc<Shared>, entry: Arc<Entry>, process: Arc<Process>, mut sources: Sources) {
    let stall = shared.config.processes.stall;
    let output = &process.output;
    loop {
        let seen = output.seen();
        if sources.stdout.is_none() && sources.stderr.is_none() && seen.ended.is_some() {
            break;
        }
        if output.is_full() {
            let stalls_at = tokio::time::Instant::from_std(output.stalls_at(stall));
            tokio::select! {
                () = shared.ending.cancelled() => return,
                () = process.forgotten.cancelled() => break,
                () = output.moved() => {}
                () = tokio::time::sleep_until(stalls_at) => {
                    let cut = output.cut_stalled(stall);
                    tracing::info!(id = %entry.id, process = %process.id, cut, "followers that do not read are let go");
                }
            }
            continue;
        }
        let lingers = seen.ended.is_some() && !seen.is_complete;
        tokio::select! {
            () = shared.ending.cancelled() => return,
            () = process.forgotten.cancelled() => break,
            taken = take(sources.stdout.as_ref(), Stream::Stdout, &process, &sources.journal) => {
                if is_end(taken).await { sources.stdout = None; }
            }
            taken = take(sources.stderr.as_ref(), Stream::Stderr, &process, &sources.journal) => {
                if is_end(taken).await { sources.stderr = None; }
            }
            () = process.ended.cancelled(), if seen.ended.is_none() => {}
            () = tokio::time::sleep(LINGER), if lingers => output.complete(false),
        }
    }
    drop(sources);
    let terminal = process.terminal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    drop(terminal);
    output.complete(true);
    // Written down and read to its end: sandbox-init need not keep it.
    process.link.forget(process.id.key()).await;
    drop(process.input.lock().await.take());
    table::prune(&entry);
}

/// Kills the process with everything that it has started once its time is over.
pub(super) async fn limit(shared: Arc<Shared>, process: Arc<Process>, left: Duration) {
    tokio::select! {
        () = shared.ending.cancelled() => {}
        () = process.ended.cancelled() => {}
        () = tokio::time::sleep(left) => {
            process.timed_out.store(true, Ordering::Relaxed);
            if let Err(error) = process.kill().await {
                tracing::warn!(process = %process.id, error = %crate::sandbox::chain(&error), "cannot kill a process whose time is over");
            }
        }
    }
}

/// Hangs up a terminal before which nobody sits any more; what ran in it gets SIGHUP, as from a modem.
pub(super) async fn hang_up(shared: Arc<Shared>, entry: Arc<Entry>, process: Arc<Process>) {
    let mut looks = tokio::time::interval((shared.config.processes.hang_up / HANG_UP_LOOKS).max(LINGER));
    let mut alone = 0;
    // Somebody may come back: only one that has been left alone all along is hung up.
    while alone <= HANG_UP_LOOKS {
        tokio::select! {
            () = shared.ending.cancelled() => return,
            () = process.ended.cancelled() => return,
            _ = looks.tick() => alone = if process.output.is_followed() { 0 } else { alone + 1 },
        }
    }
    tracing::info!(id = %entry.id, process = %process.id, "a terminal that was left is hung up");
    entry.processes.remove(process.id);
}

async fn take(
    source: Option<&Arc<Watched<OwnedFd>>>,
    stream: Stream,
    process: &Process,
    journal: &Journal,
) -> io::Result<Taken> {
    let Some(open) = source else { return std::future::pending().await };
    open.read_with(|fd| process.output.take(fd, stream, journal)).await
}

async fn is_end(taken: io::Result<Taken>) -> bool {
    match taken {
        Ok(Taken::End) => true,
        Ok(Taken::Some | Taken::Full) => false,
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            tokio::time::sleep(FULL_PAUSE).await;
            false
        }
        // A pipe that fails is as good as ended.
        Err(error) => {
            tracing::error!(%error, "cannot read a process's output");
            true
        }
    }
}
