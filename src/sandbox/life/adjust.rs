//! Other limits for a sandbox that runs: all or none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::base::error::Error;
use crate::base::tasks::blocking;
use crate::launch::host::Host;
use crate::launch::limits::settings;
use crate::running::live::{Live, reduced};
use model::Limits;
use sys::cgroup::CgroupError;

/// Writes other limits for what runs, all or none. What is above its new limit of memory and cannot be given back would be
/// killed for it: that is refused instead.
pub(crate) async fn apply(
    host: &Arc<Host>,
    live: Arc<Live>,
    from: &Limits,
    to: &Limits,
) -> Result<(), Error> {
    let max = to.memory_max;
    let (mut from, mut to) = (settings(host, from), settings(host, to));
    if live.gives_way.load(Ordering::Relaxed) {
        for settings in [&mut from, &mut to] {
            settings.cpu_weight = reduced(settings.cpu_weight);
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
