//! While the daemon runs, the host is compared with the record again and again.
//!
//! What carries our name and nobody knows is removed; what is known and has lost what it is reached by is
//! ended, since a sandbox that cannot be spoken to is of no use, and starts anew at its next use. A process
//! that ends is noticed without this, by its descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, chain};
use crate::base::tasks::blocking;
use crate::books::registry::Entry;
use crate::launch::etc::write_etc;
use crate::launch::keeper;
use crate::launch::undo::remove_run_directory;
use crate::life::lives::Life;
use crate::running::live::Live;
use model::LaunchId;

/// How often in a row something has to be seen that nobody knows: what is just being made is known soon.
const LOOKS: u32 = 4;

/// Compares until the daemon ends.
pub(crate) async fn watch(life: Arc<Life>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let mut unknown = BTreeMap::new();
    while life.ground.tasks.pause(interval).await {
        keeper::drop_lost(&life.launching).await;
        let (host, seen) = (Arc::clone(&life), std::mem::take(&mut unknown));
        match blocking(move || look(&host, seen)).await {
            Ok(still) => unknown = still,
            Err(error) => {
                tracing::error!(error = %chain(&error), "the host cannot be compared with the record");
            }
        }
    }
}

/// One look; takes and returns how often each unknown thing has been seen.
fn look(life: &Life, mut seen: BTreeMap<LaunchId, u32>) -> Result<BTreeMap<LaunchId, u32>, Error> {
    // The files that all share, before whoever lacks them.
    if !life.ground.host.etc_dir.join("resolv.conf").exists() {
        tracing::warn!("the life files of the run directory are gone and are written again");
        write_etc(&life.ground.host)?;
    }
    life.ground.host.storage.restore_reserve();
    let there = launches(life)?;
    // Read after the host was: what is made meanwhile is known by then, or is not on the list.
    let known = known(life);
    let mut still = BTreeMap::new();
    for launch in there.difference(&known) {
        let looks = seen.remove(launch).unwrap_or(0) + 1;
        if looks < LOOKS {
            still.insert(*launch, looks);
        } else {
            remove(life, *launch);
        }
    }
    for entry in life.ground.books.registry.present() {
        if let Some(live) = entry.present() {
            check_reach(life, &entry, &live);
        }
    }
    Ok(still)
}

/// Everything on the host that carries the name of a launch.
fn launches(life: &Life) -> Result<BTreeSet<LaunchId>, Error> {
    let mut names = life.ground.host.cgroups.leaves().map_err(Error::Cgroup)?;
    let run_dir = &life.ground.host.config.run_dir;
    let failed = |source| Error::RunDirectory { path: run_dir.display().to_string(), source };
    let entries = std::fs::read_dir(run_dir).map_err(failed)?.flatten();
    names.extend(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

fn known(life: &Life) -> BTreeSet<LaunchId> {
    let of_sandboxes = life.ground.books.registry.all().into_iter().filter_map(|entry| entry.record().launch);
    of_sandboxes.chain(life.launching.pool.launches()).collect()
}

fn remove(life: &Life, launch: LaunchId) {
    tracing::warn!(%launch, "something that no sandbox has is removed");
    life.ground.books.metrics.count_leftover();
    let cgroup = life.ground.host.cgroups.leaf(&launch.to_string()).destroy().map_err(Error::Cgroup);
    let directory = remove_run_directory(&life.ground.host.config.run_dir.join(launch.to_string()));
    for error in [cgroup.err(), directory.err()].into_iter().flatten() {
        tracing::error!(%launch, error = %chain(&error), "cannot remove what no sandbox has");
    }
}

/// Ends a sandbox whose control socket is gone. Its driver notices and clears up.
fn check_reach(life: &Life, entry: &Entry, live: &Live) {
    if has_socket(&live.run_directory) || entry.present().is_none() {
        return;
    }
    tracing::error!(id = %entry.id, "a sandbox cannot be reached any more, since its run directory was removed; it is ended");
    life.ground.books.metrics.count_leftover();
    if let Err(error) =
        live.init.get().kill().and_then(|()| live.cgroup.thaw().map_err(std::io::Error::other))
    {
        tracing::error!(id = %entry.id, %error, "cannot end a sandbox that cannot be reached");
    }
}

fn has_socket(run_directory: &Path) -> bool {
    run_directory.join(engine::SOCKET_NAME).exists()
}
