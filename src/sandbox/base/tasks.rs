//! The instance's background work, and how it ends.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::base::error::Error;

/// Background work, and the two signals of its end; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Cancelled when every sandbox is to stop: nothing is started from then on.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the daemon's part ends: whatever watches returns.
    pub(crate) ending: CancellationToken,
}

impl Tasks {
    /// Starts a task; the end of the daemon waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn(work)
    }

    /// Starts a task on a thread that may wait; the end of the daemon waits for it.
    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// Waits; false when the daemon ends meanwhile.
    pub(crate) async fn pause(&self, interval: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(interval) => true,
            () = self.ending.cancelled() => false,
        }
    }

    /// Ends all work and waits until it has ended.
    pub(crate) async fn finish(&self) {
        self.ending.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// What counts the tasks.
    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }
}

/// Runs a step that waits for the kernel on a thread of its own.
///
/// # Errors
/// Those of the step, or it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(step).await.unwrap_or(Err(Error::Panicked))
}
