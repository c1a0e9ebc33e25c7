//! Writing the record, and waiting until what was written lasts.

use tokio::sync::oneshot;

use crate::base::error::Error;
use metadata::{Durability, Metadata, MetadataError, Retirement};
use model::{Record, SandboxId};

/// What the writer calls once it is done.
type Done = Box<dyn FnOnce(Result<(), MetadataError>) + Send>;

/// The record of all sandboxes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Records(Metadata);

impl Records {
    pub(crate) fn new(metadata: Metadata) -> Self {
        Self(metadata)
    }

    /// Writes a record and waits until it is as durable as asked.
    ///
    /// # Errors
    /// The writer's, or the daemon ends.
    pub(crate) async fn put(&self, record: Record, durability: Durability) -> Result<(), Error> {
        self.written(|done| self.0.put(record, durability, done)).await
    }

    /// The same, once a step on the writer's thread has succeeded: one sync is for both.
    ///
    /// # Errors
    /// The writer's, or the daemon ends.
    pub(crate) async fn put_after(
        &self,
        step: Box<dyn FnOnce() -> bool + Send>,
        record: Record,
        durability: Durability,
    ) -> Result<(), Error> {
        self.written(|done| self.0.put_after(step, record, durability, done)).await
    }

    /// Writes a record in its turn, without waiting; `failed` is told if it cannot be written.
    pub(crate) fn post(&self, record: Record, failed: impl FnOnce(Error) + Send + 'static) {
        let done = move |result: Result<(), MetadataError>| {
            if let Err(error) = result {
                failed(Error::Metadata(error));
            }
        };
        self.0.put(record, Durability::Process, Box::new(done));
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// The writer's, or the daemon ends.
    pub(crate) async fn delete(&self, id: SandboxId, durability: Durability) -> Result<(), Error> {
        self.written(|done| self.0.delete(id, durability, done)).await
    }

    /// Deletes a record and notes what becomes of the workspace, in one transaction.
    ///
    /// # Errors
    /// The writer's, or the daemon ends.
    pub(crate) async fn retire(
        &self,
        id: SandboxId,
        to: Retirement,
        durability: Durability,
    ) -> Result<(), Error> {
        self.written(|done| self.0.retire(id, to, durability, done)).await
    }

    /// Deletes what was noted of a workspace without a sandbox.
    ///
    /// # Errors
    /// The writer's, or the daemon ends.
    pub(crate) async fn forget(&self, id: SandboxId) -> Result<(), Error> {
        self.written(|done| self.0.forget(id, Durability::Process, done)).await
    }

    /// Notes when sandboxes were used last; nobody waits for it.
    pub(crate) fn touch(&self, times: Vec<(SandboxId, i64)>) {
        self.0.touch(times);
    }

    /// A record as it is kept beside what runs.
    ///
    /// # Errors
    /// It cannot be written as text.
    pub(crate) fn note(&self, record: &Record) -> Result<String, Error> {
        self.0.note(record).map_err(Error::Metadata)
    }

    /// Notes that numbers of events below this one may have been given out; `done` is told.
    pub(crate) fn post_events(
        &self,
        until: u64,
        done: impl FnOnce(Result<(), MetadataError>) + Send + 'static,
    ) {
        self.0.reserve_events(until, Durability::Power, Box::new(done));
    }

    /// The same, and waits for it.
    ///
    /// # Errors
    /// The writer's, or the daemon ends.
    pub(crate) async fn reserve_events(&self, until: u64) -> Result<(), Error> {
        self.written(|done| self.0.reserve_events(until, Durability::Power, done)).await
    }

    async fn written(&self, write: impl FnOnce(Done)) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        write(Box::new(move |result| drop::<Result<(), _>>(sender.send(result))));
        receiver.await.map_err(|_closed| Error::Ending)?.map_err(Error::Metadata)
    }
}
