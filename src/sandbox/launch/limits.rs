//! Limits of a sandbox that runs: written at once, and recorded once they hold.

use crate::launch::host::Host;
use model::{ByteSize, Ceiling, CpuMax, Limits};
use sys::controls::{IoLimit, Settings};
use sys::memory;

/// The most that this host can give one sandbox.
pub(crate) fn ceiling() -> Ceiling {
    // Without figures nothing is known to be too much; the kernel still refuses what it cannot do.
    let memory = memory::host().map_or(u64::MAX, |host| host.total_bytes);
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    Ceiling { memory: ByteSize::bytes(memory), nofile: nofile.unwrap_or(u64::MAX) }
}

/// What is written for such limits.
pub(crate) fn settings(host: &Host, limits: &Limits) -> Settings {
    let io = limits.io_max;
    Settings {
        memory_max: limits.memory_max.as_u64(),
        memory_high: host.config.set_memory_high.then(|| limits.memory_high.as_u64()),
        swap_max: limits.swap_max.as_u64(),
        oom_group: limits.oom_group,
        cpu_max_milli: limits.cpu_max.map(CpuMax::milli),
        cpu_weight: limits.cpu_weight,
        pids_max: limits.pids_max.into(),
        io_weight: limits.io_weight,
        io: host.disk.map(|disk| IoLimit {
            disk,
            read_bps: io.read_bps.map(ByteSize::as_u64),
            write_bps: io.write_bps.map(ByteSize::as_u64),
            read_iops: io.read_iops,
            write_iops: io.write_iops,
        }),
    }
}
