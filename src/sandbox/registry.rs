//! The map of all sandboxes.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Semaphore, mpsc, watch};

use super::activity::Activity;
use super::connect::Doors;
use super::driver::Order;
use super::live::Live;
use super::process::Processes;
use super::view::{AppView, Counts};
use crate::model::{Record, SandboxId, Status};

/// What the driver publishes.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) record: Arc<Record>,
    pub(super) live: Option<Arc<Live>>,
    pub(super) app: AppView,
    pub(super) generation: u64,
}

/// One sandbox, as everybody but its driver knows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: SandboxId,
    pub(super) mailbox: mpsc::Sender<Order>,
    /// Changed by the driver and by what it started.
    pub(super) state: watch::Sender<Published>,
    pub(super) activity: Activity,
    pub(super) processes: Processes,
    pub(super) workspace: PathBuf,
    /// How many more requests may wait for it.
    pub(super) held: Semaphore,
    pub(super) doors: Doors,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    entries: HashMap<SandboxId, Arc<Entry>>,
    by_project: HashMap<String, BTreeSet<SandboxId>>,
}

impl Entry {
    pub(super) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.state.borrow().record)
    }

    pub(super) fn status(&self) -> Status {
        self.state.borrow().record.status
    }

    /// What runs and can be talked to; nothing while it is frozen.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        let published = self.state.borrow();
        published.live.clone().filter(|_| published.record.status != Status::Paused)
    }

    /// What exists of it, running or frozen. Whoever asks it something has to look at the status.
    pub(super) fn present(&self) -> Option<Arc<Live>> {
        self.state.borrow().live.clone()
    }

    /// Publishes a change.
    pub(super) fn publish(&self, change: impl FnOnce(&mut Published)) {
        self.state.send_modify(|published| {
            change(published);
            published.generation += 1;
        });
    }
}

impl Registry {
    pub(super) fn find(&self, id: SandboxId) -> Option<Arc<Entry>> {
        self.read().entries.get(&id).cloned()
    }

    /// Adds a sandbox unless its id, or its project when `unique_project` says so, is taken; then the
    /// one that has it is returned as the error.
    pub(super) fn insert(&self, entry: Arc<Entry>, unique_project: bool) -> Result<(), Arc<Entry>> {
        let record = entry.record();
        let mut maps = self.write();
        if let Some(taken) = maps.entries.get(&entry.id) {
            return Err(Arc::clone(taken));
        }
        if let Some(project) = record.spec.external.project_id() {
            if unique_project
                && let Some(taken) = maps.by_project.get(project).and_then(BTreeSet::first)
                && let Some(taken) = maps.entries.get(taken)
            {
                return Err(Arc::clone(taken));
            }
            maps.by_project.entry(project.to_owned()).or_default().insert(entry.id);
        }
        maps.entries.insert(entry.id, entry);
        Ok(())
    }

    /// Notes that a sandbox belongs to another project now.
    pub(super) fn move_project(&self, id: SandboxId, from: Option<&str>, to: Option<&str>) {
        let mut maps = self.write();
        if let Some(project) = from {
            maps.leave_project(project, id);
        }
        if let Some(project) = to {
            maps.by_project.entry(project.to_owned()).or_default().insert(id);
        }
    }

    pub(super) fn remove(&self, id: SandboxId) {
        let mut maps = self.write();
        if let Some(entry) = maps.entries.remove(&id)
            && let Some(project) = entry.record().spec.external.project_id()
        {
            maps.leave_project(project, id);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.read().entries.len()
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.read().entries.values().cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.read().entries.values() {
            match entry.status() {
                Status::Creating => counts.creating += 1,
                Status::Running => counts.running += 1,
                Status::Paused => counts.paused += 1,
                Status::Stopped => counts.stopped += 1,
                Status::Error => counts.error += 1,
            }
        }
        counts
    }

    // A panic ends the process, so a lock that a panic left is never seen.
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn leave_project(&mut self, project: &str, id: SandboxId) {
        if let Some(ids) = self.by_project.get_mut(project) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_project.remove(project);
            }
        }
    }
}
