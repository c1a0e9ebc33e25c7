//! When a sandbox was used last, and whether it is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Marks a sandbox as used; cheap to clone, and an atomic store to use.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Counters>);

/// Keeps a sandbox in use for as long as it lives.
#[derive(Debug)]
pub(super) struct Busy(Activity);

#[derive(Debug)]
struct Counters {
    last_ms: AtomicI64,
    busy: AtomicU32,
}

impl Activity {
    pub(super) fn new(last_ms: i64) -> Self {
        Self(Arc::new(Counters { last_ms: AtomicI64::new(last_ms), busy: AtomicU32::new(0) }))
    }

    /// Notes that the sandbox is used now.
    pub fn mark(&self) {
        self.0.last_ms.fetch_max(now_ms(), Ordering::Relaxed);
    }

    /// Notes a use that lasts until the value is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.mark();
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// When it was used last, unix milliseconds.
    pub(super) fn last_ms(&self) -> i64 {
        if self.is_busy() { now_ms() } else { self.0.last_ms.load(Ordering::Relaxed) }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.mark();
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The present, unix milliseconds.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_counts_until_dropped() {
        let activity = Activity::new(5);
        assert_eq!(activity.last_ms(), 5);
        let (first, second) = (activity.begin(), activity.begin());
        drop(first);
        assert!(activity.is_busy());
        drop(second);
        assert!(!activity.is_busy() && activity.last_ms() > 5);
    }
}
