//! The task that changes one sandbox; nobody else does.
//!
//! What happens to the sandbox itself (its first process ends) comes before what is asked of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::base::command::{Command, Order, Reply};
use crate::base::error::{Error, chain};
use crate::base::events::Why;
use crate::books::registry::Entry;
use crate::life::charge::Charge;
use crate::life::lives::Life;
use crate::life::{amend, end, oom, pause, start};
use crate::running::live;
use engine::Engine;
use model::{IdlePolicy, Record, Status};

/// The pause before an `always_on` sandbox whose first process was lost is started again.
const REVIVE_PAUSE: Duration = Duration::from_secs(1);
/// What is done to a sandbox and takes longer is told in the log, phase by phase.
const SLOW: Duration = Duration::from_secs(1);
/// The longest of these pauses, which double.
const REVIVE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A sandbox that ran for so long was healthy: the next pause is the first one again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Gives a sandbox its driver.
pub(crate) fn drive(life: &Arc<Life>, entry: Arc<Entry>, mailbox: mpsc::Receiver<Box<Order>>) {
    life.ground.tasks.spawn(run(Arc::clone(life), entry, mailbox));
}

/// Runs until the sandbox is deleted or the daemon ends.
async fn run(life: Arc<Life>, entry: Arc<Entry>, mut mailbox: mpsc::Receiver<Box<Order>>) {
    let mut driver = Driver { charge: Charge { life, entry }, revive: Revive::default() };
    loop {
        let live = driver.charge.entry.present();
        let revive_at = driver.revive_at();
        let is_paused = driver.charge.entry.status() == Status::Paused;
        let lost = async {
            match &live {
                Some(live) => live.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = driver.charge.ground().tasks.ending.cancelled() => return,
            () = lost => driver.init_lost().await,
            () = driver.charge.entry.activity.wanted(), if is_paused => pause::wanted(&driver.charge).await,
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

struct Driver {
    charge: Charge,
    revive: Revive,
}

impl Driver {
    /// Handles a command and takes down how long its phases took.
    async fn obey(&mut self, Order { command, trace, asked }: Order) -> After {
        let (operation, before) = (command.operation(), trace.len());
        // What was asked of the same sandbox before comes first.
        trace.note("turn", asked);
        let metrics = self.charge.books().metrics.clone();
        let after = trace.scope(self.handle(command)).await;
        metrics.observe_phases(operation, &trace.since(before));
        let took = asked.elapsed();
        // A program that does not end when it is told is given its time.
        let is_ending = matches!(operation, "stop" | "purge" | "delete");
        if took >= SLOW + if is_ending { self.charge.life.stop_grace } else { Duration::ZERO } {
            let (id, took_ms) = (self.charge.entry.id, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            tracing::warn!(%id, operation, took_ms, phases = trace.told(before), "what was asked of a sandbox took long");
        }
        after
    }

    async fn handle(&mut self, command: Command) -> After {
        match command {
            Command::Create { git, reply } => {
                let result = start::create(&self.charge, git).await;
                let after = if result.is_ok() { After::Stays } else { After::Gone };
                answer(reply, result);
                return after;
            }
            Command::Start { why, reply } => {
                let started = start::start(&self.charge, why).await;
                if why == Why::Server && started.is_err() {
                    // Nobody waits for it who would ask again.
                    self.revive.schedule();
                }
                answer(reply, started);
            }
            Command::Pause { why, reply } => answer(reply, pause::pause(&self.charge, why).await),
            Command::Resume { reply } => answer(reply, pause::resume(&self.charge, Why::Request).await),
            Command::Stop { why, reply } => {
                // Also of one that is down already: whoever stops it does not want it back.
                self.revive.at = None;
                answer(reply, end::stop(&self.charge, why).await);
            }
            Command::Delete { purge, reply } => {
                answer(reply, end::delete(&self.charge, purge).await);
                // Even if files are left over: without its record it is no sandbox any more.
                let gone = self.charge.books().registry.find(self.charge.entry.id).is_none();
                return if gone { After::Gone } else { After::Stays };
            }
            Command::Claim { owner, reply } => answer(reply, amend::claim(&self.charge, owner).await),
            Command::KeepAlive { until_ms, reply } => {
                let change = |record: &mut Record| record.keepalive_until = Some(until_ms);
                let recorded = self.charge.amend(change).await;
                if recorded.is_ok() {
                    self.charge.entry.activity.keep_until(until_ms);
                    self.charge.entry.look_again();
                }
                answer(reply, recorded);
            }
            Command::Update { update, reply } => {
                answer(reply, amend::update(&self.charge, update).await);
                if self.charge.entry.record().spec.idle_policy != IdlePolicy::AlwaysOn {
                    self.revive.at = None;
                }
                self.charge.entry.look_again();
            }
        }
        After::Stays
    }

    /// The first process ended although nobody asked for it.
    async fn init_lost(&mut self) {
        let id = self.charge.entry.id;
        tracing::warn!(%id, "the sandbox's first process has ended");
        let engine = Engine::of(self.charge.entry.record().spec.isolation);
        let ran_for = self.charge.entry.present().map(|live| live.uptime());
        let why = self.charge.entry.present().map_or_else(
            || engine.reason_of_end(None, None),
            |live| {
                // Its cgroup, which knows, is about to go.
                oom::look(&self.charge.ground().books, id, &live);
                if live.is_hoarder.load(Ordering::Acquire) {
                    return live::HOARDER;
                }
                engine.reason_of_end(live.cgroup.oom_kills(), live.cgroup.figures().pids_refused)
            },
        );
        if let Err(error) = end::end(&self.charge, Duration::ZERO, Why::Lost, Some(why)).await {
            tracing::error!(%id, error = %chain(&error), "cannot clear up after a lost sandbox");
        }
        if self.charge.entry.record().spec.idle_policy == IdlePolicy::AlwaysOn {
            self.revive.after_loss(ran_for);
        }
    }

    /// When it is to be started again. Not if it runs, is no longer to be always on, or the server ends.
    fn revive_at(&self) -> Option<Instant> {
        let is_down = self.charge.entry.status() == Status::Stopped && self.charge.entry.present().is_none();
        let is_wanted = self.charge.entry.record().spec.idle_policy == IdlePolicy::AlwaysOn;
        self.revive.at.filter(|_| is_down && is_wanted && !self.charge.ground().tasks.closing.is_cancelled())
    }

    /// Starts a lost `always_on` sandbox again; after a failure there is a longer pause.
    async fn revive(&mut self) {
        self.revive.at = None;
        if let Err(error) = start::start(&self.charge, Why::Lost).await {
            tracing::error!(id = %self.charge.entry.id, error = %chain(&error), "failed to start an always-on sandbox again");
            self.revive.schedule();
        }
    }
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
