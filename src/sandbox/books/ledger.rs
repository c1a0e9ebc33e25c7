//! What is known of all sandboxes: the registry, the record, events and figures.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, watch};

use crate::base::activity::Activity;
use crate::base::command::{MAILBOX, Order};
use crate::base::error::Error;
use crate::base::events::{Events, What};
use crate::base::records::Records;
use crate::base::share::Threads;
use crate::base::view::AppView;
use crate::books::kept::KeptWorkspaces;
use crate::books::leases::Leases;
use crate::books::registry::{Entry, Published, Registry};
use crate::running::process::table::{ProcessHost, Processes};
use crate::running::queues::PortQueues;
use metadata::{Durability, Retirement};
use model::{External, Record, SandboxId};
use telemetry::{Metrics, Trace};

/// How many requests may wait for one sandbox, so that one whose app never comes up leaves room for others.
const HELD_MAX: usize = 512;

/// Which sandboxes there are, and what is written down of them.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) records: Records,
    pub(crate) registry: Registry,
    pub(crate) kept: KeptWorkspaces,
    pub(crate) leases: Leases,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    /// The threads that tenants' files may take.
    pub(crate) threads: Threads,
    /// What the processes of all sandboxes have in common.
    pub(crate) processes: Arc<ProcessHost>,
}

impl Books {
    /// Makes an entry, which is in the registry only once it is inserted there, and the mailbox that its driver reads.
    pub(crate) fn entry(
        &self,
        record: Record,
        workspace: PathBuf,
    ) -> (Arc<Entry>, mpsc::Receiver<Box<Order>>) {
        let (mailbox, receiver) = mpsc::channel(MAILBOX);
        let id = record.spec.id;
        let activity = Activity::new(record.last_active_at);
        record.keepalive_until.iter().for_each(|until| activity.keep_until(*until));
        let published =
            Published { record: Arc::new(record), live: None, app: AppView::default(), generation: 0 };
        let entry = Entry {
            id,
            mailbox,
            state: watch::Sender::new(published),
            processes: Arc::new(Processes::new(id, activity.clone(), Arc::clone(&self.processes))),
            activity,
            workspace,
            held: Semaphore::new(HELD_MAX),
            queues: PortQueues::default(),
            share: self.threads.share(),
            count: self.registry.count(),
        };
        (Arc::new(entry), receiver)
    }

    /// Finds a sandbox.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(crate) fn find(&self, id: SandboxId) -> Result<Arc<Entry>, Error> {
        self.registry.find(id).ok_or(Error::NotFound(id))
    }

    /// Tells that something has happened.
    pub(crate) fn tell(&self, id: SandboxId, what: What) {
        self.events.tell(id, what);
    }

    /// Deletes a record and keeps the workspace for its owner.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) async fn keep_workspace(&self, id: SandboxId, owner: External) -> Result<(), Error> {
        self.records.retire(id, Retirement::Kept(owner.clone()), Durability::Power).await?;
        self.kept.insert(id, owner);
        Ok(())
    }

    /// Notes that a kept workspace has a sandbox again.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) async fn forget_kept(&self, id: SandboxId) -> Result<(), Error> {
        if !self.kept.remove(id) {
            return Ok(());
        }
        self.records.forget(id).await
    }

    /// Takes down a phase that ends now.
    pub(crate) fn note_phase(&self, operation: &str, name: &'static str, begun: Instant) {
        let trace = Trace::current().unwrap_or_else(Trace::new);
        let before = trace.len();
        trace.note(name, begun);
        self.metrics.observe_phases(operation, &trace.since(before));
    }
}
