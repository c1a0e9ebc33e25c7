//! The task that brings one process's output to its ring.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::base::activity::{monotonic_ms, now_ms};
use crate::base::tasks::Tasks;
use crate::running::process::child::Process;
use crate::running::process::nouns::Purpose;
use crate::running::process::output::{Output, Taken};
use crate::running::process::streams::Sources;
use crate::running::process::table::Processes;
use engine::{Journal, Stream};
use sys::watch::Watched;

/// After the process itself has ended, how long its output may be silent before it counts as
/// complete: what it left in the background keeps the pipes open for ever.
const LINGER: Duration = Duration::from_millis(50);
/// The pause before more is taken when the file system had no room.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// How fast output goes to a ring that nobody reads. All but its end is overwritten, and moving it takes the daemon's
/// processor time, which no limit of the sandbox's counts: a flood would slow down its neighbours' requests.
const UNREAD_BYTES_PER_SECOND: u64 = 32 << 20;
/// For how long it may go faster: 4 MiB at once.
const UNREAD_BURST: Duration = Duration::from_millis(125);
/// After a move of so much others get a turn.
const LONG_MOVE_BYTES: u64 = 64 * 1024;

/// How long the end of a deleted sandbox's output is waited for: the kernel has closed what its processes had open.
pub(crate) const CLOSING_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether somebody has come back to a terminal.
const HANG_UP_LOOKS: u32 = 10;

/// When so much will have been moved at the pace of what nobody reads.
#[derive(Debug)]
struct Pace(Instant);

impl Pace {
    fn new(now: Instant) -> Self {
        Self(now.checked_sub(UNREAD_BURST).unwrap_or(now))
    }

    /// How long to wait after so many bytes.
    fn after(&mut self, count: u64, now: Instant) -> Option<Duration> {
        let nanoseconds = count.saturating_mul(1_000_000_000) / UNREAD_BYTES_PER_SECOND;
        let begun = now.checked_sub(UNREAD_BURST).map_or(self.0, |earliest| self.0.max(earliest));
        self.0 = begun + Duration::from_nanos(nanoseconds);
        self.0.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

/// Runs until nothing can come any more, or the process is forgotten.
pub(crate) async fn run(processes: Arc<Processes>, process: Arc<Process>, mut sources: Sources) {
    let stall = processes.host.config.stall;
    let output = &process.output;
    let mut pace = Pace::new(Instant::now());
    loop {
        let seen = output.seen();
        if sources.stdout.is_none() && sources.stderr.is_none() && seen.ended.is_some() {
            break;
        }
        if output.is_full() {
            let stalls_at = tokio::time::Instant::from_std(output.stalls_at(stall));
            tokio::select! {
                () = processes.host.tasks.ending.cancelled() => return,
                () = process.forgotten.cancelled() => break,
                () = output.moved() => {}
                () = tokio::time::sleep_until(stalls_at) => {
                    let cut = output.cut_stalled(stall);
                    tracing::info!(id = %processes.id, process = %process.id, cut, "followers that do not read are let go");
                }
            }
            continue;
        }
        let lingers = seen.ended.is_some() && !seen.is_complete;
        tokio::select! {
            () = processes.host.tasks.ending.cancelled() => return,
            () = process.forgotten.cancelled() => break,
            taken = take(sources.stdout.as_ref(), Stream::Stdout, &process, &sources.journal) => {
                if is_end(taken, output, &mut pace).await { sources.stdout = None; }
            }
            taken = take(sources.stderr.as_ref(), Stream::Stderr, &process, &sources.journal) => {
                if is_end(taken, output, &mut pace).await { sources.stderr = None; }
            }
            () = process.ended.cancelled(), if seen.ended.is_none() => {}
            () = tokio::time::sleep(LINGER), if lingers => output.complete(false),
        }
    }
    drop(sources);
    let terminal = process.terminal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    drop(terminal);
    output.complete(true);
    process.share.shrink(output.kept_bytes());
    // Written down and read to its end: sandbox-init need not keep it.
    process.link.forget(process.id.key()).await;
    drop(process.input.lock().await.take());
    processes.prune();
}

/// Kills the process with everything that it has started once its time is over.
pub(crate) async fn limit(tasks: Tasks, process: Arc<Process>, left: Duration) {
    tokio::select! {
        () = tasks.ending.cancelled() => {}
        () = process.ended.cancelled() => {}
        () = tokio::time::sleep(left) => {
            process.timed_out.store(true, Ordering::Relaxed);
            if let Err(error) = process.kill().await {
                tracing::warn!(process = %process.id, error = %crate::chain(&error), "cannot kill a process whose time is over");
            }
        }
    }
}

/// Hangs up a terminal before which nobody sits any more; what ran in it gets SIGHUP, as from a modem.
pub(crate) async fn hang_up(processes: Arc<Processes>, process: Arc<Process>) {
    let mut looks = tokio::time::interval((processes.host.config.hang_up / HANG_UP_LOOKS).max(LINGER));
    let mut alone = 0;
    // Somebody may come back: only one that has been left alone all along is hung up.
    while alone <= HANG_UP_LOOKS {
        tokio::select! {
            () = processes.host.tasks.ending.cancelled() => return,
            () = process.ended.cancelled() => return,
            _ = looks.tick() => alone = if process.output.is_followed() { 0 } else { alone + 1 },
        }
    }
    tracing::info!(id = %processes.id, process = %process.id, "a terminal that was left is hung up");
    processes.remove(process.id);
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

/// Whether that was the last of a stream; if not, waits until it is time for more.
async fn is_end(taken: io::Result<Taken>, output: &Output, pace: &mut Pace) -> bool {
    match taken {
        Ok(Taken::End) => true,
        Ok(Taken::Full) => false,
        Ok(Taken::Bytes(count)) if output.is_followed() => {
            if count >= LONG_MOVE_BYTES {
                tokio::task::yield_now().await;
            }
            false
        }
        Ok(Taken::Bytes(count)) => {
            if let Some(wait) = pace.after(count, Instant::now()) {
                tokio::time::sleep(wait).await;
            }
            false
        }
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

/// Starts what brings its output to the ring, and what ends it in time.
pub(crate) fn spawn_tasks(process: &Arc<Process>, processes: &Arc<Processes>, sources: Sources) {
    let tasks = &processes.host.tasks;
    tasks.spawn(run(Arc::clone(processes), Arc::clone(process), sources));
    if let Some(timeout_ms) = process.description.timeout_ms {
        let passed = match process.description.started_ms {
            Some(begun) => monotonic_ms().saturating_sub(begun),
            None => now_ms().saturating_sub(process.description.started_at),
        };
        let left = timeout_ms.saturating_sub(u64::try_from(passed).unwrap_or_default());
        tasks.spawn(limit(tasks.clone(), Arc::clone(process), Duration::from_millis(left)));
    }
    if process.description.purpose == Purpose::Terminal {
        tasks.spawn(hang_up(Arc::clone(processes), Arc::clone(process)));
    }
}

/// Forgets all processes of a sandbox that is deleted: their output goes with it. Who follows one gets what there is.
pub(crate) fn release(processes: &Arc<Processes>) {
    let all = processes.all();
    if all.is_empty() {
        return;
    }
    let tasks = processes.host.tasks.clone();
    let processes = Arc::clone(processes);
    tasks.spawn(async move {
        for process in all {
            // The sandbox has ended, and with it the process.
            process.has_ended(None);
            process.closed_within(CLOSING_MAX).await;
            processes.remove(process.id);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_goes_at_its_pace_and_may_begin_faster() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        // A burst after a silence, whatever its length, and then the pace.
        for silence in [0, 10, 1000] {
            let now = begun + Duration::from_secs(silence);
            assert_eq!(pace.after(4 << 20, now), None);
            let wait = pace.after(32 << 20, now).unwrap();
            assert_eq!(wait, Duration::from_secs(1));
            assert_eq!(pace.after(1 << 20, now + wait), Some(Duration::from_nanos(31_250_000)));
        }
    }
}
