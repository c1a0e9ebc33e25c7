//! Sandboxes that use all of their share of the processors give way to those that use little of theirs.
//!
//! The kernel deals out time in turns of some milliseconds, and a command that needs five turns of one millisecond waits
//! for those of everybody else before each of them: beside ten sandboxes that compute, all with the same weight, a command
//! of 2 ms takes 20 to 500. Whoever has used its share waits a little longer without noticing it. So where processors are
//! short, a sandbox that uses more than half of what its weight entitles it to, of all that sandboxes get, has a tenth of
//! its weight until it uses less. Among those that all do so nothing changes, and where nobody else wants a processor
//! weights mean nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::base::tasks::blocking;
use crate::books::registry::Entry;
use crate::life::lives::Life;
use crate::running::live::reduced;
use model::LaunchId;
use sys::processors::Processors;

/// How often it is looked whether processors are short, which takes one file; and, while they are, at every sandbox.
const INTERVAL: Duration = Duration::from_secs(1);
/// With less of them idle, in percent, processors are short.
const IDLE_MIN_PERCENT: u64 = 20;
/// Who uses less than a hundredth of a processor is not counted among those who want one.
const WANTED_MIN_US: u64 = 10_000;
/// Who uses less than an eighth of a processor never gives way: where the others wait for a disk, or for what the daemon
/// does for them, somebody who answers requests has used the most.
const SPARED_MAX_US: u64 = SECOND_US / 8;
const SECOND_US: u64 = 1_000_000;

/// What is known of one running sandbox.
#[derive(Debug, Clone, Copy)]
struct Seen {
    used: Duration,
    at: Instant,
    gives_way: bool,
    /// What was last written.
    weight: Option<u32>,
}

/// What one sandbox used since the last look.
struct Use {
    entry: Arc<Entry>,
    launch: LaunchId,
    seen: Seen,
    weight: u32,
    /// Microseconds of processor time in a second.
    rate: u64,
}

/// Looks until the daemon ends.
pub(crate) async fn watch(life: Arc<Life>) {
    let life = &life;
    if !life.ground.host.cgroups.controls().cpu_weight {
        return;
    }
    let (mut processors, mut known) = (Processors::default(), BTreeMap::new());
    while life.ground.tasks.pause(INTERVAL).await {
        let Some(idle) = processors.idle_percent() else { continue };
        if idle >= IDLE_MIN_PERCENT {
            continue;
        }
        let running: Vec<_> =
            life.ground.books.registry.present().into_iter().filter(|e| e.live().is_some()).collect();
        let before = std::mem::take(&mut known);
        match blocking(move || Ok(look(running, &before))).await {
            Ok(seen) => known = seen,
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "failed to look at the use of processors");
            }
        }
    }
}

/// One look at all of them.
fn look(running: Vec<Arc<Entry>>, before: &BTreeMap<LaunchId, Seen>) -> BTreeMap<LaunchId, Seen> {
    let uses: Vec<_> = running.into_iter().filter_map(|entry| measure(entry, before)).collect();
    let wanting = || uses.iter().filter(|one| one.rate >= WANTED_MIN_US);
    let weights = wanting().map(|one| u64::from(one.weight)).sum::<u64>().max(1);
    // What all of them get, not what the machine has: the host's own programs take some.
    let all_us = wanting().map(|one| one.rate).sum::<u64>();
    let decide = |mut one: Use| {
        let share = all_us * u64::from(one.weight) / weights;
        one.seen.gives_way = gives_way(one.seen.gives_way, one.rate, share);
        write(&mut one);
        (one.launch, one.seen)
    };
    uses.into_iter().map(decide).collect()
}

/// What a sandbox has used since it was last seen; `None` where it is ending.
fn measure(entry: Arc<Entry>, before: &BTreeMap<LaunchId, Seen>) -> Option<Use> {
    let record = entry.record();
    let (launch, weight) = (record.launch?, record.spec.limits.cpu_weight);
    let (used, at) = (entry.live()?.cgroup.cpu_used()?, Instant::now());
    let Some(last) = before.get(&launch) else {
        // The daemon before may have had it give way.
        let seen = Seen { used, at, gives_way: false, weight: None };
        return Some(Use { entry, launch, seen, weight, rate: 0 });
    };
    let elapsed = u64::try_from(at.duration_since(last.at).as_micros()).unwrap_or(u64::MAX).max(1);
    let used_us = u64::try_from(used.saturating_sub(last.used).as_micros()).unwrap_or(u64::MAX);
    let rate = used_us.saturating_mul(SECOND_US) / elapsed;
    Some(Use { entry, launch, seen: Seen { used, at, ..*last }, weight, rate })
}

/// Whether one that uses so much of such a share gives way; it goes on doing so until it uses half as much.
fn gives_way(already: bool, rate: u64, share: u64) -> bool {
    rate > SPARED_MAX_US && rate > if already { share / 4 } else { share / 2 }
}

fn write(one: &mut Use) {
    let wanted = if one.seen.gives_way { reduced(one.weight) } else { one.weight };
    if one.seen.weight == Some(wanted) {
        return;
    }
    let Some(live) = one.entry.live() else { return };
    // First: limits that are changed meanwhile are written with what holds from now on.
    live.gives_way.store(one.seen.gives_way, Ordering::Relaxed);
    match live.cgroup.set_cpu_weight(wanted) {
        Ok(()) => one.seen.weight = Some(wanted),
        // One that ends at this moment has none any more.
        Err(error) => tracing::debug!(id = %one.entry.id, %error, "failed to change the weight of a sandbox"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_its_share_gives_way_until_it_uses_less() {
        let share = 600_000;
        assert!(gives_way(false, 400_000, share) && !gives_way(false, 200_000, share));
        assert!(gives_way(true, 200_000, share) && !gives_way(true, 140_000, share));
        assert!(!gives_way(false, 120_000, 1000), "little is never too much");
    }
}
