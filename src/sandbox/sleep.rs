//! What clients may say about sleep, and when it is due.

use std::time::Duration;

use super::error::Error;
use super::events::Why;
use super::registry::{Entry, Published};
use super::request::{SleepRequest, UpdateRequest};
use super::view::{Snapshot, Stats, Usage};
use crate::command::{Command, Update};
use crate::registry::ask;
use crate::supervisor::{Shared, Supervisor};
use crate::tasks::blocking;
use model::{IdlePolicy, Record, SandboxId, SleepPolicy, Status, Tier};

/// Waits for an answer from within a sandbox. If it is frozen meanwhile by request it is thawed again:
/// whoever waits for it uses it.
pub(super) async fn kept_awake<T>(entry: &Entry, work: impl Future<Output = T>) -> T {
    let mut changes = entry.state.subscribe();
    let is_paused = |published: &Published| published.record.status == Status::Paused;
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            // The sender lives as long as the entry.
            _paused = changes.wait_for(is_paused) => entry.activity.want(),
        }
        tokio::select! {
            biased;
            done = &mut work => return done,
            _awake = changes.wait_for(|published| !is_paused(published)) => {}
        }
    }
}

impl Supervisor {
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
        let sleep = request.sleep.map(|sleep| sleep.map(|s| self.sleep_policy(s)).transpose()).transpose()?;
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

    pub(super) fn sleep_policy(&self, request: SleepRequest) -> Result<SleepPolicy, Error> {
        let rest = self.shared.config.idle_threshold.as_secs().saturating_sub(request.after);
        let then_stop_after = request.then_stop_after.unwrap_or(Some(rest));
        SleepPolicy::new(request.after, then_stop_after).map_err(|e| Error::Invalid(e.to_string()))
    }
}

impl Shared {
    /// When a sandbox sleeps: its own policy, else the instance's; without a freezer the last tier alone.
    pub(super) fn policy_of(&self, record: &Record) -> SleepPolicy {
        let instance = SleepPolicy::of_instance(self.config.freeze_after, self.config.idle_threshold);
        let policy = record.spec.sleep.unwrap_or(instance);
        if self.can_freeze {
            return policy;
        }
        let stop = policy.stops_after().unwrap_or_else(|| policy.after().max(self.config.idle_threshold));
        SleepPolicy::of_instance(Duration::ZERO, stop)
    }

    /// For how long nobody has used a sandbox; an open connection lets that begin later.
    pub(super) fn idle(&self, entry: &Entry) -> Duration {
        let idle = entry.activity.idle();
        if entry.activity.has_open() { idle.saturating_sub(self.config.silent_connection) } else { idle }
    }

    /// What a sandbox should be now if nobody uses it, and in how much time that changes.
    pub(super) fn tier(&self, entry: &Entry) -> (Tier, Option<Duration>) {
        let record = entry.record();
        if record.spec.idle_policy != IdlePolicy::Sleep || entry.activity.is_busy() {
            return (Tier::Awake, None);
        }
        let kept_for = entry.activity.kept_for();
        if !kept_for.is_zero() {
            return (Tier::Awake, Some(kept_for));
        }
        self.policy_of(&record).tier(self.idle(entry))
    }
}
