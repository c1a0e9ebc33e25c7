//! Sandboxes that are held at their `memory.high`.
//!
//! Past `memory.high` the kernel makes a process wait at every allocation until memory was reclaimed. Where
//! nothing can be reclaimed, as without swap, it waits for ever longer and is never killed: a few MiB too
//! many freeze an app for minutes (Documentation/admin-guide/cgroup-v2.rst, "memory.high"). So a sandbox
//! that is held is reported as such, and after a while the brake is taken off: then it either fits beneath
//! `memory.max` or is killed there, and its owner knows which. It is put on again when memory has been freed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long a sandbox may be held before the brake is taken off.
pub(crate) const HELD_MAX: Duration = Duration::from_secs(10);

/// What is known of one running sandbox.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

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
pub(crate) struct Sample {
    pub(crate) events: u64,
    /// Bytes in use, and of these what cannot be reclaimed by dropping caches.
    pub(crate) current: u64,
    pub(crate) unreclaimable: u64,
}

/// What is to be done to `memory.high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    Lift,
    Restore,
}

impl Throttle {
    /// Whether the sandbox is slowed down right now.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.0.lock().unwrap_or_else(PoisonError::into_inner).hold, Hold::Held { .. })
    }

    /// Whether a look at the counter alone says that nothing has happened: of many sandboxes nearly all are so.
    pub(crate) fn is_calm(&self, events: u64) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.hold == Hold::Free && state.events == events
    }

    pub(crate) fn observe(&self, high: u64, sample: Sample, now: Instant) -> Action {
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

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

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
