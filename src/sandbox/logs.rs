//! What the processes of an app have printed, whether the sandbox runs or sleeps; reading it does not
//! wake it and does not count as use.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::error::Error;
use super::supervisor::{Shared, Supervisor, blocking};
use crate::model::{SandboxId, manifest};
use crate::storage;

/// The most lines that are read at once.
pub const LINES_MAX: usize = 10_000;
/// How many may follow logs at the same time.
pub(super) const FOLLOWERS_MAX: usize = 256;
/// The first pause before a log is looked at again; it doubles while nothing comes. A watch would take
/// one of the few inotify instances that root has.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(800);

/// Follows a log until it is dropped, the sandbox is deleted or the daemon ends.
#[derive(Debug)]
pub struct LogFollower {
    shared: Arc<Shared>,
    id: SandboxId,
    inner: Option<storage::Follower>,
    pause: Duration,
    _permit: OwnedSemaphorePermit,
}

/// What was printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogNews {
    pub lines: Vec<String>,
    /// More was printed than is kept: after these lines something is missing.
    pub gap: bool,
}

impl Supervisor {
    /// Reads the last lines that a process of the app has printed, at most [`LINES_MAX`].
    ///
    /// # Errors
    /// Not found: the sandbox, or a process of that name.
    pub async fn log_tail(&self, id: SandboxId, process: &str, count: usize) -> Result<Vec<String>, Error> {
        let (logs, name) = (self.logs(id, process).await?, process.to_owned());
        let tail = blocking(move || Ok(logs.tail(&name, count.min(LINES_MAX)))).await?;
        match tail {
            Some(lines) => Ok(lines),
            None if self.declares(id, process)? => Ok(Vec::new()),
            None => Err(Error::UnknownProcess(process.to_owned())),
        }
    }

    /// The same, and then whatever is printed from now on.
    ///
    /// # Errors
    /// Those of [`Supervisor::log_tail`]; too many follow logs already.
    pub async fn follow_log(
        &self,
        id: SandboxId,
        process: &str,
        count: usize,
    ) -> Result<(Vec<String>, LogFollower), Error> {
        let permit = Arc::clone(&self.shared.followers).try_acquire_owned();
        let permit = permit.map_err(|_full| Error::Busy("too many logs are followed; try again later"))?;
        // The follower first: a line that comes in between is then told twice rather than not at all.
        let (logs, name) = (self.logs(id, process).await?, process.to_owned());
        let follower = blocking(move || Ok(logs.follow(&name))).await?;
        let lines = self.log_tail(id, process, count).await?;
        let shared = Arc::clone(&self.shared);
        let inner = Some(follower);
        Ok((lines, LogFollower { shared, id, inner, pause: LOOK_PAUSE, _permit: permit }))
    }

    async fn logs(&self, id: SandboxId, process: &str) -> Result<storage::Logs, Error> {
        self.find(id)?;
        if !manifest::is_process_name(process) {
            return Err(Error::UnknownProcess(process.chars().take(64).collect()));
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.storage.logs(id).map_err(Error::Storage)).await
    }

    fn declares(&self, id: SandboxId, process: &str) -> Result<bool, Error> {
        Ok(self.find(id)?.state.borrow().app.processes.iter().any(|p| p.name == process))
    }
}

impl LogFollower {
    /// Waits for the next lines; `None` once there can be no more.
    ///
    /// # Cancel safety
    /// Not cancel safe: what was being read is lost, and the next call returns `None`.
    pub async fn next(&mut self) -> Option<LogNews> {
        loop {
            let mut follower = self.inner.take()?;
            let read = blocking(move || {
                let news = follower.read();
                Ok((follower, news))
            });
            let (follower, news) = read.await.ok()?;
            self.inner = Some(follower);
            if !news.lines.is_empty() || news.gap {
                self.pause = LOOK_PAUSE;
                return Some(LogNews { lines: news.lines, gap: news.gap });
            }
            if news.more {
                continue;
            }
            tokio::select! {
                () = self.shared.ending.cancelled() => return None,
                () = tokio::time::sleep(self.pause) => {}
            }
            self.pause = (self.pause * 2).min(LOOK_PAUSE_MAX);
            self.shared.registry.find(self.id)?;
        }
    }
}
