//! What has to be made before a sandbox runs, each step with its undo.
//!
//! ```text
//! lease ─► record ─┬─► workspace ─┐
//!                  ├─► cgroup ────┼─► bundle ─► launch ─► (running)
//!                  └─► network ───┘
//! ```
//!
//! The record comes before every effect on the host, and every effect can be found again from the
//! id alone, so that a daemon that died in between finds what to take back. Undo runs in reverse,
//! does not stop at an error, and tells them all.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::activity::now_ms;
use super::error::Error;
use super::live::Live;
use super::supervisor::{Shared, blocking};
use super::throttle::Throttle;
use crate::bundle::{self, Plan};
use crate::metadata::Durability;
use crate::model::{Record, SandboxId, Status};
use crate::network::Attachment;
use crate::runtime::{Launch, launcher};
use crate::storage::Prepared;
use crate::sys::cgroup::{Cgroup, Settings};
use crate::sys::watch::Watched;

/// The names of the fail points, in the order of the steps: at each, a test makes the step fail or
/// ends the daemon.
pub const STEPS: [&str; 7] = [
    "provision-lease",
    "provision-record",
    "provision-workspace",
    "provision-cgroup",
    "provision-network",
    "provision-bundle",
    "provision-launch",
];

/// Whether the sandbox is new: a new one's workspace and record go when it cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    Create,
    Wake,
}

/// A sandbox that runs, and is not recorded as running yet.
#[derive(Debug)]
pub(super) struct Provisioned {
    pub(super) live: Live,
    /// Says that it runs.
    pub(super) record: Record,
    /// Whether the workspace is new: one that was there is never removed by a failure.
    pub(super) workspace: Prepared,
}

/// How one step is taken back.
#[derive(Debug)]
enum Undo {
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
    let mut undo = Vec::new();
    match steps(shared, record, occasion, &mut undo).await {
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
    let id = record.spec.id;
    fail_point("provision-lease")?;
    let index = shared
        .leases
        .take()
        .ok_or_else(|| Error::Exhausted("no address is left for another sandbox".into()))?;
    undo.push(Undo::Lease(index));

    let mut record = record.clone();
    record.address_index = Some(index);
    record.updated_at = now_ms();
    fail_point("provision-record")?;
    if occasion == Occasion::Create {
        undo.push(Undo::Record(id));
    }
    // Before anything is made on the host. That it survives the daemon is enough: a power loss takes
    // the host's side with it, and an empty workspace is found by its name.
    shared.put(record.clone(), Durability::Process).await?;

    // The three do not know one another, and each waits for the kernel: they go at once.
    let (workspace, cgroup, network) =
        tokio::join!(workspace(shared, &record), cgroup(shared, &record), network(shared, index));
    // Whatever was made is noted before the first failure is looked at.
    if let (Ok(Prepared::Made), Occasion::Create) = (&workspace, occasion) {
        undo.push(Undo::Workspace(id));
    }
    if let Ok(cgroup) = &cgroup {
        undo.push(Undo::Cgroup(cgroup.clone()));
    }
    let workspace = workspace?;
    let cgroup = cgroup?;
    let attachment = network?;

    let run_directory = shared.config.run_dir.join(id.lower());
    undo.push(Undo::RunDirectory(run_directory.clone()));
    let bundle = bundle(shared, &record, run_directory.clone()).await?;
    let (live, record) = launch(shared, record, cgroup, attachment, run_directory, bundle).await?;
    Ok(Provisioned { live, record, workspace })
}

async fn launch(
    shared: &Arc<Shared>,
    mut record: Record,
    cgroup: Cgroup,
    attachment: Attachment,
    run_directory: PathBuf,
    bundle: PathBuf,
) -> Result<(Live, Record), Error> {
    let index = record.address_index.unwrap_or_default();
    let netns: Arc<OwnedFd> = Arc::new(attachment.netns);
    fail_point("provision-launch")?;
    let launch = Launch {
        id: record.spec.id,
        directory: run_directory.clone(),
        bundle,
        netns: Arc::clone(&netns),
        cgroup: cgroup.entry().map_err(Error::Cgroup)?,
    };
    let launched = shared.runtime.launch(launch).await.map_err(Error::Launch)?;
    let now = now_ms();
    record.status = Status::Running;
    record.init_pid = Some(launched.pid);
    record.init_start_ticks = Some(launched.start_ticks);
    record.updated_at = now;
    record.last_active_at = now;
    record.stopped_at = None;
    let live = Live {
        control: launched.control,
        init_pid: launched.pid,
        init: Watched::new(launched.process)
            .map_err(|source| Error::RunDirectory { path: "pidfd".into(), source })?,
        netns,
        address: attachment.address,
        address_index: index,
        cgroup,
        throttle: Throttle::default(),
        awake: Mutex::default(),
        oom_kills: AtomicU64::new(0),
        is_greeted: AtomicBool::new(true),
        run_directory,
        started_at: now,
        ended: CancellationToken::new(),
    };
    Ok((live, record))
}

async fn workspace(shared: &Arc<Shared>, record: &Record) -> Result<Prepared, Error> {
    let (shared, spec) = (Arc::clone(shared), record.spec.clone());
    blocking(move || {
        fail_point("provision-workspace")?;
        shared.storage.prepare(spec.id, spec.template.as_ref()).map_err(Error::Storage)
    })
    .await
}

async fn cgroup(shared: &Arc<Shared>, record: &Record) -> Result<Cgroup, Error> {
    let (shared, spec) = (Arc::clone(shared), record.spec.clone());
    blocking(move || {
        fail_point("provision-cgroup")?;
        let limits = &spec.limits;
        let settings = Settings {
            memory_max: limits.memory_max.as_u64(),
            memory_high: shared.config.set_memory_high.then(|| limits.memory_high.as_u64()),
            pids_max: limits.pids_max.into(),
        };
        shared.cgroups.create(&spec.id.lower(), &settings).map_err(Error::Cgroup)
    })
    .await
}

async fn network(shared: &Arc<Shared>, index: u32) -> Result<Attachment, Error> {
    let shared = Arc::clone(shared);
    blocking(move || {
        fail_point("provision-network")?;
        shared.network.attach(index).map_err(Error::Network)
    })
    .await
}

/// Writes the bundle; the rootfs is looked at first, so that no mount can be led out of it by a link.
async fn bundle(shared: &Arc<Shared>, record: &Record, run_directory: PathBuf) -> Result<PathBuf, Error> {
    let (shared, spec) = (Arc::clone(shared), record.spec.clone());
    blocking(move || {
        fail_point("provision-bundle")?;
        shared.check_rootfs()?;
        make_run_directory(&run_directory)?;
        let workspace = shared.storage.workspace_path(spec.id);
        let plan = Plan {
            id: spec.id,
            rootfs: &shared.config.rootfs,
            workspace: &workspace,
            netns: &launcher::netns_path(),
            etc: &shared.etc_dir,
            ca_bundle: shared.config.ca_bundle.as_deref(),
            env: &spec.env,
            limits: &spec.limits,
        };
        let bundle = run_directory.join("bundle");
        make_run_directory(&bundle)?;
        bundle::write(&bundle, &shared.template.spec(&plan)).map_err(Error::Bundle)?;
        Ok(bundle)
    })
    .await
}

async fn take_back(shared: &Arc<Shared>, undo: Vec<Undo>, cause: Error) -> Error {
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

fn make_run_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |source| Error::RunDirectory { path: path.display().to_string(), source };
    std::fs::DirBuilder::new().mode(0o700).create(path).map_err(failed)
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
