//! Threads that wait for a disk on behalf of tenants.
//!
//! Whoever waits for the kernel takes one of the daemon's few threads. What a tenant's files cost is decided by the
//! tenant: a tree can be huge, a disk slow. So each sandbox has a share of the threads, all sandboxes together leave
//! some for the host's own work (starts and stops, the record, names), and what waits for a thread waits in a queue
//! that costs none and that a client who goes away leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::base::error::Error;
use crate::base::tasks::blocking;
use sys::memory;
use sys::priority::Yielding;

/// How many threads may work on the files of one sandbox: as many as a browser opens connections, and more.
const SANDBOX_MAX: usize = 8;
/// How many may work on files of tenants, of the 128 that there are (`daemon::serve`). Transfers of trees, which hold
/// theirs for minutes, have 16 of their own, and as many have removals: 56 are left to the host's work.
const TENANTS_MAX: usize = 40;
/// How many trees of one sandbox may be on their way at once.
const TRANSFERS_MAX: usize = 4;
/// How many steps that hold some MiB of memory may be under way at once.
const LARGE_MAX: usize = 2;
/// How many trees that nobody can reach any more are removed at once.
const REMOVALS_MAX: usize = 16;
/// How long a request waits for a thread before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The threads of all sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Threads {
    tenants: Arc<Semaphore>,
    large: Arc<Semaphore>,
    removals: Arc<Semaphore>,
    reading: Count,
    writing: Count,
    /// What the end of the daemon waits for.
    tasks: TaskTracker,
}

/// How many of a kind there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Counted(Count);

/// The share of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    own: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    all: Threads,
    /// Files that are read and written, of all sandboxes.
    pub(crate) reading: Count,
    pub(crate) writing: Count,
}

/// Something whose end may wait for a disk: it is dropped on a thread that may wait.
#[derive(Debug)]
pub(crate) struct Offloaded<T: Send + 'static> {
    value: Option<T>,
    share: Share,
}

impl Threads {
    pub(crate) fn new(tasks: &TaskTracker) -> Self {
        let semaphore = |max| Arc::new(Semaphore::new(max));
        Self {
            tenants: semaphore(TENANTS_MAX),
            large: semaphore(LARGE_MAX),
            removals: semaphore(REMOVALS_MAX),
            reading: Count::default(),
            writing: Count::default(),
            tasks: tasks.clone(),
        }
    }

    pub(crate) fn share(&self) -> Share {
        let semaphore = |max| Arc::new(Semaphore::new(max));
        Share {
            own: semaphore(SANDBOX_MAX),
            transfers: semaphore(TRANSFERS_MAX),
            all: self.clone(),
            reading: self.reading.clone(),
            writing: self.writing.clone(),
        }
    }

    /// Waits until one more tree may be removed.
    pub(crate) async fn removal(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.removals).acquire_owned().await.map_err(closed)
    }
}

impl Count {
    pub(crate) fn begin(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

impl Counted {
    /// What each of them gets of so much.
    pub(crate) fn fair(&self, all: usize) -> usize {
        all / self.0.0.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Share {
    /// Runs a step on a thread, once the sandbox has one left.
    ///
    /// # Errors
    /// It has none for too long, and those of the step.
    ///
    /// # Cancel safety
    /// A step that has not begun does not begin; one that has is finished.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permits = self.in_time(self.permits()).await?;
        blocking(move || held(permits, step)).await
    }

    /// The same for a step that holds some MiB of memory.
    ///
    /// # Errors
    /// Those of [`Share::run`].
    ///
    /// # Cancel safety
    /// That of [`Share::run`].
    pub(crate) async fn run_large<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permits = self.in_time(async {
            let permits = self.permits().await?;
            Ok((permits, Arc::clone(&self.all.large).acquire_owned().await.map_err(closed)?))
        });
        let permits = permits.await?;
        let step = || {
            let done = step();
            memory::give_back();
            done
        };
        blocking(move || held(permits, step)).await
    }

    /// Runs a step for which nobody waits, such as the end of something, in its turn; a daemon that ends does not
    /// begin it.
    pub(crate) async fn run_later(&self, step: impl FnOnce() + Send + 'static) {
        let permits = self.permits().await;
        let step = || {
            step();
            Ok(())
        };
        let _panicked: Result<(), Error> = blocking(move || held(permits, step)).await;
    }

    /// Begins a task that the end of the daemon waits for.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.all.tasks.spawn(work)
    }

    /// Returns a permit for one more tree that is on its way, if the sandbox has one left.
    pub(crate) fn transfer(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.transfers).try_acquire_owned().ok()
    }

    async fn in_time<P>(&self, permits: impl Future<Output = Result<P, Error>>) -> Result<P, Error> {
        let busy = |_elapsed| Error::Busy("too much is being done with this sandbox's files; try again");
        tokio::time::timeout(PATIENCE, permits).await.map_err(busy)?
    }

    /// Its own first: who waits for one of those keeps nobody else waiting.
    async fn permits(&self) -> Result<[OwnedSemaphorePermit; 2], Error> {
        let own = Arc::clone(&self.own).acquire_owned().await.map_err(closed)?;
        Ok([own, Arc::clone(&self.all.tenants).acquire_owned().await.map_err(closed)?])
    }
}

impl<T: Send + 'static> Offloaded<T> {
    pub(crate) fn new(value: T, share: &Share) -> Self {
        Self { value: Some(value), share: share.clone() }
    }

    /// Lends the value.
    ///
    /// # Errors
    /// It was taken.
    pub(crate) fn get(&mut self) -> Result<&mut T, Error> {
        self.value.as_mut().ok_or(Error::Ending)
    }

    /// Takes the value back; its end is the caller's then.
    pub(crate) fn take(mut self) -> Option<T> {
        self.value.take()
    }
}

impl<T: Send + 'static> Drop for Offloaded<T> {
    fn drop(&mut self) {
        let (Some(value), Ok(tokio)) = (self.value.take(), Handle::try_current()) else { return };
        let share = self.share.clone();
        let later = async move { share.run_later(move || drop(value)).await };
        drop(self.share.all.tasks.spawn_on(later, &tokio));
    }
}

/// Runs a step whose cost a tenant decides: what the daemon does for everybody goes first.
fn held<P, T>(permits: P, step: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let yielding = Yielding::begin();
    let done = step();
    drop((permits, yielding));
    done
}

fn closed(_nobody_closes_it: AcquireError) -> Error {
    Error::Ending
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes every thread that a sandbox may have, until the sender is dropped.
    fn fill(share: &Share) -> (mpsc::Sender<()>, Vec<tokio::task::JoinHandle<Result<(), Error>>>) {
        let (sender, receiver) = mpsc::channel::<()>();
        let receiver = Arc::new(std::sync::Mutex::new(receiver));
        let begun = (0..SANDBOX_MAX * 2).map(|_| {
            let (share, receiver) = (share.clone(), Arc::clone(&receiver));
            let tasks = share.clone();
            tasks.spawn(async move {
                share
                    .run(move || {
                        drop(receiver.lock().map(|receiver| receiver.recv()));
                        Ok(())
                    })
                    .await
            })
        });
        (sender, begun.collect())
    }

    #[tokio::test]
    async fn one_sandbox_takes_no_threads_of_another() {
        let threads = Threads::new(&TaskTracker::new());
        let (hostile, neighbour) = (threads.share(), threads.share());
        let (held, begun) = fill(&hostile);
        while hostile.own.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(threads.tenants.available_permits(), TENANTS_MAX - SANDBOX_MAX);
        assert_eq!(neighbour.run(|| Ok(7)).await.unwrap(), 7);
        drop(held);
        for one in begun {
            one.await.unwrap().unwrap();
        }
        assert_eq!(threads.tenants.available_permits(), TENANTS_MAX);
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_queue() {
        let threads = Threads::new(&TaskTracker::new());
        let share = threads.share();
        let (held, begun) = fill(&share);
        while share.own.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let (sender, receiver) = mpsc::channel();
        let late = share.run(move || {
            sender.send(()).ok();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), late).await.is_err());
        drop(held);
        for one in begun {
            one.await.unwrap().unwrap();
        }
        assert!(receiver.try_recv().is_err(), "what nobody waits for was done");
    }
}
