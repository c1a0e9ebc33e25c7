//! What has happened to sandboxes, in order, for whoever wants to know.
//!
//! A bounded history in memory that any number of readers follow at their own pace: none has a queue of
//! its own, and one that falls behind the history is told what it has missed. The numbers only ever
//! grow, across restarts too: they are reserved in the record in blocks, so that they cost no write each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::base::activity::now_ms;
use crate::base::error::chain;
use crate::base::records::Records;
use crate::base::view::MemoryUsage;
use model::SandboxId;
use telemetry::Metrics;

/// How many events are kept.
const HISTORY_MAX: usize = 4096;
/// How many numbers are reserved at once; the next block when half of it is used.
const BLOCK: u64 = 4096;

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    pub seq: u64,
    /// Unix milliseconds.
    pub at: i64,
    pub id: SandboxId,
    pub what: What,
}

/// What has happened.
#[derive(Debug, Clone)]
pub enum What {
    Created,
    Running(Why),
    Paused(Why),
    /// The text says more of the reason, for people.
    Stopped(Why, Option<String>),
    Deleted {
        purged: bool,
    },
    /// The kernel has killed so many of its processes for want of memory.
    Oom {
        killed: u64,
        memory: Box<MemoryUsage>,
    },
    Error {
        message: String,
    },
}

/// Why a sandbox is what it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A client asked for it.
    Request,
    /// Somebody uses it, or nobody does.
    Use,
    Idle,
    /// The host is short of memory.
    Memory,
    /// Its first process ended.
    Lost,
    /// The server ends, or has started.
    Server,
}

/// What a reader gets.
#[derive(Debug, Clone)]
pub enum Notice {
    Event(Arc<Event>),
    /// These were there, and are not kept any more.
    Missed {
        from: u64,
        to: u64,
    },
}

/// Reads events from a point on.
#[derive(Debug)]
pub struct Subscription {
    log: Arc<EventLog>,
    latest: watch::Receiver<u64>,
    ending: CancellationToken,
    sandbox: Option<SandboxId>,
    next: u64,
}

#[derive(Debug)]
struct EventLog {
    state: Mutex<State>,
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// Below this no number is given out again after a restart.
    reserved: u64,
    history: VecDeque<Arc<Event>>,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Use => "use",
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Lost => "lost",
            Self::Server => "server",
        }
    }
}

impl What {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Created => "sandbox.created",
            Self::Running(_) => "sandbox.running",
            Self::Paused(_) => "sandbox.paused",
            Self::Stopped(..) => "sandbox.stopped",
            Self::Deleted { .. } => "sandbox.deleted",
            Self::Oom { .. } => "sandbox.oom",
            Self::Error { .. } => "sandbox.error",
        }
    }
}

impl EventLog {
    /// Goes on after the numbers that may have been given out already.
    fn new(given_out: u64) -> Self {
        let state = State { next: given_out + 1, reserved: given_out, history: VecDeque::new() };
        Self { state: Mutex::new(state), latest: watch::Sender::new(given_out) }
    }

    fn push(&self, id: SandboxId, what: What) -> Option<u64> {
        let mut state = self.state();
        let seq = state.next;
        state.next += 1;
        if state.history.len() >= HISTORY_MAX {
            state.history.pop_front();
        }
        state.history.push_back(Arc::new(Event { seq, at: now_ms(), id, what }));
        let reserve = (state.next + BLOCK / 2 > state.reserved).then(|| state.next + BLOCK);
        state.reserved = reserve.unwrap_or(state.reserved);
        // Within the lock, so that readers see it grow.
        self.latest.send_replace(seq);
        reserve
    }

    /// The first event at or after a number that is kept, and the first number that is.
    fn from(&self, seq: u64) -> (u64, Option<Arc<Event>>) {
        let state = self.state();
        let first = state.history.front().map_or(state.next, |event| event.seq);
        let index = usize::try_from(seq.saturating_sub(first)).unwrap_or(usize::MAX);
        (first, state.history.get(index).cloned())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells what happens, and lets others follow it; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    log: Arc<EventLog>,
    records: Records,
    metrics: Metrics,
}

impl Events {
    /// Goes on after the numbers that may have been given out already.
    pub(crate) fn new(given_out: u64, records: Records, metrics: Metrics) -> Self {
        Self { log: Arc::new(EventLog::new(given_out)), records, metrics }
    }

    /// Tells that something has happened.
    pub(crate) fn tell(&self, id: SandboxId, what: What) {
        self.metrics.count_event(what.name());
        if let Some(until) = self.log.push(id, what) {
            self.records.post_events(until, |result| {
                if let Err(error) = result {
                    tracing::error!(%error, "failed to reserve the numbers of events; they may repeat");
                }
            });
        }
    }

    /// Reserves the first block; that the daemon cannot write must not keep it from starting.
    pub(crate) async fn begin(&self) {
        let until = {
            let mut state = self.log.state();
            state.reserved = state.next + BLOCK;
            state.reserved
        };
        if let Err(error) = self.records.reserve_events(until).await {
            tracing::error!(error = %chain(&error), "failed to reserve the numbers of events; they may repeat");
        }
    }

    /// Follows events after a number, or from now on, until `ending`.
    pub(crate) fn follow(
        &self,
        after: Option<u64>,
        sandbox: Option<SandboxId>,
        ending: CancellationToken,
    ) -> Subscription {
        let latest = self.log.latest.subscribe();
        let now = *latest.borrow();
        let next = after.unwrap_or(now).min(now) + 1;
        Subscription { log: Arc::clone(&self.log), latest, ending, sandbox, next }
    }
}

impl Subscription {
    /// Waits for the next event; `None` when the server ends.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            let (first, event) = self.log.from(self.next);
            if first > self.next {
                let missed = Notice::Missed { from: self.next, to: first - 1 };
                self.next = first;
                return Some(missed);
            }
            if let Some(event) = event {
                self.next = event.seq + 1;
                if self.sandbox.is_none_or(|id| id == event.id) {
                    return Some(Notice::Event(event));
                }
                continue;
            }
            let next = self.next;
            tokio::select! {
                () = self.ending.cancelled() => return None,
                seen = self.latest.wait_for(|latest| *latest >= next) => if seen.is_err() { return None },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_bounded_and_numbers_are_reserved_ahead() {
        let log = EventLog::new(100);
        let id = SandboxId::generate();
        let mut reserved = 0;
        for number in 0..10_000_u64 {
            reserved = log.push(id, What::Created).unwrap_or(reserved);
            assert!(reserved > 101 + number, "number {number} was given out before it was reserved");
        }
        let (first, event) = log.from(1);
        assert_eq!((first, event.map(|e| e.seq)), (10_100 - 4095, Some(10_100 - 4095)));
        assert_eq!(log.from(10_100).1.map(|e| e.seq), Some(10_100));
        assert!(log.from(10_101).1.is_none());
        assert!(EventLog::new(7).from(8).1.is_none() && EventLog::new(7).from(1).0 == 8);
    }
}
