//! How the steps of a launch are taken back: in reverse, and on after a failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::{Error, chain};
use crate::base::tasks::blocking;
use crate::launch::ground::Ground;
use crate::running::live::Live;
use metadata::Durability;
use model::SandboxId;
use sys::cgroup::Cgroup;

/// How one step is taken back.
#[derive(Debug)]
pub(crate) enum Undo {
    Lease(u32),
    Record(SandboxId),
    Workspace(SandboxId),
    Cgroup(Cgroup),
    RunDirectory(PathBuf),
}

/// Removes what a sandbox that has ended leaves on the host; its processes are dead or dying.
///
/// # Errors
/// What could not be removed; the rest is gone.
pub(crate) async fn tear_down(ground: &Ground, live: &Live) -> Result<(), Error> {
    let undo = vec![
        Undo::Lease(live.address_index),
        Undo::RunDirectory(live.run_directory.clone()),
        Undo::Cgroup(live.cgroup.clone()),
    ];
    let failures = run(ground, undo).await;
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(()),
        Some(cause) => {
            Err(Error::Leftovers { cause: Box::new(cause), cleanup: failures.map(|e| chain(&e)).collect() })
        }
    }
}

/// Takes steps back after a failure.
pub(crate) async fn take_back(ground: &Ground, undo: Vec<Undo>, cause: Error) -> Error {
    let failures = run(ground, undo).await;
    if failures.is_empty() {
        return cause;
    }
    Error::Leftovers { cause: Box::new(cause), cleanup: failures.iter().map(chain).collect() }
}

/// Takes steps back, the last one first; goes on after a failure.
pub(crate) async fn run(ground: &Ground, undo: Vec<Undo>) -> Vec<Error> {
    let mut failures = Vec::new();
    for step in undo.into_iter().rev() {
        if let Err(error) = step.run(ground).await {
            failures.push(error);
        }
    }
    failures
}

impl Undo {
    async fn run(self, ground: &Ground) -> Result<(), Error> {
        match self {
            Self::Lease(index) => {
                ground.host.network.depart(index);
                // Released by `expiry::watch_departed`, behind everything that anybody waits for.
                ground.books.leases.depart(index);
                Ok(())
            }
            Self::Record(id) => ground.books.records.delete(id, Durability::Process).await,
            Self::Workspace(id) => {
                let host = Arc::clone(&ground.host);
                blocking(move || host.storage.remove(id).map(drop).map_err(Error::Storage)).await
            }
            Self::Cgroup(cgroup) => blocking(move || cgroup.destroy().map_err(Error::Cgroup)).await,
            Self::RunDirectory(path) => blocking(move || remove_run_directory(&path)).await,
        }
    }
}

/// Removes a sandbox's run directory; one that is not there is no error.
pub(crate) fn remove_run_directory(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| Error::RunDirectory { path: path.display().to_string(), source }),
    }
}
