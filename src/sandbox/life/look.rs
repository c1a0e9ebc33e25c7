//! A sandbox as readers see it.

use std::time::Duration;

use crate::base::activity::now_ms;
use crate::base::view::Snapshot;
use crate::books::registry::Entry;
use crate::life::lives::Life;
use model::{IdlePolicy, Status};

/// A sandbox as it is now.
pub(crate) fn snapshot(life: &Life, entry: &Entry) -> Snapshot {
    let published = entry.state.borrow().clone();
    let policy = life.sleep.policy_of(&published.record);
    let idle = life.sleep.idle(entry);
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
        not_enforced: life.ground.host.not_enforced.clone(),
        record: published.record,
    }
}
