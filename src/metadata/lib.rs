//! The durable record: SQLite, written by one thread, group by group.
//!
//! ```text
//! put · delete · retire ──► queue ──► writer: BEGIN … everything that waits … COMMIT ──► done
//! ```
//!
//! Everything that waits is written in one transaction, so that a hundred creates at once cost one
//! fsync. Whoever writes says what the record has to survive: the daemon's death only, or a power loss.

mod backup;
#[cfg(test)]
mod combinations;
mod document;
mod error;
mod mark;
mod note;
mod paths;
mod recover;
mod restore;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod types;
#[cfg(test)]
mod upgrades;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use model::{Record, SandboxId};

use mark::Mark;
use writer::Job;

pub use error::MetadataError;
pub use recover::Evidence;
pub use restore::{restore, save};
pub use types::{Contents, Done, Durability, Recovered, Retired, Retirement, Step};

/// How far the numbers of events jump when a copy of unknown age is used.
const EVENTS_LEAP: u64 = 1_000_000;
/// How many writes may wait.
const QUEUE: usize = 4096;

/// Where the database is.
#[derive(Debug, Clone)]
pub struct Config {
    pub path: PathBuf,
    /// How often a copy is made beside it while it changes; zero: never.
    pub backup_interval: Duration,
}

/// The way to the writer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metadata {
    queue: SyncSender<Job>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    notes: Arc<Notes>,
}

/// What notes are written with.
#[derive(Debug)]
struct Notes {
    identity: i64,
    generation: Arc<AtomicU64>,
    scratch: Mutex<Connection>,
}

impl Metadata {
    /// Opens or makes the database, brings it up to date, and reads it. `evidence` is what else there is of sandboxes.
    ///
    /// # Errors
    /// It is foreign, newer, held by another program, or cannot be read or written; or it is damaged, gone or older than
    /// what is known of it, and nothing can take its place. It is never replaced by an empty one.
    pub fn open(config: &Config, evidence: &Evidence) -> Result<(Self, Contents), MetadataError> {
        let recover::Opened { connection, stamp, recovered } = recover::open(&config.path, evidence)?;
        let mut contents = rows::read_all(&connection)?;
        if recovered.is_some() {
            // What was given out since the copy is not known; numbers must not come twice.
            contents.events_given_out += EVENTS_LEAP;
        }
        contents.recovered = recovered;
        let mark = Mark::make(&mark::path_of(&config.path), stamp);
        if let Err(error) = &mark {
            tracing::warn!(%error, "failed to make the mark beside the record");
        }
        let generation = Arc::new(AtomicU64::new(stamp.generation));
        let progress = writer::Progress { mark: mark.ok(), generation: Arc::clone(&generation) };
        let keeper = backup::Keeper::new(&config.path, config.backup_interval);
        let (queue, jobs) = std::sync::mpsc::sync_channel(QUEUE);
        let builder = std::thread::Builder::new().name("metadata".to_owned());
        let thread = builder
            .spawn(move || writer::run(connection, &jobs, keeper, progress))
            .map_err(MetadataError::File)?;
        let notes =
            Arc::new(Notes { identity: stamp.identity, generation, scratch: Mutex::new(schema::scratch()?) });
        Ok((Self { queue, thread: Arc::new(Mutex::new(Some(thread))), notes }, contents))
    }

    /// The record of what runs as a text to be kept beside it, by which [`Self::open`] knows it again should the
    /// database have lost it.
    ///
    /// # Errors
    /// The record cannot be expressed, which no record of ours is.
    pub fn note(&self, record: &Record) -> Result<String, MetadataError> {
        let Notes { identity, generation, scratch } = &*self.notes;
        let scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        note::encode(&scratch, record, *identity, generation.load(Ordering::Acquire))
    }

    /// Inserts a record, or replaces the one of the same id.
    pub fn put(&self, record: Record, durability: Durability, done: Done) {
        self.send(Job::write(writer::Write::Put(Box::new(record)), durability, done));
    }

    /// The same after a step, in one turn of the writer: what the step did is synced with the record, and costs no
    /// change of threads.
    pub fn put_after(&self, step: Step, record: Record, durability: Durability, done: Done) {
        self.send(Job::write(writer::Write::Put(Box::new(record)), durability, done).after(step));
    }

    /// Deletes a record; one that is not there is no error.
    pub fn delete(&self, id: SandboxId, durability: Durability, done: Done) {
        self.send(Job::write(writer::Write::Delete(id), durability, done));
    }

    /// Deletes a record and notes what becomes of its workspace, both or neither.
    pub fn retire(&self, id: SandboxId, to: Retirement, durability: Durability, done: Done) {
        self.send(Job::write(writer::Write::Retire(id, to), durability, done));
    }

    /// Forgets a workspace that was retired.
    pub fn forget(&self, id: SandboxId, durability: Durability, done: Done) {
        self.send(Job::write(writer::Write::Forget(id), durability, done));
    }

    /// Notes up to which number events may have been given out.
    pub fn reserve_events(&self, until: u64, durability: Durability, done: Done) {
        self.send(Job::write(writer::Write::ReserveEvents(until), durability, done));
    }

    /// Notes when sandboxes were used last; if that is lost, nothing is.
    pub fn touch(&self, times: Vec<(SandboxId, i64)>) {
        self.send(Job::write(writer::Write::Touch(times), Durability::Process, Box::new(|_| {})));
    }

    /// Writes what waits, folds the log into the database, and ends the writer.
    pub fn close(&self) {
        self.send(Job::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked has said so.
            let _ended: std::thread::Result<()> = thread.join();
        }
    }

    fn send(&self, job: Job) {
        if let Err(refused) = self.queue.send(job) {
            refused.0.fail();
        }
    }
}
