//! Limits of a sandbox that runs: written at once, and recorded once they hold.

use std::sync::Arc;

use rustix::io::Errno;

use super::blank::settings;
use super::error::Error;
use super::live::Live;
use super::supervisor::{Shared, blocking};
use crate::model::{ByteSize, Ceiling, Limits};
use crate::sys::cgroup::{CgroupError, Hierarchy};
use crate::sys::memory;

/// The most that this host can give one sandbox.
pub(super) fn ceiling() -> Ceiling {
    // Without figures nothing is known to be too much; the kernel still refuses what it cannot do.
    let memory = memory::host().map_or(u64::MAX, |host| host.total_bytes);
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    Ceiling { memory: ByteSize::bytes(memory), nofile: nofile.unwrap_or(u64::MAX) }
}

/// Names the limits that these control groups do not have.
pub(super) fn not_enforced(cgroups: &Hierarchy) -> Vec<&'static str> {
    let all = [("memory_high", cgroups.has_memory_high()), ("cpu_max", cgroups.has_cpu_max())];
    all.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
}

/// Writes other limits for what runs. What is above its new limit of memory and cannot be given back would be
/// killed for it: that is refused instead.
pub(super) async fn apply(shared: &Arc<Shared>, live: Arc<Live>, limits: &Limits) -> Result<(), Error> {
    let settings = settings(shared, limits);
    let max = limits.memory_max;
    let too_much = move || {
        Error::Conflict(format!(
            "the sandbox uses more memory than {max} and cannot give it back; stop it first"
        ))
    };
    blocking(move || {
        if live.cgroup.memory_unreclaimable().is_some_and(|used| used > settings.memory_max) {
            return Err(too_much());
        }
        live.cgroup.limit(&settings).map_err(|error| match &error {
            CgroupError::Access { source, .. } if Errno::from_io_error(source) == Some(Errno::BUSY) => {
                too_much()
            }
            _ => Error::Cgroup(error),
        })
    })
    .await
}
