//! The files of a sandbox, whether it runs or sleeps; using them does not wake it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Error;
use crate::serve::files::download::{Download, Open};
use crate::serve::files::kept::Kept;
use crate::serve::files::upload::Upload;
use crate::serve::serving::Serving;
use model::{FileBase, FileStat, SandboxId};
use storage::{FileError, FilePath, Listing, Rubbish, Spool, TreeLimits, Wanted};

const HELD_PAUSE: Duration = Duration::from_millis(50);

/// How long a copy, a transfer of a tree or its removal may take.
const TREE_TIME_MAX: Duration = Duration::from_secs(600);
/// How often a file is tried again that a program of the sandbox holds, and after which pause. Somebody who is told
/// that others want it lets it go at once; somebody who does not keeps no thread.
const HELD_TRIES: u32 = 10;

/// What an answer that could not be kept for its client means.
pub(crate) fn not_kept(error: io::Error) -> Error {
    Error::File(FileError::at("keep", "the answer")(error))
}

/// Lists a directory beneath the base; `write` makes the answer of it, which is kept until it is sent.
pub(crate) async fn list_files(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    recursive: bool,
    write: impl FnOnce(&Listing, &mut Spool) -> io::Result<()> + Send + 'static,
) -> Result<Kept, Error> {
    let path = FilePath::parse_directory(path).map_err(Error::File)?;
    let (entry, serving, wanted) = (serving.ground.books.find(id)?, Arc::clone(serving), Wanted::default());
    let _waiting = wanted.waiting();
    let list = move || {
        let files = serving.ground.host.storage.files(id, base).map_err(Error::File)?.while_wanted(&wanted);
        let listing = files.list(&path, recursive).map_err(Error::File)?;
        let mut spool = serving.ground.host.storage.spool();
        write(&listing, &mut spool).map(|()| spool).map_err(not_kept)
    };
    Ok(Kept::new([entry.share.run_large(list).await?], &entry.share))
}

/// Opens a regular file.
pub(crate) async fn open_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
) -> Result<Download, Error> {
    let path = FilePath::parse(path).map_err(Error::File)?;
    let mut tried = 0;
    let opened = loop {
        let path = path.clone();
        let opened = with_files(serving, id, base, move |files| files.open(&path).map_err(Error::File));
        match opened.await {
            Err(Error::File(FileError::Held { .. })) if tried < HELD_TRIES => tried += 1,
            opened => break opened?,
        }
        tokio::time::sleep(HELD_PAUSE).await;
    };
    let storage::Opened { content, size, version } = opened;
    let open = Arc::new(Open::new(content, &serving.ground.books.find(id)?.share));
    Ok(Download { open, size, version })
}

/// Begins to write a file; directories above it are made.
pub(crate) async fn create_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
) -> Result<Upload, Error> {
    let path = FilePath::parse(path).map_err(Error::File)?;
    let share = serving.ground.books.find(id)?.share.clone();
    let upload = with_files(serving, id, base, move |f| f.create(&path).map_err(Error::File)).await?;
    Ok(Upload::new(upload, share))
}

/// Looks at what a path names; a link is not followed at its end.
pub(crate) async fn stat_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
) -> Result<FileStat, Error> {
    let path = FilePath::parse_directory(path).map_err(Error::File)?;
    with_files(serving, id, base, move |files| files.stat(&path).map_err(Error::File)).await
}

/// Makes a directory and those above it.
pub(crate) async fn make_directory(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    mode: Option<u32>,
) -> Result<FileStat, Error> {
    let path = FilePath::parse_entry(path).map_err(Error::File)?;
    with_files(serving, id, base, move |files| files.make_directory(&path, mode).map_err(Error::File)).await
}

/// Sets the permissions of a file or directory.
pub(crate) async fn chmod_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    mode: u32,
) -> Result<FileStat, Error> {
    let path = FilePath::parse_directory(path).map_err(Error::File)?;
    with_files(serving, id, base, move |files| files.chmod(&path, mode).map_err(Error::File)).await
}

/// Moves a file or tree.
pub(crate) async fn move_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    from: &str,
    to: &str,
    overwrite: bool,
) -> Result<FileStat, Error> {
    let from = FilePath::parse_entry(from).map_err(Error::File)?;
    let to = FilePath::parse_entry(to).map_err(Error::File)?;
    let moved =
        with_files(serving, id, base, move |f| f.rename(&from, &to, overwrite).map_err(Error::File)).await;
    let (stat, rubbish) = moved?;
    remove_later(serving, id, rubbish);
    Ok(stat)
}

/// Copies a file or tree.
pub(crate) async fn copy_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    from: &str,
    to: &str,
    overwrite: bool,
) -> Result<FileStat, Error> {
    let from = FilePath::parse_entry(from).map_err(Error::File)?;
    let to = FilePath::parse_entry(to).map_err(Error::File)?;
    let limits = tree_limits(serving);
    let copied =
        with_files(serving, id, base, move |f| f.copy(&from, &to, overwrite, limits).map_err(Error::File))
            .await;
    let (stat, rubbish) = copied?;
    remove_later(serving, id, rubbish);
    Ok(stat)
}

/// Deletes a file, a link, an empty directory, or a tree; it is gone at once, its space a little later.
pub(crate) async fn delete_file(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    recursive: bool,
) -> Result<(), Error> {
    let path = FilePath::parse_entry(path).map_err(Error::File)?;
    let deleted = with_files(serving, id, base, move |f| f.delete(&path, recursive).map_err(Error::File));
    remove_later(serving, id, deleted.await?);
    Ok(())
}

pub(crate) fn tree_limits(serving: &Arc<Serving>) -> TreeLimits {
    let config = &serving.config;
    TreeLimits {
        entries_max: config.tree_entries_max,
        bytes_max: config.tree_bytes_max.as_u64(),
        time_max: TREE_TIME_MAX,
    }
}

/// Removes what was taken out of a workspace; a daemon that ends leaves the rest to the next one.
pub(crate) fn remove_later(serving: &Arc<Serving>, id: SandboxId, rubbish: Option<Rubbish>) {
    let Some(rubbish) = rubbish else { return };
    let ending = serving.ground.tasks.ending.clone();
    let remove = move || {
        if let Err(error) = rubbish.remove(&|| !ending.is_cancelled()) {
            tracing::warn!(%error, "what was deleted is not removed yet; the next start goes on");
        }
    };
    // A sandbox that has just gone has no share any more.
    let share = serving
        .ground
        .books
        .find(id)
        .map_or_else(|_gone| serving.ground.books.threads.share(), |entry| entry.share.clone());
    serving.ground.tasks.spawn(async move { share.run_later(remove).await });
}

pub(crate) async fn with_files<T: Send + 'static>(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    step: impl FnOnce(&storage::Files) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let share = serving.ground.books.find(id)?.share.clone();
    let (serving, wanted) = (Arc::clone(serving), Wanted::default());
    let _waiting = wanted.waiting();
    let work = move || {
        let files = serving.ground.host.storage.files(id, base).map_err(Error::File)?;
        step(&files.while_wanted(&wanted))
    };
    share.run(work).await
}
