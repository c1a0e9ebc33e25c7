//! When a sandbox is due to sleep.

use std::time::Duration;

use crate::books::registry::Entry;
use model::{IdlePolicy, Record, SleepPolicy, Tier};

/// The instance's rules of sleep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SleepRules {
    /// After this a sandbox that nobody uses is frozen; zero, or not before the next: it is not.
    pub(crate) freeze_after: Duration,
    /// After this it is stopped.
    pub(crate) idle_threshold: Duration,
    /// For how long an open connection without bytes keeps a sandbox awake.
    pub(crate) silent_connection: Duration,
    /// Whether the host has a freezer.
    pub(crate) can_freeze: bool,
}

impl SleepRules {
    /// When a sandbox sleeps: its own policy, else the instance's; without a freezer the last tier alone.
    pub(crate) fn policy_of(&self, record: &Record) -> SleepPolicy {
        let instance = SleepPolicy::of_instance(self.freeze_after, self.idle_threshold);
        let policy = record.spec.sleep.unwrap_or(instance);
        if self.can_freeze {
            return policy;
        }
        let stop = policy.stops_after().unwrap_or_else(|| policy.after().max(self.idle_threshold));
        SleepPolicy::of_instance(Duration::ZERO, stop)
    }

    /// For how long nobody has used a sandbox; an open connection lets that begin later.
    pub(crate) fn idle(&self, entry: &Entry) -> Duration {
        let idle = entry.activity.idle();
        if entry.activity.has_open() { idle.saturating_sub(self.silent_connection) } else { idle }
    }

    /// What a sandbox should be now if nobody uses it, and in how much time that changes.
    pub(crate) fn tier(&self, entry: &Entry) -> (Tier, Option<Duration>) {
        let record = entry.record();
        if record.spec.idle_policy != IdlePolicy::Sleep || entry.activity.is_busy() {
            return (Tier::Awake, None);
        }
        let kept_for = entry.activity.kept_for();
        if !kept_for.is_zero() {
            return (Tier::Awake, Some(kept_for));
        }
        self.policy_of(&record).tier(self.idle(entry))
    }
}
