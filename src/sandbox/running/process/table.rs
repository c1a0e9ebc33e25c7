//! The processes of one sandbox, and how long ended ones are kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::activity::{Activity, now_ms};
use crate::base::error::Error;
use crate::base::tasks::Tasks;
use crate::running::process::child::Process;
use crate::running::process::nouns::{Config, ProcessId};
use crate::running::process::rings::{RING_BYTES_MIN, Rings};
use model::SandboxId;

/// How many ended processes are kept.
const ENDED_MAX: usize = 64;
/// For how long an ended process is kept.
const ENDED_FOR: Duration = Duration::from_secs(15 * 60);
/// How many ended processes are kept whose output is still open: what they left in the background would be
/// killed by its next line otherwise.
const OPEN_MAX: usize = 256;
/// What the rings of one sandbox may hold together before new ones are made small: they are memory
/// of the host, and not the sandbox's own.
const RINGS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What the processes of all sandboxes have in common.
#[derive(Debug)]
pub(crate) struct ProcessHost {
    pub(crate) tasks: Tasks,
    pub(crate) config: Config,
    /// What the output of all of them takes.
    pub(crate) rings: Arc<Rings>,
}

/// The processes of one sandbox, and what their tasks need of it.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) id: SandboxId,
    pub(crate) activity: Activity,
    pub(crate) host: Arc<ProcessHost>,
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: BTreeMap<ProcessId, Arc<Process>>,
    by_key: HashMap<u64, ProcessId>,
}

impl Processes {
    pub(crate) fn new(id: SandboxId, activity: Activity, host: Arc<ProcessHost>) -> Self {
        Self { id, activity, host, maps: Mutex::default() }
    }

    pub(crate) fn insert(&self, process: Arc<Process>) {
        let mut maps = self.lock();
        maps.by_key.insert(process.id.key(), process.id);
        maps.by_id.insert(process.id, process);
    }

    pub(crate) fn remove(&self, id: ProcessId) {
        let mut maps = self.lock();
        maps.by_key.remove(&id.key());
        let removed = maps.by_id.remove(&id);
        drop(maps);
        if let Some(process) = removed {
            process.forgotten.cancel();
            process.link.remove_ring(id);
        }
    }

    pub(crate) fn find(&self, id: ProcessId) -> Result<Arc<Process>, Error> {
        self.lock().by_id.get(&id).cloned().ok_or(Error::NoProcess)
    }

    pub(crate) fn of_key(&self, key: u64) -> Option<Arc<Process>> {
        let maps = self.lock();
        maps.by_key.get(&key).and_then(|id| maps.by_id.get(id)).cloned()
    }

    /// All of them, the newest first.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        self.lock().by_id.values().rev().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().by_id.is_empty()
    }

    /// How much a new ring may hold; an error when too many processes run.
    pub(crate) fn admit(&self, wanted: u64, running_max: usize) -> Result<u64, Error> {
        let maps = self.lock();
        let running = maps.by_id.values().filter(|process| !process.ended.is_cancelled()).count();
        if running >= running_max {
            let text = format!("{running} processes run in this sandbox already; end some, or wait");
            return Err(Error::TooMany(text));
        }
        let held: u64 = maps.by_id.values().map(|process| process.output.capacity()).sum();
        Ok(wanted.min(RINGS_BYTES_MAX.saturating_sub(held).max(RING_BYTES_MIN)))
    }

    /// The processes that have ended and of whose output nothing more can come.
    pub(crate) fn over(&self) -> Over {
        let maps = self.lock();
        let mut over = maps.by_id.iter().filter(|(_, process)| process.is_over()).map(|(id, _)| *id);
        let oldest = over.next();
        (usize::from(oldest.is_some()) + over.count(), oldest)
    }

    /// The processes that are kept for too long, or are too many.
    fn surplus(&self) -> Vec<ProcessId> {
        let oldest = now_ms().saturating_sub(i64::try_from(ENDED_FOR.as_millis()).unwrap_or(i64::MAX));
        let (mut over, mut open, mut surplus) = (0, 0, Vec::new());
        for (id, process) in self.lock().by_id.iter().rev() {
            let seen = process.output.seen();
            let Some(ended) = seen.ended else { continue };
            let (count, max) = if seen.is_closed { (&mut over, ENDED_MAX) } else { (&mut open, OPEN_MAX) };
            *count += 1;
            if *count > max || (seen.is_closed && ended.at < oldest) {
                surplus.push(*id);
            }
        }
        surplus
    }

    /// Forgets processes that ended long ago, or when there are many, the oldest first.
    pub(crate) fn prune(&self) {
        for id in self.surplus() {
            self.remove(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many ended processes there are whose output is all there, and the oldest.
pub(crate) type Over = (usize, Option<ProcessId>);
