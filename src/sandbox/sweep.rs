//! While the daemon runs, the host is compared with the record again and again.
//!
//! What carries our name and nobody knows is removed; what is known and has lost what it is reached by is
//! ended, since a sandbox that cannot be spoken to is of no use, and starts anew at its next use. A process
//! that ends is noticed without this, by its descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::expiry::pause;
use super::pool;
use super::registry::Entry;
use crate::error::Error;
use crate::error::chain;
use crate::etc::write_etc;
use crate::live::Live;
use crate::supervisor::Shared;
use crate::tasks::blocking;
use crate::undo::remove_run_directory;
use model::LaunchId;

/// How often in a row something has to be seen that nobody knows: what is just being made is known soon.
const LOOKS: u32 = 4;

/// Compares until the daemon ends.
pub(super) async fn watch(shared: Arc<Shared>) {
    let interval = shared.config.sweep_interval;
    if interval.is_zero() {
        return;
    }
    let mut unknown = BTreeMap::new();
    while pause(&shared, interval).await {
        pool::drop_lost(&shared).await;
        let (host, seen) = (Arc::clone(&shared), std::mem::take(&mut unknown));
        match blocking(move || look(&host, seen)).await {
            Ok(still) => unknown = still,
            Err(error) => {
                tracing::error!(error = %chain(&error), "the host cannot be compared with the record");
            }
        }
    }
}

/// One look; takes and returns how often each unknown thing has been seen.
fn look(shared: &Shared, mut seen: BTreeMap<LaunchId, u32>) -> Result<BTreeMap<LaunchId, u32>, Error> {
    // The files that all share, before whoever lacks them.
    if !shared.etc_dir.join("resolv.conf").exists() {
        tracing::warn!("the shared files of the run directory are gone and are written again");
        write_etc(shared)?;
    }
    shared.storage.restore_reserve();
    let there = launches(shared)?;
    // Read after the host was: what is made meanwhile is known by then, or is not on the list.
    let known = known(shared);
    let mut still = BTreeMap::new();
    for launch in there.difference(&known) {
        let looks = seen.remove(launch).unwrap_or(0) + 1;
        if looks < LOOKS {
            still.insert(*launch, looks);
        } else {
            remove(shared, *launch);
        }
    }
    for entry in shared.registry.present() {
        if let Some(live) = entry.present() {
            check_reach(shared, &entry, &live);
        }
    }
    Ok(still)
}

/// Everything on the host that carries the name of a launch.
fn launches(shared: &Shared) -> Result<BTreeSet<LaunchId>, Error> {
    let mut names = shared.cgroups.leaves().map_err(Error::Cgroup)?;
    let run_dir = &shared.config.run_dir;
    let failed = |source| Error::RunDirectory { path: run_dir.display().to_string(), source };
    let entries = std::fs::read_dir(run_dir).map_err(failed)?.flatten();
    names.extend(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

fn known(shared: &Shared) -> BTreeSet<LaunchId> {
    let of_sandboxes = shared.registry.all().into_iter().filter_map(|entry| entry.record().launch);
    of_sandboxes.chain(shared.pool.launches()).collect()
}

fn remove(shared: &Shared, launch: LaunchId) {
    tracing::warn!(%launch, "something that no sandbox has is removed");
    shared.metrics.count_leftover();
    let cgroup = shared.cgroups.leaf(&launch.to_string()).destroy().map_err(Error::Cgroup);
    let directory = remove_run_directory(&shared.config.run_dir.join(launch.to_string()));
    for error in [cgroup.err(), directory.err()].into_iter().flatten() {
        tracing::error!(%launch, error = %chain(&error), "cannot remove what no sandbox has");
    }
}

/// Ends a sandbox whose control socket is gone. Its driver notices and clears up.
fn check_reach(shared: &Shared, entry: &Entry, live: &Live) {
    if has_socket(&live.run_directory) || entry.present().is_none() {
        return;
    }
    tracing::error!(id = %entry.id, "a sandbox cannot be reached any more, since its run directory was removed; it is ended");
    shared.metrics.count_leftover();
    if let Err(error) =
        live.init.get().kill().and_then(|()| live.cgroup.thaw().map_err(std::io::Error::other))
    {
        tracing::error!(id = %entry.id, %error, "cannot end a sandbox that cannot be reached");
    }
}

fn has_socket(run_directory: &Path) -> bool {
    run_directory.join(engine::SOCKET_NAME).exists()
}
