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
//! Which of the courses is taken is decided once ([`Plan`]). Each is a chain of types, placed → started → recorded; a link
//! owns how all before it is taken back, and a step that fails takes that out of the chain with it.
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
use model::{Isolation, Record, RootFs, SandboxSpec, Status, TemplateName};
use storage::{Prepared, Staged, StagedName};
use sys::watch::Watched;
use telemetry::phase;

/// Whether the sandbox is new: a new one's workspace and record go when it cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    Create,
    Wake,
}

/// How a sandbox is launched; decided once.
#[derive(Debug)]
enum Plan {
    /// A blank of the pool becomes the sandbox.
    FromPool(Box<Blank>),
    /// None is there: one is launched beside what has to be made durable.
    Now,
    /// It has to be somebody's when it is launched, by its engine, its root file system or its system calls: so its
    /// workspace comes first, and nothing is ready before it is asked for but the site.
    Named(Engine),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Draft<'a> {
    launching: &'a Arc<Launching>,
    record: &'a Record,
    occasion: Occasion,
}

/// How what was done so far is taken back. Each link of the chain owns it, and a failure carries it out of the chain.
#[derive(Debug, Default)]
struct Undoing {
    steps: Vec<Undo>,
    /// Whether the record of a new sandbox may say that it runs.
    says_running: bool,
}

/// A step that failed, and what those before it have made.
#[derive(Debug)]
struct Failed {
    cause: Box<Error>,
    undoing: Undoing,
}

/// First link: the sandbox is on record, and its workspace is in place.
#[derive(Debug)]
struct Placed {
    workspace: Prepared,
    undoing: Undoing,
}

/// Second link: something runs that can become the sandbox.
#[derive(Debug)]
struct Started {
    blank: Blank,
    placed: Placed,
}

/// Last link: what runs is the sandbox, and the record says so.
#[derive(Debug)]
struct Recorded {
    blank: Blank,
    /// Says that it runs.
    record: Record,
    placed: Placed,
}

/// A sandbox that runs; a new one is recorded as such.
#[derive(Debug)]
pub(crate) struct Provisioned {
    pub(crate) live: Live,
    /// Says that it runs.
    pub(crate) record: Record,
    pub(crate) workspace: Prepared,
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
    let draft = Draft { launching, record, occasion };
    let plan = Plan::of(launching, record)?;
    // Apart, since its size would be that of every sandbox's driver, whatever that is doing.
    match Box::pin(draft.follow(plan)).await {
        Ok(provisioned) => Ok(provisioned),
        Err(failed) => Err(draft.take_back(failed).await),
    }
}

impl Plan {
    /// Decides, and takes a blank out of the pool where one can be used.
    fn of(launching: &Launching, record: &Record) -> Result<Self, Error> {
        let Ground { host, books, .. } = &launching.ground;
        let engine = Engine::of(record.spec.isolation);
        ids::check_nested(host, &record.spec)?;
        if !engine.begins_nameless() || record.spec.rootfs == RootFs::Overlay || nests(&record.spec) {
            return Ok(Self::Named(engine));
        }
        let blank = launching.pool.take(host.nofile(&record.spec.limits), &books.metrics);
        Ok(blank.map_or(Self::Now, |blank| Self::FromPool(Box::new(blank))))
    }
}

impl Undoing {
    fn failed(self, cause: Error) -> Failed {
        Failed { cause: Box::new(cause), undoing: self }
    }
}

impl Failed {
    /// Takes down that a site goes too, whatever runs there.
    fn with(mut self, site: &Site) -> Self {
        self.undoing.steps.append(&mut site.undo());
        self
    }
}

impl Started {
    /// What came of a launch and of what was made beside it. Whatever was made is noted before the first failure is
    /// looked at.
    fn of(launched: Result<Blank, Box<Unlaunched>>, placed: Result<Placed, Failed>) -> Result<Self, Failed> {
        match (launched, placed) {
            (Ok(blank), Ok(placed)) => Ok(Self { blank, placed }),
            (Ok(blank), Err(failed)) => Err(failed.with(&blank.site)),
            (Err(unlaunched), Ok(placed)) => {
                Err(placed.undoing.failed(unlaunched.cause).with(&unlaunched.site))
            }
            (Err(unlaunched), Err(failed)) => {
                Err(Failed { cause: Box::new(unlaunched.cause), ..failed }.with(&unlaunched.site))
            }
        }
    }
}

impl Recorded {
    /// Says that nothing is left to do for it.
    fn finish(self) -> Result<Provisioned, Failed> {
        let Self { blank, record, placed: Placed { workspace, mut undoing } } = self;
        let mut site = blank.site.undo();
        let finished = fail_point("provision-claimed").and_then(|()| blank.site.note_claimed());
        match finished.and_then(|()| live(&record, blank)) {
            Ok(live) => Ok(Provisioned { live, record, workspace }),
            Err(cause) => {
                undoing.steps.append(&mut site);
                Err(undoing.failed(cause))
            }
        }
    }
}

impl Draft<'_> {
    fn ground(&self) -> &Ground {
        &self.launching.ground
    }

    async fn follow(&self, plan: Plan) -> Result<Provisioned, Failed> {
        let recorded = match plan {
            Plan::FromPool(blank) => self.pooled(*blank).await,
            Plan::Now => self.now(None).await,
            Plan::Named(engine) => self.named(engine).await,
        };
        recorded?.finish()
    }

    /// Makes a blank of the pool the sandbox. Where its workspace was made ahead too, this is put in place by the
    /// writer of the record, before that is synced, so that one wait is for both.
    async fn pooled(&self, mut blank: Blank) -> Result<Recorded, Failed> {
        let running = running(self.record, &blank);
        let staged = match self.staged() {
            Ok(staged) => staged,
            Err(cause) => return Err(Undoing::default().failed(cause).with(&blank.site)),
        };
        let (ground, limits) = (self.ground(), &self.record.spec.limits);
        let identity = identity(&ground.host, self.record);
        let (placed, claimed) = match staged {
            Some(Staged { name, directory, .. }) => tokio::join!(
                self.place_ahead(name, running.clone()),
                blank.claim(ground, limits, identity, Some(directory), &running)
            ),
            None => match self.place().await {
                Err(failed) => (Err(failed), Ok(())),
                Ok(placed) => tokio::join!(
                    self.say_running(placed, &running),
                    blank.claim(ground, limits, identity, None, &running)
                ),
            },
        };
        match (placed, claimed) {
            (Err(failed), _) => Err(failed.with(&blank.site)),
            (Ok(placed), Ok(())) => Ok(Recorded { blank, record: running, placed }),
            (Ok(placed), Err(error)) => self.instead_of(blank, placed, &error).await,
        }
    }

    /// Launches another one in the place of a blank that cannot be claimed. It may have died while it waited: that must
    /// not cost anybody a create.
    async fn instead_of(&self, blank: Blank, placed: Placed, error: &Error) -> Result<Recorded, Failed> {
        tracing::warn!(id = %self.record.spec.id, error = %chain(error), "a sandbox of the pool cannot be used");
        self.ground().books.metrics.count_pool("failed");
        if placed.undoing.says_running
            && let Err(unwritten) = self.withdraw().await
        {
            return Err(placed.undoing.failed(unwritten).with(&blank.site));
        }
        discard(self.ground(), blank.site).await;
        self.now(Some(placed)).await
    }

    /// Launches a blank and makes it the sandbox. Beside the launch everything is made durable that takes long: that it
    /// runs, with the launch by which it will be known, but without the process, which a power loss takes with it
    /// anyhow.
    async fn now(&self, placed: Option<Placed>) -> Result<Recorded, Failed> {
        let (ground, limits) = (self.ground(), &self.record.spec.limits);
        let site = match self.site(false).await {
            Ok(site) => site,
            Err(cause) => return Err(placed.map(|placed| placed.undoing).unwrap_or_default().failed(cause)),
        };
        let announced = announced(self.record, &site);
        let prepared = async {
            let placed = match placed {
                Some(placed) => placed,
                None => self.place().await?,
            };
            self.say_running(placed, &announced).await
        };
        let launch = Blank::launch(ground, site, ground.host.nofile(limits));
        let (launched, placed) = tokio::join!(launch, prepared);
        let Started { mut blank, placed } = Started::of(launched, placed)?;
        let running = running(self.record, &blank);
        let recorded = async {
            match self.occasion {
                Occasion::Create => {
                    let written = ground.books.records.put(running.clone(), Durability::Process);
                    phase("record-launched", written).await
                }
                Occasion::Wake => Ok(()),
            }
        };
        let claimed = blank.claim(ground, limits, identity(&ground.host, self.record), None, &running);
        let (recorded, claimed) = tokio::join!(recorded, claimed);
        match recorded.and(claimed) {
            Ok(()) => Ok(Recorded { blank, record: running, placed }),
            Err(cause) => Err(placed.undoing.failed(cause).with(&blank.site)),
        }
    }

    /// Launches what is somebody's from its launch on.
    async fn named(&self, engine: Engine) -> Result<Recorded, Failed> {
        let (ground, limits) = (self.ground(), &self.record.spec.limits);
        let placed = self.place().await?;
        let identity = identity(&ground.host, self.record);
        let named = (!engine.begins_nameless()).then_some(&identity);
        let made = async {
            let layers = layers(self.launching, self.record).await?;
            Ok((layers, self.site(nests(&self.record.spec)).await?))
        };
        let (layers, site) = match made.await {
            Ok(made) => made,
            Err(cause) => return Err(placed.undoing.failed(cause)),
        };
        let launched =
            Blank::launch_as(ground, site, ground.host.nofile(limits), engine, named, layers).await;
        let Started { mut blank, placed } = Started::of(launched, Ok(placed))?;
        let running = running(self.record, &blank);
        let recorded = self.say_running(placed, &running);
        let (placed, claimed) = tokio::join!(recorded, blank.claim(ground, limits, identity, None, &running));
        match (placed, claimed) {
            (Ok(placed), Ok(())) => Ok(Recorded { blank, record: running, placed }),
            (Ok(placed), Err(cause)) => Err(placed.undoing.failed(cause).with(&blank.site)),
            (Err(failed), _) => Err(failed.with(&blank.site)),
        }
    }

    /// A workspace that was made ahead, if this sandbox needs nothing else, and a start would know what to do with one that is
    /// in place without a record.
    fn staged(&self) -> Result<Option<Staged>, Error> {
        let is_plain = self.record.spec.template.as_ref().is_none_or(TemplateName::is_blank);
        let is_new = self.occasion == Occasion::Create
            && !self.launching.ground.host.storage.has_workspace(self.record.spec.id);
        if !is_plain || !is_new {
            return Ok(None);
        }
        // Here, since nothing could take back what was taken out of the pool.
        fail_point("provision-record")?;
        fail_point("record-running")?;
        Ok(self.launching.pool.take_marked_workspace())
    }

    /// A site; what is ready was made without room for namespaces of programs.
    async fn site(&self, nested: bool) -> Result<Site, Error> {
        let ready = if nested { None } else { self.launching.pool.take_site() };
        match ready {
            Some(site) => Ok(site),
            None => Site::make(self.ground(), &self.record.spec.limits, nested).await,
        }
    }

    /// Puts the sandbox on record, then makes its workspace.
    async fn place(&self) -> Result<Placed, Failed> {
        let mut undoing = Undoing::default();
        match self.place_steps(&mut undoing).await {
            Ok(workspace) => Ok(Placed { workspace, undoing }),
            Err(cause) => Err(undoing.failed(cause)),
        }
    }

    async fn place_steps(&self, undoing: &mut Undoing) -> Result<Prepared, Error> {
        let (id, ground) = (self.record.spec.id, self.ground());
        fail_point("provision-record")?;
        if self.occasion == Occasion::Create {
            undoing.steps.push(Undo::Record(id));
            // Before anything of its name is made on the host. That it survives the daemon is enough: a power loss
            // takes the host's side with it, and a new workspace bears a mark until its record is on the disk. One
            // that is woken is recorded already.
            phase("record", ground.books.records.put(self.record.clone(), Durability::Process)).await?;
        }
        let (launching, spec) = (Arc::clone(self.launching), self.record.spec.clone());
        let owner = ids::owner(&ground.host, spec.isolation);
        // Those that were made ahead are for containers.
        let fits = owner == ids::owner(&ground.host, Isolation::Container);
        let prepared = blocking(move || {
            fail_point("provision-workspace")?;
            let ready = || if fits { launching.pool.take_workspace() } else { None };
            let storage = &launching.ground.host.storage;
            storage.prepare(spec.id, spec.template.as_ref(), owner, ready).map_err(Error::Storage)
        });
        let prepared = phase("workspace", prepared).await?;
        if (prepared, self.occasion) == (Prepared::Made, Occasion::Create) {
            undoing.steps.push(Undo::Workspace(id));
        }
        Ok(prepared)
    }

    /// Has the writer of the record put a workspace in place that was made ahead, right before the record says that the
    /// sandbox runs.
    async fn place_ahead(&self, staged: StagedName, running: Record) -> Result<Placed, Failed> {
        let id = running.spec.id;
        let mut undoing = Undoing { steps: vec![Undo::Record(id)], says_running: true };
        let (sender, placed) = oneshot::channel();
        let host = Arc::clone(&self.ground().host);
        let step = Box::new(move || {
            let place = || host.storage.place(staged, id).map_err(Error::Storage);
            let result = fail_point("provision-workspace").and_then(|()| place());
            let is_placed = result.is_ok();
            // Whoever waits for it waits for the record too.
            let _read: Result<(), _> = sender.send(result);
            is_placed
        });
        let written = self.ground().books.records.put_after(step, running, Durability::Power);
        let recorded = phase("record-running", written).await;
        match placed.await {
            Ok(Ok(())) => undoing.steps.push(Undo::Workspace(id)),
            Ok(Err(error)) => return Err(undoing.failed(error)),
            // It was not even tried, of which the record's error says why.
            Err(_closed) => {}
        }
        match recorded {
            Ok(()) => Ok(Placed { workspace: Prepared::Made, undoing }),
            Err(cause) => Err(undoing.failed(cause)),
        }
    }

    /// Writes that a new sandbox runs. The record of one that is woken says what is so until it runs.
    async fn say_running(&self, mut placed: Placed, running: &Record) -> Result<Placed, Failed> {
        if self.occasion == Occasion::Create {
            placed.undoing.says_running = true;
            if let Err(cause) = record_running(self.ground(), running.clone()).await {
                return Err(placed.undoing.failed(cause));
            }
        }
        Ok(placed)
    }

    /// Before anything of a create that failed is taken away: what is found without the file of a claim is not known to
    /// be unfinished.
    async fn withdraw(&self) -> Result<(), Error> {
        self.ground().books.records.put(self.record.clone(), Durability::Process).await
    }

    async fn take_back(&self, Failed { cause, undoing }: Failed) -> Error {
        if undoing.says_running
            && let Err(error) = self.withdraw().await
        {
            tracing::error!(id = %self.record.spec.id, error = %chain(&error), "failed to record that a create has failed");
        }
        take_back(self.ground(), undoing.steps, *cause).await
    }
}

/// Writes that a sandbox runs.
pub(crate) async fn record_running(ground: &Ground, record: Record) -> Result<(), Error> {
    fail_point("record-running")?;
    phase("record-running", ground.books.records.put(record, Durability::Power)).await
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
