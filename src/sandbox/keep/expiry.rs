//! What happens to sandboxes that nobody uses, and to all of them when memory runs out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::base::command::Command;
use crate::base::error::{Error, chain};
use crate::base::events::Why;
use crate::base::tasks::blocking;
use crate::books::agenda::Agenda;
use crate::books::registry::{Entry, ask};
use crate::keep::clock::Clock;
use crate::launch::admission::Level;
use crate::life::lives::Life;
use crate::life::relief;
use model::{IdlePolicy, Status, Tier};
use network::RulesState;

/// The shortest pause between two looks at one sandbox.
const TURN_MIN: Duration = Duration::from_millis(250);
/// The pause before a look at what has changed.
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// What was used so lately is not frozen for want of memory: it would be thawed again at once.
const IDLE_MIN: Duration = Duration::from_secs(2);
/// How many are put to sleep at once.
const AT_ONCE: usize = 16;
/// How long the connections of a sandbox that has ended stay known to the kernel.
const DEPARTED_INTERVAL: Duration = Duration::from_millis(500);
/// How often the firewall is looked at: somebody's `nft flush ruleset` must not open it for long.
const NETWORK_INTERVAL: Duration = Duration::from_secs(15);

/// Puts idle sandboxes to sleep, and records when each was used last.
pub(crate) async fn watch_idle(life: Arc<Life>, mut clock: Clock, interval: Duration) {
    let life = &life;
    if interval.is_zero() {
        return;
    }
    let mut agenda = Agenda::default();
    let mut noted = Instant::now();
    loop {
        let next = (noted + interval).min(agenda.first().unwrap_or(noted + interval));
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            // What has just changed is not due yet; those that change next are looked at with it.
            () = life.ground.books.registry.tally().news() => if !life.ground.tasks.pause(NEWS_PAUSE).await { return },
            () = life.ground.tasks.ending.cancelled() => return,
        }
        let now = Instant::now();
        if now.duration_since(noted) >= interval {
            noted = now;
            note_uses(life);
            clock.note(&life.ground.books).await;
        }
        let due = look(life, &mut agenda, now, interval);
        // Together, since one that takes its whole grace time must not hold up the others.
        futures_util::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |(tier, entry)| async move { put_to_sleep(&entry, tier).await })
            .await;
    }
}

/// Looks at those that have changed and those whose time has come; returns what is to sleep.
fn look(life: &Life, agenda: &mut Agenda, now: Instant, interval: Duration) -> Vec<(Tier, Arc<Entry>)> {
    let mut ids = life.ground.books.registry.tally().take_changed();
    ids.extend(agenda.take_due(now));
    let mut due = Vec::new();
    for entry in ids.into_iter().filter_map(|id| life.ground.books.registry.find(id)) {
        if entry.present().is_none() {
            continue;
        }
        let (tier, changes_in) = life.sleep.tier(&entry);
        let is_due = is_due(tier, entry.status());
        // A use can only put it off, and what else brings it nearer is told. But for two things: a connection
        // that was silent ends, and what was to be done now may fail.
        let is_certain = !is_due && !entry.activity.has_open();
        let latest = changes_in.filter(|_| is_certain).map_or(interval, |time| time.max(interval));
        let next = changes_in.unwrap_or(interval).clamp(TURN_MIN.min(interval), latest);
        agenda.set(entry.id, now + next);
        if is_due {
            due.push((tier, entry));
        }
    }
    due
}

/// Records when sandboxes were used last, of those that were.
fn note_uses(life: &Life) {
    let present = life.ground.books.registry.present();
    let times: Vec<_> = present.iter().filter_map(|e| Some((e.id, e.activity.take_use()?))).collect();
    if !times.is_empty() {
        life.ground.books.records.touch(times);
    }
}

/// Whether a sandbox of a status is to be brought to a tier.
fn is_due(tier: Tier, status: Status) -> bool {
    match (tier, status) {
        (Tier::Frozen, Status::Running) | (Tier::Stopped, Status::Running | Status::Paused) => true,
        (Tier::Awake, _)
        | (Tier::Frozen | Tier::Stopped, Status::Creating | Status::Stopped | Status::Error)
        | (Tier::Frozen, Status::Paused) => false,
    }
}

/// Gives memory back while the host is short of it: freezes and moves out what was used longest ago, and stops what
/// frees most.
pub(crate) async fn watch_pressure(life: Arc<Life>, interval: Duration) {
    let life = &life;
    if interval.is_zero() {
        return;
    }
    while life.ground.tasks.pause(interval).await {
        match life.launching.admission.level() {
            Level::Ample => {}
            Level::Tight => freeze_idle(life).await,
            // The kernel's figure is an average and lags: one, and then it is looked at again.
            Level::Pressed => {
                relief::stop_one(life).await;
            }
            // One at a time, and the figures looked at again: the host must not lose more than it has to.
            Level::Emergency => {
                while life.launching.admission.is_emergency() && relief::stop_one(life).await {}
            }
        }
    }
}

/// Freezes what nobody uses, before its time; what is frozen takes no more memory, and gives some where it
/// can be moved out.
async fn freeze_idle(life: &Arc<Life>) {
    if !life.ground.host.can_freeze {
        return;
    }
    let mut idle: Vec<_> = life
        .ground
        .books
        .registry
        .present()
        .into_iter()
        .filter(|entry| {
            entry.live().is_some()
                && !entry.activity.is_busy()
                && entry.activity.idle() >= IDLE_MIN
                && entry.record().spec.idle_policy == IdlePolicy::Sleep
        })
        .collect();
    idle.sort_by_key(|entry| std::cmp::Reverse(entry.activity.idle()));
    for entry in idle.into_iter().take(AT_ONCE) {
        tracing::info!(id = %entry.id, "a sandbox is frozen for want of memory");
        if let Err(error) = ask(&entry, |reply| Command::Pause { why: Why::Memory, reply }).await {
            tracing::error!(id = %entry.id, error = %chain(&error), "cannot freeze a sandbox");
        }
    }
}

/// Puts the firewall back if somebody has changed it.
pub(crate) async fn watch_network(life: Arc<Life>) {
    while life.ground.tasks.pause(NETWORK_INTERVAL).await {
        let host = Arc::clone(&life.ground.host);
        match blocking(move || host.network.check_rules().map_err(Error::Network)).await {
            Ok(RulesState::Intact) => {}
            Ok(state) => {
                tracing::warn!(?state, "the firewall's rules were changed by somebody and are put back");
            }
            Err(error) => tracing::error!(error = %chain(&error), "cannot check the firewall's rules"),
        }
    }
}

/// Has the kernel forget the connections of sandboxes that have ended, before anybody else gets their addresses: of all
/// that end within a while at once, since each look goes through the whole table.
pub(crate) async fn watch_departed(life: Arc<Life>) {
    loop {
        tokio::select! {
            () = life.ground.books.leases.departure() => {}
            () = life.ground.tasks.ending.cancelled() => return,
        }
        if !life.ground.tasks.pause(DEPARTED_INTERVAL).await {
            return;
        }
        let (departed, host) = (life.ground.books.leases.departed(), Arc::clone(&life.ground.host));
        if let Err(error) = blocking(move || host.network.forget_departed().map_err(Error::Network)).await {
            tracing::warn!(error = %chain(&error), "failed to clear the connections of ended sandboxes");
        }
        life.ground.books.leases.release(&departed);
    }
}

async fn put_to_sleep(entry: &Arc<Entry>, tier: Tier) {
    tracing::info!(id = %entry.id, ?tier, "a sandbox that nobody uses is put to sleep");
    let asked = match tier {
        Tier::Awake => Ok(()),
        Tier::Frozen => ask(entry, |reply| Command::Pause { why: Why::Idle, reply }).await,
        Tier::Stopped => ask(entry, |reply| Command::Stop { why: Why::Idle, reply }).await,
    };
    if let Err(error) = asked {
        tracing::error!(id = %entry.id, error = %chain(&error), "cannot put a sandbox to sleep");
    }
}
