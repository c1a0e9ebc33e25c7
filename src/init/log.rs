//! The logs of the app's processes: `~/.runtimed/<name>.log`, and `<name>.log.1` before it.
//!
//! ```text
//! process ─► pipe ─► PID 1 ─► <name>.log ── full ──► <name>.log.1
//! ```
//!
//! PID 1 moves what a process prints into its log, so that a log never takes more than
//! [`BYTES_MAX`] twice, however fast it is written: a process that is faster than PID 1 waits for room
//! in the pipe. The directory is the tenant's, who may put anything in the way: nothing here waits,
//! follows a link or trusts a length, and what cannot be written is lost.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

/// A log that would become longer is first moved to `<name>.log.1`.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Beneath the home directory.
const DIRECTORY: &str = ".runtimed";
/// How much is moved at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// How many chunks of one pipe are moved before anything else has its turn: as much as a pipe holds.
const CHUNKS_PER_TURN: usize = 4;
/// How many pipes may be open beside those of the processes that run: what a process left in the
/// background keeps its pipe. Beyond that the oldest is closed.
const LEFT_OPEN_MAX: usize = 16;

/// All logs and the pipes that lead to them.
#[derive(Debug)]
pub(super) struct Logs {
    directory: PathBuf,
    /// In the order in which they were opened.
    pipes: Vec<Pipe>,
    logs: BTreeMap<String, Log>,
}

#[derive(Debug)]
struct Pipe {
    /// Of the log.
    name: String,
    /// Not blocking.
    end: OwnedFd,
}

/// Where the output of all runs of one process goes.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// `None` while it cannot be opened.
    file: Option<File>,
}

impl Logs {
    pub(super) fn new(home: &Path) -> Self {
        Self { directory: home.join(DIRECTORY), pipes: Vec::new(), logs: BTreeMap::new() }
    }

    /// Opens a way into a log, to be given to a process as its output. `running` is the number of processes
    /// of the app.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn open(&mut self, name: &str, running: usize) -> io::Result<OwnedFd> {
        let (end, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Ours alone: a process may rely on its output's being a blocking one.
        rustix::io::ioctl_fionbio(&end, true)?;
        if self.pipes.len() >= running + LEFT_OPEN_MAX {
            self.pipes.remove(0);
        }
        let path = self.directory.join(format!("{name}.log"));
        self.logs.entry(name.to_owned()).or_insert_with(|| Log { path, file: None });
        self.pipes.push(Pipe { name: name.to_owned(), end });
        Ok(theirs)
    }

    /// What has to be waited for; [`Logs::pump`] wants to know which of them is ready.
    pub(super) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(|p| p.end.as_fd())
    }

    /// Moves what is there, from each pipe that is ready at most as much as it holds.
    pub(super) fn pump(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let logs = &mut self.logs;
        self.pipes.retain(|pipe| {
            !ready.next().unwrap_or_default()
                || logs.get_mut(&pipe.name).is_some_and(|log| log.take(&pipe.end))
        });
        self.logs.retain(|name, _| self.pipes.iter().any(|p| p.name == *name));
    }

    /// Takes in what is still on its way, then reads the last `bytes` of a log, as text.
    pub(super) fn tail(&mut self, name: &str, bytes: u64) -> String {
        let all: Vec<bool> = self.pipes.iter().map(|p| p.name == name).collect();
        let path = self.directory.join(format!("{name}.log"));
        self.pump(&all);
        let read = || {
            let mut file = open_plain(OpenOptions::new().read(true), &path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
            let mut text = Vec::new();
            file.take(bytes).read_to_end(&mut text)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
        };
        read().unwrap_or_default()
    }
}

impl Log {
    /// Moves what a pipe holds into the log; false once nobody can write to the pipe any more.
    fn take(&mut self, pipe: &OwnedFd) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        for _ in 0..CHUNKS_PER_TURN {
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) => return false,
                Ok(length) => {
                    // A full disk is the tenant's own; the process goes on all the same.
                    let _lost: io::Result<()> = self.append(chunk.get(..length).unwrap_or_default());
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Looked at each time, since the tenant may remove, cut or lengthen the file as well.
        let kept = self.file.take().and_then(|file| {
            let metadata = file.metadata().ok()?;
            let linked = std::os::unix::fs::MetadataExt::nlink(&metadata) > 0;
            linked.then_some((file, metadata.len()))
        });
        let (mut file, length) = match kept {
            Some(kept) => kept,
            None => self.open()?,
        };
        if length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)) > BYTES_MAX {
            file = self.rotate(file)?;
        }
        let written = file.write_all(bytes);
        self.file = Some(file);
        written
    }

    fn open(&self) -> io::Result<(File, u64)> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = open_plain(OpenOptions::new().create(true).append(true), &self.path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    fn rotate(&self, full: File) -> io::Result<File> {
        let moved = fs::rename(&self.path, self.path.with_extension("log.1"));
        if moved.is_ok()
            && let Ok((file, 0)) = self.open()
        {
            return Ok(file);
        }
        // Something is in the way: what is in the log goes, so that the bound holds.
        full.set_len(0)?;
        Ok(full)
    }
}

/// Opens a regular file that is not a link; a FIFO cannot make PID 1 wait.
pub(super) fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = options.custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(logs: &mut Logs, end: &OwnedFd, bytes: &[u8]) {
        for piece in bytes.chunks(4096) {
            rustix::io::write(end, piece).unwrap();
            logs.pump(&vec![true; logs.pipes.len()]);
        }
    }

    fn size(home: &Path, name: &str) -> Option<u64> {
        Some(fs::metadata(home.join(DIRECTORY).join(name)).ok()?.len())
    }

    #[test]
    fn a_flood_never_takes_more_than_two_logs() {
        let home = tempfile::tempdir().unwrap();
        let mut logs = Logs::new(home.path());
        let end = logs.open("web", 1).unwrap();
        for _ in 0..5 {
            write(&mut logs, &end, &vec![b'x'; 1_500_000]);
            write(&mut logs, &end, b"the end\n");
        }
        assert_eq!(size(home.path(), "web.log.1").map(|s| s <= BYTES_MAX), Some(true));
        assert_eq!(size(home.path(), "web.log").map(|s| s <= BYTES_MAX), Some(true));
        assert!(logs.tail("web", 8).ends_with("the end\n"));
        drop(end);
        logs.pump(&[true]);
        assert!(logs.pipes.is_empty() && logs.logs.is_empty(), "an ended pipe is let go");
    }

    #[test]
    fn what_a_tenant_puts_in_the_way_holds_nothing_up() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(DIRECTORY);
        fs::create_dir(&directory).unwrap();
        let outside = home.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        std::os::unix::fs::symlink(&outside, directory.join("link.log")).unwrap();
        fs::create_dir(directory.join("dir.log")).unwrap();
        nix::unistd::mkfifo(&directory.join("fifo.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut logs = Logs::new(home.path());
        for name in ["link", "dir", "fifo"] {
            let end = logs.open(name, 3).unwrap();
            write(&mut logs, &end, b"lost");
            assert_eq!(logs.tail(name, 100), "");
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        // A directory where the old log belongs: the bound holds all the same.
        fs::create_dir_all(directory.join("web.log.1/full")).unwrap();
        let end = logs.open("web", 4).unwrap();
        write(&mut logs, &end, &vec![b'x'; 5_000_000]);
        assert_eq!(size(home.path(), "web.log").map(|s| s <= BYTES_MAX), Some(true));
        // Removed under our hands: begun anew.
        fs::remove_file(directory.join("web.log")).unwrap();
        write(&mut logs, &end, b"again");
        assert_eq!(logs.tail("web", 100), "again");
    }

    #[test]
    fn pipes_that_are_left_open_are_bounded() {
        let home = tempfile::tempdir().unwrap();
        let mut logs = Logs::new(home.path());
        let ends: Vec<OwnedFd> = (0..100).map(|_| logs.open("web", 1).unwrap()).collect();
        assert_eq!(logs.pipes.len(), LEFT_OPEN_MAX + 1);
        drop(ends);
    }
}
