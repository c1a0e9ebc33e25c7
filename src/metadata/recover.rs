//! Opening the database: the newest of what there is, or nothing.
//!
//! ```text
//!                   sound, and not older than anything knows of it ──► used as it is
//! the database ──┤
//!                   gone, damaged or older ──► the newest sound one of it and its copies
//!                                              + the notes of what runs  ──► used, and told loudly
//!                                              none of them ─────────────► refused
//! ```
//!
//! What knows of a generation: the mark, the copies, and the notes of sandboxes that run. A database that another program
//! holds or whose disk fails is neither damaged nor older: that is waited for, and then the start is refused.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::mark::{self, Seen};
use super::note::{self, Note};
use super::rows::{self, Stamp};
use crate::backup::{age_of, copies_of, set_aside, take};
use crate::error::MetadataError;
use crate::paths::{BESIDE, beside};
use crate::schema;
use crate::types::Recovered;
use model::SandboxId;

/// How long a start waits for whoever holds the database, and for a disk that fails.
const PATIENCE: Duration = Duration::from_secs(6);
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// What else there is of sandboxes, by which a database can be judged.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Every workspace that is there, but for those of creates that nobody was told of.
    pub workspaces: BTreeSet<SandboxId>,
    /// The notes of launches.
    pub notes: Vec<String>,
}

/// A database that can be used.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) stamp: Stamp,
    pub(super) recovered: Option<Recovered>,
}

/// A database that could be used in the place of another.
struct Candidate {
    path: PathBuf,
    stamp: Stamp,
}

/// What is known of the database apart from itself.
struct Known {
    mark: Option<Seen>,
    copies: Vec<Candidate>,
    notes: Vec<Note>,
    workspaces: BTreeSet<SandboxId>,
}

impl Known {
    fn of(path: &Path, evidence: &Evidence) -> Result<Self, MetadataError> {
        let scratch = schema::scratch()?;
        let copies = copies_of(path).into_iter().filter_map(|path| {
            let stamp = schema::stamp_of(&path).ok()?;
            Some(Candidate { path, stamp })
        });
        let notes = evidence.notes.iter().filter_map(|text| match note::decode(&scratch, text) {
            Ok(note) => note.is_alive().then_some(note),
            Err(error) => {
                tracing::warn!(%error, "a note of a sandbox is not understood");
                None
            }
        });
        Ok(Self {
            mark: Seen::read(&mark::path_of(path)),
            copies: copies.collect(),
            notes: notes.collect(),
            workspaces: evidence.workspaces.clone(),
        })
    }

    /// Which database this is the data directory of, as far as anything says; 0: nothing does.
    fn identity(&self) -> i64 {
        let of_notes = self.notes.iter().map(|note| note.identity);
        let of_copies = self.copies.iter().map(|copy| copy.stamp.identity);
        self.mark
            .iter()
            .map(|mark| mark.identity)
            .chain(of_notes)
            .chain(of_copies)
            .find(|i| *i != 0)
            .unwrap_or(0)
    }

    /// The generation that a database of an identity must have at least.
    fn expected(&self, identity: i64) -> u64 {
        let of_mark = self.mark.iter().filter(|mark| mark.identity == identity).map(Seen::acknowledged);
        let copies = self.copies.iter().filter(|copy| copy.stamp.identity == identity);
        let notes = self.notes.iter().filter(|note| note.identity == identity);
        let of_copies = copies.map(|copy| copy.stamp.generation);
        of_mark.chain(of_copies).chain(notes.map(|note| note.generation + 1)).max().unwrap_or(0)
    }

    /// Says what is wrong with a sound database, if anything is.
    fn objection(&self, connection: &Connection, stamp: Stamp) -> rusqlite::Result<Option<String>> {
        let identity = self.identity();
        if identity != 0 && stamp.identity != identity {
            return Ok(Some("it is not the record of this data directory".to_owned()));
        }
        let expected = self.expected(identity);
        if stamp.generation < expected {
            let behind = expected - stamp.generation;
            return Ok(Some(format!("it is older than what was acknowledged, by {behind} writes")));
        }
        let is_trusted = self.mark.as_ref().is_some_and(|mark| mark.identity == stamp.identity);
        if is_trusted {
            return Ok(None);
        }
        // Without its mark it may have lost its log. One of an older version has none, and may have workspaces of nobody.
        let ids = rows::known_ids(connection)?;
        let knows_all = self.workspaces.is_subset(&ids) || (stamp.identity == 0 && !ids.is_empty());
        Ok((!knows_all).then(|| "it does not know all workspaces, and its mark is gone".to_owned()))
    }

    fn is_nothing(&self, path: &Path) -> bool {
        let is_filled = |suffix: &&str| beside(path, suffix).metadata().is_ok_and(|meta| meta.len() > 0);
        let has_files = BESIDE.iter().any(is_filled) || !copies_of(path).is_empty();
        !has_files && self.workspaces.is_empty() && self.notes.is_empty()
    }
}

/// Opens the database, or puts the newest of what there is in its place.
pub(super) fn open(path: &Path, evidence: &Evidence) -> Result<Opened, MetadataError> {
    let known = Known::of(path, evidence)?;
    let is_there = path.metadata().is_ok_and(|meta| meta.len() > 0);
    if !is_there && known.is_nothing(path) {
        let connection = schema::open(path)?;
        return Ok(Opened { stamp: rows::identified(&connection)?, connection, recovered: None });
    }
    let (problem, sound) = if is_there {
        match patiently(path, schema::open) {
            Ok(connection) => {
                let failed = |source| MetadataError::Open { path: path.to_owned(), source };
                let stamp = rows::stamp(&connection).map_err(failed)?;
                let Some(problem) = known.objection(&connection, stamp).map_err(failed)? else {
                    return Ok(Opened { stamp: rows::identified(&connection)?, connection, recovered: None });
                };
                (MetadataError::Unusable { path: path.to_owned(), problem }, Some(stamp))
            }
            Err(error @ MetadataError::Damaged { .. }) => (error, None),
            Err(error) => return Err(error),
        }
    } else {
        // SQLite would throw away a log without its database; what is there is kept.
        let problem = "it is gone, and something of its sandboxes is there".to_owned();
        (MetadataError::Unusable { path: path.to_owned(), problem }, None)
    };
    recover(path, &known, problem, sound)
}

/// Takes the newest sound database, and adds what runs.
fn recover(
    path: &Path,
    known: &Known,
    problem: MetadataError,
    own: Option<Stamp>,
) -> Result<Opened, MetadataError> {
    let identity = known.identity();
    let is_ours = |stamp: &Stamp| stamp.identity == identity || stamp.identity == 0;
    let own = own.filter(is_ours).map(|stamp| Candidate { path: path.to_owned(), stamp });
    let mut candidates: Vec<_> =
        own.iter().chain(known.copies.iter().filter(|copy| is_ours(&copy.stamp))).collect();
    // The database itself comes first among equals, and after it the latest copy.
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.stamp.generation));
    let mut base = None;
    for candidate in candidates {
        match patiently(&candidate.path, schema::inspect) {
            Ok(connection) => {
                let ids = rows::known_ids(&connection).map_err(MetadataError::Write)?;
                base = Some((candidate, ids));
                break;
            }
            // One that cannot be read now may be the newest: an older one must not take its place.
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => tracing::warn!(%error, "a copy of the record cannot be used"),
        }
    }
    let (base, ids) = base.unzip();
    let running: BTreeSet<_> = known.notes.iter().map(|note| note.record.spec.id).collect();
    let ids = ids.unwrap_or_default();
    let unknown: Vec<_> =
        known.workspaces.iter().filter(|id| !ids.contains(*id) && !running.contains(*id)).copied().collect();
    if (ids.is_empty() && !unknown.is_empty()) || (base.is_none() && running.is_empty()) {
        return Err(refusal(problem, unknown.len()));
    }
    let age = base.and_then(|base| age_of(&base.path));
    let is_own = base.is_some_and(|base| base.path == path);
    let kept_as = if is_own { None } else { Some(set_aside(path, "damaged")?) };
    let kept_as = kept_as.filter(|kept| BESIDE.iter().any(|suffix| beside(kept, suffix).exists()));
    if let Some(base) = base.filter(|_| !is_own) {
        take(&base.path, path)?;
    }
    let connection = schema::open(path)?;
    let restored = restore_running(&connection, &known.notes)?;
    let generation = known.expected(identity).max(base.map_or(0, |base| base.stamp.generation)) + 1;
    let stamp = rows::stamped(&connection, Stamp { identity, generation })?;
    let recovered = Recovered { problem: problem.to_string(), kept_as, age, restored, unknown };
    Ok(Opened { connection, stamp, recovered: Some(recovered) })
}

fn refusal(problem: MetadataError, workspaces: usize) -> MetadataError {
    match problem {
        MetadataError::Unusable { path, problem } => MetadataError::Lost { path, problem, workspaces },
        other => other,
    }
}

/// Writes the records of sandboxes that run and are not known, or are known as they were before; returns how many.
fn restore_running(connection: &Connection, notes: &[Note]) -> Result<usize, MetadataError> {
    let transaction = connection.unchecked_transaction().map_err(MetadataError::Write)?;
    let mut restored = 0;
    for note in notes {
        let spec = &note.record.spec;
        let launch = rows::launch_of(&transaction, spec.id).map_err(MetadataError::Write)?;
        if launch.is_none() || launch != note.record.launch.map(|launch| launch.to_string()) {
            rows::release(&transaction, note.record.address_index).map_err(MetadataError::Write)?;
            rows::forget(&transaction, spec.id).map_err(MetadataError::Write)?;
            rows::put(&transaction, &note.record).map_err(MetadataError::Write)?;
            restored += 1;
        }
    }
    transaction.commit().map_err(MetadataError::Write)?;
    Ok(restored)
}

/// Tries until it succeeds, or fails for a reason that does not pass by itself.
///
/// SQLite calls a file damaged, too, of which the disk failed to give a page once (`SQLITE_IOERR_CORRUPTFS` becomes
/// `SQLITE_CORRUPT` in `sqlite3VdbeExec`). So it has to say so twice, with the whole file read in between.
pub(super) fn patiently<T>(
    path: &Path,
    attempt: impl Fn(&Path) -> Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    let end = Instant::now() + PATIENCE;
    let (mut was_damaged, mut is_told) = (false, false);
    loop {
        let mut error = match attempt(path) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if matches!(error, MetadataError::Damaged { .. }) {
            match read_through(path) {
                Ok(()) if was_damaged => return Err(error),
                Ok(()) => {
                    was_damaged = true;
                    continue;
                }
                Err(source) => error = MetadataError::Unreadable { path: path.to_owned(), source },
            }
        }
        was_damaged = false;
        if !error.is_passing() || Instant::now() >= end {
            return Err(error);
        }
        if !std::mem::replace(&mut is_told, true) {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, cause, "the record cannot be opened now; it is tried again");
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Reads a database and its log to the end.
fn read_through(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal"] {
        match File::open(beside(path, suffix)) {
            Ok(mut file) => drop(io::copy(&mut file, &mut io::sink())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The stamp of a record that an operator puts in the place of another: newer than all that is known, so that it counts
/// as the truth from then on.
pub(super) fn stamp_for(path: &Path, evidence: &Evidence, own: Stamp) -> Result<Stamp, MetadataError> {
    let known = Known::of(path, evidence)?;
    let of_database = schema::stamp_of(path).map_or(0, |stamp| stamp.generation);
    let identities = [own.identity, known.identity()];
    let expected = identities.map(|identity| known.expected(identity)).into_iter().max().unwrap_or(0);
    let identity = if known.identity() == 0 { own.identity } else { known.identity() };
    Ok(Stamp { identity, generation: expected.max(of_database).max(own.generation) + 1 })
}
