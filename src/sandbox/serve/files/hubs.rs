//! Who reads the changes of files for whom.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::base::tasks::{Tasks, blocking};
use model::SandboxId;
use storage::{Tally, Watcher};
use sys::watch::Watched;

/// Between two looks: what comes in a burst is read as one.
const PAUSE: Duration = Duration::from_millis(10);

/// So many at once are a flood, after which there is no pause: the kernel's queue has 16,384.
const FLOOD: usize = 1024;

/// The most inotify instances, of the 128 that root has: sandboxes that are watched beyond share one more.
const INSTANCES_MAX: usize = 48;

/// Who reads for whom. Each sandbox that is watched has a queue of its own, so that one that changes files without
/// end makes nobody else miss anything.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// The one without a sandbox is for all beyond the most.
    hubs: Mutex<HashMap<Option<SandboxId>, Weak<Hub>>>,
    tally: Tally,
}

/// A queue, and the task that reads it for as long as this lives.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) watcher: Arc<Watcher>,
    _reading: DropGuard,
}

impl Watchers {
    /// The queue of a sandbox, which is made at its first watch and goes with the last.
    pub(crate) fn hub(&self, tasks: &Tasks, id: SandboxId) -> io::Result<Arc<Hub>> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        hubs.retain(|_, hub| hub.strong_count() > 0);
        let known = |key| hubs.get(&key).and_then(Weak::upgrade);
        if let Some(hub) = known(Some(id)) {
            return Ok(hub);
        }
        let own = if hubs.len() < INSTANCES_MAX { Hub::new(tasks, &self.tally).ok() } else { None };
        let (key, hub) = match (own, known(None)) {
            (Some(own), _) => (Some(id), own),
            (None, Some(common)) => return Ok(common),
            (None, None) => (None, Hub::new(tasks, &self.tally)?),
        };
        hubs.insert(key, Arc::downgrade(&hub));
        Ok(hub)
    }
}

impl Hub {
    fn new(tasks: &Tasks, tally: &Tally) -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Watcher::new(tally.clone())?);
        let descriptor = Watched::new(watcher.descriptor()?)?;
        let ending = tasks.ending.child_token();
        tasks.spawn(read(Arc::clone(&watcher), descriptor, ending.clone()));
        Ok(Arc::new(Self { watcher, _reading: ending.drop_guard() }))
    }
}

async fn read(watcher: Arc<Watcher>, descriptor: Watched<OwnedFd>, ending: CancellationToken) {
    loop {
        let events = tokio::select! {
            () = ending.cancelled() => return,
            events = descriptor.read_with(|_| watcher.read()) => events,
        };
        match events {
            Ok(events) => {
                let is_flood = events.len() >= FLOOD;
                let watcher = Arc::clone(&watcher);
                let told = blocking(move || {
                    watcher.tell(events);
                    Ok(())
                });
                if told.await.is_err() {
                    return;
                }
                if is_flood {
                    continue;
                }
            }
            Err(error) => tracing::error!(%error, "cannot read which files have changed"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
