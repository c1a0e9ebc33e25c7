//! At start, the record and the host are made to agree.
//!
//! What the record says runs, and does, is adopted: the same process (pid and start time), whose
//! `sandbox-init` answers. Everything else on the host that carries our names is removed. What was
//! being created is gone: nobody was told of it. What was being purged is purged.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::base::activity::now_ms;
use crate::base::command::Command;
use crate::base::error::{Error, chain};
use crate::base::events::{What, Why};
use crate::base::tasks::blocking;
use crate::books::registry::{Entry, ask};
use crate::keep::held;
use crate::launch::undo::remove_run_directory;
use crate::launch::{blank, ids};
use crate::life::announce::{Began, How};
use crate::life::lives::Life;
use crate::life::purge::finish_purge;
use crate::life::{driver, reclaim};
use crate::running::live::Live;
use crate::running::process::hold;
use crate::running::process::link::LinkCell;
use crate::running::throttle::Throttle;
use engine::{Control, Engine};
use metadata::{Durability, Retired, Retirement};
use model::{IdlePolicy, LaunchId, Record, SandboxId, Status};
use sys::freezer::Freezer;
use sys::netns;
use sys::pidfd::PidFd;
use sys::watch::Watched;

/// How long the `sandbox-init` of a sandbox that is to be adopted may take to answer.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// Adopts and removes.
pub(crate) async fn run(
    life: &Arc<Life>,
    mut records: Vec<Record>,
    retired: Vec<Retired>,
) -> Result<(), Error> {
    let is_unclaimed = |launch| blank::is_unclaimed(&life.ground.host.config.run_dir, launch);
    // A create is recorded as running while it is claimed: one that was not finished was being created.
    for record in
        records.iter_mut().filter(|r| r.status == Status::Running && r.launch.is_some_and(is_unclaimed))
    {
        record.status = Status::Creating;
    }
    let adoptions = records.iter().map(|record| adopt(life, record));
    let lives = futures_util::future::join_all(adoptions).await;
    let running: BTreeSet<String> = records
        .iter()
        .zip(&lives)
        .filter(|(_, live)| live.is_some())
        .filter_map(|(r, _)| Some(r.launch?.to_string()))
        .collect();
    let known = records.iter().map(|record| record.spec.id).chain(retired.iter().map(|r| r.id)).collect();
    clear(life, running, known).await?;

    let mut taken = Vec::new();
    for (record, live) in records.into_iter().zip(lives) {
        let id = record.spec.id;
        if record.status == Status::Creating {
            // Nobody was told of it, so nobody misses it; but a workspace that was there before is its owner's.
            let is_kept = retired.iter().any(|r| r.id == id && matches!(r.retirement, Retirement::Kept(_)));
            forget_unborn(life, id, is_kept).await;
        } else {
            taken.push(take_over(life, record, live));
        }
    }
    // At once, so that what they write is written in groups, and what they ask is answered side by side.
    let taken = futures_util::future::try_join_all(taken).await?;
    let adopted = taken.iter().filter(|entry| entry.present().is_some()).count();
    let stopped = taken.len() - adopted;
    let always_on: Vec<_> = taken
        .into_iter()
        .filter(|e| e.present().is_none() && e.record().spec.idle_policy == IdlePolicy::AlwaysOn)
        .collect();
    tracing::info!(adopted, stopped, "the record and the host agree");
    settle_workspaces(life, retired).await;
    // Last, so that what the steps before have taken out of the way is among it.
    sweep_leftovers(life).await?;
    for entry in always_on {
        life.ground.tasks.spawn(async move {
            if let Err(error) = ask(&entry, |reply| Command::Start { why: Why::Server, reply }).await {
                tracing::error!(id = %entry.id, error = %chain(&error), "cannot start an always-on sandbox");
            }
        });
    }
    Ok(())
}

/// Gives a sandbox its driver, as it was found.
async fn take_over(
    life: &Arc<Life>,
    mut record: Record,
    live: Option<(Live, Status)>,
) -> Result<Arc<Entry>, Error> {
    let id = record.spec.id;
    if let Some((_, status)) = &live {
        record.status = *status;
    }
    let record = settle(life, record, live.is_some()).await?;
    if let Some((live, _)) = &live {
        // The daemon before may have been one that kept none.
        blank::write_note(&life.ground.books.records, &live.run_directory, &record);
    }
    let (entry, mailbox) = life.ground.books.entry(record, life.ground.host.storage.workspace_path(id));
    if let Some((live, status)) = live {
        let live = Arc::new(live);
        if status == Status::Paused {
            entry.activity.fall_asleep();
            reclaim::begin(life, id, &live, live.slumber());
        }
        held::restore(&life.ground.host, &entry, &live.cgroup);
        entry.publish(|published| published.live = Some(Arc::clone(&live)));
        // A frozen one cannot answer: it is asked when it is thawed.
        if status != Status::Paused {
            hold::restore_after_restart(&entry.processes, &live).await;
        }
        life.announce.began(Began { entry: Arc::clone(&entry), live, how: How::Adopted });
    }
    // Ids are unique in the database, so there is nothing that it could collide with.
    let _unique: Result<(), _> = life.ground.books.registry.insert(Arc::clone(&entry), false);
    driver::drive(life, Arc::clone(&entry), mailbox);
    Ok(entry)
}

/// Takes over a sandbox that runs; `None` if it does not, whatever the record says.
///
/// One that is frozen is adopted as it is: the host's freezer tells, whatever the record says. Its
/// `sandbox-init` cannot answer now, and is asked when it is thawed.
async fn adopt(life: &Arc<Life>, record: &Record) -> Option<(Live, Status)> {
    let id = record.spec.id;
    let (pid, ticks, index) = (record.init_pid?, record.init_start_ticks?, record.address_index?);
    let launch = record.launch?.to_string();
    if !matches!(record.status, Status::Running | Status::Paused) {
        return None;
    }
    let attempt = async {
        let process = PidFd::open_exactly(pid, ticks)
            .map_err(|source| Error::RunDirectory { path: "pidfd".into(), source })?;
        let run_directory = life.ground.host.config.run_dir.join(&launch);
        let control =
            Control::open(&run_directory, Engine::of(record.spec.isolation).way()).map_err(Error::Control)?;
        let cgroup = life.ground.host.cgroups.leaf(&launch);
        let is_frozen = cgroup.freezer().map_err(Error::Cgroup)? == Freezer::Frozen;
        if !is_frozen {
            // The daemon before may have died while it was freezing it.
            cgroup.thaw().map_err(Error::Cgroup)?;
            match tokio::time::timeout(HELLO_DEADLINE, control.hello()).await {
                Ok(answer) => answer.map_err(Error::Control)?,
                Err(_elapsed) => return Err(Error::Control(engine::ControlError::Silent)),
            }
        }
        let has_users = Engine::of(record.spec.isolation).has_users();
        let ids = if has_users { ids::found(&life.ground.host, pid, index)? } else { None };
        let failed = |source| Error::RunDirectory { path: format!("/proc/{pid}/ns/net"), source };
        let netns = netns::open_of(pid).map_err(failed)?;
        let init = Watched::new(process).map_err(failed)?;
        Ok((control, run_directory, netns, ids, init, cgroup, is_frozen))
    };
    match attempt.await {
        Ok((control, run_directory, netns, ids, init, cgroup, is_frozen))
            if life.ground.books.leases.adopt(index) =>
        {
            let netns = Arc::new(netns);
            let (host, inside) = (Arc::clone(&life.ground.host), Arc::clone(&netns));
            let adopt = move || host.network.adopt(index, inside.as_fd()).map_err(Error::Network);
            if let Err(error) = blocking(adopt).await {
                tracing::warn!(%id, error = %chain(&error), "failed to take over the network of a sandbox");
            }
            // What was killed before this daemon began was told by the one before, or is not known to it.
            let kills = cgroup.oom_kills().unwrap_or_default();
            let live = Live {
                control,
                init_pid: pid,
                init,
                netns,
                address: life.ground.host.network.address(index),
                address_index: index,
                ids,
                cgroup,
                throttle: Throttle::default(),
                link: LinkCell::default(),
                attaching: tokio::sync::Mutex::default(),
                awake: Mutex::default(),
                oom_kills: AtomicU64::new(kills),
                is_hoarder: AtomicBool::new(false),
                gives_way: AtomicBool::new(false),
                is_greeted: AtomicBool::new(!is_frozen),
                run_directory,
                started_at: record.updated_at,
                started: began(record.updated_at),
                ended: CancellationToken::new(),
            };
            Some((live, if is_frozen { Status::Paused } else { Status::Running }))
        }
        Ok(_) => {
            tracing::error!(%id, index, "two sandboxes are recorded with one address; the second is stopped");
            None
        }
        Err(error) => {
            tracing::info!(%id, reason = %chain(&error), "a sandbox does not run any more");
            None
        }
    }
}

/// The moment of a time in unix milliseconds; now, if that is in the future: the clock was set back since.
fn began(at_ms: i64) -> Instant {
    let ago = Duration::from_millis(u64::try_from(now_ms().saturating_sub(at_ms)).unwrap_or_default());
    Instant::now().checked_sub(ago).unwrap_or_else(Instant::now)
}

/// Removes every cgroup and run directory that no running sandbox has, and new workspaces that no record knows.
async fn clear(life: &Arc<Life>, running: BTreeSet<String>, known: BTreeSet<SandboxId>) -> Result<(), Error> {
    let host = Arc::clone(&life.ground.host);
    blocking(move || {
        for leaf in host.cgroups.leaves().map_err(Error::Cgroup)? {
            // Only what could be ours. It may be of a sandbox that has ended, or of a launch that was nobody's yet.
            if leaf.parse::<LaunchId>().is_ok() && !running.contains(&leaf) {
                tracing::info!(cgroup = leaf, "a left-over cgroup is removed");
                if let Err(error) = host.cgroups.leaf(&leaf).destroy() {
                    tracing::error!(cgroup = leaf, error = %chain(&Error::Cgroup(error)), "cannot remove a left-over cgroup");
                }
            }
        }
        let run_dir = &host.config.run_dir;
        let failed = |source| Error::RunDirectory { path: run_dir.display().to_string(), source };
        for entry in std::fs::read_dir(run_dir).map_err(failed)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<LaunchId>().is_ok()
                && !running.contains(&name)
                && let Err(error) = remove_run_directory(&entry.path())
            {
                tracing::error!(launch = name, error = %chain(&error), "failed to remove a left-over run directory");
            }
        }
        if let Err(error) = host.network.forget_departed() {
            tracing::warn!(error = %chain(&Error::Network(error)), "failed to clear the connections of ended sandboxes");
        }
        let unborn = host.storage.sweep_unborn(|id| known.contains(&id)).map_err(Error::Storage)?;
        if unborn > 0 {
            tracing::info!(unborn, "workspaces of creates that nobody was told of are removed");
        }
        Ok(())
    })
    .await
}

/// Removes what a crash left half made and half removed. Tenants have named it, and some may still change it: so the start
/// does not wait for it, nor for its success.
async fn sweep_leftovers(life: &Arc<Life>) -> Result<(), Error> {
    let host = Arc::clone(&life.ground.host);
    let leftovers = blocking(move || host.storage.leftovers().map_err(Error::Storage)).await?;
    if leftovers.is_empty() {
        return Ok(());
    }
    let sweeping = life.ground.clone();
    life.ground.tasks.spawn_blocking(move || {
        let freed_bytes = sweeping.host.storage.sweep(&leftovers, &|| !sweeping.tasks.ending.is_cancelled());
        tracing::info!(freed_bytes, "left-over files are removed");
    });
    Ok(())
}

async fn forget_unborn(life: &Arc<Life>, id: SandboxId, is_kept: bool) {
    tracing::info!(%id, "a sandbox that was being created is taken back");
    let host = Arc::clone(&life.ground.host);
    let removed = if is_kept {
        None
    } else {
        // Out of the way only: what is in it is removed with all other leftovers.
        blocking(move || host.storage.displace(id).map_err(Error::Storage)).await.err()
    };
    let deleted = life.ground.books.records.delete(id, Durability::Process).await.err();
    for error in [removed, deleted].into_iter().flatten() {
        tracing::error!(%id, error = %chain(&error), "cannot take back a sandbox that was being created");
    }
}

/// Brings a record in line with what is so.
async fn settle(life: &Arc<Life>, mut record: Record, runs: bool) -> Result<Record, Error> {
    let (was_error, was_running) =
        (record.status == Status::Error, matches!(record.status, Status::Running | Status::Paused));
    if runs || (record.status == Status::Stopped && record.address_index.is_none()) {
        return Ok(record);
    }
    record.status = Status::Stopped;
    record.address_index = None;
    record.launch = None;
    record.init_pid = None;
    record.init_start_ticks = None;
    record.stopped_at = record.stopped_at.or_else(|| Some(now_ms()));
    if was_error {
        // What was in its way has been cleared above.
        record.error_message = None;
    }
    life.ground.books.records.put(record.clone(), Durability::Process).await?;
    if was_running {
        life.ground.books.tell(record.spec.id, What::Stopped(Why::Server, None));
    }
    Ok(record)
}

/// Goes on with purges that were under way, and remembers whose the kept workspaces are.
async fn settle_workspaces(life: &Arc<Life>, retired: Vec<Retired>) {
    for Retired { id, retirement } in retired {
        let lives = life.ground.books.registry.find(id).is_some();
        let result = match retirement {
            Retirement::Kept(owner) if !lives => {
                life.ground.books.kept.insert(id, owner);
                Ok(())
            }
            Retirement::Purging if !lives => go_on_purging(life, id).await,
            Retirement::Kept(_) | Retirement::Purging => {
                // The sandbox was created again over it.
                life.ground.books.kept.insert(id, model::External::default());
                life.ground.books.forget_kept(id).await
            }
        };
        if let Err(error) = result {
            tracing::error!(%id, error = %chain(&error), "cannot settle a workspace without a sandbox");
        }
    }
}

/// Takes the workspace of a purge that was under way out of the way, before anybody can create a sandbox over it. The rest
/// goes on beside what is served then.
async fn go_on_purging(life: &Arc<Life>, id: SandboxId) -> Result<(), Error> {
    let host = Arc::clone(&life.ground.host);
    blocking(move || host.storage.displace(id).map_err(Error::Storage)).await?;
    let ground = life.ground.clone();
    let tasks = ground.tasks.clone();
    tasks.spawn(async move {
        if let Err(error) = finish_purge(&ground, id).await {
            tracing::error!(%id, error = %chain(&error), "failed to finish a purge; the next start or purge goes on");
        }
    });
    Ok(())
}
