//! The one thread that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use rusqlite::Connection;

use super::backup::Keeper;
use super::mark::Mark;
use crate::error::MetadataError;
use crate::error::classify;
use crate::error::is_busy;
use crate::rows;
use crate::types::{Done, Durability, Retirement, Step};
use model::{Record, SandboxId};

/// The most writes in one transaction.
const GROUP_MAX: usize = 256;

/// What the writer is asked.
pub(super) enum Job {
    Write { write: Write, durability: Durability, step: Option<Step>, done: Done },
    Close,
}

#[derive(Debug)]
pub(super) enum Write {
    Put(Box<Record>),
    Delete(SandboxId),
    Retire(SandboxId, Retirement),
    Forget(SandboxId),
    Touch(Vec<(SandboxId, i64)>),
    ReserveEvents(u64),
}

impl Job {
    pub(super) fn write(write: Write, durability: Durability, done: Done) -> Self {
        Self::Write { write, durability, step: None, done }
    }

    /// A step that goes before it.
    pub(super) fn after(self, before: Step) -> Self {
        match self {
            Self::Write { write, durability, done, .. } => {
                Self::Write { write, durability, step: Some(before), done }
            }
            Self::Close => Self::Close,
        }
    }

    /// Answers a write that can no longer be made.
    pub(super) fn fail(self) {
        match self {
            Self::Write { done, .. } => done(Err(MetadataError::Closed)),
            Self::Close => {}
        }
    }
}

/// Writes until told to close or until nobody is left to ask.
pub(super) fn run(
    mut connection: Connection,
    jobs: &Receiver<Job>,
    mut keeper: Keeper,
    mut progress: Progress,
) {
    let mut open = true;
    let mut synced = None;
    while open {
        let due = keeper.due();
        let next = match due {
            // Also under a load that never pauses.
            Some(due) if due.is_zero() => Err(RecvTimeoutError::Timeout),
            Some(due) => jobs.recv_timeout(due),
            None => jobs.recv().map_err(RecvTimeoutError::from),
        };
        let first = match next {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                keeper.make(&connection);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut group = Vec::new();
        for job in std::iter::once(first).chain(jobs.try_iter()).take(GROUP_MAX) {
            match job {
                // What it does reaches the disk with the record, by the same sync.
                Job::Write { write, durability, step, done } => match step.is_none_or(|step| step()) {
                    true => group.push((write, durability, done)),
                    false => done(Err(MetadataError::NotReached)),
                },
                Job::Close => {
                    open = false;
                    break;
                }
            }
        }
        if group.iter().any(|(write, ..)| !matches!(write, Write::Touch(_))) {
            keeper.changed();
        }
        commit(&mut connection, &mut synced, &mut progress, group);
    }
    if keeper.due().is_some() {
        keeper.make(&connection);
    }
    for job in jobs.try_iter() {
        job.fail();
    }
    // Best effort: what is in the log is found by the next open as well.
    let _ignored: rusqlite::Result<()> = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

/// Writes a group in one transaction; if that fails, one by one, so that only the culprit fails. When none of
/// them could be written, since somebody else has the database, each would wait as long again.
fn commit(
    connection: &mut Connection,
    synced: &mut Option<Durability>,
    progress: &mut Progress,
    group: Vec<(Write, Durability, Done)>,
) {
    let durability = if group.iter().any(|(_, d, _)| *d == Durability::Power) {
        Durability::Power
    } else {
        Durability::Process
    };
    let writes: Vec<_> = group.iter().map(|(write, ..)| write).collect();
    let together = transact(connection, synced, &writes, durability);
    match together {
        Ok(generation) => {
            progress.note(generation, durability);
            group.into_iter().for_each(|(_, _, done)| done(Ok(())));
        }
        Err(error) if group.len() == 1 || is_busy(&error) => {
            group.into_iter().for_each(|(_, _, done)| done(Err(classify(clone_of(&error)))));
        }
        Err(_) => {
            for (write, durability, done) in group {
                let written = transact(connection, synced, &[&write], durability);
                done(written.map(|generation| progress.note(generation, durability)).map_err(classify));
            }
        }
    }
}

/// Tells everybody how far the record is, before whoever asked is told.
#[derive(Debug)]
pub(super) struct Progress {
    /// `None`: it could not be made.
    pub(super) mark: Option<Mark>,
    pub(super) generation: Arc<AtomicU64>,
}

impl Progress {
    fn note(&mut self, generation: Option<u64>, durability: Durability) {
        let Some(generation) = generation else { return };
        self.generation.store(generation, Ordering::Release);
        if let Some(mark) = &mut self.mark {
            mark.note(generation, durability);
        }
    }
}

/// `synced` is what the connection is set to, `None` where that is not known. Returns the generation that this made;
/// last uses make none: if they are lost, nothing is.
fn transact(
    connection: &mut Connection,
    synced: &mut Option<Durability>,
    writes: &[&Write],
    durability: Durability,
) -> rusqlite::Result<Option<u64>> {
    // With NORMAL a commit in WAL mode has no fsync; with FULL it has one — sqlite.org/pragma.html#pragma_synchronous.
    let synchronous = if durability == Durability::Power { "FULL" } else { "NORMAL" };
    if *synced != Some(durability) {
        *synced = None;
        connection.pragma_update(None, "synchronous", synchronous)?;
        *synced = Some(durability);
    }
    let transaction = connection.transaction()?;
    for &write in writes {
        fail::fail_point!("metadata-write", |_| Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
            None
        )));
        match write {
            Write::Put(record) => rows::put(&transaction, record)?,
            Write::Delete(id) => rows::delete(&transaction, *id)?,
            Write::Retire(id, to) => rows::retire(&transaction, *id, to)?,
            Write::Forget(id) => rows::forget(&transaction, *id)?,
            Write::Touch(times) => rows::touch(&transaction, times)?,
            Write::ReserveEvents(until) => rows::reserve_events(&transaction, *until)?,
        }
    }
    let is_counted = writes.iter().any(|write| !matches!(write, Write::Touch(_)));
    let generation = if is_counted { Some(rows::count_write(&transaction)?) } else { None };
    transaction.commit()?;
    Ok(generation)
}

/// The library's error is not `Clone`; its code and text are what matters.
fn clone_of(error: &rusqlite::Error) -> rusqlite::Error {
    let code = error
        .sqlite_error()
        .copied()
        .unwrap_or_else(|| rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR));
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}
