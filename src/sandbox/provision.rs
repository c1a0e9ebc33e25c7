//! How a sandbox comes to run, each step with its undo.
//!
//! ```text
//!   a blank (one of the pool's, or made now) ─┐   ┌─ limits, workspace, host name, environment ─┐
//!                                             ├─► │                                             ├─► claimed
//!   record ─► workspace ──────────────────────┘   └─ the record says that it runs ──────────────┘
//! ```
//!
//! What a claim does to the blank and what it costs to make the record durable are waited for together. That both are
//! done is said by a file that goes (see [`super::blank`]): with it a record that says *running* is one of a create
//! that was not finished.
//!
//! The record comes before everything that carries the sandbox's name; what does not carry it, a blank, is found by its
//! own (see [`super::blank`]). So a daemon that finds what another left knows what to take back. Undo runs
//! in reverse, does not stop at an error, and tells them all.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::activity::now_ms;
use super::blank::{Blank, Site};
use super::error::Error;
use super::ids;
use super::live::Live;
use super::process::LinkCell;
use super::supervisor::{Shared, blocking};
use super::throttle::Throttle;
use crate::bundle;
use crate::metadata::Durability;
use crate::model::{Isolation, Limits, Record, RootFs, SandboxId, SandboxSpec, Status};
use crate::runtime::{Engine, Identity};
use crate::storage::Prepared;
use crate::sys::cgroup::Cgroup;
use crate::sys::watch::Watched;
use crate::telemetry::phase;

/// The names of the fail points, in the order of the steps: at each, a test makes the step fail or
/// ends the daemon.
pub const STEPS: [&str; 9] = [
    "provision-lease",
    "provision-record",
    "provision-workspace",
    "provision-cgroup",
    "provision-network",
    "provision-bundle",
    "provision-launch",
    "provision-claim",
    "provision-claimed",
];

/// The further fail points of a sandbox's life.
pub const POINTS: [&str; 8] = [
    "record-running",
    "exec",
    "freeze",
    "freeze-record",
    "thaw",
    "stop",
    "delete-record",
    "delete-workspace",
];

/// Whether the sandbox is new: a new one's workspace and record go when it cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    Create,
    Wake,
}

/// A sandbox that runs; a new one is recorded as such.
#[derive(Debug)]
pub(super) struct Provisioned {
    pub(super) live: Live,
    /// Says that it runs.
    pub(super) record: Record,
    pub(super) workspace: Prepared,
}

/// How one step is taken back.
#[derive(Debug)]
pub(super) enum Undo {
    Lease(u32),
    Record(SandboxId),
    Workspace(SandboxId),
    Cgroup(Cgroup),
    RunDirectory(PathBuf),
}

/// Makes everything and launches the sandbox.
///
/// # Errors
/// The step that failed; what was made before it is gone again, or named by [`Error::Leftovers`].
pub(super) async fn provision(
    shared: &Arc<Shared>,
    record: &Record,
    occasion: Occasion,
) -> Result<Provisioned, Error> {
    let _starting = shared.pool.starting();
    let mut undo = Vec::new();
    // Apart, since its size would be that of every sandbox's driver, whatever that is doing.
    match Box::pin(steps(shared, record, occasion, &mut undo)).await {
        Ok(done) => Ok(done),
        Err(cause) => Err(take_back(shared, undo, cause).await),
    }
}

/// Removes what a sandbox that has ended leaves on the host; its processes are dead or dying.
///
/// # Errors
/// What could not be removed; the rest is gone.
pub(super) async fn tear_down(shared: &Arc<Shared>, live: &Live) -> Result<(), Error> {
    let undo = vec![
        Undo::Lease(live.address_index),
        Undo::RunDirectory(live.run_directory.clone()),
        Undo::Cgroup(live.cgroup.clone()),
    ];
    let failures = run(shared, undo).await;
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(()),
        Some(cause) => {
            Err(Error::Leftovers { cause: Box::new(cause), cleanup: failures.map(|e| chain(&e)).collect() })
        }
    }
}

async fn steps(
    shared: &Arc<Shared>,
    record: &Record,
    occasion: Occasion,
    undo: &mut Vec<Undo>,
) -> Result<Provisioned, Error> {
    let limits = &record.spec.limits;
    let engine = Engine::of(record.spec.isolation);
    ids::check_nested(shared, &record.spec)?;
    let nested = nests(&record.spec);
    if !engine.begins_nameless() || record.spec.rootfs == RootFs::Overlay || nested {
        return named_steps(shared, record, occasion, undo, engine).await;
    }
    let mut of_workspace = Vec::new();
    let (blank, workspace) =
        tokio::join!(blank(shared, limits), recorded_workspace(shared, record, occasion, &mut of_workspace));
    // Whatever was made is noted before the first failure is looked at.
    undo.append(&mut of_workspace);
    let mut found = blank?;
    let workspace = match workspace {
        Ok(workspace) => workspace,
        Err(error) => {
            undo.append(&mut found.blank.site.undo());
            return Err(error);
        }
    };
    let mut claimed = claim(shared, &mut found.blank, record, occasion).await;
    if let (Err(error), true) = (&claimed, found.was_ready) {
        // It may have died while it waited: that must not cost anybody a create.
        tracing::warn!(id = %record.spec.id, error = %chain(error), "a sandbox of the pool cannot be used");
        shared.metrics.count_pool("failed");
        discard(shared, found.blank.site).await;
        found = Found { blank: fresh(shared, limits).await?, was_ready: false };
        claimed = claim(shared, &mut found.blank, record, occasion).await;
    }
    undo.append(&mut found.blank.site.undo());
    finish(found.blank, claimed?, workspace)
}

/// Makes a blank somebody's; the record of a new sandbox says so meanwhile. That of one that is woken says what
/// is so until it runs.
async fn claim(
    shared: &Arc<Shared>,
    blank: &mut Blank,
    record: &Record,
    occasion: Occasion,
) -> Result<Record, Error> {
    let running = running(record, blank);
    let recorded = async {
        match occasion {
            Occasion::Create => record_running(shared, running.clone()).await,
            Occasion::Wake => Ok(()),
        }
    };
    let claimed = blank.claim(shared, &record.spec.limits, identity(shared, record));
    let (recorded, claimed) = tokio::join!(recorded, claimed);
    if recorded.is_ok() && claimed.is_err() && occasion == Occasion::Create {
        // Before anything is taken away: what is found without the file is not known to be unfinished.
        shared.put(record.clone(), Durability::Process).await?;
    }
    recorded.and(claimed)?;
    Ok(running)
}

/// Writes that a sandbox runs.
pub(super) async fn record_running(shared: &Arc<Shared>, record: Record) -> Result<(), Error> {
    fail_point("record-running")?;
    phase("record-running", shared.put(record, Durability::Power)).await
}

/// The same for what has to be somebody's when it is launched, by its engine, its root file system or its system calls: the workspace comes first, and nothing is
/// ready before it is asked for but the site.
async fn named_steps(
    shared: &Arc<Shared>,
    record: &Record,
    occasion: Occasion,
    undo: &mut Vec<Undo>,
    engine: Engine,
) -> Result<Provisioned, Error> {
    let limits = &record.spec.limits;
    let workspace = recorded_workspace(shared, record, occasion, undo).await?;
    let identity = identity(shared, record);
    let named = (!engine.begins_nameless()).then_some(&identity);
    let layers = layers(shared, record).await?;
    let site = match nests(&record.spec) {
        // What is ready was made without a bound.
        true => Site::make(shared, limits, true).await?,
        false => site(shared, limits).await?,
    };
    let mut blank = Blank::launch_as(shared, site, limits.nofile, engine, named, layers).await?;
    let claimed = claim(shared, &mut blank, record, occasion).await;
    undo.append(&mut blank.site.undo());
    finish(blank, claimed?, workspace)
}

/// Whether it is launched with the profile and the user namespace of those that may make namespaces.
fn nests(spec: &SandboxSpec) -> bool {
    spec.nested_namespaces && spec.isolation == Isolation::Container
}

/// The layers of a root file system that can be written, which lie and go with the workspace.
async fn layers(shared: &Arc<Shared>, record: &Record) -> Result<Option<PathBuf>, Error> {
    ids::check_rootfs(shared, record.spec.rootfs, record.spec.isolation)?;
    let Some(spaces) = shared.config.user_spaces.filter(|_| record.spec.rootfs == RootFs::Overlay) else {
        return Ok(None);
    };
    let (storage, id) = (Arc::clone(shared), record.spec.id);
    let made =
        blocking(move || storage.storage.prepare_overlay(id, spaces.base.first()).map_err(Error::Storage));
    made.await.map(Some)
}

/// What is left to do once a blank is somebody's and the record says so.
fn finish(blank: Blank, record: Record, workspace: Prepared) -> Result<Provisioned, Error> {
    fail_point("provision-claimed")?;
    blank.site.note_claimed()?;
    Ok(Provisioned { live: live(&record, blank)?, record, workspace })
}

/// A blank, and whether it was there already.
struct Found {
    blank: Blank,
    was_ready: bool,
}

async fn blank(shared: &Arc<Shared>, limits: &Limits) -> Result<Found, Error> {
    if let Some(blank) = shared.pool.take(shared, limits) {
        return Ok(Found { blank, was_ready: true });
    }
    Ok(Found { blank: fresh(shared, limits).await?, was_ready: false })
}

/// Makes a blank now.
async fn fresh(shared: &Arc<Shared>, limits: &Limits) -> Result<Blank, Error> {
    let site = site(shared, limits).await?;
    Blank::launch(shared, site, limits.nofile).await
}

async fn site(shared: &Arc<Shared>, limits: &Limits) -> Result<Site, Error> {
    match shared.pool.take_site() {
        Some(site) => Ok(site),
        None => Site::make(shared, limits, false).await,
    }
}

/// Removes a site; what runs at it is killed with its cgroup.
pub(super) async fn discard(shared: &Arc<Shared>, site: Site) {
    for error in run(shared, site.undo()).await {
        tracing::error!(launch = %site.launch, error = %chain(&error), "cannot remove a sandbox that is nobody's");
    }
}

/// Records the sandbox, then makes its workspace.
async fn recorded_workspace(
    shared: &Arc<Shared>,
    record: &Record,
    occasion: Occasion,
    undo: &mut Vec<Undo>,
) -> Result<Prepared, Error> {
    let id = record.spec.id;
    fail_point("provision-record")?;
    if occasion == Occasion::Create {
        undo.push(Undo::Record(id));
        // Before anything of its name is made on the host. That it survives the daemon is enough: a power loss
        // takes the host's side with it, and a new workspace bears a mark until its record is on the disk. One
        // that is woken is recorded already.
        phase("record", shared.put(record.clone(), Durability::Process)).await?;
    }
    let (storage, spec) = (Arc::clone(shared), record.spec.clone());
    let made = blocking(move || {
        fail_point("provision-workspace")?;
        let ready = || storage.pool.take_workspace();
        storage.storage.prepare(spec.id, spec.template.as_ref(), ready).map_err(Error::Storage)
    });
    let made = phase("workspace", made).await?;
    if (made, occasion) == (Prepared::Made, Occasion::Create) {
        undo.push(Undo::Workspace(id));
    }
    Ok(made)
}

fn identity(shared: &Shared, record: &Record) -> Identity {
    let spec = &record.spec;
    Identity {
        host_name: spec.id.host_name(),
        workspace: shared.storage.workspace_path(spec.id),
        env: bundle::environment(&spec.env, shared.config.ca_bundle.is_some()),
    }
}

/// The record once the sandbox runs as this blank.
fn running(record: &Record, blank: &Blank) -> Record {
    let now = now_ms();
    Record {
        status: Status::Running,
        error_message: None,
        address_index: Some(blank.site.address_index),
        launch: Some(blank.site.launch),
        init_pid: Some(blank.launched.pid),
        init_start_ticks: Some(blank.launched.start_ticks),
        updated_at: now,
        last_active_at: now,
        stopped_at: None,
        ..record.clone()
    }
}

fn live(record: &Record, blank: Blank) -> Result<Live, Error> {
    let Blank { site, launched, .. } = blank;
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
        is_greeted: AtomicBool::new(true),
        link: LinkCell::default(),
        run_directory: site.run_directory,
        started_at: record.updated_at,
        started: Instant::now(),
        ended: CancellationToken::new(),
    })
}

/// Takes steps back after a failure.
pub(super) async fn take_back(shared: &Arc<Shared>, undo: Vec<Undo>, cause: Error) -> Error {
    let failures = run(shared, undo).await;
    if failures.is_empty() {
        return cause;
    }
    Error::Leftovers { cause: Box::new(cause), cleanup: failures.iter().map(chain).collect() }
}

/// Takes steps back, the last one first; goes on after a failure.
async fn run(shared: &Arc<Shared>, undo: Vec<Undo>) -> Vec<Error> {
    let mut failures = Vec::new();
    for step in undo.into_iter().rev() {
        if let Err(error) = step.run(shared).await {
            failures.push(error);
        }
    }
    failures
}

impl Undo {
    async fn run(self, shared: &Arc<Shared>) -> Result<(), Error> {
        match self {
            Self::Lease(index) => {
                shared.leases.release(index);
                Ok(())
            }
            Self::Record(id) => shared.delete_record(id, Durability::Process).await,
            Self::Workspace(id) => {
                let shared = Arc::clone(shared);
                blocking(move || shared.storage.remove(id).map(drop).map_err(Error::Storage)).await
            }
            Self::Cgroup(cgroup) => blocking(move || cgroup.destroy().map_err(Error::Cgroup)).await,
            Self::RunDirectory(path) => blocking(move || remove_run_directory(&path)).await,
        }
    }
}

/// Removes a sandbox's run directory; one that is not there is no error.
pub(super) fn remove_run_directory(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| Error::RunDirectory { path: path.display().to_string(), source }),
    }
}

/// Fails if a test has asked for it; without the feature `failpoints` it is nothing.
#[cfg_attr(not(feature = "failpoints"), expect(unused_variables, reason = "the points are compiled out"))]
pub(super) fn fail_point(name: &'static str) -> Result<(), Error> {
    fail::fail_point!(name, |_| Err(Error::FailPoint(name)));
    Ok(())
}

/// An error with its causes in one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
