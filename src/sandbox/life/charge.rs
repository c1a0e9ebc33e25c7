//! The sandbox that a driver has in its charge: what it is changed by.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::base::activity::now_ms;
use crate::base::error::{Error, chain};
use crate::books::ledger::Books;
use crate::books::registry::Entry;
use crate::launch::blank;
use crate::launch::ground::Ground;
use crate::launch::host::Host;
use crate::life::lives::Life;
use metadata::Durability;
use model::{Record, Status};

/// A sandbox, and what its life needs.
#[derive(Debug)]
pub(crate) struct Charge {
    pub(crate) life: Arc<Life>,
    pub(crate) entry: Arc<Entry>,
    /// Held while a change of the record is written: each begins with what the one before has made.
    writing: Mutex<()>,
}

impl Charge {
    pub(crate) fn new(life: Arc<Life>, entry: Arc<Entry>) -> Self {
        Self { life, entry, writing: Mutex::default() }
    }

    pub(crate) fn ground(&self) -> &Ground {
        &self.life.ground
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.life.ground.host
    }

    pub(crate) fn books(&self) -> &Books {
        &self.life.ground.books
    }

    /// Changes the record: first where it lasts, then where it is seen; not at all if it cannot be written.
    pub(crate) async fn amend(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let _turn = self.writing.lock().await;
        let record = self.changed(change);
        self.books().records.put(record.clone(), Durability::Power).await?;
        if let Some(live) = self.entry.present() {
            blank::write_note(&self.books().records, &live.run_directory, &record);
        }
        self.entry.publish(|published| published.record = Arc::new(record));
        Ok(())
    }

    /// Records what has happened, which is seen even if it cannot be written.
    pub(crate) async fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let _turn = self.writing.lock().await;
        let record = self.changed(change);
        self.entry.publish(|published| published.record = Arc::new(record.clone()));
        self.books().records.put(record, Durability::Power).await
    }

    pub(crate) fn changed(&self, change: impl FnOnce(&mut Record)) -> Record {
        let mut record = (*self.entry.record()).clone();
        change(&mut record);
        record.updated_at = now_ms();
        record
    }

    /// Publishes a status.
    pub(crate) fn show(&self, status: Status) {
        let record = self.changed(|record| record.status = status);
        self.entry.publish(|published| published.record = Arc::new(record));
    }

    /// Writes what is published, in its turn, without waiting for it.
    pub(crate) fn post(&self) {
        let id = self.entry.id;
        self.books().records.post((*self.entry.record()).clone(), move |error| {
            tracing::error!(%id, error = %chain(&error), "cannot record that a sandbox was frozen or thawed");
        });
    }
}
