//! Those who watch directories; a sandbox that sleeps is watched too, and not woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::model::{FileBase, SandboxId};
use crate::sandbox::supervisor::{Shared, Supervisor, blocking};
use crate::storage::{FileError, FilePath, Observed, Watcher};
use crate::sys::watch::Watched;

/// How many may watch at once.
pub(in crate::sandbox) const WATCHES_MAX: usize = 256;
/// Changes that wait for a client; beyond, he is told that some were missed.
const QUEUE: usize = 1024;
/// Between two looks: what comes in a burst is read as one.
const PAUSE: Duration = Duration::from_millis(10);

/// Watches until it is dropped, the directory is gone or the daemon ends.
#[derive(Debug)]
pub struct FileWatch {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    id: u64,
    news: mpsc::Receiver<Observed>,
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

impl Supervisor {
    /// Watches a directory; with `recursive` also those in it.
    ///
    /// # Errors
    /// Not found, not a directory, a path that leads out, or too many directories or watches.
    pub async fn watch_files(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
    ) -> Result<FileWatch, Error> {
        let path = FilePath::parse_directory(path).map_err(Error::File)?;
        let permit = Arc::clone(&self.shared.watches).try_acquire_owned();
        let permit =
            permit.map_err(|_full| Error::Busy("too many directories are watched already; try again"))?;
        let shared = Arc::clone(&self.shared);
        let watcher = Arc::clone(self.shared.watcher.get_or_try_init(|| start(shared)).await?);
        let (sender, news) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicBool::new(false));
        let (told, hub) = (Arc::clone(&missed), Arc::clone(&watcher));
        let sink = Box::new(move |piece: Observed| {
            // It is called with a lock held and must not wait.
            if piece == Observed::Overflow || sender.try_send(piece).is_err() {
                told.store(true, Ordering::Relaxed);
            }
        });
        self.find(id)?;
        let (shared, top) = (Arc::clone(&self.shared), path.clone());
        let open = Box::new(move || shared.storage.files(id, base)?.subdirectory(&top));
        let watch = blocking(move || hub.watch(open, &path, recursive, sink).map_err(Error::File));
        let id = watch.await?;
        let shared = Arc::clone(&self.shared);
        Ok(FileWatch { shared, watcher, id, news, missed, _permit: permit })
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
                () = self.shared.ending.cancelled() => return None,
                news = self.news.recv() => news?,
            },
        };
        Some(match news {
            Observed::Change { path, kind, from } => FileNews::Change { path, kind: kind.as_str(), from },
            Observed::Overflow => FileNews::Overflow,
        })
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        let (watcher, id) = (Arc::clone(&self.watcher), self.id);
        // Thousands of directories take a while to let go.
        self.shared.tasks.spawn_blocking(move || watcher.unwatch(id));
    }
}

/// Makes the one instance at the first watch, and the task that reads from it.
async fn start(shared: Arc<Shared>) -> Result<Arc<Watcher>, Error> {
    let failed = |source| Error::File(FileError::Io { action: "watch", path: "files".to_owned(), source });
    let watcher = Arc::new(Watcher::new().map_err(failed)?);
    let descriptor = Watched::new(watcher.descriptor().map_err(failed)?).map_err(failed)?;
    let ending = shared.ending.clone();
    shared.tasks.spawn(read(Arc::clone(&watcher), descriptor, ending));
    Ok(watcher)
}

async fn read(watcher: Arc<Watcher>, descriptor: Watched<std::os::fd::OwnedFd>, ending: CancellationToken) {
    loop {
        let events = tokio::select! {
            () = ending.cancelled() => return,
            events = descriptor.read_with(|_| watcher.read()) => events,
        };
        match events {
            Ok(events) => {
                let watcher = Arc::clone(&watcher);
                let told = blocking(move || {
                    watcher.tell(events);
                    Ok(())
                });
                if told.await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "cannot read which files have changed"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
