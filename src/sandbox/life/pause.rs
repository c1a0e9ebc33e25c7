//! Freezing a sandbox and thawing it again: what the driver does for the first tier of sleep.
//!
//! The order is what keeps a use from being lost. A sandbox is out of sight before it is frozen, and whoever
//! uses it notes that before looking at it: so either the use sees that it sleeps and wakes it, or the
//! driver sees the use and lets it be. What the host's freezer says is the truth; the record follows it,
//! since a daemon that dies in between finds the freezer as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::base::error::{Error, chain};
use crate::base::events::{What, Why};
use crate::base::lifecycle::{Decision, Request, decide};
use crate::base::points::fail_point;
use crate::base::tasks::blocking;
use crate::launch::admission::Purpose;
use crate::life::charge::Charge;
use crate::life::end::{self, refused};
use crate::life::reclaim;
use crate::running::live::{Grace, Live};
use engine::ControlError;
use model::{Status, Tier};

/// How long the processes of a sandbox may take to come to rest. One that waits for a disk does not at once, and one that is
/// held at `memory.high` is let go by the kernel after 2 s only.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a `sandbox-init` that was frozen before this daemon began may take to answer once it is thawed.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// What has become of a sandbox that was to be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thawed {
    Awake,
    /// It had died while it was frozen, and is stopped now.
    Lost,
}

/// Freezes what runs.
pub(crate) async fn pause(charge: &Charge, why: Why) -> Result<(), Error> {
    let status = charge.entry.status();
    match decide(status, Request::Pause) {
        Decision::Already => return Ok(()),
        Decision::Freeze => {}
        Decision::Launch | Decision::Thaw | Decision::Stop | Decision::Delete | Decision::Refuse => {
            return Err(refused(Request::Pause, status));
        }
    }
    if !charge.host().can_freeze {
        return Err(Error::Conflict("this host has no freezer, so nothing can be paused; stop it".into()));
    }
    let Some(live) = charge.entry.present() else { return Err(refused(Request::Pause, status)) };
    let begun = Instant::now();
    // First: whoever sees that it is paused can wake it.
    charge.entry.activity.fall_asleep();
    charge.show(Status::Paused);
    let is_wanted = match why {
        Why::Idle => charge.life.sleep.tier(&charge.entry).0 != Tier::Frozen,
        Why::Memory => charge.entry.activity.is_busy(),
        Why::Request | Why::Use | Why::Lost | Why::Server => false,
    };
    if is_wanted {
        charge.entry.activity.wake_up();
        charge.show(Status::Running);
        return Ok(());
    }
    if let Err(error) = freeze(&live).await {
        charge.entry.activity.wake_up();
        charge.show(Status::Running);
        return Err(error);
    }
    charge.books().metrics.observe_freeze(begun.elapsed());
    reclaim::begin(&charge.life, charge.entry.id, &live, live.slumber());
    // That the daemon's death is survived is enough: a power loss ends what is frozen.
    charge.post();
    charge.books().tell(charge.entry.id, What::Paused(why));
    Ok(())
}

pub(crate) async fn freeze(live: &Live) -> Result<(), Error> {
    let cgroup = live.cgroup.clone();
    let freeze = move || {
        fail_point("freeze")?;
        cgroup.freeze(FREEZE_DEADLINE).map_err(Error::Cgroup)
    };
    blocking(freeze).await?;
    if let Err(error) = fail_point("freeze-record") {
        live.cgroup.thaw().map_err(Error::Cgroup)?;
        return Err(error);
    }
    Ok(())
}

/// Thaws what is frozen.
pub(crate) async fn resume(charge: &Charge, why: Why) -> Result<(), Error> {
    let status = charge.entry.status();
    match decide(status, Request::Resume) {
        Decision::Already => Ok(()),
        Decision::Thaw => match thaw(charge, why).await? {
            Thawed::Awake => Ok(()),
            Thawed::Lost => Err(Error::Control(ControlError::Ended)),
        },
        Decision::Launch | Decision::Freeze | Decision::Stop | Decision::Delete | Decision::Refuse => {
            Err(refused(Request::Resume, status))
        }
    }
}

pub(crate) async fn thaw(charge: &Charge, why: Why) -> Result<Thawed, Error> {
    let Some(live) = charge.entry.present() else { return Ok(Thawed::Lost) };
    let _admitted = charge.life.launching.admission.admit(Purpose::Thaw)?;
    let begun = Instant::now();
    live.disturb();
    fail_point("thaw")?;
    // Two writes of a few bytes to the kernel, which do not wait: a thread of their own would take longer.
    live.cgroup.thaw().map_err(Error::Cgroup)?;
    if !live.is_greeted.load(Ordering::Acquire) && !greet(charge, &live).await? {
        return Ok(Thawed::Lost);
    }
    charge.entry.activity.wake_up();
    charge.entry.activity.mark();
    charge.show(Status::Running);
    charge.books().metrics.observe_thaw(begun.elapsed());
    charge.post();
    charge.books().tell(charge.entry.id, What::Running(why));
    Ok(Thawed::Awake)
}

/// A client has sent something to a frozen sandbox.
pub(crate) async fn wanted(charge: &Charge) {
    if let Err(error) = resume(charge, Why::Use).await {
        // It sleeps on, and the next piece asks again.
        charge.entry.activity.fall_asleep();
        tracing::warn!(id = %charge.entry.id, error = %chain(&error), "cannot wake a sandbox that is used");
    }
}

/// Asks a `sandbox-init` that was adopted frozen who it is. One that cannot be used is ended, so that
/// the sandbox is stopped then, and the value is false.
pub(crate) async fn greet(charge: &Charge, live: &Arc<Live>) -> Result<bool, Error> {
    let answer = tokio::time::timeout(GREETING_DEADLINE, live.control.hello()).await;
    let answer = answer.unwrap_or(Err(ControlError::Silent));
    if let Err(error) = answer {
        let error = Error::Control(error);
        tracing::warn!(id = %charge.entry.id, error = %chain(&error), "a sandbox that was adopted frozen cannot be used");
        end::end(charge, &Grace::none(), Why::Lost, Some("its memory was lost while it was paused")).await?;
        return Ok(false);
    }
    live.is_greeted.store(true, Ordering::Release);
    crate::running::process::hold::restore_after_restart(&charge.entry.processes, live).await;
    Ok(true)
}
