//! The files of a sandbox, whether it runs or sleeps; using them does not wake it.

mod trees;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::Error;
use super::supervisor::{Supervisor, blocking};
use crate::model::{FileBase, FileStat, SandboxId};
use crate::storage::{self, Content, FilePath, Rubbish, TreeLimits};

pub(super) use trees::TRANSFERS_MAX;
pub use trees::{Packed, Unpacking};
pub use watch::{FileNews, FileWatch};
pub(super) use watch::{WATCHES_MAX, Watchers};

/// How long a copy, a transfer of a tree or its removal may take.
const TREE_TIME_MAX: Duration = Duration::from_secs(600);
/// How much of an upload is gathered before it is written: one change of threads for so much.
const WRITE_BYTES: usize = 256 * 1024;
/// How much may gather while the disk is still busy with what came before.
const GATHERED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How many pieces may gather, however small: each costs memory of its own, and writev(2) takes 1024.
const GATHERED_MAX: usize = 1024;
/// How much of a file is read at once: what fits into a core's cache beside what is being sent.
const READ_BYTES: usize = 256 * 1024;

/// A file or directory beneath the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the base.
    pub path: String,
    pub directory: bool,
    pub size: Option<u64>,
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct Download {
    content: Arc<Content>,
    pub size: u64,
    /// Changes when the content does.
    pub version: String,
}

/// A part of a file on its way out, in pieces. What is in memory is taken from there at once; once something is not,
/// a thread reads the next piece while the last one is sent.
#[derive(Debug)]
pub struct Pieces {
    content: Arc<Content>,
    at: u64,
    end: u64,
    ahead: Option<JoinHandle<io::Result<Bytes>>>,
}

/// A file that is being written; dropped before [`Upload::commit`], nothing is changed.
#[derive(Debug)]
pub struct Upload {
    writing: Writing,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

#[derive(Debug)]
enum Writing {
    Idle(Box<storage::Upload>),
    Busy(JoinHandle<Result<Box<storage::Upload>, Error>>),
    Given,
}

impl Supervisor {
    /// Lists a directory beneath the base.
    ///
    /// # Errors
    /// Not found, not a directory, too many entries, or a path that leads out.
    pub async fn list_files(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
    ) -> Result<Vec<FileEntry>, Error> {
        let path = FilePath::parse_directory(path).map_err(Error::File)?;
        let entries =
            self.with_files(id, base, move |f| f.list(&path, recursive).map_err(Error::File)).await?;
        let convert = |entry: storage::Entry| FileEntry {
            directory: entry.kind == storage::EntryKind::Dir,
            path: entry.path,
            size: entry.size,
        };
        Ok(entries.into_iter().map(convert).collect())
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Not found, not a regular file, or a path that leads out.
    pub async fn open_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<Download, Error> {
        let path = FilePath::parse(path).map_err(Error::File)?;
        let opened = self.with_files(id, base, move |files| files.open(&path).map_err(Error::File)).await?;
        let storage::Opened { content, size, version } = opened;
        Ok(Download { content: Arc::new(content), size, version })
    }

    /// Begins to write a file; directories above it are made.
    ///
    /// # Errors
    /// The path is a directory, leads out, or nothing can be written.
    pub async fn create_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<Upload, Error> {
        let path = FilePath::parse(path).map_err(Error::File)?;
        let upload = self.with_files(id, base, move |f| f.create(&path).map_err(Error::File)).await?;
        Ok(Upload { writing: Writing::Idle(Box::new(upload)), gathered: Vec::new(), gathered_bytes: 0 })
    }

    /// Looks at what a path names; a link is not followed at its end.
    ///
    /// # Errors
    /// Not found, or a path that leads out.
    pub async fn stat_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<FileStat, Error> {
        let path = FilePath::parse_directory(path).map_err(Error::File)?;
        self.with_files(id, base, move |files| files.stat(&path).map_err(Error::File)).await
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// Something else is there, a path that leads out, or the disk is full.
    pub async fn make_directory(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        mode: Option<u32>,
    ) -> Result<FileStat, Error> {
        let path = FilePath::parse_entry(path).map_err(Error::File)?;
        self.with_files(id, base, move |files| files.make_directory(&path, mode).map_err(Error::File)).await
    }

    /// Sets the permissions of a file or directory.
    ///
    /// # Errors
    /// Not found, neither file nor directory, bits that may not be set, or a path that leads out.
    pub async fn chmod_file(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        mode: u32,
    ) -> Result<FileStat, Error> {
        let path = FilePath::parse_directory(path).map_err(Error::File)?;
        self.with_files(id, base, move |files| files.chmod(&path, mode).map_err(Error::File)).await
    }

    /// Moves a file or tree.
    ///
    /// # Errors
    /// Not found, the new place is taken, or a path that leads out.
    pub async fn move_file(
        &self,
        id: SandboxId,
        base: FileBase,
        from: &str,
        to: &str,
        overwrite: bool,
    ) -> Result<FileStat, Error> {
        let from = FilePath::parse_entry(from).map_err(Error::File)?;
        let to = FilePath::parse_entry(to).map_err(Error::File)?;
        let moved =
            self.with_files(id, base, move |f| f.rename(&from, &to, overwrite).map_err(Error::File)).await;
        let (stat, rubbish) = moved?;
        self.remove_later(rubbish);
        Ok(stat)
    }

    /// Copies a file or tree.
    ///
    /// # Errors
    /// Not found, the new place is taken, a limit is passed, or a path that leads out.
    pub async fn copy_file(
        &self,
        id: SandboxId,
        base: FileBase,
        from: &str,
        to: &str,
        overwrite: bool,
    ) -> Result<FileStat, Error> {
        let from = FilePath::parse_entry(from).map_err(Error::File)?;
        let to = FilePath::parse_entry(to).map_err(Error::File)?;
        let limits = self.tree_limits();
        let copied = self
            .with_files(id, base, move |f| f.copy(&from, &to, overwrite, limits).map_err(Error::File))
            .await;
        let (stat, rubbish) = copied?;
        self.remove_later(rubbish);
        Ok(stat)
    }

    /// Deletes a file, a link, an empty directory, or a tree; it is gone at once, its space a little later.
    ///
    /// # Errors
    /// Not found, a directory that is not empty, or a path that leads out.
    pub async fn delete_file(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
    ) -> Result<(), Error> {
        let path = FilePath::parse_entry(path).map_err(Error::File)?;
        let deleted = self.with_files(id, base, move |f| f.delete(&path, recursive).map_err(Error::File));
        self.remove_later(deleted.await?);
        Ok(())
    }

    pub(super) fn tree_limits(&self) -> TreeLimits {
        let config = &self.shared.config;
        TreeLimits {
            entries_max: config.tree_entries_max,
            bytes_max: config.tree_bytes_max.as_u64(),
            time_max: TREE_TIME_MAX,
        }
    }

    /// Removes what was taken out of a workspace; a daemon that ends leaves the rest to the next one.
    fn remove_later(&self, rubbish: Option<Rubbish>) {
        let Some(rubbish) = rubbish else { return };
        let ending = self.shared.ending.clone();
        self.shared.tasks.spawn_blocking(move || {
            if let Err(error) = rubbish.remove(&|| !ending.is_cancelled()) {
                tracing::warn!(%error, "what was deleted is not removed yet; the next start goes on");
            }
        });
    }

    pub(super) async fn with_files<T: Send + 'static>(
        &self,
        id: SandboxId,
        base: FileBase,
        step: impl FnOnce(&storage::Files) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.find(id)?;
        let shared = Arc::clone(&self.shared);
        blocking(move || step(&shared.storage.files(id, base).map_err(Error::File)?)).await
    }
}

impl Download {
    /// Reads a part; less comes if the file becomes shorter meanwhile.
    pub fn pieces(&self, start: u64, length: u64) -> Pieces {
        let end = start.saturating_add(length);
        Pieces { content: Arc::clone(&self.content), at: start, end, ahead: None }
    }
}

impl Pieces {
    /// Returns the next piece, or `None` at the end.
    ///
    /// # Cancel safety
    /// Not cancel safe: a piece that is given up is lost.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let (piece, from_disk) = match self.ahead.take() {
            Some(reading) => (reading.await, true),
            None => match self.cached()? {
                Ok(Some(piece)) => (Ok(Ok(piece)), false),
                Ok(None) => (self.read()?.await, true),
                Err(error) => (Ok(Err(error)), false),
            },
        };
        let piece = piece.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let length = piece.as_ref().map_or(0, Bytes::len);
        self.at = self.at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if length == 0 {
            // The file is shorter than it was: the answer breaks off, since its length was announced.
            self.end = self.at;
            return piece.is_err().then_some(piece);
        }
        if from_disk {
            self.ahead = self.read();
        }
        Some(piece)
    }

    /// How much comes next; `None` at the end.
    fn wanted(&self) -> Option<usize> {
        let left = self.end.saturating_sub(self.at);
        (left > 0).then(|| usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES))
    }

    /// Takes the next piece from memory, if it is there: no thread has to be asked, and none waits.
    fn cached(&self) -> Option<io::Result<Option<Bytes>>> {
        let piece = self.content.read_cached(self.at, self.wanted()?);
        Some(piece.map(|found| found.map(Bytes::from)))
    }

    fn read(&self) -> Option<JoinHandle<io::Result<Bytes>>> {
        let (content, at, wanted) = (Arc::clone(&self.content), self.at, self.wanted()?);
        Some(tokio::task::spawn_blocking(move || content.read(at, wanted).map(Bytes::from)))
    }
}

impl Upload {
    /// Adds to the file. Bytes are written while further ones are received.
    ///
    /// # Errors
    /// The disk is full or fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: a write that is given up ends the upload.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.gathered_bytes += bytes.len();
        self.gathered.push(bytes);
        let full = self.gathered_bytes >= GATHERED_BYTES_MAX || self.gathered.len() >= GATHERED_MAX;
        let busy = matches!(&self.writing, Writing::Busy(writing) if !writing.is_finished());
        // The client is not made to wait for one slow write, and the next one is larger.
        if !full && (busy || self.gathered_bytes < WRITE_BYTES) {
            return Ok(());
        }
        let (mut upload, pieces) = (self.idle().await?, std::mem::take(&mut self.gathered));
        self.gathered_bytes = 0;
        self.writing = Writing::Busy(tokio::task::spawn_blocking(move || {
            upload.write(&pieces).map_err(Error::File)?;
            Ok(upload)
        }));
        Ok(())
    }

    /// Puts the file in place of what was there; returns its size.
    ///
    /// # Errors
    /// The disk is full or fails, or a directory is in the way.
    pub async fn commit(mut self) -> Result<u64, Error> {
        let (mut upload, pieces) = (self.idle().await?, std::mem::take(&mut self.gathered));
        blocking(move || {
            upload.write(&pieces).map_err(Error::File)?;
            upload.commit().map_err(Error::File)
        })
        .await
    }

    async fn idle(&mut self) -> Result<Box<storage::Upload>, Error> {
        match std::mem::replace(&mut self.writing, Writing::Given) {
            Writing::Idle(upload) => Ok(upload),
            Writing::Busy(writing) => writing.await.unwrap_or(Err(Error::Panicked)),
            // A write before this one failed.
            Writing::Given => Err(Error::Ending),
        }
    }
}
