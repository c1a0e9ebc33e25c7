//! What the processes of an app have printed, whether the sandbox runs or sleeps; reading it does not
//! wake it and does not count as use.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::base::error::Error;
use crate::base::share::Share;
use crate::serve::files::entries::not_kept;
use crate::serve::files::kept::Kept;
use crate::serve::serving::Serving;
use model::{SandboxId, manifest};
use storage::{Position, Spool};

pub use storage::Line as LogLine;

/// The most lines that are read at once.
pub const LINES_MAX: usize = 10_000;
/// The first pause before a log is looked at again; it doubles while nothing comes. A watch would take
/// one of the few inotify instances that root has.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(800);

/// Follows a log until it is dropped, the sandbox is deleted or the daemon ends.
#[derive(Debug)]
pub struct LogFollower {
    serving: Arc<Serving>,
    share: Share,
    id: SandboxId,
    inner: Option<storage::Follower>,
    pause: Duration,
    _permit: OwnedSemaphorePermit,
}

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStart {
    /// With so many of the last lines.
    Tail(usize),
    /// Where another one was.
    After(Position),
}

/// What was printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogNews {
    pub lines: Vec<LogLine>,
    /// More was printed than is kept: after these lines something is missing.
    pub gap: bool,
}

impl LogFollower {
    /// Where the next line begins, if that is known.
    pub fn position(&self) -> Option<String> {
        self.inner.as_ref()?.position().map(|position| position.to_string())
    }

    /// Waits for the next lines; `None` once there can be no more.
    ///
    /// # Cancel safety
    /// Not cancel safe: what was being read is lost, and the next call returns `None`.
    pub async fn next(&mut self) -> Option<LogNews> {
        loop {
            let mut follower = self.inner.take()?;
            let read = self.share.run(move || {
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
                () = self.serving.ground.tasks.ending.cancelled() => return None,
                () = tokio::time::sleep(self.pause) => {}
            }
            self.pause = (self.pause * 2).min(LOOK_PAUSE_MAX);
            self.serving.ground.books.registry.find(self.id)?;
        }
    }
}

/// Reads the last lines that a process of the app has printed, at most [`LINES_MAX`]; `write` makes the answer of
/// them, which is kept until it is sent.
pub(crate) async fn log_tail(
    serving: &Arc<Serving>,
    id: SandboxId,
    process: &str,
    count: usize,
    write: impl FnOnce(&[String], &mut Spool) -> io::Result<()> + Send + 'static,
) -> Result<Kept, Error> {
    let (logs, name) = (logs(serving, id, process).await?, process.to_owned());
    let (host, share) = (Arc::clone(&serving.ground.host), serving.ground.books.find(id)?.share.clone());
    let declared = declares(serving, id, process)?;
    let tail = move || {
        let lines = match logs.tail(&name, count.min(LINES_MAX)) {
            None if !declared => return Err(Error::UnknownProcess(name)),
            found => found.unwrap_or_default(),
        };
        let mut spool = host.storage.spool();
        write(&lines, &mut spool).map(|()| spool).map_err(not_kept)
    };
    Ok(Kept::new([share.run_large(tail).await?], &share))
}

/// Tells the last lines or, to somebody who was cut off, those that they missed, and then whatever is printed.
pub(crate) async fn follow_log(
    serving: &Arc<Serving>,
    id: SandboxId,
    process: &str,
    start: LogStart,
) -> Result<(Vec<LogLine>, LogFollower), Error> {
    let permit = Arc::clone(&serving.followers).try_acquire_owned();
    let permit = permit.map_err(|_full| Error::Busy("too many logs are followed; try again later"))?;
    let (logs, name) = (logs(serving, id, process).await?, process.to_owned());
    let begin = move || {
        Ok(match start {
            LogStart::Tail(count) => logs.follow(&name, count.min(LINES_MAX)),
            LogStart::After(position) => (Vec::new(), logs.resume(&name, position)),
        })
    };
    let share = serving.ground.books.find(id)?.share.clone();
    let (lines, follower) = share.run_large(begin).await?;
    if follower.position().is_none() && !declares(serving, id, process)? {
        return Err(Error::UnknownProcess(process.to_owned()));
    }
    let serving = Arc::clone(serving);
    let inner = Some(follower);
    Ok((lines, LogFollower { serving, share, id, inner, pause: LOOK_PAUSE, _permit: permit }))
}

pub(crate) async fn logs(
    serving: &Arc<Serving>,
    id: SandboxId,
    process: &str,
) -> Result<storage::Logs, Error> {
    let share = serving.ground.books.find(id)?.share.clone();
    if !manifest::is_process_name(process) {
        return Err(Error::UnknownProcess(process.chars().take(64).collect()));
    }
    let host = Arc::clone(&serving.ground.host);
    share.run(move || host.storage.logs(id).map_err(Error::Storage)).await
}

pub(crate) fn declares(serving: &Arc<Serving>, id: SandboxId, process: &str) -> Result<bool, Error> {
    Ok(serving.ground.books.find(id)?.state.borrow().app.processes.iter().any(|p| p.name == process))
}
