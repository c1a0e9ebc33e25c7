//! The sandbox that a driver has in its charge: what it is changed by.

use crate::activity::now_ms;
use crate::blank;
use crate::error::Error;
use crate::error::chain;
use crate::life::Life;
use crate::registry::Entry;
use metadata::Durability;
use model::Record;
use model::Status;
use std::sync::Arc;

/// A sandbox, and what its life needs.
#[derive(Debug)]
pub(super) struct Charge {
    pub(super) life: Arc<Life>,
    pub(super) entry: Arc<Entry>,
}

impl Charge {
    /// Changes the record: first where it lasts, then where it is seen; not at all if it cannot be written.
    pub(super) async fn amend(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let record = self.changed(change);
        self.life.ground.books.records.put(record.clone(), Durability::Power).await?;
        if let Some(live) = self.entry.present() {
            blank::write_note(&self.life.ground.books.records, &live.run_directory, &record);
        }
        self.entry.publish(|published| published.record = Arc::new(record));
        Ok(())
    }

    /// Records what has happened, which is seen even if it cannot be written.
    pub(super) async fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let record = self.changed(change);
        self.entry.publish(|published| published.record = Arc::new(record.clone()));
        self.life.ground.books.records.put(record, Durability::Power).await
    }

    pub(super) fn changed(&self, change: impl FnOnce(&mut Record)) -> Record {
        let mut record = (*self.entry.record()).clone();
        change(&mut record);
        record.updated_at = now_ms();
        record
    }

    /// Publishes a status.
    pub(super) fn show(&self, status: Status) {
        let record = self.changed(|record| record.status = status);
        self.entry.publish(|published| published.record = Arc::new(record));
    }

    /// Writes what is published, in its turn, without waiting for it.
    pub(super) fn post(&self) {
        let id = self.entry.id;
        self.life.ground.books.records.post((*self.entry.record()).clone(), move |error| {
            tracing::error!(%id, error = %chain(&error), "cannot record that a sandbox was frozen or thawed");
        });
    }
}
