//! The way to every sandbox.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, now_ms};
use super::admission::{self, Admission, Purpose};
use super::clock::Clock;
use super::command::{Command, MAILBOX, Order};
use super::driver;
use super::error::Error;
use super::etc::write_etc;
use super::events::{EventLog, Why};
use super::ids::{self, UserSpaces};
use super::leases::Leases;
use super::limits::{ceiling, not_enforced, open_files};
use super::logs::FOLLOWERS_MAX;
use super::owners::Owners;
use super::pool::Pool;
use super::ports::PortQueues;
use super::registry::ask;
use super::registry::{Entry, Published, Registry};
use super::request::{CreateRequest, Created, Filter, Started};
use super::share::Threads;
use super::tasks::blocking;
use super::view::{AppView, Counts, Snapshot};
use super::{buffers, expiry, fairness, oom, pool, reconcile, sweep, throttle};
use crate::files::trees::TRANSFERS_MAX;
use crate::files::watch::{WATCHES_MAX, Watchers};
use crate::process;
use crate::process::table::Processes;
use engine::bundle::Template;
use engine::{Engine, Runtime};
use metadata::{Contents, Durability, Metadata, MetadataError, Retirement};
use model::{ByteSize, External, IdlePolicy, Limits, PathKind, Record, SandboxId, SandboxSpec, Status};
use network::Network;
use storage::Storage;
use sys::cgroup::Hierarchy;
use sys::controls::Disk;
use sys::netns::SocketMaker;
use telemetry::{Metrics, Trace};

/// How many requests may wait for one sandbox, so that one whose app never comes up leaves room for others.
const HELD_MAX: usize = 512;

/// What is said of a sandbox of which only the workspace was left.
const FOUND: &str = "the record of this sandbox was lost; its files are as they were, and its owner, ports and environment are not known";

/// How sandboxes are kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// One directory per running sandbox beneath it.
    pub run_dir: PathBuf,
    pub rootfs: PathBuf,
    /// How sandboxes get ids of their own; `None`: their processes have the host's.
    pub user_spaces: Option<UserSpaces>,
    /// Whether each sandbox has inodes of its own for the root file system.
    pub covers_rootfs: bool,
    /// Whether a sandbox may be asked for whose programs may make namespaces.
    pub nested_namespaces: bool,
    /// Certificates bound over the sandbox's own, for hosts behind an inspecting proxy.
    pub ca_bundle: Option<PathBuf>,
    /// The limits of a sandbox that does not ask for others.
    pub limits: Limits,
    /// Whether `memory.high` is written at all.
    pub set_memory_high: bool,
    pub sandboxes_max: usize,
    /// After this a sandbox that nobody uses is frozen; zero, or not before the next: it is not.
    pub freeze_after: Duration,
    /// After this it is stopped.
    pub idle_threshold: Duration,
    /// For how long an open connection without bytes keeps a sandbox awake.
    pub silent_connection: Duration,
    /// How often idle sandboxes are looked for; zero: never.
    pub idle_interval: Duration,
    /// How often memory pressure is looked for.
    pub pressure_interval: Duration,
    /// How often the host is compared with the record; zero: at the start only.
    pub sweep_interval: Duration,
    pub keepalive_max: Duration,
    /// Between TERM and KILL when a sandbox is stopped.
    pub stop_grace: Duration,
    /// How long a request is held for a sandbox that was just started and whose app says nothing of itself.
    pub ready_timeout: Duration,
    /// How long a request is held for an app that is known to be starting.
    pub wake_timeout: Duration,
    pub admission: admission::Config,
    /// The most files, directories and links of a tree that is copied, packed or unpacked.
    pub tree_entries_max: u64,
    /// The most bytes of its content.
    pub tree_bytes_max: ByteSize,
    pub pool: pool::Config,
    pub processes: process::Config,
}

/// What sandboxes are made with.
#[derive(Debug)]
pub struct Parts {
    pub storage: Storage,
    pub network: Network,
    pub metadata: Metadata,
    pub runtime: Runtime,
    pub cgroups: Hierarchy,
    pub sockets: SocketMaker,
    pub template: Template,
    pub metrics: Metrics,
}

/// The way to every sandbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    pub(super) shared: Arc<Shared>,
}

/// What all drivers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// Holds the `resolv.conf` and `hosts` of all sandboxes.
    pub(super) etc_dir: PathBuf,
    pub(super) storage: Storage,
    pub(super) network: Network,
    pub(super) metadata: Metadata,
    pub(super) events: EventLog,
    pub(super) runtime: Runtime,
    pub(super) cgroups: Hierarchy,
    pub(super) sockets: SocketMaker,
    pub(super) template: Template,
    pub(super) destinations: Vec<(PathBuf, PathKind)>,
    pub(super) metrics: Metrics,
    pub(super) registry: Registry,
    pub(super) leases: Leases,
    pub(super) admission: Admission,
    pub(super) pool: Pool,
    /// The directories with `config.json`, by the limit on open files that each asks for.
    pub(super) bundles: Mutex<HashMap<(u64, bool), PathBuf>>,
    /// What holds the workspaces, if it is one disk.
    pub(super) disk: Option<Disk>,
    /// How many files the machine can have open at once.
    open_files: u64,
    /// Which limits the host cannot enforce.
    not_enforced: Vec<&'static str>,
    /// Workspaces that are kept without a sandbox.
    kept: Mutex<Kept>,
    /// The threads that tenants' files may take.
    pub(super) threads: Threads,
    /// Permits for trees that are packed or unpacked.
    pub(super) transfers: Arc<Semaphore>,
    /// Permits for those who watch files.
    pub(super) watches: Arc<Semaphore>,
    pub(super) watchers: Watchers,
    /// Whether the host has a freezer.
    pub(super) can_freeze: bool,
    /// Memory is moved out of one sandbox at a time.
    pub(super) reclaiming: Semaphore,
    /// One permit for each log that may be followed.
    pub(super) followers: Arc<Semaphore>,
    /// What the output of all processes takes.
    pub(super) rings: Arc<process::rings::Rings>,
    pub(super) tasks: TaskTracker,
    /// Cancelled when every sandbox is to stop: nothing is started from then on.
    pub(super) closing: CancellationToken,
    pub(super) ending: CancellationToken,
}

/// Workspaces without a sandbox, and whose they are.
#[derive(Debug, Default)]
struct Kept {
    owner: HashMap<SandboxId, External>,
    owners: Owners,
}

impl Kept {
    fn insert(&mut self, id: SandboxId, owner: External) {
        self.remove(id);
        self.owners.add(id, &owner);
        self.owner.insert(id, owner);
    }

    /// Says whether it was there.
    fn remove(&mut self, id: SandboxId) -> bool {
        let owner = self.owner.remove(&id);
        if let Some(owner) = &owner {
            self.owners.remove(id, owner);
        }
        owner.is_some()
    }
}

impl Supervisor {
    /// Takes over the host: what the records say runs and does is adopted, everything else of ours is
    /// removed; then sandboxes can be used.
    ///
    /// # Errors
    /// The run directory cannot be prepared, or the record cannot be written.
    pub async fn start(config: Config, parts: Parts, contents: Contents) -> Result<Self, Error> {
        let etc_dir = config.run_dir.join("etc");
        let disk = Disk::of(&parts.storage.workspaces_dir());
        let rings = Arc::new(process::rings::Rings::within(&config.run_dir));
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared {
            destinations: parts.template.destinations(),
            leases: Leases::new(capacity(&config, &parts.network)),
            admission: Admission::new(config.admission),
            pool: Pool::new(config.pool),
            bundles: Mutex::default(),
            disk,
            open_files: open_files(),
            not_enforced: not_enforced(&parts.cgroups, disk),
            config,
            etc_dir,
            storage: parts.storage,
            network: parts.network,
            metadata: parts.metadata,
            events: EventLog::new(contents.events_given_out),
            runtime: parts.runtime,
            can_freeze: parts.cgroups.has_freezer(),
            cgroups: parts.cgroups,
            sockets: parts.sockets,
            template: parts.template,
            metrics: parts.metrics,
            registry: Registry::default(),
            kept: Mutex::default(),
            threads: Threads::new(&tasks),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            watchers: Watchers::default(),
            reclaiming: Semaphore::new(1),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            rings,
            tasks,
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
        });
        write_etc(&shared)?;
        shared.check_rootfs()?;
        let supervisor = Self { shared };
        supervisor.shared.begin_events().await;
        let mut clock = Clock::find(&supervisor.shared.config.run_dir);
        let mut records = clock.translated(contents.records);
        let unknown = contents.recovered.map(|recovered| recovered.unknown).unwrap_or_default();
        records.extend(supervisor.found(unknown).await?);
        reconcile::run(&supervisor, records, contents.retired).await?;
        // Once this start has written what it must.
        supervisor.shared.storage.restore_reserve();
        // Before anybody is served: what looks at the run directory from then on finds a file that is whole.
        clock.note(&supervisor.shared).await;
        supervisor.shared.tasks.spawn(pool::keep(Arc::clone(&supervisor.shared)));
        supervisor.shared.tasks.spawn(expiry::watch_idle(supervisor.clone(), clock));
        supervisor.shared.tasks.spawn(expiry::watch_pressure(supervisor.clone()));
        supervisor.shared.tasks.spawn(throttle::watch(supervisor.clone()));
        supervisor.shared.tasks.spawn(oom::watch(supervisor.clone()));
        supervisor.shared.tasks.spawn(buffers::watch(supervisor.clone()));
        supervisor.shared.tasks.spawn(fairness::watch(supervisor.clone()));
        supervisor.shared.tasks.spawn(expiry::watch_network(Arc::clone(&supervisor.shared)));
        supervisor.shared.tasks.spawn(expiry::watch_departed(Arc::clone(&supervisor.shared)));
        supervisor.shared.tasks.spawn(sweep::watch(Arc::clone(&supervisor.shared)));
        Ok(supervisor)
    }

    /// Creates a sandbox and waits until it can take an exec.
    ///
    /// # Errors
    /// The id or owner conflicts, memory is short, or a step failed, in which case nothing is left of it.
    pub async fn create(&self, mut request: CreateRequest) -> Result<Created, Error> {
        let shared = &self.shared;
        if shared.registry.len() >= shared.config.sandboxes_max {
            let text =
                format!("the limit of {} sandboxes is reached; purge some", shared.config.sandboxes_max);
            return Err(Error::Exhausted(text));
        }
        shared.storage.check_room().map_err(Error::Storage)?;
        request.ports = self.ports_of(&request).await?;
        let (git, one_per_project) = (request.git.clone(), request.one_per_project);
        let record = self.new_record(request)?;
        let (id, engine) = (record.spec.id, Engine::of(record.spec.isolation));
        ids::check_rootfs(shared, record.spec.rootfs, record.spec.isolation)?;
        ids::check_nested(shared, &record.spec)?;
        engine.admit(&record.spec.limits).map_err(Error::Invalid)?;
        if engine.is_program() {
            let runtime = shared.runtime.clone();
            blocking(move || runtime.probe(engine).map_err(Error::Conflict)).await?;
        }
        let exists = || Error::Conflict(format!("sandbox {id} exists already"));
        // Looked at before its workspace is: nobody is to be told to purge one that is in use.
        if shared.registry.find(id).is_some() {
            return Err(exists());
        }
        shared.check_workspace_owner(id, &record.spec.external)?;
        let (entry, mailbox) = shared.entry(record);
        if let Err(taken) = shared.registry.insert(Arc::clone(&entry), one_per_project) {
            if taken.id == id {
                return Err(exists());
            }
            return Ok(Created::Existing(self.view(&taken)));
        }
        // Admitted only now: a project's second request must find the first one's sandbox, not a refusal.
        let _admitted = match shared.admission.admit(Purpose::Create) {
            Ok(admitted) => admitted,
            Err(refused) => {
                shared.registry.remove(id);
                return Err(refused);
            }
        };
        shared.drive(Arc::clone(&entry), mailbox);
        ask(&entry, |reply| Command::Create { git, reply }).await?;
        shared.forget_kept(id).await?;
        Ok(Created::New(self.view(&entry)))
    }

    /// Looks at a sandbox.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn snapshot(&self, id: SandboxId) -> Result<Snapshot, Error> {
        let entry = self.find(id)?;
        let mut snapshot = self.view(&entry);
        // Read for one, and not for all in a list: it is a file of the kernel's for each.
        if let (Some(seen), Some(live)) = (&mut snapshot.live, entry.present()) {
            seen.memory_current = live.cgroup.memory_current();
        }
        Ok(snapshot)
    }

    /// Looks at all sandboxes that match, the newest first.
    pub fn list(&self, filter: &Filter) -> impl Iterator<Item = Snapshot> + Send + use<> {
        self.views(self.shared.registry.matching(filter))
    }

    /// Each as it is when its turn comes: thousands of them are never looked at at once.
    fn views(&self, entries: Vec<Arc<Entry>>) -> impl Iterator<Item = Snapshot> + Send + use<> {
        let supervisor = self.clone();
        entries.into_iter().map(move |entry| supervisor.view(&entry))
    }

    /// Looks at a page of those of a status: at most `limit` whose ids come before one, the greatest first. If there
    /// are more, the id of its last says where they begin.
    pub fn page(
        &self,
        status: Option<Status>,
        before: Option<SandboxId>,
        limit: usize,
    ) -> (impl Iterator<Item = Snapshot> + Send + use<>, Option<SandboxId>) {
        let mut found = self.shared.registry.page(status, before, limit.saturating_add(1));
        let has_more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| has_more).map(|entry| entry.id);
        (self.views(found), last)
    }

    /// Starts a sandbox unless it runs.
    ///
    /// # Errors
    /// Not found, memory is short, the state forbids it, or a step failed.
    pub async fn start_sandbox(&self, id: SandboxId) -> Result<Started, Error> {
        let begun = Instant::now();
        let entry = self.find(id)?;
        entry.activity.mark();
        let woke = if entry.live().is_some() {
            false
        } else {
            ask(&entry, |reply| Command::Start { why: Why::Request, reply }).await?
        };
        Ok(Started { snapshot: self.view(&entry), woke, took: begun.elapsed() })
    }

    /// Stops a sandbox unless it is stopped.
    ///
    /// # Errors
    /// Not found, the state forbids it, or its processes cannot be ended.
    pub async fn stop(&self, id: SandboxId) -> Result<Snapshot, Error> {
        let entry = self.find(id)?;
        ask(&entry, |reply| Command::Stop { why: Why::Request, reply }).await?;
        Ok(self.view(&entry))
    }

    /// Deletes a sandbox and its record; the workspace is kept.
    ///
    /// # Errors
    /// Not found, or its processes cannot be ended.
    pub async fn delete(&self, id: SandboxId) -> Result<(), Error> {
        let entry = self.find(id)?;
        ask(&entry, |reply| Command::Delete { purge: false, reply }).await.map(drop)
    }

    /// Deletes a sandbox, its record and its workspace, also a workspace without a sandbox; returns the bytes freed.
    ///
    /// # Errors
    /// Its processes cannot be ended, or files cannot be removed.
    pub async fn purge(&self, id: SandboxId) -> Result<u64, Error> {
        match self.shared.registry.find(id) {
            Some(entry) => ask(&entry, |reply| Command::Delete { purge: true, reply }).await,
            None => {
                let shared = Arc::clone(&self.shared);
                blocking(move || {
                    shared.storage.lend_reserve();
                    Ok(())
                })
                .await?;
                self.shared.retire(id, Retirement::Purging, Durability::Power).await?;
                self.shared.purge_workspace(id).await
            }
        }
    }

    /// Purges every sandbox of a user; returns how many, and the bytes freed.
    ///
    /// # Errors
    /// The first sandbox that cannot be purged; the others are.
    pub async fn purge_of_user(&self, user: &str) -> Result<(u64, u64), Error> {
        let kept = self.shared.kept().owners.of_user(user).collect();
        self.purge_all(self.shared.registry.of_user(user), kept).await
    }

    /// Purges every sandbox of a project; returns how many, and the bytes freed.
    ///
    /// # Errors
    /// The first sandbox that cannot be purged; the others are.
    pub async fn purge_of_project(&self, project: &str) -> Result<(u64, u64), Error> {
        let kept = self.shared.kept().owners.of_project(project).collect();
        self.purge_all(self.shared.registry.of_project(project), kept).await
    }

    /// Gives a sandbox an owner.
    ///
    /// # Errors
    /// Not found, or it is another user's already.
    pub async fn claim(&self, id: SandboxId, owner: External) -> Result<Snapshot, Error> {
        let entry = self.find(id)?;
        ask(&entry, |reply| Command::Claim { owner, reply }).await?;
        Ok(self.view(&entry))
    }

    /// Keeps a sandbox awake until a time in unix seconds, or for the idle time from now; returns the time.
    ///
    /// # Errors
    /// Not found, or the time has passed.
    pub async fn keepalive(&self, id: SandboxId, until: Option<i64>) -> Result<i64, Error> {
        let entry = self.find(id)?;
        let now = now_ms() / 1000;
        let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let until = until.unwrap_or_else(|| now.saturating_add(secs(self.shared.config.idle_threshold)));
        if until <= now {
            return Err(Error::Invalid("\"until\" has passed; it is in unix seconds".to_owned()));
        }
        let until = until.min(now.saturating_add(secs(self.shared.config.keepalive_max)));
        ask(&entry, |reply| Command::KeepAlive { until_ms: until.saturating_mul(1000), reply }).await?;
        Ok(until)
    }

    pub fn counts(&self) -> Counts {
        self.shared.registry.tally().counts()
    }

    /// Says whether sandboxes can be created.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn ready(&self) -> Result<(), String> {
        if self.shared.ending.is_cancelled() {
            return Err("the server is ending".to_owned());
        }
        let told = |e: Error| crate::chain(&e);
        self.shared.check_rootfs().map_err(told)?;
        self.shared.storage.check_writable().map_err(|e| told(Error::Storage(e)))
    }

    /// Ends the daemon's part: sandboxes run on, and are adopted by the next daemon; what waits is told to try again.
    pub async fn detach(&self) {
        self.shared.finish().await;
    }

    /// Stops every sandbox, for when the whole container or host ends; each wakes at its next request.
    pub async fn shut_down(&self) {
        // First: what is being started then is known below, and what is asked for later is refused.
        self.shared.closing.cancel();
        // Of those that do not run, too: a create or wake may be under way, and its driver stops it right after.
        let is_there = |entry: &Arc<Entry>| entry.status() != Status::Error;
        let stops = self.shared.registry.all().into_iter().filter(is_there).map(|entry| async move {
            match ask(&entry, |reply| Command::Stop { why: Why::Server, reply }).await {
                // Deleted meanwhile, or its create has failed: there is nothing to stop.
                Ok(()) | Err(Error::NotFound(_) | Error::Ending) => {}
                Err(error) => {
                    tracing::error!(id = %entry.id, error = %crate::chain(&error), "cannot stop a sandbox");
                }
            }
        });
        futures_util::future::join_all(stops).await;
        self.shared.finish().await;
        // One that could not be stopped must not lose its firewall.
        if self.shared.registry.all().iter().all(|entry| entry.present().is_none()) {
            let shared = Arc::clone(&self.shared);
            if let Err(error) = blocking(move || shared.network.remove().map_err(Error::Network)).await {
                tracing::warn!(error = %crate::chain(&error), "failed to take the network away");
            }
        }
    }

    pub(super) fn find(&self, id: SandboxId) -> Result<Arc<Entry>, Error> {
        self.shared.registry.find(id).ok_or(Error::NotFound(id))
    }

    /// Gives workspaces whose records are lost records again, so that their files can be reached: of sandboxes that are
    /// stopped, of nobody, with nothing that was set.
    async fn found(&self, workspaces: Vec<SandboxId>) -> Result<Vec<Record>, Error> {
        let mut found = Vec::new();
        for id in workspaces {
            let request = CreateRequest { id: Some(id), ..CreateRequest::default() };
            let mut record = self.new_record(request)?;
            record.status = Status::Stopped;
            record.stopped_at = Some(record.created_at);
            record.error_message = Some(FOUND.to_owned());
            self.shared.put(record.clone(), Durability::Power).await?;
            found.push(record);
        }
        Ok(found)
    }

    fn new_record(&self, request: CreateRequest) -> Result<Record, Error> {
        let limits = self.shared.config.limits.with(&request.limits, &ceiling());
        let limits = limits.map_err(|e| Error::Invalid(e.to_string()))?;
        let now = now_ms();
        let spec = SandboxSpec {
            id: request.id.unwrap_or_else(SandboxId::generate),
            ports: request.ports,
            env: request.env,
            template: request.template,
            visibility: request.visibility,
            idle_policy: request.idle_policy,
            host_header: request.host_header,
            sleep: request.sleep.map(|sleep| self.sleep_policy(sleep)).transpose()?,
            limits,
            external: request.external,
            app_id: request.app_id,
            git: request.git,
            isolation: request.isolation.unwrap_or_default(),
            rootfs: request.rootfs,
            nested_namespaces: request.nested_namespaces,
        };
        Ok(Record::new(spec, now))
    }

    pub(super) fn view(&self, entry: &Entry) -> Snapshot {
        let published = entry.state.borrow().clone();
        let policy = self.shared.policy_of(&published.record);
        let idle = self.shared.idle(entry);
        let is_present = published.live.is_some();
        let sleeps = is_present && published.record.spec.idle_policy == IdlePolicy::Sleep;
        let kept_for = entry.activity.kept_for();
        let at = |time: Duration| {
            let left = time.saturating_sub(idle).max(kept_for);
            now_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
        };
        let is_running = published.record.status == Status::Running;
        Snapshot {
            live: published.live.as_ref().map(|live| live.view()),
            app: published.app,
            workspace: entry.workspace.clone(),
            generation: published.generation,
            idle_for: (is_present && !entry.activity.is_busy()).then_some(idle),
            sleeps_at: (sleeps && is_running).then(|| at(policy.after())),
            stops_at: policy.stops_after().filter(|_| sleeps).map(at),
            sleep: policy,
            not_enforced: self.shared.not_enforced.clone(),
            record: published.record,
        }
    }

    async fn purge_all(&self, sandboxes: Vec<SandboxId>, kept: Vec<SandboxId>) -> Result<(u64, u64), Error> {
        let (mut count, mut bytes, mut failure) = (0, 0, None);
        for id in sandboxes.into_iter().chain(kept) {
            match self.purge(id).await {
                Ok(freed) => (count, bytes) = (count + 1, bytes + freed),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok((count, bytes)), Err)
    }
}

impl Shared {
    /// Makes an entry and the mailbox that its driver will read.
    pub(super) fn entry(&self, record: Record) -> (Arc<Entry>, mpsc::Receiver<Box<Order>>) {
        let (mailbox, receiver) = mpsc::channel(MAILBOX);
        let id = record.spec.id;
        let activity = Activity::new(record.last_active_at);
        record.keepalive_until.iter().for_each(|until| activity.keep_until(*until));
        let published =
            Published { record: Arc::new(record), live: None, app: AppView::default(), generation: 0 };
        let entry = Entry {
            id,
            mailbox,
            state: watch::Sender::new(published),
            activity,
            processes: Processes::default(),
            workspace: self.storage.workspace_path(id),
            held: Semaphore::new(HELD_MAX),
            queues: PortQueues::default(),
            share: self.threads.share(),
            count: self.registry.count(),
        };
        (Arc::new(entry), receiver)
    }

    pub(super) fn drive(self: &Arc<Self>, entry: Arc<Entry>, mailbox: mpsc::Receiver<Box<Order>>) {
        self.tasks.spawn(driver::run(Arc::clone(self), entry, mailbox));
    }

    /// Writes a record and waits until it is as durable as asked.
    pub(super) async fn put(&self, record: Record, durability: Durability) -> Result<(), Error> {
        self.written(|done| self.metadata.put(record, durability, done)).await
    }

    /// Writes a record in its turn, without waiting; `failed` is told if it cannot be written.
    pub(super) fn post(&self, record: Record, failed: impl FnOnce(Error) + Send + 'static) {
        let done = move |result: Result<(), MetadataError>| {
            if let Err(error) = result {
                failed(Error::Metadata(error));
            }
        };
        self.metadata.put(record, Durability::Process, Box::new(done));
    }

    pub(super) async fn delete_record(&self, id: SandboxId, durability: Durability) -> Result<(), Error> {
        self.written(|done| self.metadata.delete(id, durability, done)).await
    }

    /// Deletes a record and notes what becomes of the workspace, in one transaction.
    pub(super) async fn retire(
        &self,
        id: SandboxId,
        to: Retirement,
        durability: Durability,
    ) -> Result<(), Error> {
        self.written(|done| self.metadata.retire(id, to, durability, done)).await
    }

    /// Deletes a record and keeps the workspace for its owner.
    pub(super) async fn keep_workspace(&self, id: SandboxId, owner: External) -> Result<(), Error> {
        self.retire(id, Retirement::Kept(owner.clone()), Durability::Power).await?;
        self.note_kept(id, owner);
        Ok(())
    }

    pub(super) fn note_kept(&self, id: SandboxId, owner: External) {
        self.kept().insert(id, owner);
    }

    /// Deletes a workspace whose purge is recorded, and then that record.
    pub(super) async fn purge_workspace(self: &Arc<Self>, id: SandboxId) -> Result<u64, Error> {
        let shared = Arc::clone(self);
        blocking(move || shared.storage.displace(id).map_err(Error::Storage)).await?;
        self.finish_purge(id).await
    }

    /// Deletes a workspace that is out of the way, and then the record of its purge.
    pub(super) async fn finish_purge(self: &Arc<Self>, id: SandboxId) -> Result<u64, Error> {
        let shared = Arc::clone(self);
        // As large as a tenant has made it.
        let _turn = self.threads.removal().await?;
        let freed = blocking(move || {
            let freed = shared.storage.remove_displaced(id).map_err(Error::Storage)?;
            // Before it is forgotten that it is to be removed: the two are synced by different hands.
            shared.storage.settle_removals().map_err(Error::Storage)?;
            shared.storage.restore_reserve();
            Ok(freed)
        });
        let freed = freed.await?;
        self.kept().remove(id);
        // If this is lost, the next start purges once more, and finds nothing.
        self.written(|done| self.metadata.forget(id, Durability::Process, done)).await?;
        Ok(freed)
    }

    /// Notes that a kept workspace has a sandbox again.
    pub(super) async fn forget_kept(&self, id: SandboxId) -> Result<(), Error> {
        if !self.kept().remove(id) {
            return Ok(());
        }
        self.written(|done| self.metadata.forget(id, Durability::Process, done)).await
    }

    /// Notes when sandboxes were used last.
    pub(super) fn touch(&self, times: Vec<(SandboxId, i64)>) {
        self.metadata.touch(times);
    }

    pub(super) fn check_rootfs(&self) -> Result<(), Error> {
        let destinations: Vec<_> =
            self.destinations.iter().map(|(path, kind)| (path.as_path(), *kind)).collect();
        self.storage.check_rootfs(&destinations).map_err(Error::Storage)
    }

    /// The limit on open files that a process of a sandbox with such limits starts with.
    pub(super) fn nofile(&self, limits: &Limits) -> u64 {
        limits.nofile_within(self.open_files)
    }

    /// Takes down a phase that ends now.
    pub(super) fn note_phase(&self, operation: &str, name: &'static str, begun: Instant) {
        let trace = Trace::current().unwrap_or_else(Trace::new);
        let before = trace.len();
        trace.note(name, begun);
        self.metrics.observe_phases(operation, &trace.since(before));
    }

    /// Makes a socket in a sandbox's network.
    pub(super) async fn socket(
        &self,
        netns: Arc<OwnedFd>,
        domain: sys::netns::Domain,
    ) -> std::io::Result<OwnedFd> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| drop::<Result<(), _>>(sender.send(result)));
        self.sockets.request(netns, domain, done);
        receiver.await.unwrap_or_else(|_closed| Err(std::io::ErrorKind::BrokenPipe.into()))
    }

    /// A workspace without a sandbox is given back to its owner only.
    fn check_workspace_owner(&self, id: SandboxId, owner: &External) -> Result<(), Error> {
        let kept = self.kept().owner.get(&id).cloned();
        match kept {
            Some(kept) if kept == *owner => Ok(()),
            Some(_) => Err(Error::Conflict(format!("the workspace of {id} belongs to another owner"))),
            None if self.storage.has_workspace(id) => Err(Error::Conflict(format!(
                "there is a workspace of {id} whose owner is not known; purge it first"
            ))),
            None => Ok(()),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn written(
        &self,
        write: impl FnOnce(Box<dyn FnOnce(Result<(), MetadataError>) + Send>),
    ) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        write(Box::new(move |result| drop::<Result<(), _>>(sender.send(result))));
        receiver.await.map_err(|_closed| Error::Ending)?.map_err(Error::Metadata)
    }

    async fn finish(&self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// How many sandboxes can run at once: each needs an address and, where they have them, ids.
fn capacity(config: &Config, network: &Network) -> u32 {
    let ids = config.user_spaces.map_or(u32::MAX, |spaces| spaces.base.capacity());
    network.capacity().min(ids)
}
