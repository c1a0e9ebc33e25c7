//! How a sandbox comes to run, each step with its undo.
//!
//! ```text
//!   a blank of the pool ──┬─► limits, workspace, host name, environment ─► the way to its processes ┐
//!                         └─► workspace put in place, record: it runs ─────────────────────────────┴► claimed
//!
//!   none there: site ──┬─► launch ────────────────────────────┬─► limits, workspace, host name, environment ┐
//!                      └─► record ─► workspace ─► it will run ┴─► record: it runs ──────────────────────────┴► claimed
//! ```
//!
//! What a claim does to the blank and what it costs to make the record durable are waited for together. That both are
//! done is said by a file that goes (see [`crate::launch::blank`]): with it a record that says *running* is one of a create
//! that was not finished. Before anything of one that fails is taken away, its record says *creating* again.
//!
//! What carries the sandbox's name comes after its record, or bears a mark by which a start knows that no record has
//! come (see [`storage`]); what does not carry it, a blank, is found by its
//! own (see [`crate::launch::blank`]). So a daemon that finds what another left knows what to take back. Undo runs
//! in reverse, does not stop at an error, and tells them all.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::base::activity::now_ms;
use crate::base::error::{Error, chain};
use crate::base::points::fail_point;
use crate::base::tasks::blocking;
use crate::launch::blank::{Blank, Site, Unlaunched, discard};
use crate::launch::ground::Ground;
use crate::launch::host::Host;
use crate::launch::ids;
use crate::launch::launching::Launching;
use crate::launch::undo::{Undo, take_back};
use crate::running::live::Live;
use crate::running::process::link::LinkCell;
use crate::running::throttle::Throttle;
use engine::{Engine, Identity, bundle};
use metadata::Durability;
use model::{Isolation, Limits, Record, RootFs, SandboxSpec, Status, TemplateName};
use storage::{Prepared, Staged, StagedName};
use sys::watch::Watched;
use telemetry::phase;

/// Whether the sandbox is new: a new one's workspace and record go when it cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    Create,
    Wake,
}

/// A sandbox that runs; a new one is recorded as such.
#[derive(Debug)]
pub(crate) struct Provisioned {
    pub(crate) live: Live,
    /// Says that it runs.
    pub(crate) record: Record,
    pub(crate) workspace: Prepared,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Made {
    undo: Vec<Undo>,
    /// Whether the record of a new sandbox may say that it runs.
    may_say_running: bool,
}

/// Makes everything and launches the sandbox.
///
/// # Errors
/// The step that failed; what was made before it is gone again, or named by [`Error::Leftovers`].
pub(crate) async fn provision(
    launching: &Arc<Launching>,
    record: &Record,
    occasion: Occasion,
) -> Result<Provisioned, Error> {
    if launching.ground.tasks.closing.is_cancelled() {
        return Err(Error::Ending);
    }
    let _starting = launching.pool.starting();
    let mut made = Made::default();
    // Apart, since its size would be that of every sandbox's driver, whatever that is doing.
    match Box::pin(steps(launching, record, occasion, &mut made)).await {
        Ok(done) => Ok(done),
        Err(cause) => {
            if made.may_say_running
                && let Err(error) = withdraw(&launching.ground, record).await
            {
                tracing::error!(id = %record.spec.id, error = %chain(&error), "cannot record that a create has failed");
            }
            Err(take_back(&launching.ground, made.undo, cause).await)
        }
    }
}

async fn steps(
    launching: &Arc<Launching>,
    record: &Record,
    occasion: Occasion,
    made: &mut Made,
) -> Result<Provisioned, Error> {
    let limits = &record.spec.limits;
    let engine = Engine::of(record.spec.isolation);
    ids::check_nested(&launching.ground.host, &record.spec)?;
    let nested = nests(&record.spec);
    if !engine.begins_nameless() || record.spec.rootfs == RootFs::Overlay || nested {
        return named_steps(launching, record, occasion, made, engine).await;
    }
    let Some(mut blank) =
        launching.pool.take(launching.ground.host.nofile(limits), &launching.ground.books.metrics)
    else {
        return launched_now(launching, record, occasion, made, None).await;
    };
    let claim = match claim_ready(launching, &mut blank, record, occasion, made).await {
        Ok(claim) => claim,
        Err(error) => {
            made.undo.append(&mut blank.site.undo());
            return Err(error);
        }
    };
    if let Err(error) = claim.claimed {
        // It may have died while it waited: that must not cost anybody a create.
        tracing::warn!(id = %record.spec.id, error = %chain(&error), "a sandbox of the pool cannot be used");
        launching.ground.books.metrics.count_pool("failed");
        if made.may_say_running
            && let Err(error) = withdraw(&launching.ground, record).await
        {
            made.undo.append(&mut blank.site.undo());
            return Err(error);
        }
        discard(&launching.ground, blank.site).await;
        return launched_now(launching, record, occasion, made, Some(claim.workspace)).await;
    }
    made.undo.append(&mut blank.site.undo());
    finish(blank, claim.record, claim.workspace)
}

/// What became of an attempt to make a blank somebody's.
struct Claim {
    /// Says that the sandbox runs as this blank.
    record: Record,
    workspace: Prepared,
    /// After a failure the blank is of no use.
    claimed: Result<(), Error>,
}

/// Makes a blank of the pool somebody's. Where its workspace was made ahead too, this is put in place by the writer of the
/// record, before that is synced, so that one wait is for both.
async fn claim_ready(
    launching: &Arc<Launching>,
    blank: &mut Blank,
    record: &Record,
    occasion: Occasion,
    made: &mut Made,
) -> Result<Claim, Error> {
    let running = running(record, blank);
    let (limits, identity) = (&record.spec.limits, identity(&launching.ground.host, record));
    let Some(Staged { name, directory, .. }) = staged(launching, record, occasion)? else {
        let workspace = recorded_workspace(launching, record, occasion, made).await?;
        let recorded = recorded_running(launching, &running, occasion, made);
        let (recorded, claimed) =
            tokio::join!(recorded, blank.claim(&launching.ground, limits, identity, None, &running));
        recorded?;
        return Ok(Claim { record: running, workspace, claimed });
    };
    let recorded = placed_and_recorded(launching, name, running.clone(), made);
    let (recorded, claimed) =
        tokio::join!(recorded, blank.claim(&launching.ground, limits, identity, Some(directory), &running));
    recorded?;
    Ok(Claim { record: running, workspace: Prepared::Made, claimed })
}

/// A workspace that was made ahead, if this sandbox needs nothing else, and a start would know what to do with one that is
/// in place without a record.
fn staged(launching: &Launching, record: &Record, occasion: Occasion) -> Result<Option<Staged>, Error> {
    let is_plain = record.spec.template.as_ref().is_none_or(TemplateName::is_blank);
    let is_new = occasion == Occasion::Create && !launching.ground.host.storage.has_workspace(record.spec.id);
    if !is_plain || !is_new {
        return Ok(None);
    }
    // Here, since nothing could take back what was taken out of the pool.
    fail_point("provision-record")?;
    fail_point("record-running")?;
    Ok(launching.pool.take_marked_workspace())
}

async fn placed_and_recorded(
    launching: &Arc<Launching>,
    staged: StagedName,
    running: Record,
    made: &mut Made,
) -> Result<(), Error> {
    let id = running.spec.id;
    made.undo.push(Undo::Record(id));
    made.may_say_running = true;
    let (sender, placed) = oneshot::channel();
    let host = Arc::clone(&launching.ground.host);
    let step = Box::new(move || {
        let place = || host.storage.place(staged, id).map_err(Error::Storage);
        let result = fail_point("provision-workspace").and_then(|()| place());
        let is_placed = result.is_ok();
        // Whoever waits for it waits for the record too.
        let _read: Result<(), _> = sender.send(result);
        is_placed
    });
    let written = launching.ground.books.records.put_after(step, running, Durability::Power);
    let recorded = phase("record-running", written).await;
    match placed.await {
        Ok(Ok(())) => made.undo.push(Undo::Workspace(id)),
        Ok(Err(error)) => return Err(error),
        // It was not even tried, of which the record's error says why.
        Err(_closed) => {}
    }
    recorded
}

/// Launches a blank and makes it somebody's. Beside the launch everything is made durable that takes long: that it runs,
/// with the launch by which it will be known, but without the process, which a power loss takes with it anyhow.
async fn launched_now(
    launching: &Arc<Launching>,
    record: &Record,
    occasion: Occasion,
    made: &mut Made,
    workspace: Option<Prepared>,
) -> Result<Provisioned, Error> {
    let limits = &record.spec.limits;
    let site = site(launching, limits).await?;
    let announced = announced(record, &site);
    let prepared = async {
        let workspace = match workspace {
            Some(workspace) => workspace,
            None => recorded_workspace(launching, record, occasion, made).await?,
        };
        recorded_running(launching, &announced, occasion, made).await?;
        Ok::<_, Error>(workspace)
    };
    let (launched, prepared) =
        tokio::join!(Blank::launch(&launching.ground, site, launching.ground.host.nofile(limits)), prepared);
    // Whatever was made is noted before the first failure is looked at.
    let mut blank = noted(launched, made)?;
    let workspace = prepared?;
    let running = running(record, &blank);
    let recorded = async {
        match occasion {
            Occasion::Create => {
                phase(
                    "record-launched",
                    launching.ground.books.records.put(running.clone(), Durability::Process),
                )
                .await
            }
            Occasion::Wake => Ok(()),
        }
    };
    let claimed =
        blank.claim(&launching.ground, limits, identity(&launching.ground.host, record), None, &running);
    let (recorded, claimed) = tokio::join!(recorded, claimed);
    recorded.and(claimed)?;
    finish(blank, running, workspace)
}

/// Notes how what a launch has used is taken away, whether it went well or not.
fn noted(launched: Result<Blank, Box<Unlaunched>>, made: &mut Made) -> Result<Blank, Error> {
    let (site, launched) = match launched {
        Ok(blank) => (blank.site.undo(), Ok(blank)),
        Err(failed) => (failed.site.undo(), Err(failed.cause)),
    };
    made.undo.extend(site);
    launched
}

/// Writes that a new sandbox runs. The record of one that is woken says what is so until it runs.
async fn recorded_running(
    launching: &Arc<Launching>,
    running: &Record,
    occasion: Occasion,
    made: &mut Made,
) -> Result<(), Error> {
    match occasion {
        Occasion::Create => {
            made.may_say_running = true;
            record_running(&launching.ground, running.clone()).await
        }
        Occasion::Wake => Ok(()),
    }
}

/// Before anything of a create that failed is taken away: what is found without the file of a claim is not known to be
/// unfinished.
async fn withdraw(ground: &Ground, record: &Record) -> Result<(), Error> {
    ground.books.records.put(record.clone(), Durability::Process).await
}

/// Writes that a sandbox runs.
pub(crate) async fn record_running(ground: &Ground, record: Record) -> Result<(), Error> {
    fail_point("record-running")?;
    phase("record-running", ground.books.records.put(record, Durability::Power)).await
}

/// The same for what has to be somebody's when it is launched, by its engine, its root file system or its system calls: the workspace comes first, and nothing is
/// ready before it is asked for but the site.
async fn named_steps(
    launching: &Arc<Launching>,
    record: &Record,
    occasion: Occasion,
    made: &mut Made,
    engine: Engine,
) -> Result<Provisioned, Error> {
    let limits = &record.spec.limits;
    let workspace = recorded_workspace(launching, record, occasion, made).await?;
    let identity = identity(&launching.ground.host, record);
    let named = (!engine.begins_nameless()).then_some(&identity);
    let layers = layers(launching, record).await?;
    let site = match nests(&record.spec) {
        // What is ready was made without a bound.
        true => Site::make(&launching.ground, limits, true).await?,
        false => site(launching, limits).await?,
    };
    let launched = Blank::launch_as(
        &launching.ground,
        site,
        launching.ground.host.nofile(limits),
        engine,
        named,
        layers,
    )
    .await;
    let mut blank = noted(launched, made)?;
    let running = running(record, &blank);
    let recorded = recorded_running(launching, &running, occasion, made);
    let (recorded, claimed) =
        tokio::join!(recorded, blank.claim(&launching.ground, limits, identity, None, &running));
    recorded.and(claimed)?;
    finish(blank, running, workspace)
}

/// Whether it is launched with the profile and the user namespace of those that may make namespaces.
fn nests(spec: &SandboxSpec) -> bool {
    spec.nested_namespaces && spec.isolation == Isolation::Container
}

/// The layers of a root file system that can be written, which lie and go with the workspace.
async fn layers(launching: &Arc<Launching>, record: &Record) -> Result<Option<PathBuf>, Error> {
    ids::check_rootfs(&launching.ground.host, record.spec.rootfs, record.spec.isolation)?;
    let Some(spaces) =
        launching.ground.host.config.user_spaces.filter(|_| record.spec.rootfs == RootFs::Overlay)
    else {
        return Ok(None);
    };
    let (host, id) = (Arc::clone(&launching.ground.host), record.spec.id);
    let made = blocking(move || host.storage.prepare_overlay(id, spaces.base).map_err(Error::Storage));
    made.await.map(Some)
}

/// What is left to do once a blank is somebody's and the record says so.
fn finish(blank: Blank, record: Record, workspace: Prepared) -> Result<Provisioned, Error> {
    fail_point("provision-claimed")?;
    blank.site.note_claimed()?;
    Ok(Provisioned { live: live(&record, blank)?, record, workspace })
}

async fn site(launching: &Arc<Launching>, limits: &Limits) -> Result<Site, Error> {
    match launching.pool.take_site() {
        Some(site) => Ok(site),
        None => Site::make(&launching.ground, limits, false).await,
    }
}

/// Records the sandbox, then makes its workspace.
async fn recorded_workspace(
    launching: &Arc<Launching>,
    record: &Record,
    occasion: Occasion,
    made: &mut Made,
) -> Result<Prepared, Error> {
    let id = record.spec.id;
    fail_point("provision-record")?;
    if occasion == Occasion::Create {
        made.undo.push(Undo::Record(id));
        // Before anything of its name is made on the host. That it survives the daemon is enough: a power loss
        // takes the host's side with it, and a new workspace bears a mark until its record is on the disk. One
        // that is woken is recorded already.
        phase("record", launching.ground.books.records.put(record.clone(), Durability::Process)).await?;
    }
    let (ready_made, spec) = (Arc::clone(launching), record.spec.clone());
    let owner = ids::owner(&launching.ground.host, spec.isolation);
    // Those that were made ahead are for containers.
    let fits = owner == ids::owner(&launching.ground.host, Isolation::Container);
    let prepared = blocking(move || {
        fail_point("provision-workspace")?;
        let ready = || if fits { ready_made.pool.take_workspace() } else { None };
        ready_made
            .ground
            .host
            .storage
            .prepare(spec.id, spec.template.as_ref(), owner, ready)
            .map_err(Error::Storage)
    });
    let prepared = phase("workspace", prepared).await?;
    if (prepared, occasion) == (Prepared::Made, Occasion::Create) {
        made.undo.push(Undo::Workspace(id));
    }
    Ok(prepared)
}

fn identity(host: &Host, record: &Record) -> Identity {
    let spec = &record.spec;
    Identity {
        host_name: spec.id.host_name(),
        workspace: host.storage.workspace_path(spec.id),
        env: bundle::environment(&spec.env, host.config.ca_bundle.is_some()),
    }
}

/// The record of a sandbox that will run where a launch has been prepared.
fn announced(record: &Record, site: &Site) -> Record {
    let now = now_ms();
    Record {
        status: Status::Running,
        error_message: None,
        address_index: Some(site.address_index),
        launch: Some(site.launch),
        init_pid: None,
        init_start_ticks: None,
        updated_at: now,
        last_active_at: now,
        stopped_at: None,
        ..record.clone()
    }
}

/// The record once the sandbox runs as this blank.
fn running(record: &Record, blank: &Blank) -> Record {
    Record {
        init_pid: Some(blank.launched.pid),
        init_start_ticks: Some(blank.launched.start_ticks),
        ..announced(record, &blank.site)
    }
}

fn live(record: &Record, blank: Blank) -> Result<Live, Error> {
    let Blank { site, launched, attaching, .. } = blank;
    Ok(Live {
        control: launched.control,
        init_pid: launched.pid,
        init: Watched::new(launched.process)
            .map_err(|source| Error::RunDirectory { path: "pidfd".into(), source })?,
        netns: site.network.netns,
        address: site.network.address,
        address_index: site.address_index,
        ids: site.space.map(|space| space.ids),
        cgroup: site.cgroup,
        throttle: Throttle::default(),
        awake: Mutex::default(),
        oom_kills: AtomicU64::new(0),
        is_hoarder: AtomicBool::new(false),
        gives_way: AtomicBool::new(false),
        is_greeted: AtomicBool::new(true),
        link: LinkCell::default(),
        attaching: tokio::sync::Mutex::new(attaching),
        run_directory: site.run_directory,
        started_at: record.updated_at,
        started: Instant::now(),
        ended: CancellationToken::new(),
    })
}
