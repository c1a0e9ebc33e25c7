//! When a sandbox was used last, and whether it is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use tokio::sync::Notify;

/// Counts the bytes of one connection as use; cheap to clone.
#[derive(Debug, Clone)]
pub struct Counted(Arc<Open>);

#[derive(Debug)]
struct Open(Activity);

/// Marks a sandbox as used; cheap to clone, and an atomic store to use.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Counters>);

/// Keeps a sandbox in use for as long as it lives.
#[derive(Debug)]
pub struct Busy(Activity);

#[derive(Debug)]
struct Counters {
    /// By the clock that nobody sets, so that a jump of the other one neither wakes nor stops anything.
    last_ms: AtomicI64,
    /// The last use that was taken down.
    noted_ms: AtomicI64,
    /// Until when it is kept awake by request, by the same clock.
    kept_until_ms: AtomicI64,
    busy: AtomicU32,
    /// How many connections are open, whether or not bytes go through them.
    open: AtomicU32,
    /// Whether a use has to wake it.
    asleep: AtomicBool,
    wanted: Notify,
}

impl Activity {
    /// Begins with a last use in unix milliseconds; one in the future counts as now.
    pub(crate) fn new(last_ms: i64) -> Self {
        let idle = now_ms().saturating_sub(last_ms).max(0);
        let last_ms = monotonic_ms().saturating_sub(idle);
        Self(Arc::new(Counters {
            last_ms: AtomicI64::new(last_ms),
            noted_ms: AtomicI64::new(last_ms),
            kept_until_ms: AtomicI64::new(i64::MIN),
            busy: AtomicU32::new(0),
            open: AtomicU32::new(0),
            asleep: AtomicBool::new(false),
            wanted: Notify::new(),
        }))
    }

    /// Notes that the sandbox is used now; that alone does not wake it.
    pub(crate) fn mark(&self) {
        self.0.last_ms.fetch_max(monotonic_ms(), Ordering::Relaxed);
    }

    /// Notes that a client has sent something, which wakes a frozen sandbox.
    pub(crate) fn want(&self) {
        self.mark();
        if self.0.asleep.load(Ordering::Acquire) && self.0.asleep.swap(false, Ordering::AcqRel) {
            self.0.wanted.notify_one();
        }
    }

    /// Notes a use that lasts until the value is dropped.
    pub(crate) fn begin(&self) -> Busy {
        self.mark();
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Notes a connection that is open until the last clone of the value is dropped.
    pub(crate) fn count(&self) -> Counted {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::new(Open(self.clone())))
    }

    pub(crate) fn has_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) > 0
    }

    /// For how long nobody has used it.
    pub(crate) fn idle(&self) -> Duration {
        if self.is_busy() {
            return Duration::ZERO;
        }
        let idle = monotonic_ms().saturating_sub(self.0.last_ms.load(Ordering::Relaxed));
        Duration::from_millis(u64::try_from(idle).unwrap_or_default())
    }

    /// When it was used last, unix milliseconds.
    pub(crate) fn last_ms(&self) -> i64 {
        now_ms().saturating_sub(i64::try_from(self.idle().as_millis()).unwrap_or(i64::MAX))
    }

    /// When it was used last, unix milliseconds, unless nobody has since this was asked before.
    pub(crate) fn take_use(&self) -> Option<i64> {
        let last = self.0.last_ms.load(Ordering::Relaxed);
        let is_new = self.0.noted_ms.swap(last, Ordering::Relaxed) != last;
        (is_new || self.is_busy()).then(|| self.last_ms())
    }

    /// Keeps it awake until a time in unix milliseconds, as far ahead as that is now: whoever sets the
    /// clock afterwards changes nothing.
    pub(crate) fn keep_until(&self, until_ms: i64) {
        let ahead = until_ms.saturating_sub(now_ms());
        self.0.kept_until_ms.store(monotonic_ms().saturating_add(ahead), Ordering::Relaxed);
    }

    /// For how much longer it is kept awake by request.
    pub(crate) fn kept_for(&self) -> Duration {
        let ahead = self.0.kept_until_ms.load(Ordering::Relaxed).saturating_sub(monotonic_ms());
        Duration::from_millis(u64::try_from(ahead).unwrap_or_default())
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }

    /// From now on a client that sends something wakes the sandbox.
    pub(crate) fn fall_asleep(&self) {
        // What was wanted of an earlier sleep has been given.
        let _stale: Option<()> = self.0.wanted.notified().now_or_never();
        self.0.asleep.store(true, Ordering::Release);
    }

    pub(crate) fn wake_up(&self) {
        self.0.asleep.store(false, Ordering::Release);
    }

    /// Waits until a client wants the sandbox while it sleeps.
    pub(crate) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }
}

impl Counted {
    /// The client has sent something, which wakes a frozen sandbox.
    pub fn by_client(&self) {
        self.0.0.want();
    }

    /// The app has.
    pub fn by_app(&self) {
        self.0.0.mark();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.mark();
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The present, unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds by the clock that nobody sets, `CLOCK_MONOTONIC`: the same for every process until the host is
/// started again. It stands still while the host is suspended, when nobody can use anything.
pub(crate) fn monotonic_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_counts_until_dropped() {
        let activity = Activity::new(5);
        assert!(activity.idle() > Duration::from_secs(1_000_000));
        assert!((activity.last_ms() - 5).abs() < 1000, "{}", activity.last_ms());
        let (first, second) = (activity.begin(), activity.begin());
        drop(first);
        assert!(activity.is_busy() && activity.idle().is_zero());
        assert!(activity.take_use().is_some() && activity.take_use().is_some(), "it is in use");
        drop(second);
        assert!(activity.take_use().is_some() || activity.idle() < Duration::from_millis(5));
        assert!(activity.take_use().is_none(), "nobody has used it since");
        assert!(!activity.is_busy() && activity.idle() < Duration::from_secs(1));
        assert!(Activity::new(i64::MAX).idle() < Duration::from_secs(1), "a clock that was set back");
    }

    #[test]
    fn kept_awake_for_as_long_as_was_asked() {
        let activity = Activity::new(0);
        assert!(activity.kept_for().is_zero());
        activity.keep_until(now_ms() + 60_000);
        assert!(activity.kept_for().abs_diff(Duration::from_secs(60)) < Duration::from_secs(1));
        activity.keep_until(now_ms() - 60_000);
        assert!(activity.kept_for().is_zero());
    }

    #[tokio::test]
    async fn only_what_is_asleep_is_woken_and_once() {
        let activity = Activity::new(0);
        let is_wanted = || activity.wanted().now_or_never().is_some();
        activity.want();
        assert!(!is_wanted(), "it was awake");
        activity.fall_asleep();
        activity.mark();
        assert!(!is_wanted(), "its own output is no reason");
        activity.want();
        activity.want();
        assert!(is_wanted() && !is_wanted());
        activity.fall_asleep();
        activity.want();
        activity.wake_up();
        activity.fall_asleep();
        assert!(!is_wanted(), "an old wish is forgotten");
    }
}
