//! What happens to sandboxes that nobody uses, and to all of them when memory runs out.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::driver::Command;
use super::provision::chain;
use super::registry::Entry;
use super::supervisor::{Shared, Supervisor, ask, blocking};
use crate::model::IdlePolicy;
use crate::network::RulesState;

/// How often the firewall is looked at: somebody's `nft flush ruleset` must not open it for long.
const NETWORK_INTERVAL: Duration = Duration::from_secs(15);

/// Puts idle sandboxes to sleep, and records when each was used last.
pub(super) async fn watch_idle(supervisor: Supervisor) {
    let shared = &supervisor.shared;
    if shared.config.idle_interval.is_zero() {
        return;
    }
    while pause(shared, shared.config.idle_interval).await {
        let running: Vec<_> = shared.registry.all().into_iter().filter(|e| e.live().is_some()).collect();
        shared.touch(running.iter().map(|e| (e.id, e.activity.last_ms())).collect());
        for entry in running {
            if shared.is_idle(&entry) {
                put_to_sleep(&entry, true, "idle").await;
            }
        }
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
            put_to_sleep(&entry, false, "memory pressure").await;
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
        entry.live().is_some()
            && !entry.activity.is_busy()
            && entry.record().spec.idle_policy == IdlePolicy::Sleep
    };
    shared.registry.all().into_iter().filter(spare).min_by_key(|entry| entry.activity.last_ms())
}

async fn put_to_sleep(entry: &Arc<Entry>, only_if_idle: bool, why: &str) {
    tracing::info!(id = %entry.id, why, "a sandbox is put to sleep");
    if let Err(error) = ask(entry, |reply| Command::Stop { only_if_idle, reply }).await {
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
