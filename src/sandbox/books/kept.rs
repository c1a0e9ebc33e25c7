//! Workspaces that are kept without a sandbox, and whose they are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::books::owners::Owners;
use model::{External, SandboxId};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct KeptWorkspaces(Mutex<Kept>);

impl KeptWorkspaces {
    pub(crate) fn insert(&self, id: SandboxId, owner: External) {
        self.lock().insert(id, owner);
    }

    /// Says whether it was there.
    pub(crate) fn remove(&self, id: SandboxId) -> bool {
        self.lock().remove(id)
    }

    pub(crate) fn owner(&self, id: SandboxId) -> Option<External> {
        self.lock().owner.get(&id).cloned()
    }

    pub(crate) fn of_user(&self, user: &str) -> Vec<SandboxId> {
        self.lock().owners.of_user(user).collect()
    }

    pub(crate) fn of_project(&self, project: &str) -> Vec<SandboxId> {
        self.lock().owners.of_project(project).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Workspaces without a sandbox, and whose they are.
#[derive(Debug, Default)]
struct Kept {
    owner: HashMap<SandboxId, External>,
    owners: Owners,
}

impl Kept {
    fn insert(&mut self, id: SandboxId, owner: External) {
        self.remove(id);
        self.owners.add(id, &owner);
        self.owner.insert(id, owner);
    }

    /// Says whether it was there.
    fn remove(&mut self, id: SandboxId) -> bool {
        let owner = self.owner.remove(&id);
        if let Some(owner) = &owner {
            self.owners.remove(id, owner);
        }
        owner.is_some()
    }
}
