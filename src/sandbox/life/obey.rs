//! What a driver does for one command, or because of what has happened: work that takes time.
//!
//! The driver looks at everything else while such work is under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::command::{Command, Order, Reply};
use crate::base::error::{Error, chain};
use crate::base::events::Why;
use crate::life::charge::Charge;
use crate::life::{amend, end, oom, pause, start};
use crate::running::live::{self, Grace};
use engine::Engine;
use model::Record;

/// What is done to a sandbox and takes longer is told in the log, phase by phase.
const SLOW: Duration = Duration::from_secs(1);

/// What work has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The sandbox is there.
    Stays,
    /// There is nothing left to drive.
    Gone,
    /// A start has failed for which nobody waits who would ask again.
    Unstarted,
    /// It ended by itself, after so long if that is known.
    Lost(Option<Duration>),
}

impl Outcome {
    pub(crate) fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// Does what is asked, and takes down how long its phases took.
pub(crate) async fn obey(charge: Arc<Charge>, order: Order, hurry: CancellationToken) -> Outcome {
    let Order { command, trace, asked } = order;
    let (operation, before) = (command.operation(), trace.len());
    // What was asked of the same sandbox before comes first.
    trace.note("turn", asked);
    let outcome = trace.scope(handle(&charge, command, &hurry)).await;
    charge.books().metrics.observe_phases(operation, &trace.since(before));
    let took = asked.elapsed();
    // A program that does not end when it is told is given its time.
    let is_ending = matches!(operation, "stop" | "purge" | "delete");
    if took >= SLOW + if is_ending { charge.life.stop_grace } else { Duration::ZERO } {
        let (id, took_ms) = (charge.entry.id, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        tracing::warn!(%id, operation, took_ms, phases = trace.told(before), "what was asked of a sandbox took long");
    }
    outcome
}

async fn handle(charge: &Charge, command: Command, hurry: &CancellationToken) -> Outcome {
    match command {
        Command::Create { git, reply } => {
            let result = start::create(charge, git).await;
            let outcome = if result.is_ok() { Outcome::Stays } else { Outcome::Gone };
            answer(reply, result);
            return outcome;
        }
        Command::Start { why, reply } => {
            let started = start::start(charge, why).await;
            let is_missed = why == Why::Server && started.is_err();
            answer(reply, started);
            if is_missed {
                return Outcome::Unstarted;
            }
        }
        Command::Pause { why, reply } => answer(reply, pause::pause(charge, why).await),
        Command::Resume { reply } => answer(reply, pause::resume(charge, Why::Request).await),
        Command::Stop { why, reply } => answer(reply, end::stop(charge, why, hurry).await),
        Command::Delete { purge, reply } => {
            answer(reply, end::delete(charge, purge, hurry).await);
            // Even if files are left over: without its record it is no sandbox any more.
            let is_gone = charge.books().registry.find(charge.entry.id).is_none();
            return if is_gone { Outcome::Gone } else { Outcome::Stays };
        }
        Command::Claim { owner, reply } => answer(reply, amend::claim(charge, owner).await),
        Command::KeepAlive { until_ms, reply } => {
            let change = |record: &mut Record| record.keepalive_until = Some(until_ms);
            let recorded = charge.amend(change).await;
            if recorded.is_ok() {
                charge.entry.activity.keep_until(until_ms);
                charge.entry.look_again();
            }
            answer(reply, recorded);
        }
        Command::Update { update, reply } => {
            answer(reply, amend::update(charge, update).await);
            charge.entry.look_again();
        }
    }
    Outcome::Stays
}

/// Clears up after a first process that ended although nobody asked for it.
pub(crate) async fn lost(charge: Arc<Charge>) -> Outcome {
    let id = charge.entry.id;
    tracing::warn!(%id, "the sandbox's first process has ended");
    let engine = Engine::of(charge.entry.record().spec.isolation);
    let ran_for = charge.entry.present().map(|live| live.uptime());
    let why = charge.entry.present().map_or_else(
        || engine.reason_of_end(None, None),
        |live| {
            // Its cgroup, which knows, is about to go.
            oom::look(charge.books(), id, &live);
            if live.is_hoarder.load(Ordering::Acquire) {
                return live::HOARDER;
            }
            engine.reason_of_end(live.cgroup.oom_kills(), live.cgroup.figures().pids_refused)
        },
    );
    if let Err(error) = end::end(&charge, &Grace::none(), Why::Lost, Some(why)).await {
        tracing::error!(%id, error = %chain(&error), "cannot clear up after a lost sandbox");
    }
    Outcome::Lost(ran_for)
}

/// Thaws a frozen sandbox to which a client has sent something.
pub(crate) async fn wanted(charge: Arc<Charge>) -> Outcome {
    pause::wanted(&charge).await;
    Outcome::Stays
}

/// Starts a lost `always_on` sandbox again.
pub(crate) async fn revive(charge: Arc<Charge>) -> Outcome {
    match start::start(&charge, Why::Lost).await {
        Ok(_) => Outcome::Stays,
        Err(error) => {
            tracing::error!(id = %charge.entry.id, error = %chain(&error), "failed to start an always-on sandbox again");
            Outcome::Unstarted
        }
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    // A client that has gone does not undo what it asked for.
    let _unread: Result<(), _> = reply.send(result);
}
