//! Those who watch directories; a sandbox that sleeps is watched too, and not woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::base::error::Error;
use crate::base::share::Share;
use crate::serve::files::hubs::Hub;
use crate::serve::serving::Serving;
use engine::Engine;
use model::{FileBase, SandboxId};
use storage::{FileError, FilePath, Observed, Writes};

/// Changes that wait for a client; beyond, he is told that some were missed.
const QUEUE: usize = 1024;
/// The most bytes of paths that wait: a path has up to 4 KiB, and there are up to 256 clients.
const QUEUE_BYTES_MAX: usize = 64 * 1024;
/// Watches until it is dropped, the directory is gone or the daemon ends.
#[derive(Debug)]
pub struct FileWatch {
    serving: Arc<Serving>,
    share: Share,
    hub: Arc<Hub>,
    id: u64,
    news: mpsc::Receiver<Observed>,
    /// Bytes that wait in it.
    queued: Arc<AtomicUsize>,
    missed: Arc<AtomicBool>,
    _permit: OwnedSemaphorePermit,
}

/// What happened to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileNews {
    Change {
        path: String,
        /// `created`, `modified`, `deleted` or `moved`.
        kind: &'static str,
        from: Option<String>,
    },
    /// Something was missed: look again.
    Overflow,
}

fn bytes_of(piece: &Observed) -> usize {
    match piece {
        Observed::Change { path, from, .. } => path.len() + from.as_ref().map_or(0, String::len),
        Observed::Overflow => 0,
    }
}

impl FileWatch {
    /// Waits for the next change; `None` when the directory is gone or the daemon ends.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<FileNews> {
        let news = match self.news.try_recv() {
            Ok(news) => news,
            // After what came before it.
            Err(_empty) if self.missed.swap(false, Ordering::Relaxed) => return Some(FileNews::Overflow),
            Err(_empty) => tokio::select! {
                () = self.serving.ground.tasks.ending.cancelled() => return None,
                news = self.news.recv() => news?,
            },
        };
        self.queued.fetch_sub(bytes_of(&news), Ordering::Relaxed);
        Some(match news {
            Observed::Change { path, kind, from } => FileNews::Change { path, kind: kind.as_str(), from },
            Observed::Overflow => FileNews::Overflow,
        })
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        let (hub, id) = (Arc::clone(&self.hub), self.id);
        // Thousands of directories take a while to let go.
        let share = self.share.clone();
        self.serving
            .ground
            .tasks
            .spawn(async move { share.run_later(move || hub.watcher.unwatch(id)).await });
    }
}

/// Watches a directory; with `recursive` also those in it.
pub(crate) async fn watch_files(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    recursive: bool,
) -> Result<FileWatch, Error> {
    let path = FilePath::parse_directory(path).map_err(Error::File)?;
    let permit = Arc::clone(&serving.watches).try_acquire_owned();
    let permit =
        permit.map_err(|_full| Error::Busy("too many directories are watched already; try again"))?;
    let engine = Engine::of(serving.ground.books.find(id)?.record().spec.isolation);
    let writes = if engine.closes_files() { Writes::Closed } else { Writes::Each };
    let failed = |source| Error::File(FileError::Io { action: "watch", path: "files".to_owned(), source });
    let hub = serving.watchers.hub(&serving.ground.tasks, id).map_err(failed)?;
    let (sender, news) = mpsc::channel(QUEUE);
    let missed = Arc::new(AtomicBool::new(false));
    let (told, watcher) = (Arc::clone(&missed), Arc::clone(&hub.watcher));
    let queued = Arc::new(AtomicUsize::new(0));
    let waiting = Arc::clone(&queued);
    let sink = Box::new(move |piece: Observed| {
        // It is called with a lock held and must not wait.
        let bytes = bytes_of(&piece);
        let is_full = waiting.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > QUEUE_BYTES_MAX;
        if is_full || piece == Observed::Overflow || sender.try_send(piece).is_err() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            told.store(true, Ordering::Relaxed);
        }
    });
    let (host, top) = (Arc::clone(&serving.ground.host), path.clone());
    let open = Box::new(move || host.storage.files(id, base)?.subdirectory(&top));
    let share = serving.ground.books.find(id)?.share.clone();
    let watch = move || watcher.watch(open, &path, (recursive, writes), sink).map_err(Error::File);
    let id = share.run(watch).await?;
    let serving = Arc::clone(serving);
    Ok(FileWatch { serving, share, hub, id, news, queued, missed, _permit: permit })
}
