//! Whoever sets the host's clock changes no sandbox's last use, not even while no daemon runs.
//!
//! The record tells times by that clock, and so a daemon that finds it set since would take everything for as much
//! longer unused, and put it to sleep. So how far it is ahead of the one that nobody sets is kept in the run
//! directory, which like that one is of this boot alone.

use std::path::{Path, PathBuf};

use crate::base::activity::{monotonic_ms, now_ms};
use crate::base::error::{Error, chain};
use crate::base::tasks::blocking;
use crate::books::ledger::Books;
use model::Record;
use storage::write_file;
use sys::process::boot_id;

/// The name of the file: the boot, and milliseconds.
const NAME: &str = "clock";
/// A clock that is kept right is not moved by so much between two looks.
const JUMP_MS_MIN: u64 = 2_000;

/// The host's clock as it was when the times on record were written.
#[derive(Debug)]
pub(crate) struct Clock {
    path: PathBuf,
    boot: String,
    ahead_ms: i64,
}

impl Clock {
    /// Finds what the daemon before has kept, if it is of this boot.
    pub(crate) fn find(run_dir: &Path) -> Self {
        let (path, boot) = (run_dir.join(NAME), boot_id());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let kept = text.trim().split_once(' ').filter(|(of, _)| !boot.is_empty() && *of == boot);
        let ahead_ms = kept.and_then(|(_, ahead)| ahead.parse().ok()).unwrap_or_else(ahead_ms);
        Self { path, boot, ahead_ms }
    }

    /// Records whose last uses are told by the clock as it is now.
    pub(crate) fn translated(&self, mut records: Vec<Record>) -> Vec<Record> {
        let jump = self.jump_ms();
        if jump != 0 {
            tracing::warn!(seconds = jump / 1000, "the host's clock was set since the record was written");
            for record in &mut records {
                record.last_active_at = record.last_active_at.saturating_add(jump);
            }
        }
        records
    }

    /// If the clock was set, has the last uses written anew, and keeps how it is now.
    pub(crate) async fn note(&mut self, books: &Books) {
        let jump = self.jump_ms();
        if jump == 0 && self.path.exists() {
            return;
        }
        if jump != 0 {
            tracing::warn!(seconds = jump / 1000, "the host's clock was set");
            let present = books.registry.present();
            books.records.touch(present.iter().map(|entry| (entry.id, entry.activity.last_ms())).collect());
        }
        let ahead_ms = ahead_ms();
        let (path, text) = (self.path.clone(), format!("{} {ahead_ms}\n", self.boot));
        let failed =
            |path: PathBuf| move |source| Error::RunDirectory { path: path.display().to_string(), source };
        let written = blocking(move || write_file(&path, text.as_bytes()).map_err(failed(path))).await;
        match written {
            Ok(()) => self.ahead_ms = ahead_ms,
            Err(error) => tracing::debug!(error = %chain(&error), "cannot keep how the clock is set"),
        }
    }

    /// How far the clock was set since; what keeps it right is nothing.
    fn jump_ms(&self) -> i64 {
        let jump = ahead_ms().saturating_sub(self.ahead_ms);
        if jump.unsigned_abs() < JUMP_MS_MIN { 0 } else { jump }
    }
}

/// How far the host's clock is ahead of the one that nobody sets.
fn ahead_ms() -> i64 {
    now_ms().saturating_sub(monotonic_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_seen_and_only_of_this_boot() {
        let directory = tempfile::tempdir().unwrap();
        let keep = |boot: &str, ahead: i64| {
            write_file(&directory.path().join(NAME), format!("{boot} {ahead}\n").as_bytes()).unwrap();
            Clock::find(directory.path()).jump_ms()
        };
        assert_eq!(Clock::find(directory.path()).jump_ms(), 0, "nothing was kept");
        let hour = 3_600_000;
        for (boot, set, seen) in [
            (boot_id(), hour, hour),
            (boot_id(), -hour, -hour),
            (boot_id(), 500, 0),
            ("another".to_owned(), hour, 0),
        ] {
            let jump = keep(&boot, ahead_ms() - set);
            assert!((jump - seen).abs() < 1000, "{boot}: {jump}, not {seen}");
        }
        assert_eq!(keep("what is this", 1), 0);
    }
}
