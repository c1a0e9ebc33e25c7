//! Public entry point of the core: finds, creates and commands sandboxes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assemble::{Assembled, Config, Parts, assemble};
use crate::base::activity::now_ms;
use crate::base::command::{Command, Update};
use crate::base::error::{ConnectError, Error};
use crate::base::events::{Subscription, Why};
use crate::base::request::{CreateRequest, Created, ExecRequest, Filter, Started, UpdateRequest};
use crate::base::tasks::blocking;
use crate::base::view::{Counts, Snapshot, Stats, Usage};
use crate::books::registry::{Entry, ask};
use crate::keep::clock::Clock;
use crate::keep::reconcile;
use crate::keep::watch::{self, Looks};
use crate::launch::etc::write_etc;
use crate::life::create::{self, Birth, sleep_policy};
use crate::life::look;
use crate::life::purge::purge_workspace;
use crate::running::process::child::Process;
use crate::running::process::follow::Follower;
use crate::running::process::nouns::ProcessId;
use crate::serve::exec::{self, Exec};
use crate::serve::files;
use crate::serve::files::download::Download;
use crate::serve::files::kept::Kept;
use crate::serve::files::trees::{Packed, Unpacking};
use crate::serve::files::upload::Upload;
use crate::serve::files::watch::FileWatch;
use crate::serve::logs::{self, LogFollower, LogStart};
use crate::serve::presets::{self, Preset};
use crate::serve::preview::{self, Intent, Upstream};
use crate::serve::processes::{self, ProcessRequest};
use metadata::{Contents, Durability, Retirement};
use model::{ArchiveFormat, External, FileBase, FileStat, SandboxId, Status};
use storage::{Line as LogLine, Listing, Spool};

/// Public entry point of the core; cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    rooms: Arc<Assembled>,
}

impl Supervisor {
    /// Takes over the host: what the records say runs and does is adopted, everything else of ours is
    /// removed; then sandboxes can be used.
    ///
    /// # Errors
    /// The run directory cannot be prepared, or the record cannot be written.
    pub async fn start(config: Config, parts: Parts, contents: Contents) -> Result<Self, Error> {
        let looks = Looks {
            idle: config.idle_interval,
            pressure: config.pressure_interval,
            sweep: config.sweep_interval,
        };
        let rooms = assemble(config, parts, contents.events_given_out);
        let life = &rooms.life;
        let ground = &life.ground;
        write_etc(&ground.host)?;
        ground.host.check_rootfs()?;
        ground.books.events.begin().await;
        let mut clock = Clock::find(&ground.host.config.run_dir);
        let mut records = clock.translated(contents.records);
        let unknown = contents.recovered.map(|recovered| recovered.unknown).unwrap_or_default();
        records.extend(create::found(life, unknown).await?);
        reconcile::run(life, records, contents.retired).await?;
        // Once this start has written what it must.
        ground.host.storage.restore_reserve();
        // Before anybody is served: what looks at the run directory from then on finds a file that is whole.
        clock.note(&ground.books).await;
        watch::begin(life, clock, looks);
        Ok(Self { rooms: Arc::new(rooms) })
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
        self.views(self.rooms.life.ground.books.registry.matching(filter))
    }

    /// Looks at a page of those of a status: at most `limit` whose ids come before one, the greatest first. If there
    /// are more, the id of its last says where they begin.
    pub fn page(
        &self,
        status: Option<Status>,
        before: Option<SandboxId>,
        limit: usize,
    ) -> (impl Iterator<Item = Snapshot> + Send + use<>, Option<SandboxId>) {
        let mut found = self.rooms.life.ground.books.registry.page(status, before, limit.saturating_add(1));
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
        match self.rooms.life.ground.books.registry.find(id) {
            Some(entry) => ask(&entry, |reply| Command::Delete { purge: true, reply }).await,
            None => {
                let host = Arc::clone(&self.rooms.life.ground.host);
                blocking(move || {
                    host.storage.lend_reserve();
                    Ok(())
                })
                .await?;
                self.rooms
                    .life
                    .ground
                    .books
                    .records
                    .retire(id, Retirement::Purging, Durability::Power)
                    .await?;
                purge_workspace(&self.rooms.life.ground, id).await
            }
        }
    }

    /// Purges every sandbox of a user; returns how many, and the bytes freed.
    ///
    /// # Errors
    /// The first sandbox that cannot be purged; the others are.
    pub async fn purge_of_user(&self, user: &str) -> Result<(u64, u64), Error> {
        let kept = self.rooms.life.ground.books.kept.of_user(user);
        self.purge_all(self.rooms.life.ground.books.registry.of_user(user), kept).await
    }

    /// Purges every sandbox of a project; returns how many, and the bytes freed.
    ///
    /// # Errors
    /// The first sandbox that cannot be purged; the others are.
    pub async fn purge_of_project(&self, project: &str) -> Result<(u64, u64), Error> {
        let kept = self.rooms.life.ground.books.kept.of_project(project);
        self.purge_all(self.rooms.life.ground.books.registry.of_project(project), kept).await
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
        let until = until.unwrap_or_else(|| now.saturating_add(secs(self.rooms.life.sleep.idle_threshold)));
        if until <= now {
            return Err(Error::Invalid("\"until\" has passed; it is in unix seconds".to_owned()));
        }
        let until = until.min(now.saturating_add(secs(self.rooms.keepalive_max)));
        ask(&entry, |reply| Command::KeepAlive { until_ms: until.saturating_mul(1000), reply }).await?;
        Ok(until)
    }

    pub fn counts(&self) -> Counts {
        self.rooms.life.ground.books.registry.tally().counts()
    }

    /// Says whether sandboxes can be created.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn ready(&self) -> Result<(), String> {
        if self.rooms.life.ground.tasks.ending.is_cancelled() {
            return Err("the server is ending".to_owned());
        }
        let told = |e: Error| crate::chain(&e);
        self.rooms.life.ground.host.check_rootfs().map_err(told)?;
        self.rooms.life.ground.host.storage.check_writable().map_err(|e| told(Error::Storage(e)))
    }

    /// Ends the daemon's part: sandboxes run on, and are adopted by the next daemon; what waits is told to try again.
    pub async fn detach(&self) {
        self.rooms.life.ground.tasks.finish().await;
    }

    /// Stops every sandbox, for when the whole container or host ends; each wakes at its next request.
    pub async fn shut_down(&self) {
        // First: what is being started then is known below, and what is asked for later is refused.
        self.rooms.life.ground.tasks.closing.cancel();
        // Of those that do not run, too: a create or wake may be under way, and its driver stops it right after.
        let is_there = |entry: &Arc<Entry>| entry.status() != Status::Error;
        let stops = self.rooms.life.ground.books.registry.all().into_iter().filter(is_there).map(|entry| async move {
            match ask(&entry, |reply| Command::Stop { why: Why::Server, reply }).await {
                // Deleted meanwhile, or its create has failed: there is nothing to stop.
                Ok(()) | Err(Error::NotFound(_) | Error::Ending) => {}
                Err(error) => {
                    tracing::error!(id = %entry.id, error = %crate::chain(&error), "cannot stop a sandbox");
                }
            }
        });
        futures_util::future::join_all(stops).await;
        self.rooms.life.ground.tasks.finish().await;
        // One that could not be stopped must not lose its firewall.
        if self.rooms.life.ground.books.registry.all().iter().all(|entry| entry.present().is_none()) {
            let host = Arc::clone(&self.rooms.life.ground.host);
            if let Err(error) = blocking(move || host.network.remove().map_err(Error::Network)).await {
                tracing::warn!(error = %crate::chain(&error), "failed to take the network away");
            }
        }
    }

    /// Creates a sandbox and waits until it can take an exec.
    ///
    /// # Errors
    /// The id or owner conflicts, memory is short, or a step failed, in which case nothing is left of it.
    pub async fn create(&self, request: CreateRequest) -> Result<Created, Error> {
        Ok(match create::create(&self.rooms.life, &self.rooms.bounds, request).await? {
            Birth::New(entry) => Created::New(self.view(&entry)),
            Birth::Existing(entry) => Created::Existing(self.view(&entry)),
        })
    }

    /// Freezes a sandbox; every use thaws it.
    ///
    /// # Errors
    /// Not found, the state forbids it, or its processes do not come to rest.
    pub async fn pause(&self, id: SandboxId) -> Result<Snapshot, Error> {
        let entry = self.find(id)?;
        ask(&entry, |reply| Command::Pause { why: Why::Request, reply }).await?;
        Ok(self.view(&entry))
    }

    /// Thaws a frozen sandbox.
    ///
    /// # Errors
    /// Not found, or it is stopped.
    pub async fn resume(&self, id: SandboxId) -> Result<Snapshot, Error> {
        let entry = self.find(id)?;
        entry.activity.mark();
        ask(&entry, |reply| Command::Resume { reply }).await?;
        Ok(self.view(&entry))
    }

    /// Changes what can be changed of a sandbox, whatever it is doing.
    ///
    /// # Errors
    /// Not found, a value that cannot be, or the record cannot be written.
    pub async fn update(&self, id: SandboxId, request: UpdateRequest) -> Result<Snapshot, Error> {
        let entry = self.find(id)?;
        let sleep = request
            .sleep
            .map(|sleep| sleep.map(|s| sleep_policy(&self.rooms.life.sleep, s)).transpose())
            .transpose()?;
        let update = Update { idle_policy: request.idle_policy, sleep, limits: request.limits };
        ask(&entry, |reply| Command::Update { update, reply }).await?;
        Ok(self.view(&entry))
    }

    /// Reads what a sandbox uses.
    ///
    /// # Errors
    /// Not found.
    pub async fn stats(&self, id: SandboxId) -> Result<Stats, Error> {
        let entry = self.find(id)?;
        let usage = match entry.present() {
            Some(live) => blocking(move || Ok(live.cgroup.figures().into())).await?,
            None => Usage::default(),
        };
        Ok(Stats { snapshot: self.view(&entry), usage })
    }

    /// Starts a process, waking the sandbox if it sleeps, and follows it from its first byte.
    ///
    /// # Errors
    /// Not found, not to be woken, too many processes, or the command cannot be started.
    pub async fn start_process(&self, id: SandboxId, request: ProcessRequest) -> Result<Follower, Error> {
        processes::start_process(&self.rooms.serving, id, request).await
    }

    /// The processes of a sandbox, the newest first.
    ///
    /// # Errors
    /// Not found.
    pub async fn processes(&self, id: SandboxId) -> Result<Vec<Arc<Process>>, Error> {
        processes::processes(&self.rooms.serving, id).await
    }

    /// Finds a process.
    ///
    /// # Errors
    /// Not found.
    pub async fn process(&self, id: SandboxId, process: ProcessId) -> Result<Arc<Process>, Error> {
        processes::process(&self.rooms.serving, id, process).await
    }

    /// Kills a process with everything that it has started, and forgets it.
    ///
    /// # Errors
    /// Not found, or it cannot be killed.
    pub async fn delete_process(&self, id: SandboxId, process: ProcessId) -> Result<(), Error> {
        processes::delete_process(&self.rooms.serving, id, process).await
    }

    /// Hangs up: forgets a process, which sees its terminal go.
    pub fn hang_up(&self, id: SandboxId, process: &Process) {
        processes::hang_up(&self.rooms.serving, id, process);
    }

    /// Runs a command, waking the sandbox if it sleeps.
    ///
    /// A command that cannot be started ends with status 127 or 126 and a message on its stderr, as in a shell.
    ///
    /// # Errors
    /// Not found, not to be woken, or the sandbox ended meanwhile.
    pub async fn exec(&self, id: SandboxId, request: ExecRequest) -> Result<Exec, Error> {
        exec::exec(&self.rooms.serving, id, request).await
    }

    /// Lists a directory beneath the base; `write` makes the answer of it, which is kept until it is sent.
    ///
    /// # Errors
    /// Not found, not a directory, too many entries, a path that leads out, or a full disk.
    pub async fn list_files(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
        write: impl FnOnce(&Listing, &mut Spool) -> io::Result<()> + Send + 'static,
    ) -> Result<Kept, Error> {
        files::entries::list_files(&self.rooms.serving, id, base, path, recursive, write).await
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Not found, not a regular file, or a path that leads out.
    pub async fn open_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<Download, Error> {
        files::entries::open_file(&self.rooms.serving, id, base, path).await
    }

    /// Begins to write a file; directories above it are made.
    ///
    /// # Errors
    /// The path is a directory, leads out, or nothing can be written.
    pub async fn create_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<Upload, Error> {
        files::entries::create_file(&self.rooms.serving, id, base, path).await
    }

    /// Looks at what a path names; a link is not followed at its end.
    ///
    /// # Errors
    /// Not found, or a path that leads out.
    pub async fn stat_file(&self, id: SandboxId, base: FileBase, path: &str) -> Result<FileStat, Error> {
        files::entries::stat_file(&self.rooms.serving, id, base, path).await
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// Something else is there, a path that leads out, or the disk is full.
    pub async fn make_directory(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        mode: Option<u32>,
    ) -> Result<FileStat, Error> {
        files::entries::make_directory(&self.rooms.serving, id, base, path, mode).await
    }

    /// Sets the permissions of a file or directory.
    ///
    /// # Errors
    /// Not found, neither file nor directory, bits that may not be set, or a path that leads out.
    pub async fn chmod_file(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        mode: u32,
    ) -> Result<FileStat, Error> {
        files::entries::chmod_file(&self.rooms.serving, id, base, path, mode).await
    }

    /// Moves a file or tree.
    ///
    /// # Errors
    /// Not found, the new place is taken, or a path that leads out.
    pub async fn move_file(
        &self,
        id: SandboxId,
        base: FileBase,
        from: &str,
        to: &str,
        overwrite: bool,
    ) -> Result<FileStat, Error> {
        files::entries::move_file(&self.rooms.serving, id, base, from, to, overwrite).await
    }

    /// Copies a file or tree.
    ///
    /// # Errors
    /// Not found, the new place is taken, a limit is passed, or a path that leads out.
    pub async fn copy_file(
        &self,
        id: SandboxId,
        base: FileBase,
        from: &str,
        to: &str,
        overwrite: bool,
    ) -> Result<FileStat, Error> {
        files::entries::copy_file(&self.rooms.serving, id, base, from, to, overwrite).await
    }

    /// Deletes a file, a link, an empty directory, or a tree; it is gone at once, its space a little later.
    ///
    /// # Errors
    /// Not found, a directory that is not empty, or a path that leads out.
    pub async fn delete_file(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
    ) -> Result<(), Error> {
        files::entries::delete_file(&self.rooms.serving, id, base, path, recursive).await
    }

    /// Begins to pack what is in a directory; `all` with what listings hide.
    ///
    /// # Errors
    /// Not found, not a directory, a limit is passed, or too many trees are on their way.
    pub async fn pack(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        format: ArchiveFormat,
        all: bool,
    ) -> Result<Packed, Error> {
        files::trees::pack(&self.rooms.serving, id, base, path, format, all).await
    }

    /// Begins to unpack an archive into a directory.
    ///
    /// # Errors
    /// A path that leads out, not a directory, or too many trees are on their way.
    pub async fn unpack(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        format: ArchiveFormat,
    ) -> Result<Unpacking, Error> {
        files::trees::unpack(&self.rooms.serving, id, base, path, format).await
    }

    /// Watches a directory; with `recursive` also those in it.
    ///
    /// # Errors
    /// Not found, not a directory, a path that leads out, or too many directories or watches.
    pub async fn watch_files(
        &self,
        id: SandboxId,
        base: FileBase,
        path: &str,
        recursive: bool,
    ) -> Result<FileWatch, Error> {
        files::watch::watch_files(&self.rooms.serving, id, base, path, recursive).await
    }

    /// Reads the last lines that a process of the app has printed, at most [`LOG_LINES_MAX`](crate::LOG_LINES_MAX);
    /// `write` makes the answer of them, which is kept until it is sent.
    ///
    /// # Errors
    /// Not found: the sandbox, or a process of that name.
    pub async fn log_tail(
        &self,
        id: SandboxId,
        process: &str,
        count: usize,
        write: impl FnOnce(&[String], &mut Spool) -> io::Result<()> + Send + 'static,
    ) -> Result<Kept, Error> {
        logs::log_tail(&self.rooms.serving, id, process, count, write).await
    }

    /// Tells the last lines or, to somebody who was cut off, those that they missed, and then whatever is printed.
    ///
    /// # Errors
    /// Those of [`Supervisor::log_tail`]; too many follow logs already.
    pub async fn follow_log(
        &self,
        id: SandboxId,
        process: &str,
        start: LogStart,
    ) -> Result<(Vec<LogLine>, LogFollower), Error> {
        logs::follow_log(&self.rooms.serving, id, process, start).await
    }

    /// Lists the presets by name.
    ///
    /// # Errors
    /// The templates cannot be read.
    pub async fn presets(&self) -> Result<Vec<Preset>, Error> {
        presets::presets(&self.rooms.serving).await
    }

    /// Connects to a port of a sandbox: wakes it if it sleeps, and waits for an app that is starting.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Cancel safe: a wake that has begun goes on.
    pub async fn connect(&self, id: SandboxId, port: u16, intent: Intent) -> Result<Upstream, ConnectError> {
        preview::connect(&self.rooms.serving, id, port, intent).await
    }

    /// Follows events after a number, or from now on.
    pub fn events(&self, after: Option<u64>, sandbox: Option<SandboxId>) -> Subscription {
        let ground = &self.rooms.life.ground;
        ground.books.events.follow(after, sandbox, ground.tasks.ending.clone())
    }

    /// Each as it is when its turn comes: thousands of them are never looked at at once.
    fn views(&self, entries: Vec<Arc<Entry>>) -> impl Iterator<Item = Snapshot> + Send + use<> {
        let supervisor = self.clone();
        entries.into_iter().map(move |entry| supervisor.view(&entry))
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

    fn view(&self, entry: &Entry) -> Snapshot {
        look::snapshot(&self.rooms.life, entry)
    }

    fn find(&self, id: SandboxId) -> Result<Arc<Entry>, Error> {
        self.rooms.life.ground.books.find(id)
    }
}
