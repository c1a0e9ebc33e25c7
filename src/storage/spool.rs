//! Bytes that are kept until they can be sent: a few in memory, more in a file without a name.
//!
//! So an answer costs the daemon no more memory when it is large, and none for as long as its client takes to read it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::files::Content;
use super::place::Yard;
use sys::fs as sysfs;

/// Most answers are smaller, and never see the disk.
const MEMORY_BYTES_MAX: usize = 64 * 1024;
/// What stays in memory where the disk takes nothing, so that a full one does not cut every answer short.
const FALLBACK_BYTES_MAX: usize = 512 * 1024;

/// Takes bytes. What does not stay in memory is written by whoever calls, who has to be on a thread that may wait.
#[derive(Debug)]
pub struct Spool {
    yard: Arc<Yard>,
    memory: Vec<u8>,
    file: Option<File>,
    /// How much is in the file; the rest is in memory.
    on_disk: u64,
}

/// What a spool has taken: first what is in a file, then what is in memory.
#[derive(Debug)]
pub struct Spooled {
    pub file: Option<(Content, u64)>,
    pub memory: Vec<u8>,
}

impl Spool {
    pub(super) fn new(yard: Arc<Yard>) -> Self {
        Self { yard, memory: Vec::new(), file: None, on_disk: 0 }
    }

    /// A spool whose disk takes nothing, for unit tests of the code that fills one.
    ///
    /// # Errors
    /// `/proc`, where nothing can be made, cannot be opened.
    #[doc(hidden)]
    pub fn in_memory() -> io::Result<Self> {
        let open = || sysfs::open_directory(std::path::Path::new("/proc"));
        Ok(Self::new(Arc::new(Yard { staging: open()?, trash: open()? })))
    }

    /// Whether so many more bytes stay in memory, so that nobody has to wait for a disk.
    pub fn has_room(&self, count: usize) -> bool {
        self.memory.len().saturating_add(count) <= MEMORY_BYTES_MAX
    }

    /// Adds a few bytes without waiting for a disk, whatever has been taken before.
    pub fn append(&mut self, few: &[u8]) {
        self.memory.extend_from_slice(few);
    }

    /// Gives back what it has taken.
    pub fn finish(self) -> Spooled {
        Spooled { file: self.file.map(|file| (Content::of(file), self.on_disk)), memory: self.memory }
    }

    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(unnamed(&self.yard.staging)?),
        };
        // By position: what a disk that is full has taken of it is written again if there is room later.
        file.write_all_at(&self.memory, self.on_disk)?;
        self.on_disk += u64::try_from(self.memory.len()).unwrap_or_default();
        self.memory.clear();
        Ok(())
    }
}

impl Spooled {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        let in_file = self.file.as_ref().map_or(0, |(_, length)| *length);
        in_file + u64::try_from(self.memory.len()).unwrap_or_default()
    }

    /// Writes all of it to somewhere else.
    ///
    /// # Errors
    /// The disk fails, or whoever takes it does.
    pub fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        while let Some((content, length)) = self.file.as_ref().filter(|(_, length)| at < *length) {
            let left = usize::try_from(length - at).unwrap_or(usize::MAX);
            let piece = content.read(at, left.min(MEMORY_BYTES_MAX))?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(&piece)?;
            at += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
        to.write_all(&self.memory)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A piece of any size, of which so much as fits.
        let taken = bytes.get(..MEMORY_BYTES_MAX).unwrap_or(bytes);
        if !self.has_room(taken.len())
            && let Err(error) = self.spill()
            && self.memory.len() + taken.len() > FALLBACK_BYTES_MAX
        {
            return Err(error);
        }
        self.memory.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `openat(directory, ".", O_TMPFILE)`: a file that vanishes with its descriptor.
pub(super) fn unnamed(directory: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory.as_fd(), ".", flags, Mode::from_raw_mode(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_given_back_whatever_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let open = || sysfs::open_directory(directory.path()).unwrap();
        let yard = Arc::new(Yard { staging: open(), trash: open() });
        for (pieces, piece, stays) in [(0, 0, true), (3, 1000, true), (100, 1001, false), (1, 300_000, false)]
        {
            let mut spool = Spool::new(Arc::clone(&yard));
            let all: Vec<u8> = (0..=255).cycle().take(pieces * piece).collect();
            all.chunks(piece.max(1)).for_each(|bytes| spool.write_all(bytes).unwrap());
            let (spooled, mut back) = (spool.finish(), Vec::new());
            assert_eq!(spooled.length(), all.len() as u64);
            spooled.copy_to(&mut back).unwrap();
            assert!(back == all && spooled.file.is_none() == stays, "{pieces} pieces of {piece}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has no name");
    }
    #[test]
    fn a_disk_that_takes_nothing_cuts_off_only_what_is_large() {
        let mut spool = Spool::in_memory().unwrap();
        let piece = [b'x'; 1024];
        let taken = (0..1024).take_while(|_| spool.write_all(&piece).is_ok()).count();
        let spooled = spool.finish();
        assert_eq!((taken * 1024, spooled.length()), (FALLBACK_BYTES_MAX, FALLBACK_BYTES_MAX as u64));
    }
}
