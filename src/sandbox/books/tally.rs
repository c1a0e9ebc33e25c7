//! What is known of all sandboxes together without looking at each: how many there are of a status, which of
//! them exist as processes, and of which the time to sleep has to be looked at anew.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::view::Counts;
use model::{SandboxId, Status};

/// What is counted of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) status: Status,
    /// Whether there are processes of it, running or frozen.
    pub(crate) is_present: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    statuses: [AtomicU64; Status::ALL.len()],
    present: Mutex<BTreeSet<SandboxId>>,
    changed: Mutex<BTreeSet<SandboxId>>,
    /// Something was added to `changed`.
    news: Notify,
}

impl Tally {
    /// Takes down that a sandbox comes, changes, or goes.
    pub(crate) fn change(&self, id: SandboxId, before: Option<Standing>, now: Option<Standing>) {
        // Added first: a reader in between sees one too many rather than one that is nowhere.
        if let Some(standing) = now {
            self.number(standing.status).fetch_add(1, Ordering::AcqRel);
        }
        if let Some(standing) = before {
            self.number(standing.status).fetch_sub(1, Ordering::AcqRel);
        }
        let is_present = |standing: Option<Standing>| standing.is_some_and(|s| s.is_present);
        if is_present(before) != is_present(now) {
            let mut present = lock(&self.present);
            if is_present(now) {
                present.insert(id)
            } else {
                present.remove(&id)
            };
        }
        if is_present(now) {
            self.look_at(id);
        }
    }

    /// Notes that the time at which a sandbox is to sleep may have come nearer.
    pub(crate) fn look_at(&self, id: SandboxId) {
        lock(&self.changed).insert(id);
        self.news.notify_one();
    }

    /// Waits for a sandbox that has to be looked at.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes those that have to be looked at.
    pub(crate) fn take_changed(&self) -> BTreeSet<SandboxId> {
        std::mem::take(&mut lock(&self.changed))
    }

    /// Those of which there are processes.
    pub(crate) fn present(&self) -> Vec<SandboxId> {
        lock(&self.present).iter().copied().collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        let number = |status| self.number(status).load(Ordering::Acquire);
        Counts {
            creating: number(Status::Creating),
            running: number(Status::Running),
            paused: number(Status::Paused),
            stopped: number(Status::Stopped),
            error: number(Status::Error),
        }
    }

    fn number(&self, status: Status) -> &AtomicU64 {
        let [creating, running, paused, stopped, error] = &self.statuses;
        match status {
            Status::Creating => creating,
            Status::Running => running,
            Status::Paused => paused,
            Status::Stopped => stopped,
            Status::Error => error,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
