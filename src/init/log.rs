//! The logs of the app's processes: `~/.runtimed/<name>.log`.
//!
//! The process writes its log itself; it is looked at now and then, and cut when it is too long.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::PathBuf;

/// A log longer than this is moved to `<name>.log.1` and begun anew.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Beneath the home directory.
const DIRECTORY: &str = ".runtimed";

/// The log of one process.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// The kernel's: the workspace is full, or the tenant put something in the way.
    pub(super) fn open(home: &str, name: &str) -> io::Result<Self> {
        let directory = PathBuf::from(home).join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// A descriptor for the process to write to.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn writer(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Cuts the log if it is too long: its content is copied aside, so that the process, which holds
    /// the file open, writes on into the same file.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() <= BYTES_MAX {
            return Ok(());
        }
        let mut old = File::create(self.path.with_extension("log.1"))?;
        self.file.seek(SeekFrom::Start(0))?;
        io::copy(&mut Read::by_ref(&mut self.file).take(2 * BYTES_MAX), &mut old)?;
        self.file.set_len(0)
    }

    /// Reads the last `bytes` of the log, as text.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn tail(&mut self, bytes: u64) -> io::Result<String> {
        let length = self.file.metadata()?.len();
        self.file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        Read::by_ref(&mut self.file).take(bytes).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
