//! Which sandbox is stopped when the host is short of memory: the one whose stop frees most and harms least.
//!
//! One at a time. After each the host's memory is looked at again, once what was freed can show in the figures.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::command::Command;
use crate::base::error::chain;
use crate::base::events::Why;
use crate::base::tasks::blocking;
use crate::books::registry::{Entry, ask};
use crate::launch::admission::Admission;
use crate::life::lives::Life;
use crate::running::live::Live;
use model::{ByteSize, IdlePolicy};
use sys::memory;

/// Less than this is next to nothing: an idle shell and its `sandbox-init` take about 3 MiB.
const WORTHWHILE_MIN: ByteSize = ByteSize::mib(16);
/// A stop is worth its harm if it frees such a part of what is missing. So at most so many idle sandboxes
/// go before a large one that is in use does.
const WORTHWHILE_PART: u64 = 8;
/// How long freed memory may take to show: the kernel takes mounts and cgroups down after the processes.
const SETTLE: Duration = Duration::from_secs(1);
const SETTLE_LOOK: Duration = Duration::from_millis(50);

/// What is known of a sandbox that may be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    policy: IdlePolicy,
    is_busy: bool,
    idle: Duration,
    /// What its stop gives back. The page cache is not in it: the kernel drops that without a stop.
    frees: u64,
}

impl Candidate {
    fn of(entry: &Entry, live: &Live) -> Self {
        Self {
            policy: entry.record().spec.idle_policy,
            is_busy: entry.activity.is_busy(),
            idle: entry.activity.idle(),
            frees: live.cgroup.memory_held().unwrap_or_default(),
        }
    }

    /// The order in which sandboxes go, the smallest first. `missing` is what the host lacks, in bytes.
    fn rank(self, missing: u64) -> impl Ord {
        let worthwhile = WORTHWHILE_MIN.as_u64().max(missing / WORTHWHILE_PART);
        (
            self.policy == IdlePolicy::AlwaysOn,
            // What frees next to nothing is spared for what frees much, even if that is in use.
            self.frees < worthwhile,
            self.is_busy,
            self.policy == IdlePolicy::Manual,
            // Coarse: of those that free about the same the one that is missed least goes.
            Reverse(self.frees / WORTHWHILE_MIN.as_u64()),
            Reverse(self.idle),
        )
    }
}

/// Stops one sandbox and waits until that shows; false when there is none or it cannot be stopped.
pub(crate) async fn stop_one(life: &Arc<Life>) -> bool {
    let Some((entry, candidate)) = choose(life).await else { return false };
    let before = available();
    tracing::warn!(id = %entry.id, frees = candidate.frees, "a sandbox is stopped for want of memory");
    if let Err(error) = ask(&entry, |reply| Command::Stop { why: Why::Memory, reply }).await {
        tracing::error!(id = %entry.id, error = %chain(&error), "failed to stop a sandbox for want of memory");
        return false;
    }
    settle(life, before, candidate.frees).await;
    true
}

/// Why this one was stopped, for whoever reads the event.
pub(crate) fn reason(admission: &Admission, entry: &Entry, live: &Live) -> String {
    let Candidate { is_busy, frees, .. } = Candidate::of(entry, live);
    let percent = admission.host_percent();
    let frees = frees >> 20;
    let standing = if is_busy { "in use" } else { "not in use" };
    format!(
        "the host was short of memory ({percent} % available): this sandbox was {standing} and its stop frees {frees} MiB"
    )
}

async fn choose(life: &Arc<Life>) -> Option<(Arc<Entry>, Candidate)> {
    let missing = life.launching.admission.missing_bytes();
    let books = Arc::clone(&life.ground.books);
    // Apart: it is a file of the kernel's for each.
    let chosen = blocking(move || {
        let present = books.registry.present().into_iter();
        let candidates = present.filter_map(|entry| {
            let candidate = Candidate::of(&entry, &*entry.present()?);
            Some((entry, candidate))
        });
        Ok(candidates.min_by_key(|(_, candidate)| candidate.rank(missing)))
    });
    chosen.await.unwrap_or_default()
}

/// Waits until about half of what was to be freed is available, but not for long.
async fn settle(life: &Life, before: Option<u64>, frees: u64) {
    let begun = Instant::now();
    let wanted = before.map(|before| before.saturating_add(frees / 2));
    while begun.elapsed() < SETTLE && available() < wanted && life.ground.tasks.pause(SETTLE_LOOK).await {}
}

fn available() -> Option<u64> {
    memory::host().ok().map(|host| host.available_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn candidate(policy: IdlePolicy, is_busy: bool, idle_secs: u64, frees_mib: u64) -> Candidate {
        Candidate { policy, is_busy, idle: Duration::from_secs(idle_secs), frees: frees_mib * MIB }
    }

    fn order(missing_mib: u64, candidates: &[(&'static str, Candidate)]) -> Vec<&'static str> {
        let mut sorted = candidates.to_vec();
        sorted.sort_by_key(|(_, candidate)| candidate.rank(missing_mib * MIB));
        sorted.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_frees_most_for_least_harm_goes_first() {
        use IdlePolicy::{AlwaysOn, Manual, Sleep};
        let all = [
            ("old and small", candidate(Sleep, false, 9000, 3)),
            ("young and large", candidate(Sleep, false, 5, 900)),
            ("older and as large", candidate(Sleep, false, 50, 905)),
            ("manual", candidate(Manual, false, 9000, 900)),
            ("in use and large", candidate(Sleep, true, 0, 2000)),
            ("always on", candidate(AlwaysOn, false, 9000, 8000)),
            ("always on and in use", candidate(AlwaysOn, true, 0, 9000)),
        ];
        assert_eq!(
            order(100, &all),
            [
                "older and as large",
                "young and large",
                "manual",
                "in use and large",
                "old and small",
                "always on",
                "always on and in use"
            ]
        );
        // Much is missing: hundreds of sandboxes of 60 MiB do not go before the one that has it all.
        let crowd = [("idle", candidate(Sleep, false, 500, 60)), ("hog", candidate(Sleep, true, 0, 4000))];
        assert_eq!((order(2000, &crowd), order(100, &crowd)), (vec!["hog", "idle"], vec!["idle", "hog"]));
    }
}
