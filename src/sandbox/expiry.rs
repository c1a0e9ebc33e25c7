//! What happens to sandboxes that nobody uses, and to all of them when memory runs out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::Error;
use super::driver::Command;
use super::events::Why;
use super::provision::chain;
use super::registry::Entry;
use super::supervisor::{Shared, Supervisor, ask, blocking};
use crate::model::{IdlePolicy, Status, Tier};
use crate::network::RulesState;

/// The shortest pause between two looks for idle sandboxes.
const TURN_MIN: Duration = Duration::from_millis(250);
/// How many are put to sleep at once.
const AT_ONCE: usize = 16;
/// How often the firewall is looked at: somebody's `nft flush ruleset` must not open it for long.
const NETWORK_INTERVAL: Duration = Duration::from_secs(15);

/// Puts idle sandboxes to sleep, and records when each was used last.
pub(super) async fn watch_idle(supervisor: Supervisor) {
    let shared = &supervisor.shared;
    if shared.config.idle_interval.is_zero() {
        return;
    }
    let interval = shared.config.idle_interval;
    let mut noted = Instant::now();
    let mut next = interval;
    loop {
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = shared.policies.notified() => {}
            () = shared.ending.cancelled() => return,
        }
        let present: Vec<_> = shared.registry.all().into_iter().filter(|e| e.present().is_some()).collect();
        if noted.elapsed() >= interval {
            noted = Instant::now();
            shared.touch(present.iter().map(|e| (e.id, e.activity.last_ms())).collect());
        }
        let tiers = present.into_iter().map(|entry| (shared.tier(&entry), entry)).collect::<Vec<_>>();
        // One that asks to sleep sooner than the interval is looked at in time; the others do not mind.
        let soonest = tiers.iter().filter_map(|((_, changes_in), _)| *changes_in).min();
        next = soonest.unwrap_or(interval).clamp(TURN_MIN.min(interval), interval);
        let due = tiers.into_iter().filter(|((tier, _), entry)| is_due(*tier, entry.status()));
        // Together, since one that takes its whole grace time must not hold up the others.
        futures_util::stream::iter(due)
            .for_each_concurrent(
                AT_ONCE,
                |((tier, _), entry)| async move { put_to_sleep(&entry, tier).await },
            )
            .await;
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

/// Stops the sandboxes that were used longest ago while memory is in an emergency.
pub(super) async fn watch_pressure(supervisor: Supervisor) {
    let shared = &supervisor.shared;
    if shared.config.pressure_interval.is_zero() {
        return;
    }
    while pause(shared, shared.config.pressure_interval).await {
        // One at a time, and the figures looked at again: the host must not lose more than it has to.
        while shared.admission.is_emergency() {
            let Some(entry) = least_recently_used(shared) else { break };
            tracing::info!(id = %entry.id, "a sandbox is stopped for want of memory");
            if let Err(error) = ask(&entry, |reply| Command::Stop { why: Why::Memory, reply }).await {
                tracing::error!(id = %entry.id, error = %chain(&error), "cannot stop a sandbox");
            }
        }
    }
}

/// Puts the firewall back if somebody has changed it.
pub(super) async fn watch_network(shared: Arc<Shared>) {
    while pause(&shared, NETWORK_INTERVAL).await {
        let network = Arc::clone(&shared);
        match blocking(move || network.network.check_rules().map_err(Error::Network)).await {
            Ok(RulesState::Intact) => {}
            Ok(state) => {
                tracing::warn!(?state, "the firewall's rules were changed by somebody and are put back");
            }
            Err(error) => tracing::error!(error = %chain(&error), "cannot check the firewall's rules"),
        }
    }
}

fn least_recently_used(shared: &Shared) -> Option<Arc<Entry>> {
    let spare = |entry: &Arc<Entry>| {
        entry.present().is_some()
            && !entry.activity.is_busy()
            && entry.record().spec.idle_policy == IdlePolicy::Sleep
    };
    shared.registry.all().into_iter().filter(spare).max_by_key(|entry| entry.activity.idle())
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

/// Waits; false when the daemon ends meanwhile.
pub(super) async fn pause(shared: &Shared, interval: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(interval) => true,
        () = shared.ending.cancelled() => false,
    }
}
