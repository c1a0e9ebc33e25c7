//! What is made before anybody asks for it: launched sandboxes that are nobody's yet, the sites of
//! launches to come, and workspaces.
//!
//! ```text
//! take ─► a blank is there: hit ─┐
//!      └► none: miss ─► a site is there, or is made ─► launched now
//!                                ▼
//! keeper: waits until nothing is being started, makes what is missing, one at a time
//! ```
//!
//! A blank is used once, by one sandbox, and is thrown away with it: nothing that a tenant has touched
//! ever comes back. How many there are follows demand, between a quarter of the most and the most.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::launch::blank::{Blank, Site};
use model::{ByteSize, LaunchId};
use storage::Staged;
use telemetry::Metrics;

/// What one blank takes, by which the memory it may have is turned into a number: its process, the kernel's
/// memory of its cgroup, namespaces and mounts, and its part of the daemon.
const BLANK_COST: ByteSize = ByteSize::mib(2);
/// Nothing is made until so long after the last start: whoever starts one uses it at once.
const QUIET: Duration = Duration::from_millis(15);
/// Under a load that never pauses one is made so often: launched ahead or when asked, it costs the same.
const PATIENCE: Duration = Duration::from_millis(250);
/// Without demand for so long, fewer are kept.
const DEMAND_INTERVAL: Duration = Duration::from_secs(30);
/// How much is made ahead.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The most launched sandboxes; 0: none.
    pub blanks_max: usize,
    /// What they may take together.
    pub memory: ByteSize,
    /// How many sites.
    pub sites: usize,
}

/// What is ready.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) config: Config,
    pub(crate) blanks_max: usize,
    state: Mutex<State>,
    /// Something was taken.
    pub(crate) taken: Notify,
    starting: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) blanks: VecDeque<Blank>,
    pub(crate) sites: VecDeque<Site>,
    pub(crate) workspaces: Vec<Staged>,
    /// How many blanks there should be.
    pub(crate) wanted: usize,
    pub(crate) last_taken: Instant,
    pub(crate) last_shrunk: Instant,
}

/// A start that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Starting<'a>(&'a Pool);

/// What the keeper has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    Site,
    Blank,
    Workspace,
}

/// What is to be taken away.
#[derive(Debug, Default)]
pub(crate) struct Surplus {
    pub(crate) blanks: Vec<Blank>,
    pub(crate) sites: Vec<Site>,
    pub(crate) workspaces: Vec<Staged>,
}

impl Pool {
    pub(crate) fn new(config: Config) -> Self {
        let affordable = config.memory.as_u64() / BLANK_COST.as_u64();
        let blanks_max = config.blanks_max.min(usize::try_from(affordable).unwrap_or(usize::MAX));
        let state = State {
            blanks: VecDeque::new(),
            sites: VecDeque::new(),
            workspaces: Vec::new(),
            wanted: floor(blanks_max),
            last_taken: Instant::now(),
            last_shrunk: Instant::now(),
        };
        Self {
            config,
            blanks_max,
            state: Mutex::new(state),
            taken: Notify::new(),
            starting: AtomicUsize::new(0),
        }
    }

    /// Notes that something is being started, which the keeper does not disturb.
    pub(crate) fn starting(&self) -> Starting<'_> {
        self.starting.fetch_add(1, Ordering::AcqRel);
        Starting(self)
    }

    /// Takes a blank that can have these limits.
    pub(crate) fn take(&self, nofile: u64, metrics: &Metrics) -> Option<Blank> {
        if self.blanks_max == 0 {
            return None;
        }
        let mut state = self.state();
        let found = state.blanks.iter().position(|blank| blank.fits(nofile));
        let blank = found.and_then(|index| state.blanks.remove(index));
        state.wanted = grown(state.wanted, state.blanks.len(), blank.is_some(), self.blanks_max);
        state.last_taken = Instant::now();
        drop(state);
        self.taken.notify_one();
        metrics.count_pool(if blank.is_some() { "hit" } else { "miss" });
        blank
    }

    /// Takes a site.
    pub(crate) fn take_site(&self) -> Option<Site> {
        let site = self.state().sites.pop_front()?;
        self.taken.notify_one();
        Some(site)
    }

    /// Takes a workspace that bears the mark of one that no record knows.
    pub(crate) fn take_marked_workspace(&self) -> Option<Staged> {
        self.state().workspaces.pop_if(|staged| staged.is_marked)
    }

    /// Takes a workspace.
    pub(crate) fn take_workspace(&self) -> Option<Staged> {
        self.state().workspaces.pop()
    }

    /// What the things on the host are called that it holds.
    pub(crate) fn launches(&self) -> Vec<LaunchId> {
        let state = self.state();
        let blanks = state.blanks.iter().map(|blank| blank.site.launch);
        blanks.chain(state.sites.iter().map(|site| site.launch)).collect()
    }

    pub(crate) fn lack(&self) -> Option<Lack> {
        let state = self.state();
        if state.blanks.len() < state.wanted {
            Some(Lack::Blank)
        } else if state.sites.len() < self.config.sites {
            Some(Lack::Site)
        } else if state.workspaces.len() < state.wanted + self.config.sites {
            Some(Lack::Workspace)
        } else {
            None
        }
    }

    /// Takes out what is more than is wanted now.
    pub(crate) fn surplus(&self, keeps_none: bool) -> Surplus {
        let mut state = self.state();
        if keeps_none {
            return Surplus {
                blanks: state.blanks.drain(..).collect(),
                sites: state.sites.drain(..).collect(),
                workspaces: std::mem::take(&mut state.workspaces),
            };
        }
        if state.last_taken.max(state.last_shrunk).elapsed() >= DEMAND_INTERVAL {
            state.last_shrunk = Instant::now();
            state.wanted = shrunk(state.wanted, self.blanks_max);
        }
        let wanted = state.wanted.min(state.blanks.len());
        Surplus { blanks: state.blanks.drain(wanted..).collect(), ..Surplus::default() }
    }

    /// Waits until nothing is being started, but not for ever.
    pub(crate) async fn quiet(&self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let since = self.state().last_taken.elapsed();
            if self.starting.load(Ordering::Acquire) == 0 && since >= QUIET {
                return;
            }
            tokio::time::sleep(QUIET.saturating_sub(since).max(Duration::from_millis(2))).await;
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The fewest blanks that are kept.
fn floor(max: usize) -> usize {
    max.div_ceil(4)
}

/// How many are wanted once one was asked for and so many are left.
fn grown(wanted: usize, left: usize, was_there: bool, max: usize) -> usize {
    if was_there && left >= wanted / 2 { wanted } else { (wanted * 2).clamp(1, max) }
}

/// How many are wanted after a time without demand.
fn shrunk(wanted: usize, max: usize) -> usize {
    (wanted - wanted.div_ceil(4).min(wanted)).max(floor(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_makes_it_grow_and_quiet_makes_it_shrink() {
        assert_eq!(grown(4, 3, true, 16), 4, "one of four was taken");
        assert_eq!(grown(4, 1, true, 16), 8, "more than half are taken");
        assert_eq!(grown(12, 0, false, 16), 16, "it was empty");
        assert_eq!(grown(1, 0, true, 1), 1);
        let mut wanted = 16;
        let sizes: Vec<_> = (0..8)
            .map(|_| {
                wanted = shrunk(wanted, 16);
                wanted
            })
            .collect();
        assert_eq!(sizes, [12, 9, 6, 4, 4, 4, 4, 4]);
        assert_eq!(shrunk(1, 1), 1);
    }

    #[test]
    fn the_memory_bounds_the_number() {
        let pool = |blanks_max, mib| Pool::new(Config { blanks_max, memory: ByteSize::mib(mib), sites: 0 });
        assert_eq!((pool(16, 8).blanks_max, pool(16, 1).blanks_max, pool(0, 8).blanks_max), (4, 0, 0));
        assert_eq!((pool(16, 8).lack(), pool(0, 8).lack()), (Some(Lack::Blank), None));
    }
}
