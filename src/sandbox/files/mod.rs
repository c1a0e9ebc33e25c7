//! The files of a sandbox, whether it runs or sleeps; using them does not wake it.

pub(crate) mod kept;
pub(crate) mod trees;
pub(crate) mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use super::error::Error;
use super::share::{Counted, Offloaded, Share};
use super::supervisor::Supervisor;
use model::{FileBase, FileStat, SandboxId};
use storage::{Content, FileError, FilePath, Listing, Rubbish, Spool, TreeLimits, Wanted};

pub use kept::Kept;
pub use trees::{Packed, Unpacking};
pub use watch::{FileNews, FileWatch};

/// How long a copy, a transfer of a tree or its removal may take.
const TREE_TIME_MAX: Duration = Duration::from_secs(600);
/// How much of an upload is gathered before it is written: one change of threads for so much.
const WRITE_BYTES: usize = 256 * 1024;
/// The least that is gathered, however many uploads there are.
const WRITE_BYTES_MIN: usize = 16 * 1024;
/// What all uploads may have gathered together: the more of them, the smaller their pieces.
const WRITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much more may gather while the disk is still busy with what came before, in such pieces.
const GATHERED_PIECES_MAX: usize = 4;
/// How many pieces may gather, however small: each costs memory of its own, and writev(2) takes 1024.
const GATHERED_MAX: usize = 1024;
/// How much of a file is read at once: what fits into a core's cache beside what is being sent.
const READ_BYTES: usize = 256 * 1024;
/// The least that is read at once, however many files are being read.
const READ_BYTES_MIN: usize = 16 * 1024;
/// What all files that are being read may have in memory together: the more of them, the smaller their pieces.
const READING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often a file is tried again that a program of the sandbox holds, and after which pause. Somebody who is told
/// that others want it lets it go at once; somebody who does not keeps no thread.
const HELD_TRIES: u32 = 10;
const HELD_PAUSE: Duration = Duration::from_millis(50);

/// A file that is open for reading.
#[derive(Debug)]
pub struct Download {
    open: Arc<Open>,
    pub size: u64,
    /// Changes when the content does.
    pub version: String,
}

/// A part of a file on its way out, in pieces. What is in memory is taken from there at once; once something is not,
/// a thread reads the next piece while the last one is sent.
#[derive(Debug)]
pub struct Pieces {
    open: Arc<Open>,
    at: u64,
    end: u64,
    ahead: Option<AbortOnDropHandle<io::Result<Bytes>>>,
}

/// A file that is being read, and whose threads read it.
#[derive(Debug)]
struct Open {
    content: Option<Arc<Content>>,
    share: Share,
    reading: Counted,
}

/// A file that is being written; dropped before [`Upload::commit`], nothing is changed.
#[derive(Debug)]
pub struct Upload {
    share: Share,
    counted: Counted,
    writing: Writing,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

#[derive(Debug)]
enum Writing {
    Idle(Written),
    Busy(AbortOnDropHandle<Result<Written, Error>>),
    Given,
}

/// What is written of a file; its end removes what is not whole.
type Written = Offloaded<Box<storage::Upload>>;

impl Supervisor {
    /// Lists a directory beneath the base; `write` makes the answer of it, which is kept until it is sent.
    ///
    /// # Errors
    /// Not found, not a directory, too many entries, a path that leads out, or a full disk.
    pub async fn list_files(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
        write: impl FnOnce(&Listing, &mut Spool) -> io::Result<()> + Send + 'static,
    ) -> Result<Kept, Error> {
        let path = FilePath::parse_directory(path).map_err(Error::File)?;
        let (entry, shared, wanted) = (self.find(id)?, Arc::clone(&self.shared), Wanted::default());
        let _waiting = wanted.waiting();
        let list = move || {
            let files = shared.storage.files(id, base).map_err(Error::File)?.while_wanted(&wanted);
            let listing = files.list(&path, recursive).map_err(Error::File)?;
            let mut spool = shared.storage.spool();
            write(&listing, &mut spool).map(|()| spool).map_err(not_kept)
        };
        Ok(Kept::new([entry.share.run_large(list).await?], &entry.share))
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Not found, not a regular file, or a path that leads out.
    pub async fn open_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<Download, Error> {
        let path = FilePath::parse(path).map_err(Error::File)?;
        let mut tried = 0;
        let opened = loop {
            let path = path.clone();
            let opened = self.with_files(id, base, move |files| files.open(&path).map_err(Error::File));
            match opened.await {
                Err(Error::File(FileError::Held { .. })) if tried < HELD_TRIES => tried += 1,
                opened => break opened?,
            }
            tokio::time::sleep(HELD_PAUSE).await;
        };
        let storage::Opened { content, size, version } = opened;
        let open = Arc::new(Open::new(content, &self.find(id)?.share));
        Ok(Download { open, size, version })
    }

    /// Begins to write a file; directories above it are made.
    ///
    /// # Errors
    /// The path is a directory, leads out, or nothing can be written.
    pub async fn create_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<Upload, Error> {
        let path = FilePath::parse(path).map_err(Error::File)?;
        let share = self.find(id)?.share.clone();
        let upload = self.with_files(id, base, move |f| f.create(&path).map_err(Error::File)).await?;
        let writing = Writing::Idle(Offloaded::new(Box::new(upload), &share));
        let counted = share.writing.begin();
        Ok(Upload { share, counted, writing, gathered: Vec::new(), gathered_bytes: 0 })
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
        self.remove_later(id, rubbish);
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
        self.remove_later(id, rubbish);
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
        self.remove_later(id, deleted.await?);
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
    fn remove_later(&self, id: SandboxId, rubbish: Option<Rubbish>) {
        let Some(rubbish) = rubbish else { return };
        let ending = self.shared.ending.clone();
        let remove = move || {
            if let Err(error) = rubbish.remove(&|| !ending.is_cancelled()) {
                tracing::warn!(%error, "what was deleted is not removed yet; the next start goes on");
            }
        };
        // A sandbox that has just gone has no share any more.
        let share =
            self.find(id).map_or_else(|_gone| self.shared.threads.share(), |entry| entry.share.clone());
        self.shared.tasks.spawn(async move { share.run_later(remove).await });
    }

    pub(super) async fn with_files<T: Send + 'static>(
        &self,
        id: SandboxId,
        base: FileBase,
        step: impl FnOnce(&storage::Files) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let share = self.find(id)?.share.clone();
        let (shared, wanted) = (Arc::clone(&self.shared), Wanted::default());
        let _waiting = wanted.waiting();
        let work = move || {
            let files = shared.storage.files(id, base).map_err(Error::File)?;
            step(&files.while_wanted(&wanted))
        };
        share.run(work).await
    }
}

/// What an answer that could not be kept for its client means.
pub(super) fn not_kept(error: io::Error) -> Error {
    Error::File(FileError::at("keep", "the answer")(error))
}

impl Download {
    /// Reads a part; less comes if the file becomes shorter meanwhile.
    pub fn pieces(&self, start: u64, length: u64) -> Pieces {
        let end = start.saturating_add(length);
        Pieces { open: Arc::clone(&self.open), at: start, end, ahead: None }
    }
}

impl Open {
    fn new(content: Content, share: &Share) -> Self {
        let reading = share.reading.begin();
        Self { content: Some(Arc::new(content)), share: share.clone(), reading }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(content) = self.content.take().filter(|content| content.is_removed()) {
            drop(Offloaded::new(content, &self.share));
        }
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
        let piece = self.open.reading.fair(READING_BYTES_MAX).clamp(READ_BYTES_MIN, READ_BYTES);
        (left > 0).then(|| usize::try_from(left).unwrap_or(usize::MAX).min(piece))
    }

    /// Takes the next piece from memory, if it is there: no thread has to be asked, and none waits.
    fn cached(&self) -> Option<io::Result<Option<Bytes>>> {
        let piece = self.open.content.as_ref()?.read_cached(self.at, self.wanted()?);
        Some(piece.map(|found| found.map(Bytes::from)))
    }

    /// Given up while it waits for a thread, it is not begun.
    fn read(&self) -> Option<AbortOnDropHandle<io::Result<Bytes>>> {
        let (content, at, wanted) = (Arc::clone(self.open.content.as_ref()?), self.at, self.wanted()?);
        let share = self.open.share.clone();
        let read = move || Ok(content.read(at, wanted).map(Bytes::from));
        let reading = async move { share.run(read).await.unwrap_or_else(|busy| Err(io::Error::other(busy))) };
        Some(AbortOnDropHandle::new(self.open.share.spawn(reading)))
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
        let piece = self.counted.fair(WRITING_BYTES_MAX).clamp(WRITE_BYTES_MIN, WRITE_BYTES);
        let full = self.gathered_bytes >= piece * GATHERED_PIECES_MAX || self.gathered.len() >= GATHERED_MAX;
        let busy = matches!(&self.writing, Writing::Busy(writing) if !writing.is_finished());
        // The client is not made to wait for one slow write, and the next one is larger.
        if !full && (busy || self.gathered_bytes < piece) {
            return Ok(());
        }
        let (mut upload, pieces) = (self.idle().await?, std::mem::take(&mut self.gathered));
        self.gathered_bytes = 0;
        let (share, tasks) = (self.share.clone(), self.share.clone());
        let write = move || {
            upload.get()?.write(&pieces).map_err(Error::File)?;
            Ok(upload)
        };
        let writing = tasks.spawn(async move { share.run(write).await });
        self.writing = Writing::Busy(AbortOnDropHandle::new(writing));
        Ok(())
    }

    /// Puts the file in place of what was there; returns its size.
    ///
    /// # Errors
    /// The disk is full or fails, or a directory is in the way.
    pub async fn commit(mut self) -> Result<u64, Error> {
        let (upload, pieces) = (self.idle().await?, std::mem::take(&mut self.gathered));
        let write = move || {
            let mut upload = upload.take().ok_or(Error::Ending)?;
            upload.write(&pieces).map_err(Error::File)?;
            upload.commit().map_err(Error::File)
        };
        self.share.run(write).await
    }

    async fn idle(&mut self) -> Result<Written, Error> {
        match std::mem::replace(&mut self.writing, Writing::Given) {
            Writing::Idle(upload) => Ok(upload),
            Writing::Busy(writing) => writing.await.unwrap_or(Err(Error::Panicked)),
            // A write before this one failed.
            Writing::Given => Err(Error::Ending),
        }
    }
}
