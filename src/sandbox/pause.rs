//! Freezing a sandbox and thawing it again: what the driver does for the first tier of sleep.
//!
//! The order is what keeps a use from being lost. A sandbox is out of sight before it is frozen, and whoever
//! uses it notes that before looking at it: so either the use sees that it sleeps and wakes it, or the
//! driver sees the use and lets it be. What the host's freezer says is the truth; the record follows it,
//! since a daemon that dies in between finds the freezer as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::admission::Purpose;
use super::driver::{Driver, refused};
use super::error::Error;
use super::events::{What, Why};
use super::lifecycle::{Decision, Request, decide};
use super::live::Live;
use super::reclaim;
use crate::error::chain;
use crate::points::fail_point;
use crate::tasks::blocking;
use engine::ControlError;
use model::{Status, Tier};

/// How long the processes of a sandbox may take to come to rest. One that waits for a disk does not at once, and one that is
/// held at `memory.high` is let go by the kernel after 2 s only.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a `sandbox-init` that was frozen before this daemon began may take to answer once it is thawed.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// What has become of a sandbox that was to be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thawed {
    Awake,
    /// It had died while it was frozen, and is stopped now.
    Lost,
}

impl Driver {
    /// Freezes what runs.
    pub(super) async fn pause(&self, why: Why) -> Result<(), Error> {
        let status = self.entry.status();
        match decide(status, Request::Pause) {
            Decision::Already => return Ok(()),
            Decision::Freeze => {}
            Decision::Launch | Decision::Thaw | Decision::Stop | Decision::Delete | Decision::Refuse => {
                return Err(refused(Request::Pause, status));
            }
        }
        if !self.shared.can_freeze {
            return Err(Error::Conflict(
                "this host has no freezer, so nothing can be paused; stop it".into(),
            ));
        }
        let Some(live) = self.entry.present() else { return Err(refused(Request::Pause, status)) };
        let begun = Instant::now();
        // First: whoever sees that it is paused can wake it.
        self.entry.activity.fall_asleep();
        self.show(Status::Paused);
        let is_wanted = match why {
            Why::Idle => self.shared.tier(&self.entry).0 != Tier::Frozen,
            Why::Memory => self.entry.activity.is_busy(),
            Why::Request | Why::Use | Why::Lost | Why::Server => false,
        };
        if is_wanted {
            self.entry.activity.wake_up();
            self.show(Status::Running);
            return Ok(());
        }
        if let Err(error) = self.freeze(&live).await {
            self.entry.activity.wake_up();
            self.show(Status::Running);
            return Err(error);
        }
        self.shared.metrics.observe_freeze(begun.elapsed());
        reclaim::begin(&self.shared, self.entry.id, &live, live.slumber());
        // That the daemon's death is survived is enough: a power loss ends what is frozen.
        self.post();
        self.shared.tell(self.entry.id, What::Paused(why));
        Ok(())
    }

    async fn freeze(&self, live: &Live) -> Result<(), Error> {
        fail_point("freeze")?;
        let cgroup = live.cgroup.clone();
        blocking(move || cgroup.freeze(FREEZE_DEADLINE).map_err(Error::Cgroup)).await?;
        if let Err(error) = fail_point("freeze-record") {
            live.cgroup.thaw().map_err(Error::Cgroup)?;
            return Err(error);
        }
        Ok(())
    }

    /// Thaws what is frozen.
    pub(super) async fn resume(&self, why: Why) -> Result<(), Error> {
        let status = self.entry.status();
        match decide(status, Request::Resume) {
            Decision::Already => Ok(()),
            Decision::Thaw => match self.thaw(why).await? {
                Thawed::Awake => Ok(()),
                Thawed::Lost => Err(Error::Control(ControlError::Ended)),
            },
            Decision::Launch | Decision::Freeze | Decision::Stop | Decision::Delete | Decision::Refuse => {
                Err(refused(Request::Resume, status))
            }
        }
    }

    pub(super) async fn thaw(&self, why: Why) -> Result<Thawed, Error> {
        let Some(live) = self.entry.present() else { return Ok(Thawed::Lost) };
        let _admitted = self.shared.admission.admit(Purpose::Thaw)?;
        let begun = Instant::now();
        live.disturb();
        fail_point("thaw")?;
        // Two writes of a few bytes to the kernel, which do not wait: a thread of their own would take longer.
        live.cgroup.thaw().map_err(Error::Cgroup)?;
        if !live.is_greeted.load(Ordering::Acquire) && !self.greet(&live).await? {
            return Ok(Thawed::Lost);
        }
        self.entry.activity.wake_up();
        self.entry.activity.mark();
        self.show(Status::Running);
        self.shared.metrics.observe_thaw(begun.elapsed());
        self.post();
        self.shared.tell(self.entry.id, What::Running(why));
        Ok(Thawed::Awake)
    }

    /// A client has sent something to a frozen sandbox.
    pub(super) async fn wanted(&self) {
        if let Err(error) = self.resume(Why::Use).await {
            // It sleeps on, and the next piece asks again.
            self.entry.activity.fall_asleep();
            tracing::warn!(id = %self.entry.id, error = %chain(&error), "cannot wake a sandbox that is used");
        }
    }

    /// Asks a `sandbox-init` that was adopted frozen who it is. One that cannot be used is ended, so that
    /// the sandbox is stopped then, and the value is false.
    async fn greet(&self, live: &Arc<Live>) -> Result<bool, Error> {
        let answer = tokio::time::timeout(GREETING_DEADLINE, live.control.hello()).await;
        let answer = answer.unwrap_or(Err(ControlError::Silent));
        if let Err(error) = answer {
            let error = Error::Control(error);
            tracing::warn!(id = %self.entry.id, error = %chain(&error), "a sandbox that was adopted frozen cannot be used");
            self.end(Duration::ZERO, Why::Lost, Some("its memory was lost while it was paused")).await?;
            return Ok(false);
        }
        live.is_greeted.store(true, Ordering::Release);
        crate::process::link::restore_after_restart(&self.shared, &self.entry, live).await;
        Ok(true)
    }

    /// Publishes a status.
    fn show(&self, status: Status) {
        let record = self.changed(|record| record.status = status);
        self.entry.publish(|published| published.record = Arc::new(record));
    }

    /// Writes what is published, in its turn, without waiting for it.
    fn post(&self) {
        let id = self.entry.id;
        self.shared.post((*self.entry.record()).clone(), move |error| {
            tracing::error!(%id, error = %chain(&error), "cannot record that a sandbox was frozen or thawed");
        });
    }
}
