//! What one sandbox may use.

use super::ByteSize;

/// The most processes and threads in a sandbox.
const PIDS: u32 = 1024;
/// The most open files of one process in a sandbox.
const NOFILE: u64 = 65_536;
/// `memory.high` as a share of `memory.max`, in percent: reclaim starts before the kill does.
const HIGH_PERCENT: u64 = 90;

/// The limits that the kernel enforces on a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Hard limit of memory; past it the kernel kills inside the sandbox (`memory.max`).
    pub memory_max: ByteSize,
    /// Past it the sandbox is slowed down and its memory reclaimed (`memory.high`).
    pub memory_high: ByteSize,
    /// The most processes and threads (`pids.max`).
    pub pids_max: u32,
    /// `RLIMIT_NOFILE`, hard and soft.
    pub nofile: u64,
}

impl Limits {
    /// Returns the defaults with the given hard limit of memory.
    pub fn with_memory(memory_max: ByteSize) -> Self {
        let high = memory_max.as_u64() / 100 * HIGH_PERCENT;
        Self { memory_max, memory_high: ByteSize::bytes(high), pids_max: PIDS, nofile: NOFILE }
    }
}
