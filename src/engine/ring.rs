//! The last bytes that a process has written, in a file that outlives the daemon.
//!
//! ```text
//! ┌ head 128 ┬ description ┬┄ to 4096 ┄┬───── data: capacity ─────┬ streams: capacity / 8 ┐
//! │ end, pending, exit     │           │ byte n at n mod capacity │ bit n: 1 is stderr    │
//! ```
//!
//! The bit per byte instead of a list of pieces: its size does not depend on how a process mixes its
//! streams. The file is sparse, so that a process that writes little costs little.
//!
//! **Nothing is lost and nothing is doubled when the daemon is killed at any instant.** Bytes that were
//! read into the daemon would be gone with it; so they never are: they are moved within the kernel,
//! from the process's pipe to the [`Journal`], a pipe that `sandbox-init` keeps open too, and from
//! there to the file. Before and after each move the head says what is under way, and the number of
//! bytes in the journal, which nobody else uses, says how far it had come.
//!
//! The file is read and written by system calls, not mapped: on a full file system that is an error
//! and not a SIGBUS.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, SpliceFlags};

use protocol::ExitStatus;
use sys::fs::is_in_memory;

/// The sizes of rings are multiples of this.
const PAGE: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"sbxring1");
const HEAD_BYTES: usize = 128;
/// Where in the head lies what changes with the output, and how a process ended.
const PROGRESS_AT: u64 = 16;
const EXIT_AT: u64 = 32;
const PID_AT: u64 = 48;
/// The longest description.
const DESCRIPTION_BYTES_MAX: usize = 64 * 1024;
/// How much a pipe holds that has shown to be busy.
const PIPE_BYTES: usize = 1024 * 1024;
/// How much is moved at once; more than what a pipe holds at first.
pub const MOVE_BYTES_MAX: u64 = 256 * 1024;
/// A move of so much says that the pipe is too small.
const BUSY_BYTES: usize = 64 * 1024;

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Of a process with a terminal, all of it.
    Stdout,
    Stderr,
}

/// How a process ended, as it is kept in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// `None`: nobody can say; its sandbox ended under it.
    pub exit: Option<ExitStatus>,
    pub timed_out: bool,
    /// Unix milliseconds.
    pub at: i64,
}

/// A pipe through which output goes on its way to a ring, one move at a time.
#[derive(Debug)]
pub struct Journal {
    ends: Mutex<JournalEnds>,
}

#[derive(Debug)]
struct JournalEnds {
    read: OwnedFd,
    write: OwnedFd,
    is_large: bool,
}

/// The output of one process.
#[derive(Debug)]
pub struct Ring {
    /// There until the value is dropped.
    file: Option<File>,
    is_on_disk: bool,
    capacity: u64,
    data_at: u64,
    progress: Mutex<Progress>,
}

/// What a move has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Bytes(u64),
    /// The stream has ended.
    End,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// How many bytes there have been.
    end: u64,
    /// How many of them the journal took over that are not counted in `end` yet.
    pending: u32,
    /// Whose they are; set while a move is under way.
    moving: Option<Stream>,
    has_stderr: bool,
}

impl Drop for Ring {
    /// The last close of a file that was removed gives its blocks back, which a disk with the option `discard` does at
    /// once, and takes seconds for when it is busy: too long for a thread that serves everybody.
    fn drop(&mut self) {
        let file = self.file.take();
        if self.is_on_disk
            && let Ok(tokio) = tokio::runtime::Handle::try_current()
        {
            drop(tokio.spawn_blocking(move || drop(file)));
        }
    }
}

impl Journal {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self::of(read, write))
    }

    /// Takes over one that was kept.
    pub fn of(read: OwnedFd, write: OwnedFd) -> Self {
        Self { ends: Mutex::new(JournalEnds { read, write, is_large: false }) }
    }

    /// Lends both ends, for `sandbox-init` to keep copies.
    pub fn with_ends<T>(&self, step: impl FnOnce([BorrowedFd<'_>; 2]) -> T) -> T {
        let ends = self.lock();
        step([ends.read.as_fd(), ends.write.as_fd()])
    }

    /// Throws away what nobody has claimed.
    pub fn clear(&self) {
        drain(&self.lock().read);
    }

    fn lock(&self) -> MutexGuard<'_, JournalEnds> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Makes the file; `description` is given back by [`Ring::open`].
    ///
    /// # Errors
    /// The kernel's; the file exists; the description is too long.
    pub fn create(path: &Path, capacity: u64, description: &[u8]) -> io::Result<Self> {
        let length = u32::try_from(description.len())
            .ok()
            .filter(|_| description.len() <= DESCRIPTION_BYTES_MAX)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let capacity = capacity.max(1).next_multiple_of(PAGE);
        let mut head = vec![0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..16].copy_from_slice(&capacity.to_le_bytes());
        head[64..68].copy_from_slice(&length.to_le_bytes());
        head.extend_from_slice(description);
        file.write_all_at(&head, 0)?;
        Ok(Self::of(file, capacity, data_at(length), Progress::default()))
    }

    /// Opens the file of an earlier daemon and finishes what that one had begun.
    ///
    /// # Errors
    /// The kernel's; it is not such a file, or was never finished.
    pub fn open(path: &Path, journal: &Journal) -> io::Result<(Self, Vec<u8>)> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, 0)?;
        let (capacity, length) = (u64_at(&head, 8), u32_at(&head, 64));
        let length_usize = usize::try_from(length).unwrap_or(usize::MAX);
        if u64_at(&head, 0) != MAGIC
            || capacity == 0
            || capacity % PAGE != 0
            || length_usize > DESCRIPTION_BYTES_MAX
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut description = vec![0; length_usize];
        file.read_exact_at(&mut description, HEAD_BYTES as u64)?;
        let progress = Progress::of(&head);
        let ring = Self::of(file, capacity, data_at(length), progress);
        ring.finish(journal)?;
        Ok((ring, description))
    }

    fn of(file: File, capacity: u64, data_at: u64, progress: Progress) -> Self {
        let is_on_disk = !is_in_memory(&file);
        Self { file: Some(file), is_on_disk, capacity, data_at, progress: Mutex::new(progress) }
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("it is taken when the ring is dropped")
    }

    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many bytes there have been.
    pub fn end(&self) -> u64 {
        self.lock().end
    }

    /// The first byte that is still there.
    pub fn start(&self) -> u64 {
        self.end().saturating_sub(self.capacity)
    }

    /// Moves what a descriptor has, at most `max` bytes; older bytes make way.
    ///
    /// # Errors
    /// `WouldBlock` when it has nothing; the kernel's. What the ring cannot take for want of space is
    /// thrown away, or the process would hang.
    pub fn take(&self, from: impl AsFd, stream: Stream, max: u64, journal: &Journal) -> io::Result<Moved> {
        let mut ends = journal.lock();
        let mut progress = self.lock();
        let max = usize::try_from(max.min(self.capacity).min(MOVE_BYTES_MAX)).unwrap_or(usize::MAX);
        // First the word, then the deed: whatever is found in the journal later is this ring's.
        progress.moving = Some(stream);
        progress.pending = 0;
        self.note(&progress)?;
        let taken = rustix::pipe::splice(&from, None, &ends.write, None, max, SpliceFlags::NONBLOCK);
        let count = match taken {
            Ok(count) if count > 0 => count,
            other => {
                progress.moving = None;
                self.note(&progress)?;
                return match other {
                    // A terminal that nobody has open any more says EIO.
                    Ok(_) | Err(rustix::io::Errno::IO) => Ok(Moved::End),
                    Err(errno) => Err(errno.into()),
                };
            }
        };
        progress.pending = u32::try_from(count).unwrap_or(u32::MAX);
        self.note(&progress)?;
        self.settle(&mut progress, 0, &ends)?;
        if count >= BUSY_BYTES && !ends.is_large {
            // At best: beyond the system's limit they stay as they are.
            let grown = rustix::pipe::fcntl_setpipe_size(&ends.write, PIPE_BYTES);
            ends.is_large = grown.is_ok();
        }
        if count == BUSY_BYTES {
            let _as_it_was: Result<usize, rustix::io::Errno> =
                rustix::pipe::fcntl_setpipe_size(&from, PIPE_BYTES);
        }
        Ok(Moved::Bytes(count as u64))
    }

    /// Reads from `offset` on, one stream only, at most `max` bytes after `headroom` bytes of zeros. The
    /// caller sees to it that the bytes are there, and are not overwritten meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, offset: u64, max: u64, headroom: usize) -> io::Result<(Stream, Vec<u8>)> {
        let (end, has_stderr) = {
            let progress = self.lock();
            (progress.end, progress.has_stderr)
        };
        let length = end.saturating_sub(offset).min(max);
        let (stream, length) = if has_stderr { self.run(offset, length)? } else { (Stream::Stdout, length) };
        let mut bytes = Vec::with_capacity(headroom + usize::try_from(length).unwrap_or_default());
        bytes.resize(headroom, 0);
        for (at, piece) in self.places(offset, length) {
            let begin = bytes.len();
            while bytes.len() < begin + piece {
                let from = self.data_at + at + (bytes.len() - begin) as u64;
                // Straight into the room that is left, which is not filled with zeros first.
                if rustix::io::pread(self.file(), rustix::buffer::spare_capacity(&mut bytes), from)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            // There may be room for more than the piece, and what follows it is not output.
            bytes.truncate(begin + piece);
        }
        Ok((stream, bytes))
    }

    /// Notes that the process was started.
    ///
    /// # Errors
    /// The kernel's.
    pub fn note_pid(&self, pid: i32) -> io::Result<()> {
        self.file().write_all_at(&pid.to_le_bytes(), PID_AT)
    }

    /// The process's pid inside the sandbox; `None` if no daemon has got to note it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pid(&self) -> io::Result<Option<i32>> {
        let mut bytes = [0; 4];
        self.file().read_exact_at(&mut bytes, PID_AT)?;
        Ok(Some(i32::from_le_bytes(bytes)).filter(|pid| *pid != 0))
    }

    /// Notes how the process ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn note_end(&self, ended: &Ended) -> io::Result<()> {
        let (kind, value) = match ended.exit {
            Some(ExitStatus::Code(code)) => (1, code),
            Some(ExitStatus::Signal(signal)) => (2, signal),
            None => (3, 0),
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&ended.at.to_le_bytes());
        bytes[8..12].copy_from_slice(&i32::to_le_bytes(value));
        bytes[12] = kind;
        bytes[13] = u8::from(ended.timed_out);
        self.file().write_all_at(&bytes, EXIT_AT)
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ended(&self) -> io::Result<Option<Ended>> {
        let mut bytes = [0; 16];
        self.file().read_exact_at(&mut bytes, EXIT_AT)?;
        let value = i32::from_le_bytes(u32_at(&bytes, 8).to_le_bytes());
        let exit = match bytes[12] {
            1 => Some(ExitStatus::Code(value)),
            2 => Some(ExitStatus::Signal(value)),
            3 => None,
            _ => return Ok(None),
        };
        let at = i64::from_le_bytes(u64_at(&bytes, 0).to_le_bytes());
        Ok(Some(Ended { exit, timed_out: bytes[13] == 1, at }))
    }

    /// Finishes the move that an earlier daemon had begun.
    fn finish(&self, journal: &Journal) -> io::Result<()> {
        let ends = journal.lock();
        let mut progress = self.lock();
        if progress.moving.is_none() {
            return Ok(());
        }
        let left = rustix::io::ioctl_fionread(&ends.read)?;
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        // Killed before it could write down how many there are: then none has gone on to the file.
        if progress.pending == 0 {
            progress.pending = left;
        }
        let done = progress.pending.saturating_sub(left);
        self.settle(&mut progress, done, &ends)
    }

    /// Brings what is pending from the journal to the file, of which `done` bytes are there already.
    fn settle(&self, progress: &mut Progress, done: u32, ends: &JournalEnds) -> io::Result<()> {
        let (end, pending) = (progress.end, u64::from(progress.pending));
        let mut failure = None;
        'pieces: for (at, piece) in self.places(end + u64::from(done), pending - u64::from(done)) {
            let (mut to, mut left) = (self.data_at + at, piece);
            while left > 0 {
                let flags = SpliceFlags::NONBLOCK;
                match rustix::pipe::splice(&ends.read, None, self.file(), Some(&mut to), left, flags) {
                    Ok(0) => break 'pieces,
                    Ok(count) => left -= count.min(left),
                    Err(errno) => {
                        failure = Some(errno);
                        break 'pieces;
                    }
                }
            }
        }
        if failure.is_some() {
            drain(&ends.read);
        }
        let stream = progress.moving.unwrap_or(Stream::Stdout);
        progress.has_stderr |= stream == Stream::Stderr;
        if progress.has_stderr {
            self.mark(end, pending, stream)?;
        }
        *progress = Progress { end: end + pending, pending: 0, moving: None, ..*progress };
        self.note(progress)?;
        failure.map_or(Ok(()), |errno| Err(errno.into()))
    }

    /// Where in the data a range lies: one piece, or two when it goes around the end.
    fn places(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> + use<> {
        let at = offset % self.capacity;
        let first = length.min(self.capacity - at);
        let pieces = [(at, first), (0, length - first)];
        pieces
            .into_iter()
            .filter(|(_, piece)| *piece > 0)
            .map(|(at, piece)| (at, usize::try_from(piece).unwrap_or(usize::MAX)))
    }

    /// Writes down whose the bytes of a range are.
    fn mark(&self, offset: u64, length: u64, stream: Stream) -> io::Result<()> {
        let bits_at = self.data_at + self.capacity;
        for (at, piece) in self.places(offset, length) {
            let last = at + piece as u64 - 1;
            let (first_byte, last_byte) = (at / 8, last / 8);
            let mut bits = vec![0; usize::try_from(last_byte - first_byte + 1).unwrap_or_default()];
            self.read_sparse(&mut bits, bits_at + first_byte)?;
            for place in at..=last {
                let Some(byte) = bits.get_mut(usize::try_from(place / 8 - first_byte).unwrap_or_default())
                else {
                    continue;
                };
                match stream {
                    Stream::Stdout => *byte &= !(1 << (place % 8)),
                    Stream::Stderr => *byte |= 1 << (place % 8),
                }
            }
            self.file().write_all_at(&bits, bits_at + first_byte)?;
        }
        Ok(())
    }

    /// The stream at an offset, and for how many of `length` bytes it stays the same.
    fn run(&self, offset: u64, length: u64) -> io::Result<(Stream, u64)> {
        let bits_at = self.data_at + self.capacity;
        let mut found: Option<(bool, u64)> = None;
        for (at, piece) in self.places(offset, length) {
            let last = at + piece as u64 - 1;
            let first_byte = at / 8;
            let mut bits = vec![0; usize::try_from(last / 8 - first_byte + 1).unwrap_or_default()];
            self.read_sparse(&mut bits, bits_at + first_byte)?;
            for place in at..=last {
                let byte = bits.get(usize::try_from(place / 8 - first_byte).unwrap_or_default());
                let is_stderr = byte.is_some_and(|b| b >> (place % 8) & 1 == 1);
                match &mut found {
                    Some((same, run)) if *same == is_stderr => *run += 1,
                    Some((same, run)) => return Ok((stream_of(*same), *run)),
                    None => found = Some((is_stderr, 1)),
                }
            }
        }
        Ok(found.map_or((Stream::Stdout, 0), |(is_stderr, run)| (stream_of(is_stderr), run)))
    }

    /// Reads what may lie beyond the end of the file, where zeros are.
    fn read_sparse(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file().read_at(rest, at + done as u64)? {
                0 => return Ok(()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes the progress: one short write, of which a kill leaves all or nothing.
    fn note(&self, progress: &Progress) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&progress.end.to_le_bytes());
        bytes[8..12].copy_from_slice(&progress.pending.to_le_bytes());
        bytes[12] = match progress.moving {
            None => 0,
            Some(Stream::Stdout) => 1,
            Some(Stream::Stderr) => 2,
        };
        bytes[13] = u8::from(progress.has_stderr);
        self.file().write_all_at(&bytes, PROGRESS_AT)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn of(head: &[u8]) -> Self {
        let at = |index: usize| head.get(index).copied().unwrap_or_default();
        Self {
            end: u64_at(head, 16),
            pending: u32_at(head, 24),
            moving: match at(28) {
                1 => Some(Stream::Stdout),
                2 => Some(Stream::Stderr),
                _ => None,
            },
            has_stderr: at(29) == 1,
        }
    }
}

fn data_at(description: u32) -> u64 {
    (HEAD_BYTES as u64 + u64::from(description)).next_multiple_of(PAGE)
}

fn stream_of(is_stderr: bool) -> Stream {
    if is_stderr { Stream::Stderr } else { Stream::Stdout }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Empties a pipe.
fn drain(pipe: &OwnedFd) {
    let mut buffer = [0; 16 * 1024];
    while rustix::io::read(pipe, &mut buffer).is_ok_and(|count| count > 0) {}
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
        journal: Journal,
        pipe: (OwnedFd, OwnedFd),
    }

    fn bench() -> Bench {
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        Bench { directory: tempfile::tempdir().unwrap(), journal: Journal::new().unwrap(), pipe }
    }

    impl Bench {
        fn ring(&self) -> Ring {
            Ring::create(&self.directory.path().join("ring"), PAGE, b"{}").unwrap()
        }

        fn again(&self) -> Ring {
            let (ring, description) = Ring::open(&self.directory.path().join("ring"), &self.journal).unwrap();
            assert_eq!(description, b"{}");
            ring
        }

        fn write(&self, ring: &Ring, stream: Stream, bytes: &[u8]) {
            assert_eq!(rustix::io::write(&self.pipe.1, bytes).unwrap(), bytes.len());
            let moved = ring.take(&self.pipe.0, stream, u64::MAX, &self.journal).unwrap();
            assert_eq!(moved, Moved::Bytes(bytes.len() as u64));
        }
    }

    fn read_all(ring: &Ring, mut from: u64) -> Vec<(Stream, Vec<u8>)> {
        let mut found = Vec::new();
        while from < ring.end() {
            let (stream, bytes) = ring.read(from, u64::MAX, 0).unwrap();
            from += bytes.len() as u64;
            found.push((stream, bytes));
        }
        found
    }

    #[test]
    fn streams_are_told_apart_byte_by_byte_around_the_end() {
        let bench = bench();
        let ring = bench.ring();
        bench.write(&ring, Stream::Stdout, &[b'o'; 4090]);
        bench.write(&ring, Stream::Stderr, b"error!");
        bench.write(&ring, Stream::Stdout, b"0123456789");
        bench.write(&ring, Stream::Stderr, b"e");
        assert_eq!((ring.start(), ring.end()), (11, 4107));
        let expected = vec![
            (Stream::Stdout, vec![b'o'; 4079]),
            (Stream::Stderr, b"error!".to_vec()),
            (Stream::Stdout, b"0123456789".to_vec()),
            (Stream::Stderr, b"e".to_vec()),
        ];
        assert_eq!(read_all(&ring, 11), expected);
        assert_eq!(ring.read(4090, 3, 9).unwrap(), (Stream::Stderr, b"\0\0\0\0\0\0\0\0\0err".to_vec()));
        assert_eq!(read_all(&bench.again(), 11), expected);
    }

    #[test]
    fn what_is_there_is_taken_and_the_end_is_seen() {
        let bench = bench();
        let ring = bench.ring();
        let nothing = ring.take(&bench.pipe.0, Stream::Stdout, 10, &bench.journal).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        bench.write(&ring, Stream::Stdout, b"last words");
        let Bench { pipe: (read, write), journal, .. } = bench;
        drop(write);
        assert_eq!(ring.take(&read, Stream::Stdout, 10, &journal).unwrap(), Moved::End);
    }

    /// The daemon dies at each point of a move; nothing is lost, nothing is doubled.
    #[test]
    fn a_move_that_was_cut_off_is_finished() {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for (noted, moved) in [(false, 0), (true, 0), (true, 3), (true, 10)] {
                let bench = bench();
                let ring = bench.ring();
                bench.write(&ring, Stream::Stdout, &[b'.'; 4090]);
                let mut progress = Progress { moving: Some(stream), ..*ring.lock() };
                ring.note(&progress).unwrap();
                let ends = bench.journal.lock();
                assert_eq!(rustix::io::write(&ends.write, b"0123456789").unwrap(), 10);
                if noted {
                    progress.pending = 10;
                    ring.note(&progress).unwrap();
                }
                for (at, piece) in ring.places(4090, moved) {
                    let mut to = ring.data_at + at;
                    let flags = SpliceFlags::NONBLOCK;
                    rustix::pipe::splice(&ends.read, None, ring.file(), Some(&mut to), piece, flags).unwrap();
                }
                drop(ends);
                drop(ring);
                let ring = bench.again();
                assert_eq!(ring.end(), 4100, "{noted} {moved}");
                assert_eq!(
                    ring.read(4090, 100, 0).unwrap(),
                    (stream, b"0123456789".to_vec()),
                    "{noted} {moved}"
                );
                assert_eq!(ring.read(4089, 1, 0).unwrap(), (Stream::Stdout, b".".to_vec()));
                bench.write(&ring, Stream::Stdout, b"more");
                assert_eq!(ring.read(4100, 100, 0).unwrap(), (Stream::Stdout, b"more".to_vec()));
            }
        }
    }

    #[test]
    fn the_end_of_the_process_is_kept() {
        let bench = bench();
        let ring = bench.ring();
        assert_eq!(ring.ended().unwrap(), None);
        for exit in [Some(ExitStatus::Code(3)), Some(ExitStatus::Signal(9)), None] {
            let ended = Ended { exit, timed_out: true, at: 1_700_000_000_000 };
            ring.note_end(&ended).unwrap();
            assert_eq!(bench.again().ended().unwrap(), Some(ended));
        }
    }

    #[test]
    fn a_file_on_a_disk_is_closed_by_a_thread_that_may_wait() {
        let tokio = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        for is_on_disk in [true, false] {
            let path = directory.path().join(is_on_disk.to_string());
            let mut ring = Ring::create(&path, 4096, b"").unwrap();
            ring.is_on_disk = is_on_disk;
            let name = format!("/proc/self/fd/{}", ring.file().as_raw_fd());
            let is_open = || std::fs::read_link(&name).is_ok_and(|at| at == path);
            // The one such thread has something else to do.
            let (go, wait) = std::sync::mpsc::channel::<()>();
            tokio.block_on(async {
                let busy = tokio::task::spawn_blocking(move || wait.recv());
                drop(ring);
                assert_eq!(is_open(), is_on_disk);
                go.send(()).unwrap();
                busy.await.unwrap().unwrap();
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            });
            assert!(!is_open());
        }
    }
}
