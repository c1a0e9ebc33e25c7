//! Looks at sandboxes that may be held at their `memory.high`, and lets go of one that is held for too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::tasks::blocking;
use crate::books::registry::Entry;
use crate::launch::host::Host;
use crate::life::lives::Life;
use crate::running::throttle::{Action, HELD_MAX, Sample};
use sys::cgroup::Cgroup;

/// How often sandboxes are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks at every running sandbox until the daemon ends.
pub(crate) async fn watch(life: Arc<Life>) {
    let life = &life;
    if !life.ground.host.config.set_memory_high || !life.ground.host.cgroups.controls().memory_high {
        return;
    }
    while life.ground.tasks.pause(INTERVAL).await {
        let running: Vec<_> =
            life.ground.books.registry.present().into_iter().filter(|e| e.live().is_some()).collect();
        let looking = blocking(move || {
            running.iter().for_each(look);
            Ok(())
        });
        if let Err(error) = looking.await {
            tracing::error!(error = %crate::chain(&error), "cannot look at the sandboxes' memory");
        }
    }
}

fn look(entry: &Arc<Entry>) {
    let Some(live) = entry.live() else { return };
    let high = entry.record().spec.limits.memory_high.as_u64();
    // One that ends at this moment has no figures any more.
    let Some(events) = live.cgroup.memory_high_events().filter(|events| !live.throttle.is_calm(*events))
    else {
        return;
    };
    let Some(sample) = sample(&live.cgroup, events) else { return };
    let (id, was_held) = (entry.id, live.throttle.is_held());
    let action = live.throttle.observe(high, sample, Instant::now());
    if live.throttle.is_held() && !was_held {
        tracing::warn!(%id, memory_high = high, "a sandbox is slowed down at its memory.high");
    }
    let written = match action {
        Action::Nothing => return,
        Action::Lift => {
            tracing::warn!(%id, "memory.high is taken off a sandbox that was held for {} s", HELD_MAX.as_secs());
            live.cgroup.set_memory_high(None)
        }
        Action::Restore => {
            tracing::info!(%id, memory_high = high, "memory.high holds again");
            live.cgroup.set_memory_high(Some(high))
        }
    };
    if let Err(error) = written {
        tracing::warn!(%id, %error, "cannot change memory.high");
    }
}

/// Puts `memory.high` back on a sandbox that is adopted: the daemon before may have taken it off.
pub(crate) fn restore(host: &Host, entry: &Entry, cgroup: &Cgroup) {
    if !host.config.set_memory_high || !host.cgroups.controls().memory_high {
        return;
    }
    let high = entry.record().spec.limits.memory_high.as_u64();
    if let Err(error) = cgroup.set_memory_high(Some(high)) {
        tracing::warn!(id = %entry.id, %error, "cannot put memory.high back");
    }
}

fn sample(cgroup: &Cgroup, events: u64) -> Option<Sample> {
    Some(Sample { events, current: cgroup.memory_current()?, unreclaimable: cgroup.memory_unreclaimable()? })
}
