//! What one sandbox may use.

use super::ByteSize;

/// The most processes and threads in a sandbox.
const PIDS: u32 = 1024;
/// The most open files of one process in a sandbox.
const NOFILE: u64 = 65_536;
/// `memory.high` as a share of `memory.max`, in percent: reclaim starts before the kill does.
const HIGH_PERCENT: u64 = 90;
/// The least memory that a client may ask for: less does not hold a shell and an interpreter.
const MEMORY_MIN: ByteSize = ByteSize::mib(32);
/// `sandbox-init`, a shell and what it starts.
const PIDS_MIN: u32 = 16;
/// The kernel's own most on most machines (`kernel.pid_max`).
const PIDS_MAX: u32 = 32_768;
/// Less does not start an interpreter.
const NOFILE_MIN: u64 = 64;
/// A hundredth of a processor: the kernel's least quota is 1 ms of its period of 100 ms.
const CPU_MILLI_MIN: u32 = 10;
const CPU_MILLI_MAX: u32 = 1_024_000;

/// The limits that the kernel enforces on a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Hard limit of memory; past it the kernel kills inside the sandbox (`memory.max`).
    pub memory_max: ByteSize,
    /// Past it the sandbox is slowed down and its memory reclaimed (`memory.high`).
    pub memory_high: ByteSize,
    /// How much of the processors it may use (`cpu.max`); `None`: whatever is free.
    pub cpu_max: Option<CpuMax>,
    /// The most processes and threads (`pids.max`).
    pub pids_max: u32,
    /// `RLIMIT_NOFILE`, hard and soft.
    pub nofile: u64,
}

/// A share of the processors, in thousandths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax(u32);

/// What a client asks for; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsChange {
    pub memory_max: Option<ByteSize>,
    /// Absent, with another `memory_max`: a share of that.
    pub memory_high: Option<ByteSize>,
    /// `Some(None)`: no limit.
    pub cpu_max: Option<Option<CpuMax>>,
    pub pids_max: Option<u32>,
    pub nofile: Option<u64>,
}

/// The most that a host can give one sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Ceiling {
    pub memory: ByteSize,
    /// The daemon's own hard limit.
    pub nofile: u64,
}

/// A limit that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.{name} is from {least} to {most}, not {given}")]
pub struct LimitError {
    name: &'static str,
    least: String,
    most: String,
    given: String,
}

impl Limits {
    /// Returns the defaults with the given hard limit of memory.
    pub fn with_memory(memory_max: ByteSize) -> Self {
        Self { memory_max, memory_high: share(memory_max), cpu_max: None, pids_max: PIDS, nofile: NOFILE }
    }

    /// Returns these limits as a client wants them.
    ///
    /// # Errors
    /// The first that cannot be, with what can.
    pub fn with(&self, change: &LimitsChange, ceiling: &Ceiling) -> Result<Self, LimitError> {
        let mut all = self.clone();
        if let Some(max) = change.memory_max {
            within("memory_max", max, MEMORY_MIN, ceiling.memory)?;
            all.memory_max = max;
            all.memory_high = share(max);
        }
        if let Some(high) = change.memory_high {
            within("memory_high", high, MEMORY_MIN, all.memory_max)?;
            all.memory_high = high;
        }
        if let Some(pids) = change.pids_max {
            within("pids_max", pids, PIDS_MIN, PIDS_MAX)?;
            all.pids_max = pids;
        }
        if let Some(nofile) = change.nofile {
            within("nofile", nofile, NOFILE_MIN, ceiling.nofile)?;
            all.nofile = nofile;
        }
        all.cpu_max = change.cpu_max.unwrap_or(all.cpu_max);
        Ok(all)
    }
}

impl CpuMax {
    /// A number of processors: 0.5 is half of one.
    ///
    /// # Errors
    /// Less than a hundredth, more than any machine has, or no number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked, and a thousandth is as fine as it gets"
    )]
    pub fn from_processors(processors: f64) -> Result<Self, LimitError> {
        let milli = (processors * 1000.0).round();
        if milli >= f64::from(CPU_MILLI_MIN) && milli <= f64::from(CPU_MILLI_MAX) {
            return Ok(Self(milli as u32));
        }
        Err(LimitError {
            name: "cpu_max",
            least: Self(CPU_MILLI_MIN).processors().to_string(),
            most: Self(CPU_MILLI_MAX).processors().to_string(),
            given: processors.to_string(),
        })
    }

    pub fn processors(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    pub const fn milli(self) -> u32 {
        self.0
    }

    /// As it was recorded.
    pub const fn from_milli(milli: u32) -> Self {
        Self(milli)
    }
}

fn share(memory_max: ByteSize) -> ByteSize {
    ByteSize::bytes(memory_max.as_u64() / 100 * HIGH_PERCENT)
}

fn within<T: PartialOrd + ToString>(
    name: &'static str,
    given: T,
    least: T,
    most: T,
) -> Result<(), LimitError> {
    if given >= least && given <= most {
        return Ok(());
    }
    Err(LimitError { name, least: least.to_string(), most: most.to_string(), given: given.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_checked_at_its_edges() {
        let base = Limits::with_memory(ByteSize::mib(512));
        let ceiling = Ceiling { memory: ByteSize::mib(1024), nofile: 4096 };
        let none = LimitsChange::default();
        let check = |change: LimitsChange, ok: bool| {
            assert_eq!(base.with(&change, &ceiling).is_ok(), ok, "{change:?}");
        };
        assert_eq!(base.with(&none, &ceiling), Ok(base.clone()));
        for (mib, ok) in [(31, false), (32, true), (1024, true), (1025, false)] {
            check(LimitsChange { memory_max: Some(ByteSize::mib(mib)), ..none }, ok);
        }
        for (mib, ok) in [(31, false), (32, true), (512, true), (513, false)] {
            check(LimitsChange { memory_high: Some(ByteSize::mib(mib)), ..none }, ok);
        }
        for (pids, ok) in [(0, false), (15, false), (16, true), (32_768, true), (32_769, false)] {
            check(LimitsChange { pids_max: Some(pids), ..none }, ok);
        }
        for (nofile, ok) in [(63, false), (64, true), (4096, true), (4097, false), (u64::MAX, false)] {
            check(LimitsChange { nofile: Some(nofile), ..none }, ok);
        }
        for (cpus, ok) in [
            (0.0, false),
            (-1.0, false),
            (0.009, false),
            (0.01, true),
            (1.5, true),
            (1025.0, false),
            (f64::NAN, false),
        ] {
            assert_eq!(CpuMax::from_processors(cpus).is_ok(), ok, "{cpus}");
        }
        let lowered =
            base.with(&LimitsChange { memory_max: Some(ByteSize::mib(100)), ..none }, &ceiling).unwrap();
        assert_eq!(lowered.memory_high, ByteSize::mib(90));
    }
}
