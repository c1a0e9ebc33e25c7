//! The task that changes one sandbox; nobody else does.
//!
//! What happens to the sandbox itself (its first process ends) comes before what is asked of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::activity::now_ms;
use super::admission::Purpose;
use super::app;
use super::blank;
use super::buffers;
use super::command::{Command, Order, Reply, Update};
use super::error::Error;
use super::error::chain;
use super::events::{What, Why};
use super::lifecycle::{Decision, Event, Request, decide, observe};
use super::limits;
use super::live::Live;
use super::oom;
use super::pause::Thawed;
use super::points::fail_point;
use super::process;
use super::provision::{self, Occasion, Provisioned};
use super::registry::Entry;
use super::relief;
use super::undo::{remove_run_directory, tear_down};
use crate::supervisor::Shared;
use crate::tasks::blocking;
use engine::Engine;
use metadata::{Durability, Retirement};
use model::{External, GitSource, IdlePolicy, Record, Status, Tier};
use storage::Prepared;
use telemetry::phase;

/// The pause before an `always_on` sandbox whose first process was lost is started again.
const REVIVE_PAUSE: Duration = Duration::from_secs(1);
/// How long it takes at most that an app which is put into a new, empty sandbox is looked for.
const APP_PAUSE: Duration = Duration::from_millis(10);
/// What is done to a sandbox and takes longer is told in the log, phase by phase.
const SLOW: Duration = Duration::from_secs(1);
/// What is said of a sandbox that cannot be ended.
const UNKILLABLE: &str = "processes of the sandbox cannot be killed; delete it to try again";
/// The longest of these pauses, which double.
const REVIVE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A sandbox that ran for so long was healthy: the next pause is the first one again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Runs until the sandbox is deleted or the daemon ends.
pub(super) async fn run(shared: Arc<Shared>, entry: Arc<Entry>, mut mailbox: mpsc::Receiver<Box<Order>>) {
    let mut driver = Driver { shared, entry, revive: Revive::default() };
    loop {
        let live = driver.entry.present();
        let revive_at = driver.revive_at();
        let is_paused = driver.entry.status() == Status::Paused;
        let lost = async {
            match &live {
                Some(live) => live.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = driver.shared.ending.cancelled() => return,
            () = lost => driver.init_lost().await,
            () = driver.entry.activity.wanted(), if is_paused => driver.wanted().await,
            command = mailbox.recv() => match command {
                Some(order) => if driver.obey(*order).await.is_gone() { return },
                None => return,
            },
            // Last: whatever is asked during the pause is answered first and may end the revival.
            () = at(revive_at) => driver.revive().await,
        }
    }
}

/// Waits for an instant; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// When an `always_on` sandbox that was lost is started again.
#[derive(Debug)]
struct Revive {
    /// `None`: it is not to be started.
    at: Option<Instant>,
    pause: Duration,
}

impl Default for Revive {
    fn default() -> Self {
        Self { at: None, pause: REVIVE_PAUSE }
    }
}

impl Revive {
    /// Begins the first pause again after a healthy while, else the next.
    fn after_loss(&mut self, ran_for: Option<Duration>) {
        if ran_for.is_some_and(|time| time >= HEALTHY) {
            self.pause = REVIVE_PAUSE;
        }
        self.schedule();
    }

    /// Begins the next pause, twice as long as the one before.
    fn schedule(&mut self) {
        self.at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(REVIVE_PAUSE_MAX);
    }
}

/// Whether there is anything left to drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Stays,
    Gone,
}

impl After {
    fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Arc<Entry>,
    revive: Revive,
}

impl Driver {
    /// Handles a command and takes down how long its phases took.
    async fn obey(&mut self, Order { command, trace, asked }: Order) -> After {
        let (operation, before) = (command.operation(), trace.len());
        // What was asked of the same sandbox before comes first.
        trace.note("turn", asked);
        let metrics = self.shared.metrics.clone();
        let after = trace.scope(self.handle(command)).await;
        metrics.observe_phases(operation, &trace.since(before));
        let took = asked.elapsed();
        // A program that does not end when it is told is given its time.
        let is_ending = matches!(operation, "stop" | "purge" | "delete");
        if took >= SLOW + if is_ending { self.shared.config.stop_grace } else { Duration::ZERO } {
            let (id, took_ms) = (self.entry.id, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            tracing::warn!(%id, operation, took_ms, phases = trace.told(before), "what was asked of a sandbox took long");
        }
        after
    }

    async fn handle(&mut self, command: Command) -> After {
        match command {
            Command::Create { git, reply } => {
                let result = self.create(git).await;
                let after = if result.is_ok() { After::Stays } else { After::Gone };
                answer(reply, result);
                return after;
            }
            Command::Start { why, reply } => {
                let started = self.start(why).await;
                if why == Why::Server && started.is_err() {
                    // Nobody waits for it who would ask again.
                    self.revive.schedule();
                }
                answer(reply, started);
            }
            Command::Pause { why, reply } => answer(reply, self.pause(why).await),
            Command::Resume { reply } => answer(reply, self.resume(Why::Request).await),
            Command::Stop { why, reply } => {
                // Also of one that is down already: whoever stops it does not want it back.
                self.revive.at = None;
                answer(reply, self.stop(why).await);
            }
            Command::Delete { purge, reply } => {
                answer(reply, self.delete(purge).await);
                // Even if files are left over: without its record it is no sandbox any more.
                let gone = self.shared.registry.find(self.entry.id).is_none();
                return if gone { After::Gone } else { After::Stays };
            }
            Command::Claim { owner, reply } => answer(reply, self.claim(owner).await),
            Command::KeepAlive { until_ms, reply } => {
                let change = |record: &mut Record| record.keepalive_until = Some(until_ms);
                let recorded = self.amend(change).await;
                if recorded.is_ok() {
                    self.entry.activity.keep_until(until_ms);
                    self.entry.look_again();
                }
                answer(reply, recorded);
            }
            Command::Update { update, reply } => {
                answer(reply, self.update(update).await);
                if self.entry.record().spec.idle_policy != IdlePolicy::AlwaysOn {
                    self.revive.at = None;
                }
                self.entry.look_again();
            }
        }
        After::Stays
    }

    async fn create(&self, git: Option<GitSource>) -> Result<(), Error> {
        let begun = Instant::now();
        let record = self.entry.record();
        let result = provision::provision(&self.shared, &record, Occasion::Create).await;
        let result = match result {
            Ok(provisioned) => self.begin(provisioned, Why::Request, git).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(()) => self.shared.metrics.observe_create(begun.elapsed()),
            // The id is free again only now that nothing of it is left.
            Err(_) => self.shared.registry.remove(self.entry.id),
        }
        result
    }

    pub(super) async fn start(&self, why: Why) -> Result<bool, Error> {
        let status = self.entry.status();
        match decide(status, Request::Start) {
            Decision::Already => return Ok(false),
            Decision::Launch => {}
            Decision::Thaw => match self.thaw(why).await? {
                Thawed::Awake => return Ok(true),
                Thawed::Lost => {}
            },
            Decision::Freeze | Decision::Stop | Decision::Delete | Decision::Refuse => {
                return Err(refused(Request::Start, status));
            }
        }
        let begun = Instant::now();
        let result = self.launch_again(why).await;
        let outcome = match &result {
            Ok(()) => "ok",
            Err(Error::Refused { .. }) => "refused",
            Err(_) => "failed",
        };
        self.shared.metrics.count_wake(outcome, begun.elapsed());
        result.map(|()| true)
    }

    async fn launch_again(&self, why: Why) -> Result<(), Error> {
        if self.shared.closing.is_cancelled() {
            // Here, since it is no failure of the sandbox that its record should tell of.
            return Err(Error::Ending);
        }
        let _admitted = self.shared.admission.admit(Purpose::Wake)?;
        self.make_room().await?;
        let record = self.entry.record();
        match provision::provision(&self.shared, &record, Occasion::Wake).await {
            Ok(provisioned) => self.begin(provisioned, why, None).await,
            Err(error) => {
                // The workspace is untouched: it is stopped as before, and may be tried again.
                let change = |record: &mut Record| {
                    record.address_index = None;
                    record.error_message = Some(format!("the last start failed: {}", error.message()));
                };
                if let Err(unwritten) = self.note(change).await {
                    tracing::error!(id = %self.entry.id, error = %chain(&unwritten), "cannot record a failed start");
                }
                Err(error)
            }
        }
    }

    /// Records and publishes that the sandbox runs, and starts watching its app.
    async fn begin(&self, provisioned: Provisioned, why: Why, git: Option<GitSource>) -> Result<(), Error> {
        let Provisioned { live, record, workspace } = provisioned;
        let is_empty = workspace == Prepared::Made && record.spec.template.is_none() && git.is_none();
        let live = Arc::new(live);
        let is_new = self.entry.status() == Status::Creating;
        if !is_new && let Err(error) = provision::record_running(&self.shared, record.clone()).await {
            return Err(self.abandon(&live, error).await);
        }
        if workspace == Prepared::Made {
            self.note_recorded();
        }
        self.entry.activity.mark();
        self.entry.publish(|published| {
            published.record = Arc::new(record);
            published.live = Some(Arc::clone(&live));
        });
        if is_new {
            self.shared.tell(self.entry.id, What::Created);
        }
        self.shared.tell(self.entry.id, What::Running(why));
        let (shared, entry) = (Arc::clone(&self.shared), Arc::clone(&self.entry));
        self.shared.tasks.spawn(async move {
            // What a first command needs, while whoever sends it reads the answer.
            process::link::prepare(&shared, &entry, &live).await;
            if is_empty {
                // There is no app yet, and that command goes first.
                tokio::time::sleep(APP_PAUSE).await;
            }
            app::watch(shared, entry, live, git).await;
        });
        Ok(())
    }

    /// Tells the storage that the record is on the disk; nobody waits for it.
    fn note_recorded(&self) {
        let (shared, id) = (Arc::clone(&self.shared), self.entry.id);
        self.shared.tasks.spawn(async move {
            if let Err(error) = blocking(move || shared.storage.is_recorded(id).map_err(Error::Storage)).await {
                tracing::warn!(%id, error = %chain(&error), "a workspace stays marked as new until the next start");
            }
        });
    }

    /// Ends a sandbox that was woken and could not be recorded.
    async fn abandon(&self, live: &Live, cause: Error) -> Error {
        // Whether or not it ended: what is left of it is told by the tear-down.
        let _ended: bool = live.end(Duration::ZERO).await;
        match tear_down(&self.shared, live).await {
            Ok(()) => cause,
            Err(error) => Error::Leftovers { cause: Box::new(cause), cleanup: vec![chain(&error)] },
        }
    }

    async fn stop(&self, why: Why) -> Result<(), Error> {
        let status = self.entry.status();
        match decide(status, Request::Stop) {
            Decision::Already => return Ok(()),
            Decision::Stop => {}
            Decision::Launch | Decision::Freeze | Decision::Thaw | Decision::Delete | Decision::Refuse => {
                return Err(refused(Request::Stop, status));
            }
        }
        // Looked at again here: between the decision that it is idle and this moment it may have been used.
        let is_wanted = match why {
            Why::Idle => self.shared.tier(&self.entry).0 != Tier::Stopped,
            Why::Request | Why::Memory | Why::Use | Why::Lost | Why::Server => false,
        };
        if is_wanted {
            return Ok(());
        }
        let begun = Instant::now();
        self.make_room().await?;
        fail_point("stop")?;
        self.end(self.shared.config.stop_grace, why, None).await?;
        self.shared.metrics.observe_stop(begun.elapsed());
        Ok(())
    }

    /// Ends what runs and records the sandbox as stopped.
    pub(super) async fn end(&self, grace: Duration, why: Why, message: Option<&str>) -> Result<(), Error> {
        let Some(live) = self.entry.present() else { return Ok(()) };
        // Before it ends: its figures go with it.
        let told = (why == Why::Memory).then(|| relief::reason(&self.shared, &self.entry, &live));
        let torn_down = self.end_processes(live, grace).await;
        let recorded = phase("record", self.record_end(torn_down.is_ok(), message)).await;
        let what = match &torn_down {
            Ok(()) => What::Stopped(why, told),
            Err(_) => What::Error { message: UNKILLABLE.to_owned() },
        };
        self.shared.tell(self.entry.id, what);
        torn_down.and(recorded)
    }

    /// Ends what runs; what it leaves on the host is removed behind the caller's back.
    ///
    /// Once PID 1 of its pid namespace has ended the kernel has ended every other process in there, and the next
    /// launch has another name: so nobody has to wait for the removal. What cannot be killed is waited for.
    async fn end_processes(&self, live: Arc<Live>, grace: Duration) -> Result<(), Error> {
        self.entry.activity.wake_up();
        // Out of sight first: nobody may be sent to a sandbox that is going away.
        self.entry.publish(|published| {
            published.live = None;
            app::ended(&mut published.app);
        });
        if !phase("end", live.end(grace)).await {
            return phase("tear-down", tear_down(&self.shared, &live)).await;
        }
        let (shared, id) = (Arc::clone(&self.shared), self.entry.id);
        self.shared.tasks.spawn(async move {
            if let Err(error) = tear_down(&shared, &live).await {
                // The next start tries again: it finds by name what no record knows.
                tracing::error!(%id, error = %chain(&error), "cannot remove what a sandbox left on the host");
            }
        });
        Ok(())
    }

    async fn record_end(&self, is_clear: bool, message: Option<&str>) -> Result<(), Error> {
        let event = if is_clear { Event::InitLost } else { Event::Leftovers };
        let now = now_ms();
        self.note(|record| {
            record.status = observe(record.status, event);
            record.init_pid = None;
            record.init_start_ticks = None;
            record.address_index = None;
            if is_clear {
                record.launch = None;
            }
            record.stopped_at = Some(now);
            record.last_active_at = self.entry.activity.last_ms();
            if let Some(message) = message {
                record.error_message = Some(message.to_owned());
            }
            if event == Event::Leftovers {
                record.error_message = Some(UNKILLABLE.to_owned());
            }
        })
        .await
    }

    async fn delete(&self, purge: bool) -> Result<u64, Error> {
        let status = self.entry.status();
        if decide(status, Request::Delete) != Decision::Delete {
            return Err(refused(Request::Delete, status));
        }
        let begun = Instant::now();
        self.make_room().await?;
        // A purge throws everything away: there is nothing that a grace time could save.
        let grace = if purge { Duration::ZERO } else { self.shared.config.stop_grace };
        // That it is stopped is recorded only if it stays: one write less to wait for.
        let ended = self.entry.present();
        if let Some(live) = ended.clone()
            && let Err(error) = self.end_processes(live, grace).await
        {
            self.record_end(false, None).await?;
            self.shared.tell(self.entry.id, What::Error { message: UNKILLABLE.to_owned() });
            return Err(error);
        }
        if ended.is_some() {
            self.shared.tell(self.entry.id, What::Stopped(Why::Request, None));
        }
        if status == Status::Error {
            self.clear_leftovers().await?;
        }
        let id = self.entry.id;
        if let Err(error) = phase("record", self.retire(purge)).await {
            if ended.is_some() {
                self.record_end(true, None).await?;
            }
            return Err(error);
        }
        self.shared.registry.remove(id);
        process::rings::release(&self.shared, &self.entry);
        self.shared.tell(id, What::Deleted { purged: purge });
        fail_point("delete-workspace")?;
        let freed = if purge { phase("workspace", self.shared.purge_workspace(id)).await? } else { 0 };
        if purge {
            self.shared.metrics.observe_purge(begun.elapsed());
        }
        Ok(freed)
    }

    /// Before what must not fail on a full disk.
    async fn make_room(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            shared.storage.lend_reserve();
            Ok(())
        })
        .await
    }

    async fn retire(&self, purge: bool) -> Result<(), Error> {
        let id = self.entry.id;
        fail_point("delete-record")?;
        if purge {
            // From here on the next start goes on with the purge if this daemon does not live to.
            self.shared.retire(id, Retirement::Purging, Durability::Power).await
        } else {
            self.shared.keep_workspace(id, self.entry.record().spec.external.clone()).await
        }
    }

    /// Removes by name what an earlier attempt could not.
    async fn clear_leftovers(&self) -> Result<(), Error> {
        let Some(launch) = self.entry.record().launch else { return Ok(()) };
        let cgroup = self.shared.cgroups.leaf(&launch.to_string());
        blocking(move || cgroup.destroy().map_err(Error::Cgroup)).await?;
        let directory = self.shared.config.run_dir.join(launch.to_string());
        blocking(move || remove_run_directory(&directory)).await
    }

    async fn claim(&self, owner: External) -> Result<(), Error> {
        let record = self.entry.record();
        let old = record.spec.external.clone();
        if let Some(user) = old.user_id()
            && owner.user_id() != Some(user)
        {
            return Err(Error::Conflict("the sandbox is claimed by another user".to_owned()));
        }
        let new = owner.clone();
        self.amend(move |record| record.spec.external = owner).await?;
        self.shared.registry.move_owner(self.entry.id, &old, &new);
        Ok(())
    }

    /// The first process ended although nobody asked for it.
    async fn init_lost(&mut self) {
        let id = self.entry.id;
        tracing::warn!(%id, "the sandbox's first process has ended");
        let engine = Engine::of(self.entry.record().spec.isolation);
        let ran_for = self.entry.present().map(|live| live.uptime());
        let why = self.entry.present().map_or_else(
            || engine.reason_of_end(None, None),
            |live| {
                // Its cgroup, which knows, is about to go.
                oom::look(&self.shared, id, &live);
                if live.is_hoarder.load(Ordering::Acquire) {
                    return buffers::REASON;
                }
                engine.reason_of_end(live.cgroup.oom_kills(), live.cgroup.figures().pids_refused)
            },
        );
        if let Err(error) = self.end(Duration::ZERO, Why::Lost, Some(why)).await {
            tracing::error!(%id, error = %chain(&error), "cannot clear up after a lost sandbox");
        }
        if self.entry.record().spec.idle_policy == IdlePolicy::AlwaysOn {
            self.revive.after_loss(ran_for);
        }
    }

    /// When it is to be started again. Not if it runs, is no longer to be always on, or the server ends.
    fn revive_at(&self) -> Option<Instant> {
        let is_down = self.entry.status() == Status::Stopped && self.entry.present().is_none();
        let is_wanted = self.entry.record().spec.idle_policy == IdlePolicy::AlwaysOn;
        self.revive.at.filter(|_| is_down && is_wanted && !self.shared.closing.is_cancelled())
    }

    /// Starts a lost `always_on` sandbox again; after a failure there is a longer pause.
    async fn revive(&mut self) {
        self.revive.at = None;
        if let Err(error) = self.start(Why::Lost).await {
            tracing::error!(id = %self.entry.id, error = %chain(&error), "failed to start an always-on sandbox again");
            self.revive.schedule();
        }
    }

    /// Changes what was asked for; limits hold before they are recorded, and as before when they cannot be.
    async fn update(&self, update: Update) -> Result<(), Error> {
        let before = self.entry.record();
        let limits = before.spec.limits.with(&update.limits, &limits::ceiling());
        let limits = limits.map_err(|e| Error::Invalid(e.to_string()))?;
        Engine::of(before.spec.isolation).admit(&limits).map_err(Error::Invalid)?;
        let live = self.entry.present().filter(|_| limits != before.spec.limits);
        if let Some(live) = &live {
            limits::apply(&self.shared, Arc::clone(live), &before.spec.limits, &limits).await?;
        }
        let change = |record: &mut Record| {
            record.spec.idle_policy = update.idle_policy.unwrap_or(record.spec.idle_policy);
            record.spec.sleep = update.sleep.unwrap_or(record.spec.sleep);
            record.spec.limits = limits.clone();
        };
        let recorded = self.amend(change).await;
        if let (Err(_), Some(live)) = (&recorded, live) {
            limits::apply(&self.shared, live, &limits, &before.spec.limits).await?;
        }
        recorded
    }

    /// Changes the record: first where it lasts, then where it is seen; not at all if it cannot be written.
    async fn amend(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let record = self.changed(change);
        self.shared.put(record.clone(), Durability::Power).await?;
        if let Some(live) = self.entry.present() {
            blank::write_note(&self.shared, &live.run_directory, &record);
        }
        self.entry.publish(|published| published.record = Arc::new(record));
        Ok(())
    }

    /// Records what has happened, which is seen even if it cannot be written.
    pub(super) async fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let record = self.changed(change);
        self.entry.publish(|published| published.record = Arc::new(record.clone()));
        self.shared.put(record, Durability::Power).await
    }

    pub(super) fn changed(&self, change: impl FnOnce(&mut Record)) -> Record {
        let mut record = (*self.entry.record()).clone();
        change(&mut record);
        record.updated_at = now_ms();
        record
    }
}

pub(super) fn refused(request: Request, status: Status) -> Error {
    Error::State { request: request.verb(), status }
}

fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    // A client that has gone does not undo what it asked for.
    let _unread: Result<(), _> = reply.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_a_bound_and_resets_after_a_healthy_while() {
        let mut revive = Revive::default();
        assert!(revive.at.is_none());
        let mut pauses = Vec::new();
        for _loss in 0..8 {
            let before = Instant::now();
            revive.after_loss(Some(Duration::from_secs(1)));
            pauses.push((revive.at.unwrap() - before).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let before = Instant::now();
        revive.after_loss(Some(HEALTHY));
        assert_eq!((revive.at.unwrap() - before).as_secs(), 1);
        assert_eq!(revive.pause, REVIVE_PAUSE * 2);
    }
}
