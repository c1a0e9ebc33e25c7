//! What one sandbox may use.

use crate::size::ByteSize;

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
/// The share of the files that a machine can have open at once that the processes of one sandbox may have between them.
const NOFILE_SHARE: u64 = 2;
/// Never less than this for a process: what programs are written for (`INR_OPEN_CUR`, getrlimit(2)).
const NOFILE_FLOOR: u64 = 1024;
/// A hundredth of a processor: the kernel's least quota is 1 ms of its period of 100 ms.
const CPU_MILLI_MIN: u32 = 10;
const CPU_MILLI_MAX: u32 = 1_024_000;
/// What the kernel takes for `cpu.weight` and `io.weight`, and what it gives whoever asks for none.
const WEIGHT_MIN: u32 = 1;
const WEIGHT_MAX: u32 = 10_000;
const WEIGHT: u32 = 100;
/// Less does not let an interpreter start within a minute.
const BPS_MIN: ByteSize = ByteSize::bytes(64 * 1024);
const IOPS_MIN: u64 = 10;
/// More than any machine has; smaller than what the kernel's files hold.
const SWAP_MAX: ByteSize = ByteSize::bytes(1 << 50);
const BPS_MAX: ByteSize = ByteSize::bytes(1 << 50);
const IOPS_MAX: u64 = u32::MAX as u64;

/// The limits that the kernel enforces on a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Hard limit of memory; past it the kernel kills inside the sandbox (`memory.max`).
    pub memory_max: ByteSize,
    /// Past it the sandbox is slowed down and its memory reclaimed (`memory.high`).
    pub memory_high: ByteSize,
    /// How much of its memory may be moved out to swap (`memory.swap.max`).
    pub swap_max: ByteSize,
    /// Whether running out of memory ends the sandbox as a whole (`memory.oom.group`), instead of one process.
    pub oom_group: bool,
    /// How much of the processors it may use (`cpu.max`); `None`: whatever is free.
    pub cpu_max: Option<CpuMax>,
    /// Its share of the processors where they are short (`cpu.weight`).
    pub cpu_weight: u32,
    /// How fast it may use the workspaces' disk (`io.max`).
    pub io_max: IoMax,
    /// Its share of that disk where it is short (`io.weight`).
    pub io_weight: u32,
    /// The most processes and threads (`pids.max`).
    pub pids_max: u32,
    /// `RLIMIT_NOFILE`, hard and soft.
    pub nofile: u64,
}

/// A share of the processors, in thousandths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax(u32);

/// The most that a sandbox may ask of the disk in a second; `None`: whatever is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoMax {
    pub read_bps: Option<ByteSize>,
    pub write_bps: Option<ByteSize>,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// What a client asks for; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsChange {
    pub memory_max: Option<ByteSize>,
    /// Absent, with another `memory_max`: a share of that.
    pub memory_high: Option<ByteSize>,
    /// Absent, with another `memory_max`: the same.
    pub swap_max: Option<ByteSize>,
    pub oom_group: Option<bool>,
    /// `Some(None)`: no limit.
    pub cpu_max: Option<Option<CpuMax>>,
    pub cpu_weight: Option<u32>,
    /// All four at once.
    pub io_max: Option<IoMax>,
    pub io_weight: Option<u32>,
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
        Self {
            memory_max,
            memory_high: share(memory_max),
            // Whoever is frozen can be moved out whole, and nobody uses up what was meant for others.
            swap_max: memory_max,
            oom_group: false,
            cpu_max: None,
            cpu_weight: WEIGHT,
            io_max: IoMax::default(),
            io_weight: WEIGHT,
            pids_max: PIDS,
            nofile: NOFILE,
        }
    }

    /// Returns the open files that one process may have where a machine can have so many in all: `nofile`, or what keeps
    /// as many processes as `pids_max` allows within their share, but no less than 1,024.
    pub fn nofile_within(&self, machine: u64) -> u64 {
        let share = machine / NOFILE_SHARE / u64::from(self.pids_max.max(1));
        self.nofile.min(share.max(NOFILE_FLOOR))
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
            all.swap_max = max;
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
        if let Some(swap) = change.swap_max {
            within("swap_max", swap, ByteSize::bytes(0), SWAP_MAX)?;
            all.swap_max = swap;
        }
        for (name, given, weight) in [
            ("cpu_weight", change.cpu_weight, &mut all.cpu_weight),
            ("io_weight", change.io_weight, &mut all.io_weight),
        ] {
            if let Some(given) = given {
                within(name, given, WEIGHT_MIN, WEIGHT_MAX)?;
                *weight = given;
            }
        }
        if let Some(io) = change.io_max {
            io.check()?;
            all.io_max = io;
        }
        all.oom_group = change.oom_group.unwrap_or(all.oom_group);
        all.cpu_max = change.cpu_max.unwrap_or(all.cpu_max);
        Ok(all)
    }
}

impl IoMax {
    fn check(&self) -> Result<(), LimitError> {
        for (name, bps) in [("io_max.read_bps", self.read_bps), ("io_max.write_bps", self.write_bps)] {
            bps.map_or(Ok(()), |bps| within(name, bps, BPS_MIN, BPS_MAX))?;
        }
        for (name, iops) in [("io_max.read_iops", self.read_iops), ("io_max.write_iops", self.write_iops)] {
            iops.map_or(Ok(()), |iops| within(name, iops, IOPS_MIN, IOPS_MAX))?;
        }
        Ok(())
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
    fn open_files_are_a_share_of_the_machines() {
        let mut limits = Limits::with_memory(ByteSize::mib(512));
        limits.nofile = 65_536;
        for (pids, machine, nofile) in [
            (1024, u64::MAX, 65_536),
            (1024, 2 * 1024 * 65_536, 65_536),
            (1024, 2 * 1024 * 65_535, 65_535),
            (32_768, 200_000_000, 3051),
            (32_768, 2_466_170, 1024),
        ] {
            limits.pids_max = pids;
            assert_eq!(limits.nofile_within(machine), nofile, "{pids} processes, {machine} files");
        }
        limits.nofile = 100;
        assert_eq!(limits.nofile_within(0), 100);
    }

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
        for (weight, ok) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
            check(LimitsChange { cpu_weight: Some(weight), ..none }, ok);
            check(LimitsChange { io_weight: Some(weight), ..none }, ok);
        }
        for (kib, ok) in [(0, false), (63, false), (64, true), (1 << 40, true), ((1 << 40) + 1, false)] {
            let bps = Some(ByteSize::bytes(kib << 10));
            check(LimitsChange { io_max: Some(IoMax { read_bps: bps, ..IoMax::default() }), ..none }, ok);
            check(LimitsChange { io_max: Some(IoMax { write_bps: bps, ..IoMax::default() }), ..none }, ok);
        }
        for (iops, ok) in [(0, false), (9, false), (10, true), (1 << 32, false)] {
            let iops = Some(iops);
            check(LimitsChange { io_max: Some(IoMax { read_iops: iops, ..IoMax::default() }), ..none }, ok);
            check(LimitsChange { io_max: Some(IoMax { write_iops: iops, ..IoMax::default() }), ..none }, ok);
        }
        check(LimitsChange { swap_max: Some(ByteSize::bytes(0)), ..none }, true);
        check(LimitsChange { swap_max: Some(ByteSize::bytes((1 << 50) + 1)), ..none }, false);
        let lowered =
            base.with(&LimitsChange { memory_max: Some(ByteSize::mib(100)), ..none }, &ceiling).unwrap();
        assert_eq!((lowered.memory_high, lowered.swap_max), (ByteSize::mib(90), ByteSize::mib(100)));
    }
}
