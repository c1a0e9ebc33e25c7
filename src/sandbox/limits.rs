//! Limits of a sandbox that runs: written at once, and recorded once they hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::error::Error;
use super::fairness;
use super::live::Live;
use crate::supervisor::Shared;
use crate::tasks::blocking;
use model::{ByteSize, Ceiling, CpuMax, Limits};
use sys::cgroup::{CgroupError, Hierarchy};
use sys::controls::{Disk, IoLimit, Settings};
use sys::{memory, tables};

/// The most that this host can give one sandbox.
pub(super) fn ceiling() -> Ceiling {
    // Without figures nothing is known to be too much; the kernel still refuses what it cannot do.
    let memory = memory::host().map_or(u64::MAX, |host| host.total_bytes);
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    Ceiling { memory: ByteSize::bytes(memory), nofile: nofile.unwrap_or(u64::MAX) }
}

/// How many files this machine can have open at once. Without figures no more than the least that any has.
pub(super) fn open_files() -> u64 {
    memory::host().map_or(0, |host| tables::open_files(host.total_bytes))
}

/// Names the limits that this host does not have: its control groups, and the disk of the workspaces.
pub(super) fn not_enforced(cgroups: &Hierarchy, disk: Option<Disk>) -> Vec<&'static str> {
    let has = cgroups.controls();
    let all = [
        // Buffers of TCP and UDP sockets, which are the sandbox's memory wherever the kernel counts them.
        ("memory_max.sockets", has.sockets),
        ("memory_high", has.memory_high),
        ("swap_max", has.swap_max),
        ("oom_group", has.oom_group),
        ("cpu_max", has.cpu_max),
        ("cpu_weight", has.cpu_weight),
        ("io_max", has.io_max && disk.is_some()),
        ("io_weight", disk.is_some_and(|disk| cgroups.weighs(disk))),
    ];
    all.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
}

/// What is written for such limits.
pub(super) fn settings(shared: &Shared, limits: &Limits) -> Settings {
    let io = limits.io_max;
    Settings {
        memory_max: limits.memory_max.as_u64(),
        memory_high: shared.config.set_memory_high.then(|| limits.memory_high.as_u64()),
        swap_max: limits.swap_max.as_u64(),
        oom_group: limits.oom_group,
        cpu_max_milli: limits.cpu_max.map(CpuMax::milli),
        cpu_weight: limits.cpu_weight,
        pids_max: limits.pids_max.into(),
        io_weight: limits.io_weight,
        io: shared.disk.map(|disk| IoLimit {
            disk,
            read_bps: io.read_bps.map(ByteSize::as_u64),
            write_bps: io.write_bps.map(ByteSize::as_u64),
            read_iops: io.read_iops,
            write_iops: io.write_iops,
        }),
    }
}

/// Writes other limits for what runs, all or none. What is above its new limit of memory and cannot be given back would be
/// killed for it: that is refused instead.
pub(super) async fn apply(
    shared: &Arc<Shared>,
    live: Arc<Live>,
    from: &Limits,
    to: &Limits,
) -> Result<(), Error> {
    let max = to.memory_max;
    let (mut from, mut to) = (settings(shared, from), settings(shared, to));
    if live.gives_way.load(Ordering::Relaxed) {
        for settings in [&mut from, &mut to] {
            settings.cpu_weight = fairness::reduced(settings.cpu_weight);
        }
    }
    let too_much = move || {
        Error::Conflict(format!(
            "the sandbox uses more memory than {max} and cannot give it back; stop it first"
        ))
    };
    blocking(move || {
        if live.cgroup.memory_unreclaimable().is_some_and(|used| used > to.memory_max) {
            return Err(too_much());
        }
        live.cgroup.limit(&from, &to).map_err(|error| {
            if let Err(error) = live.cgroup.limit(&to, &from) {
                tracing::warn!(%error, "cannot put limits back");
            }
            match &error {
                CgroupError::Access { source, .. } if Errno::from_io_error(source) == Some(Errno::BUSY) => {
                    too_much()
                }
                _ => Error::Cgroup(error),
            }
        })
    })
    .await
}
