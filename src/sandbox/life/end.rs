//! How a sandbox is ended: stopped, deleted, purged.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::base::activity::now_ms;
use crate::base::error::{Error, chain};
use crate::base::events::{What, Why};
use crate::base::lifecycle::{Decision, Event, Request, decide, observe};
use crate::base::points::fail_point;
use crate::base::tasks::blocking;
use crate::launch::undo::{remove_run_directory, tear_down};
use crate::life::charge::Charge;
use crate::life::purge::purge_workspace;
use crate::life::relief;
use crate::running::live::{Grace, Live};
use crate::running::process::pump;
use metadata::{Durability, Retirement};
use model::{Status, Tier};
use telemetry::phase;

/// Error shown when a sandbox's processes survive SIGKILL.
const UNKILLABLE: &str = "processes of the sandbox cannot be killed; delete it to try again";

/// Ends what runs and records the sandbox as stopped.
pub(crate) async fn end(
    charge: &Charge,
    grace: &Grace,
    why: Why,
    message: Option<&str>,
) -> Result<(), Error> {
    let Some(live) = charge.entry.present() else { return Ok(()) };
    // Before it ends: its figures go with it.
    let told =
        (why == Why::Memory).then(|| relief::reason(&charge.life.launching.admission, &charge.entry, &live));
    let torn_down = end_processes(charge, live, grace).await;
    let recorded = phase("record", record_end(charge, torn_down.is_ok(), message)).await;
    let what = match &torn_down {
        Ok(()) => What::Stopped(why, told),
        Err(_) => What::Error { message: UNKILLABLE.to_owned() },
    };
    charge.books().tell(charge.entry.id, what);
    torn_down.and(recorded)
}

/// Ends what runs; what it leaves on the host is removed behind the caller's back.
///
/// Once PID 1 of its pid namespace has ended the kernel has ended every other process in there, and the next
/// launch has another name: so nobody has to wait for the removal. What cannot be killed is waited for.
pub(crate) async fn end_processes(charge: &Charge, live: Arc<Live>, grace: &Grace) -> Result<(), Error> {
    charge.entry.activity.wake_up();
    // Out of sight first: nobody may be sent to a sandbox that is going away.
    charge.entry.publish(|published| {
        published.live = None;
        published.app.ended();
    });
    if !phase("end", live.end(grace)).await {
        return phase("tear-down", tear_down(charge.ground(), &live)).await;
    }
    let (ground, id) = (charge.ground().clone(), charge.entry.id);
    charge.ground().tasks.spawn(async move {
        if let Err(error) = tear_down(&ground, &live).await {
            // The next start tries again: it finds by name what no record knows.
            tracing::error!(%id, error = %chain(&error), "cannot remove what a sandbox left on the host");
        }
    });
    Ok(())
}

pub(crate) async fn record_end(charge: &Charge, is_clear: bool, message: Option<&str>) -> Result<(), Error> {
    let event = if is_clear { Event::InitLost } else { Event::Leftovers };
    let now = now_ms();
    charge
        .note(|record| {
            record.status = observe(record.status, event);
            record.init_pid = None;
            record.init_start_ticks = None;
            record.address_index = None;
            if is_clear {
                record.launch = None;
            }
            record.stopped_at = Some(now);
            record.last_active_at = charge.entry.activity.last_ms();
            if let Some(message) = message {
                record.error_message = Some(message.to_owned());
            }
            if event == Event::Leftovers {
                record.error_message = Some(UNKILLABLE.to_owned());
            }
        })
        .await
}

pub(crate) async fn stop(charge: &Charge, why: Why, hurry: &CancellationToken) -> Result<(), Error> {
    let status = charge.entry.status();
    match decide(status, Request::Stop) {
        Decision::Already => return Ok(()),
        Decision::Stop => {}
        Decision::Launch | Decision::Freeze | Decision::Thaw | Decision::Delete | Decision::Refuse => {
            return Err(refused(Request::Stop, status));
        }
    }
    // Looked at again here: between the decision that it is idle and this moment it may have been used.
    let is_wanted = match why {
        Why::Idle => charge.life.sleep.tier(&charge.entry).0 != Tier::Stopped,
        Why::Request | Why::Memory | Why::Use | Why::Lost | Why::Server => false,
    };
    if is_wanted {
        return Ok(());
    }
    let begun = Instant::now();
    make_room(charge).await?;
    fail_point("stop")?;
    end(charge, &grace_of(charge, hurry), why, None).await?;
    charge.books().metrics.observe_stop(begun.elapsed());
    Ok(())
}

fn grace_of(charge: &Charge, hurry: &CancellationToken) -> Grace {
    Grace { time: charge.life.stop_grace, hurry: hurry.clone() }
}

/// Before what must not fail on a full disk.
pub(crate) async fn make_room(charge: &Charge) -> Result<(), Error> {
    let host = Arc::clone(charge.host());
    blocking(move || {
        host.storage.lend_reserve();
        Ok(())
    })
    .await
}

pub(crate) async fn delete(charge: &Charge, purge: bool, hurry: &CancellationToken) -> Result<u64, Error> {
    let status = charge.entry.status();
    if decide(status, Request::Delete) != Decision::Delete {
        return Err(refused(Request::Delete, status));
    }
    let begun = Instant::now();
    make_room(charge).await?;
    // A purge throws everything away: there is nothing that a grace time could save.
    let grace = if purge { Grace::none() } else { grace_of(charge, hurry) };
    // That it is stopped is recorded only if it stays: one write less to wait for.
    let ended = charge.entry.present();
    if let Some(live) = ended.clone()
        && let Err(error) = end_processes(charge, live, &grace).await
    {
        record_end(charge, false, None).await?;
        charge.books().tell(charge.entry.id, What::Error { message: UNKILLABLE.to_owned() });
        return Err(error);
    }
    if ended.is_some() {
        charge.books().tell(charge.entry.id, What::Stopped(Why::Request, None));
    }
    if status == Status::Error {
        clear_leftovers(charge).await?;
    }
    let id = charge.entry.id;
    if let Err(error) = phase("record", retire(charge, purge)).await {
        if ended.is_some() {
            record_end(charge, true, None).await?;
        }
        return Err(error);
    }
    charge.books().registry.remove(id);
    pump::release(&charge.entry.processes);
    charge.books().tell(id, What::Deleted { purged: purge });
    fail_point("delete-workspace")?;
    let freed = if purge { phase("workspace", purge_workspace(charge.ground(), id)).await? } else { 0 };
    if purge {
        charge.books().metrics.observe_purge(begun.elapsed());
    }
    Ok(freed)
}

pub(crate) async fn retire(charge: &Charge, purge: bool) -> Result<(), Error> {
    let id = charge.entry.id;
    fail_point("delete-record")?;
    if purge {
        // From here on the next start goes on with the purge if this daemon does not live to.
        charge.books().records.retire(id, Retirement::Purging, Durability::Power).await
    } else {
        charge.books().keep_workspace(id, charge.entry.record().spec.external.clone()).await
    }
}

/// Removes by name what an earlier attempt could not.
pub(crate) async fn clear_leftovers(charge: &Charge) -> Result<(), Error> {
    let Some(launch) = charge.entry.record().launch else { return Ok(()) };
    let cgroup = charge.host().cgroups.leaf(&launch.to_string());
    blocking(move || cgroup.destroy().map_err(Error::Cgroup)).await?;
    let directory = charge.host().config.run_dir.join(launch.to_string());
    blocking(move || remove_run_directory(&directory)).await
}

pub(crate) fn refused(request: Request, status: Status) -> Error {
    Error::State { request: request.verb(), status }
}
