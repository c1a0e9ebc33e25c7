//! The mark: a small file beside the database that says up to which generation it was acknowledged.
//!
//! Each transaction is a generation, counted in the database itself. The mark is written after the commit and before
//! anybody is told of it. So a database whose generation is below its mark has lost something: its log was removed or
//! cut, or an older file was put in its place. It is written in place and not synced, which costs a microsecond:
//! the page cache survives the daemon. For a power loss it says separately what had been synced.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::rows::Stamp;
use crate::types::Durability;
use sys::process::boot_id;

/// The first word of the file, with the version of its form.
const FORM: &str = "sandboxd-mark-1";
/// More than a mark has, and less than a disk's sector, which is written whole or not at all.
const BYTES_MAX: u64 = 256;

/// What a mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) identity: i64,
    boot: String,
    written: u64,
    synced: u64,
}

/// The mark of a database that is open.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    seen: Seen,
    is_failing: bool,
}

impl Seen {
    /// Reads a mark; `None` where there is none that can be used.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, BYTES_MAX), &mut text).ok()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Option<Self> {
        let (content, sum) = text.trim_end().rsplit_once(' ')?;
        let mut words = content.split(' ');
        if words.next()? != FORM || u64::from_str_radix(sum, 16).ok()? != checksum(content) {
            return None;
        }
        let identity = words.next()?.parse().ok()?;
        let boot = words.next()?.to_owned();
        Some(Self {
            identity,
            boot,
            written: words.next()?.parse().ok()?,
            synced: words.next()?.parse().ok()?,
        })
    }

    fn text(&self) -> String {
        let Self { identity, boot, written, synced } = self;
        // Numbers have one width, so that a shorter text never leaves the end of a longer one.
        let content = format!("{FORM} {identity:019} {boot} {written:020} {synced:020}");
        format!("{content} {:016x}\n", checksum(&content))
    }

    /// The generation below which the database has lost something.
    pub(super) fn acknowledged(&self) -> u64 {
        let is_of_this_boot = !self.boot.is_empty() && self.boot == boot_id();
        if is_of_this_boot { self.written } else { self.synced }
    }
}

impl Mark {
    /// Writes the mark of a database that has just been opened.
    pub(super) fn make(path: &Path, stamp: Stamp) -> io::Result<Self> {
        let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(path)?;
        let Stamp { identity, generation } = stamp;
        let seen = Seen { identity, boot: boot_id(), written: generation, synced: generation };
        let text = seen.text();
        file.set_len(u64::try_from(text.len()).unwrap_or_default())?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
        Ok(Self { file, seen, is_failing: false })
    }

    /// Notes a generation that was committed. A mark that cannot be written stays behind, which only makes it weaker.
    pub(super) fn note(&mut self, generation: u64, durability: Durability) {
        self.seen.written = generation;
        if durability == Durability::Power {
            self.seen.synced = generation;
        }
        let written = self.file.write_all_at(self.seen.text().as_bytes(), 0);
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        if let Err(error) = written
            && !was_failing
        {
            tracing::warn!(%error, "failed to write the mark beside the record");
        }
    }
}

/// Where the mark of a database is.
pub(super) fn path_of(database: &Path) -> PathBuf {
    super::paths::beside(database, ".mark")
}

/// FNV-1a: finds what was torn or zeroed; nobody is to be kept from forging it.
fn checksum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_acknowledged_and_a_broken_one_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        assert_eq!(Seen::read(&path), None);
        let mut mark = Mark::make(&path, Stamp { identity: 7, generation: 5 }).unwrap();
        mark.note(9, Durability::Process);
        let seen = Seen::read(&path).unwrap();
        assert_eq!((seen.identity, seen.acknowledged()), (7, 9));
        // After a power loss only what was synced is promised.
        assert_eq!(Seen { boot: "another".to_owned(), ..seen }.acknowledged(), 5);
        mark.note(10, Durability::Power);
        let whole = std::fs::read(&path).unwrap();
        assert!(u64::try_from(whole.len()).unwrap() < BYTES_MAX);
        for index in 0..whole.len() - 1 {
            let mut broken = whole.clone();
            broken[index] ^= 1;
            std::fs::write(&path, &broken).unwrap();
            assert_eq!(Seen::read(&path), None, "byte {index}");
            std::fs::write(&path, &whole[..index]).unwrap();
            assert_eq!(Seen::read(&path), None, "{index} bytes");
        }
    }
}
