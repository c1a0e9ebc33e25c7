//! Those who watch directories; a sandbox that sleeps is watched too, and not woken.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;
use crate::share::Share;
use crate::supervisor::{Shared, Supervisor};
use crate::tasks::blocking;
use engine::Engine;
use model::{FileBase, SandboxId};
use storage::{FileError, FilePath, Observed, Tally, Watcher, Writes};
use sys::watch::Watched;

/// How many may watch at once.
pub(crate) const WATCHES_MAX: usize = 256;
/// Changes that wait for a client; beyond, he is told that some were missed.
const QUEUE: usize = 1024;
/// The most bytes of paths that wait: a path has up to 4 KiB, and there are up to 256 clients.
const QUEUE_BYTES_MAX: usize = 64 * 1024;
/// Between two looks: what comes in a burst is read as one.
const PAUSE: Duration = Duration::from_millis(10);
/// So many at once are a flood, after which there is no pause: the kernel's queue has 16,384.
const FLOOD: usize = 1024;
/// The most inotify instances, of the 128 that root has: sandboxes that are watched beyond share one more.
const INSTANCES_MAX: usize = 48;

/// Who reads for whom. Each sandbox that is watched has a queue of its own, so that one that changes files without
/// end makes nobody else miss anything.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// The one without a sandbox is for all beyond the most.
    hubs: Mutex<HashMap<Option<SandboxId>, Weak<Hub>>>,
    tally: Tally,
}

/// A queue, and the task that reads it for as long as this lives.
#[derive(Debug)]
struct Hub {
    watcher: Arc<Watcher>,
    _reading: DropGuard,
}

/// Watches until it is dropped, the directory is gone or the daemon ends.
#[derive(Debug)]
pub struct FileWatch {
    shared: Arc<Shared>,
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
        let engine = Engine::of(self.find(id)?.record().spec.isolation);
        let writes = if engine.closes_files() { Writes::Closed } else { Writes::Each };
        let failed =
            |source| Error::File(FileError::Io { action: "watch", path: "files".to_owned(), source });
        let hub = Watchers::hub(&self.shared, id).map_err(failed)?;
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
        let (shared, top) = (Arc::clone(&self.shared), path.clone());
        let open = Box::new(move || shared.storage.files(id, base)?.subdirectory(&top));
        let share = self.find(id)?.share.clone();
        let watch = move || watcher.watch(open, &path, (recursive, writes), sink).map_err(Error::File);
        let id = share.run(watch).await?;
        let shared = Arc::clone(&self.shared);
        Ok(FileWatch { shared, share, hub, id, news, queued, missed, _permit: permit })
    }
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
                () = self.shared.ending.cancelled() => return None,
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
        self.shared.tasks.spawn(async move { share.run_later(move || hub.watcher.unwatch(id)).await });
    }
}

impl Watchers {
    /// The queue of a sandbox, which is made at its first watch and goes with the last.
    fn hub(shared: &Arc<Shared>, id: SandboxId) -> io::Result<Arc<Hub>> {
        let mut hubs = shared.watchers.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        hubs.retain(|_, hub| hub.strong_count() > 0);
        let known = |key| hubs.get(&key).and_then(Weak::upgrade);
        if let Some(hub) = known(Some(id)) {
            return Ok(hub);
        }
        let own = if hubs.len() < INSTANCES_MAX { Hub::new(shared).ok() } else { None };
        let (key, hub) = match (own, known(None)) {
            (Some(own), _) => (Some(id), own),
            (None, Some(common)) => return Ok(common),
            (None, None) => (None, Hub::new(shared)?),
        };
        hubs.insert(key, Arc::downgrade(&hub));
        Ok(hub)
    }
}

impl Hub {
    fn new(shared: &Arc<Shared>) -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Watcher::new(shared.watchers.tally.clone())?);
        let descriptor = Watched::new(watcher.descriptor()?)?;
        let ending = shared.ending.child_token();
        shared.tasks.spawn(read(Arc::clone(&watcher), descriptor, ending.clone()));
        Ok(Arc::new(Self { watcher, _reading: ending.drop_guard() }))
    }
}

async fn read(watcher: Arc<Watcher>, descriptor: Watched<OwnedFd>, ending: CancellationToken) {
    loop {
        let events = tokio::select! {
            () = ending.cancelled() => return,
            events = descriptor.read_with(|_| watcher.read()) => events,
        };
        match events {
            Ok(events) => {
                let is_flood = events.len() >= FLOOD;
                let watcher = Arc::clone(&watcher);
                let told = blocking(move || {
                    watcher.tell(events);
                    Ok(())
                });
                if told.await.is_err() {
                    return;
                }
                if is_flood {
                    continue;
                }
            }
            Err(error) => tracing::error!(%error, "cannot read which files have changed"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
