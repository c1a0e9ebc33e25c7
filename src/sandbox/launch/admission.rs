//! Whether the host has memory for one more running sandbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::error::{Error, RefusedReason};
use model::ByteSize;
use sys::memory::{self, HostMemory};

/// The thresholds, in percent of the host's memory that is available.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Below it no sandbox is created.
    pub headroom_percent: u8,
    /// Below it no sandbox is woken.
    pub refuse_wakes_percent: u8,
    /// Below it sandboxes are stopped, what frees most for least harm first.
    pub emergency_percent: u8,
    /// From so much pressure on, memory counts as short already where no sandbox would be created; 0: never.
    pub pressure_percent: u8,
    /// What a start is expected to take until it shows in the host's figures.
    pub start_cost: ByteSize,
}

/// Decides, and counts what has been admitted and does not show yet.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    config: Config,
    starting: Arc<AtomicU64>,
}

/// What a start is for: waking has a lower threshold, since somebody waits for what exists already, and
/// thawing the lowest: its memory is taken already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Create,
    Wake,
    Thaw,
}

/// How much memory the host has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Ample,
    /// Nothing is woken: what is not used is frozen, and its memory moved out where that can be.
    Tight,
    /// The host waits for memory: one sandbox after another is stopped, with a look at what that brings.
    Pressed,
    /// Sandboxes are stopped until there is enough.
    Emergency,
}

/// A start that was admitted; dropped when it is over.
#[derive(Debug)]
pub(crate) struct Admitted {
    starting: Arc<AtomicU64>,
    cost: u64,
}

impl Admission {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, starting: Arc::default() }
    }

    /// Admits a start.
    ///
    /// # Errors
    /// [`Error::Refused`] when memory is short.
    pub(crate) fn admit(&self, purpose: Purpose) -> Result<Admitted, Error> {
        // Counted before it is checked: of many at once, each sees those before it.
        let cost = u64::from(purpose != Purpose::Thaw);
        let ahead = self.starting.fetch_add(cost, Ordering::AcqRel);
        let admitted = Admitted { starting: Arc::clone(&self.starting), cost };
        let host = memory::host().ok();
        let percent = self.available_percent(host, ahead);
        let (threshold, reason) = match purpose {
            Purpose::Create => (self.config.headroom_percent, RefusedReason::LowMemory),
            Purpose::Wake => (self.config.refuse_wakes_percent, RefusedReason::WakesRefused),
            Purpose::Thaw => (self.config.emergency_percent, RefusedReason::WakesRefused),
        };
        let level = || self.judge(self.available_percent(host, 0), memory::pressure);
        let is_pressed = purpose != Purpose::Thaw && matches!(level(), Level::Pressed | Level::Emergency);
        if percent < f64::from(threshold) || is_pressed {
            return Err(Error::Refused { reason, mem_available_percent: percent });
        }
        Ok(admitted)
    }

    /// How the host is doing.
    pub(crate) fn level(&self) -> Level {
        self.judge(self.available_percent(memory::host().ok(), 0), memory::pressure)
    }

    pub(crate) fn is_emergency(&self) -> bool {
        self.level() == Level::Emergency
    }

    /// How much more would have to be available for no emergency, in bytes.
    pub(crate) fn missing_bytes(&self) -> u64 {
        let Ok(host) = memory::host() else { return 0 };
        let wanted = u128::from(host.total_bytes) * u128::from(self.config.emergency_percent) / 100;
        u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(host.available_bytes)
    }

    /// How much of the host's memory is available, in percent.
    pub(crate) fn host_percent(&self) -> f64 {
        self.available_percent(memory::host().ok(), 0)
    }

    /// Pressure alone says nothing of the host: one sandbox that is held at its `memory.high` makes it too,
    /// while there is plenty for the others. So it is not even read then.
    fn judge(&self, available_percent: f64, pressure: impl FnOnce() -> Option<f64>) -> Level {
        let Config { headroom_percent, refuse_wakes_percent, emergency_percent, pressure_percent, .. } =
            self.config;
        let is_below = |percent: u8| available_percent < f64::from(percent);
        let is_pressed =
            || pressure_percent > 0 && pressure().is_some_and(|p| p >= f64::from(pressure_percent));
        if is_below(emergency_percent) {
            Level::Emergency
        } else if is_below(headroom_percent) && is_pressed() {
            Level::Pressed
        } else if is_below(refuse_wakes_percent) {
            Level::Tight
        } else {
            Level::Ample
        }
    }

    /// Whether there is memory for what nobody has asked for.
    pub(crate) fn has_headroom(&self) -> bool {
        self.available_percent(memory::host().ok(), 0) >= f64::from(self.config.headroom_percent)
    }

    fn available_percent(&self, host: Option<HostMemory>, starting: u64) -> f64 {
        // Without figures nothing can be known to be short; the kernel's own limits still hold.
        let Some(host) = host else { return 100.0 };
        let reserved = starting.saturating_mul(self.config.start_cost.as_u64());
        percent(host.available_bytes.saturating_sub(reserved), host.total_bytes)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.starting.fetch_sub(self.cost, Ordering::AcqRel);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than 52 bits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { (part as f64 / whole as f64 * 1000.0).round() / 10.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_below_the_threshold_and_counts_what_is_under_way() {
        let config = |headroom, cost| Config {
            headroom_percent: headroom,
            refuse_wakes_percent: 0,
            emergency_percent: 0,
            pressure_percent: 0,
            start_cost: cost,
        };
        let never = Admission::new(config(100, ByteSize::mib(0)));
        assert!(matches!(never.admit(Purpose::Create), Err(Error::Refused { .. })));
        assert!(never.admit(Purpose::Wake).is_ok());
        let total = memory::host().unwrap().total_bytes;
        let one = Admission::new(config(1, ByteSize::bytes(total)));
        let first = one.admit(Purpose::Create).unwrap();
        assert!(matches!(one.admit(Purpose::Create), Err(Error::Refused { .. })));
        drop(first);
        assert!(one.admit(Purpose::Create).is_ok());
    }

    #[test]
    fn pressure_counts_only_where_memory_is_short() {
        let admission = Admission::new(Config {
            headroom_percent: 15,
            refuse_wakes_percent: 10,
            emergency_percent: 5,
            pressure_percent: 20,
            start_cost: ByteSize::mib(0),
        });
        let judge = |available, pressure| admission.judge(available, || pressure);
        assert_eq!(judge(50.0, Some(90.0)), Level::Ample, "one sandbox at its own limit");
        assert_eq!([judge(14.0, None), judge(14.0, Some(19.0))], [Level::Ample; 2]);
        assert_eq!(judge(14.0, Some(20.0)), Level::Pressed);
        assert_eq!([judge(9.0, None), judge(9.0, Some(0.0))], [Level::Tight; 2]);
        assert_eq!(judge(4.0, None), Level::Emergency);
    }
}
