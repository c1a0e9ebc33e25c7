//! The memory of frozen sandboxes is moved out, so that one that sleeps costs next to nothing.
//!
//! Only where the kernel takes the order (`memory.reclaim`, version 2, Linux 5.19) and there is swap to
//! move it to. It is done in small steps beside everything else, one sandbox at a time, and a wake ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::base::tasks::blocking;
use crate::life::lives::Life;
use crate::running::live::Live;
use model::SandboxId;
use sys::cgroup::Cgroup;
use sys::memory;

/// What is moved at once: a millisecond or two of work, for which a wake may have to wait.
const STEP_BYTES: u64 = 1 << 20;
/// For how long one sandbox is worked on.
const EFFORT: Duration = Duration::from_secs(10);
/// What is left where it is: less is not worth a step.
const REST_BYTES: u64 = 1 << 20;

/// Moves a frozen sandbox's memory out until little is left or `awake` is cancelled.
pub(crate) fn begin(life: &Arc<Life>, id: SandboxId, live: &Arc<Live>, awake: CancellationToken) {
    if !live.cgroup.has_reclaim() {
        return;
    }
    let (tasks, live) = (life.ground.tasks.clone(), Arc::clone(live));
    let life = Arc::clone(life);
    tasks.spawn(async move {
        let permit = tokio::select! {
            () = awake.cancelled() => return,
            () = life.ground.tasks.ending.cancelled() => return,
            permit = life.reclaiming.acquire() => permit,
        };
        let cgroup = live.cgroup.clone();
        let moved = blocking(move || Ok(move_out(&cgroup, &awake))).await.unwrap_or_default();
        drop(permit);
        tracing::debug!(%id, moved, "memory of a frozen sandbox was moved out");
    });
}

/// Returns how many bytes less are in memory.
fn move_out(cgroup: &Cgroup, awake: &CancellationToken) -> u64 {
    let begun = Instant::now();
    let before = cgroup.memory_current().unwrap_or_default();
    while !awake.is_cancelled() && begun.elapsed() < EFFORT {
        let has_room = memory::host().is_ok_and(|host| host.swap_free_bytes > STEP_BYTES * 4);
        let left = cgroup.memory_current().unwrap_or_default();
        // The kernel refuses when it can find nothing more.
        if !has_room || left <= REST_BYTES || cgroup.reclaim(STEP_BYTES.min(left)).is_err() {
            break;
        }
    }
    before.saturating_sub(cgroup.memory_current().unwrap_or(before))
}
