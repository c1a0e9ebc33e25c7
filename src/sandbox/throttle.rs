//! Sandboxes that are held at their `memory.high`.
//!
//! Past `memory.high` the kernel makes a process wait at every allocation until memory was reclaimed. Where
//! nothing can be reclaimed, as without swap, it waits for ever longer and is never killed: a few MiB too
//! many freeze an app for minutes (Documentation/admin-guide/cgroup-v2.rst, "memory.high"). So a sandbox
//! that is held is reported as such, and after a while the brake is taken off: then it either fits beneath
//! `memory.max` or is killed there, and its owner knows which. It is put on again when memory has been freed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::expiry::pause;
use super::registry::Entry;
use crate::supervisor::{Shared, Supervisor};
use crate::tasks::blocking;
use sys::cgroup::Cgroup;

/// How often sandboxes are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// For how long a sandbox may be held before the brake is taken off.
const HELD_MAX: Duration = Duration::from_secs(10);

/// What is known of one running sandbox.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<State>);

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The kernel's counter when last read.
    events: u64,
    hold: Hold,
}

/// Whether a sandbox is held at its `memory.high`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Hold {
    #[default]
    Free,
    Held {
        since: Instant,
    },
    /// `memory.high` is off until memory has been freed.
    Lifted,
}

/// What the kernel says of a cgroup.
#[derive(Debug, Clone, Copy)]
struct Sample {
    events: u64,
    /// Bytes in use, and of these what cannot be reclaimed by dropping caches.
    current: u64,
    unreclaimable: u64,
}

/// What is to be done to `memory.high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Lift,
    Restore,
}

impl Throttle {
    /// Whether the sandbox is slowed down right now.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.0.lock().unwrap_or_else(PoisonError::into_inner).hold, Hold::Held { .. })
    }

    /// Whether a look at the counter alone says that nothing has happened: of many sandboxes nearly all are so.
    fn is_calm(&self, events: u64) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.hold == Hold::Free && state.events == events
    }

    fn observe(&self, high: u64, sample: Sample, now: Instant) -> Action {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, action) = step(*state, high, sample, now);
        *state = next;
        action
    }
}

/// Decides what a new sample means.
fn step(state: State, high: u64, sample: Sample, now: Instant) -> (State, Action) {
    // Page cache that is dropped at the limit counts as an event too, and hurts nobody.
    let is_held = sample.events > state.events && sample.unreclaimable >= high / 10 * 9;
    let (hold, action) = match state.hold {
        Hold::Free if is_held => (Hold::Held { since: now }, Action::Nothing),
        Hold::Held { since } if is_held && now.duration_since(since) >= HELD_MAX => {
            (Hold::Lifted, Action::Lift)
        }
        Hold::Held { since } if is_held => (Hold::Held { since }, Action::Nothing),
        Hold::Lifted if sample.current < high / 4 * 3 => (Hold::Free, Action::Restore),
        Hold::Lifted => (Hold::Lifted, Action::Nothing),
        Hold::Free | Hold::Held { .. } => (Hold::Free, Action::Nothing),
    };
    (State { events: sample.events, hold }, action)
}

/// Looks at every running sandbox until the daemon ends.
pub(super) async fn watch(supervisor: Supervisor) {
    let shared = &supervisor.shared;
    if !shared.config.set_memory_high || !shared.cgroups.controls().memory_high {
        return;
    }
    while pause(shared, INTERVAL).await {
        let running: Vec<_> = shared.registry.present().into_iter().filter(|e| e.live().is_some()).collect();
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
pub(super) fn restore(shared: &Shared, entry: &Entry, cgroup: &Cgroup) {
    if !shared.config.set_memory_high || !shared.cgroups.controls().memory_high {
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

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: u64 = 100;

    fn after(state: State, events: u64, unreclaimable: u64, now: Instant) -> (State, Action) {
        step(state, HIGH, Sample { events, current: unreclaimable + 5, unreclaimable }, now)
    }

    #[test]
    fn a_sandbox_that_is_held_is_let_go_after_a_while_and_held_again() {
        let begun = Instant::now();
        let (state, action) = after(State::default(), 10, 95, begun);
        assert!(matches!(state.hold, Hold::Held { .. }) && action == Action::Nothing);
        let (state, action) = after(state, 20, 95, begun + INTERVAL);
        assert!(matches!(state.hold, Hold::Held { since } if since == begun) && action == Action::Nothing);
        let (state, action) = after(state, 30, 95, begun + HELD_MAX);
        assert_eq!((state.hold, action), (Hold::Lifted, Action::Lift));
        let (state, action) = after(state, 30, 95, begun + HELD_MAX * 2);
        assert_eq!((state.hold, action), (Hold::Lifted, Action::Nothing));
        let (state, action) = after(state, 30, 40, begun + HELD_MAX * 3);
        assert_eq!((state.hold, action), (Hold::Free, Action::Restore));
    }

    #[test]
    fn a_cache_that_is_dropped_is_no_hold_and_a_pause_ends_one() {
        let now = Instant::now();
        let (state, _) = after(State::default(), 10, 50, now);
        assert_eq!(state.hold, Hold::Free);
        let throttle = Throttle(Mutex::new(state));
        assert!(throttle.is_calm(10) && !throttle.is_calm(11));
        let (state, _) = after(state, 20, 95, now);
        assert!(matches!(state.hold, Hold::Held { .. }));
        assert!(!Throttle(Mutex::new(state)).is_calm(20), "one that is held is looked at until it is free");
        let (state, action) = after(state, 20, 95, now + HELD_MAX);
        assert_eq!((state.hold, action), (Hold::Free, Action::Nothing), "no new event");
    }
}
