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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::blank::{Blank, Site};
use super::error::Error;
use super::ids;
use crate::error::chain;
use crate::supervisor::Shared;
use crate::tasks::blocking;
use crate::undo::{discard, take_back};
use engine::SOCKET_NAME;
use model::{ByteSize, Isolation, LaunchId, Limits};
use storage::Staged;

/// What one blank takes, by which the memory it may have is turned into a number: its process, the kernel's
/// memory of its cgroup, namespaces and mounts, and its part of the daemon.
const BLANK_COST: ByteSize = ByteSize::mib(2);
/// Nothing is made until so long after the last start: whoever starts one uses it at once.
const QUIET: Duration = Duration::from_millis(15);
/// Under a load that never pauses one is made so often: launched ahead or when asked, it costs the same.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often the keeper looks by itself.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Without demand for so long, fewer are kept.
const DEMAND_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after something could not be made, which is rarely mended at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

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
pub(super) struct Pool {
    config: Config,
    blanks_max: usize,
    state: Mutex<State>,
    /// Something was taken.
    taken: Notify,
    starting: AtomicUsize,
}

#[derive(Debug)]
struct State {
    blanks: VecDeque<Blank>,
    sites: VecDeque<Site>,
    workspaces: Vec<Staged>,
    /// How many blanks there should be.
    wanted: usize,
    last_taken: Instant,
    last_shrunk: Instant,
}

/// A start that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Starting<'a>(&'a Pool);

/// What the keeper has to do next.
#[derive(Debug, PartialEq, Eq)]
enum Lack {
    Site,
    Blank,
    Workspace,
}

/// What is to be taken away.
#[derive(Debug, Default)]
struct Surplus {
    blanks: Vec<Blank>,
    sites: Vec<Site>,
    workspaces: Vec<Staged>,
}

impl Pool {
    pub(super) fn new(config: Config) -> Self {
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
    pub(super) fn starting(&self) -> Starting<'_> {
        self.starting.fetch_add(1, Ordering::AcqRel);
        Starting(self)
    }

    /// Takes a blank that can have these limits.
    pub(super) fn take(&self, shared: &Shared, limits: &Limits) -> Option<Blank> {
        if self.blanks_max == 0 {
            return None;
        }
        let nofile = shared.nofile(limits);
        let mut state = self.state();
        let found = state.blanks.iter().position(|blank| blank.fits(nofile));
        let blank = found.and_then(|index| state.blanks.remove(index));
        state.wanted = grown(state.wanted, state.blanks.len(), blank.is_some(), self.blanks_max);
        state.last_taken = Instant::now();
        drop(state);
        self.taken.notify_one();
        shared.metrics.count_pool(if blank.is_some() { "hit" } else { "miss" });
        blank
    }

    /// Takes a site.
    pub(super) fn take_site(&self) -> Option<Site> {
        let site = self.state().sites.pop_front()?;
        self.taken.notify_one();
        Some(site)
    }

    /// Takes a workspace that bears the mark of one that no record knows.
    pub(super) fn take_marked_workspace(&self) -> Option<Staged> {
        self.state().workspaces.pop_if(|staged| staged.is_marked)
    }

    /// Takes a workspace.
    pub(super) fn take_workspace(&self) -> Option<Staged> {
        self.state().workspaces.pop()
    }

    /// What the things on the host are called that it holds.
    pub(super) fn launches(&self) -> Vec<LaunchId> {
        let state = self.state();
        let blanks = state.blanks.iter().map(|blank| blank.site.launch);
        blanks.chain(state.sites.iter().map(|site| site.launch)).collect()
    }

    fn lack(&self) -> Option<Lack> {
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
    fn surplus(&self, keeps_none: bool) -> Surplus {
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
    async fn quiet(&self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let since = self.state().last_taken.elapsed();
            if self.starting.load(Ordering::Acquire) == 0 && since >= QUIET {
                return;
            }
            tokio::time::sleep(QUIET.saturating_sub(since).max(Duration::from_millis(2))).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Keeps the pool filled until the daemon ends; then takes everything away.
pub(super) async fn keep(shared: Arc<Shared>) {
    let pool = &shared.pool;
    if pool.blanks_max == 0 && pool.config.sites == 0 {
        return;
    }
    while !shared.ending.is_cancelled() {
        // Waits first until nothing is being started: looking costs something too.
        let pause = fill(&shared).await;
        remove(&shared, pool.surplus(shared.admission.is_emergency())).await;
        tokio::select! {
            () = shared.ending.cancelled() => break,
            () = pool.taken.notified(), if pause == LOOK_INTERVAL => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    remove(&shared, pool.surplus(true)).await;
    report(&shared);
}

/// Makes what is missing; returns how long to wait afterwards.
async fn fill(shared: &Arc<Shared>) -> Duration {
    let pool = &shared.pool;
    loop {
        report(shared);
        let Some(lack) = pool.lack() else { return LOOK_INTERVAL };
        pool.quiet().await;
        if !shared.admission.has_headroom() {
            return LOOK_INTERVAL;
        }
        if shared.ending.is_cancelled() || shared.closing.is_cancelled() {
            return LOOK_INTERVAL;
        }
        // Never cancelled: what is half made would be lost until the next start.
        match make(shared, lack).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "nothing can be made ahead");
                return FAILURE_PAUSE;
            }
        }
    }
}

/// Throws away what has lost its run directory: nothing could be told to it.
pub(super) async fn drop_lost(shared: &Arc<Shared>) {
    let lost = {
        let mut state = shared.pool.state();
        let has_socket = |blank: &Blank| blank.site.run_directory.join(SOCKET_NAME).exists();
        let (blanks, lost_blanks): (Vec<_>, Vec<_>) = state.blanks.drain(..).partition(has_socket);
        let has_directory = |site: &Site| site.run_directory.exists();
        let (sites, lost_sites): (Vec<_>, Vec<_>) = state.sites.drain(..).partition(has_directory);
        (state.blanks, state.sites) = (blanks.into(), sites.into());
        Surplus { blanks: lost_blanks, sites: lost_sites, workspaces: Vec::new() }
    };
    let count = lost.blanks.len() + lost.sites.len();
    if count > 0 {
        tracing::warn!(count, "what was made ahead has lost its run directory and is thrown away");
        remove(shared, lost).await;
        shared.pool.taken.notify_one();
    }
}

async fn make(shared: &Arc<Shared>, lack: Lack) -> Result<(), Error> {
    let limits = &shared.config.limits;
    match lack {
        Lack::Workspace => {
            let storage = Arc::clone(shared);
            let name = LaunchId::generate().to_string();
            let owner = ids::owner(shared, Isolation::Container);
            let stage = move || storage.storage.stage_ahead(&name, owner).map_err(Error::Storage);
            let staged = blocking(stage).await?;
            shared.pool.state().workspaces.push(staged);
        }
        Lack::Site => {
            let site = Site::make(shared, limits, false).await?;
            shared.pool.state().sites.push_back(site);
        }
        Lack::Blank => {
            let site = match shared.pool.take_site() {
                Some(site) => site,
                None => Site::make(shared, limits, false).await?,
            };
            let blank = match Blank::launch(shared, site, shared.nofile(limits)).await {
                Ok(blank) => blank,
                Err(failed) => return Err(take_back(shared, failed.site.undo(), failed.cause).await),
            };
            match blank.wait_ready().await {
                Ok(()) => shared.pool.state().blanks.push_back(blank),
                Err(cause) => return Err(take_back(shared, blank.site.undo(), cause).await),
            }
        }
    }
    Ok(())
}

async fn remove(shared: &Arc<Shared>, surplus: Surplus) {
    let sites = surplus.blanks.into_iter().map(|blank| blank.site).chain(surplus.sites);
    futures_util::future::join_all(sites.map(|site| discard(shared, site))).await;
    for staged in surplus.workspaces {
        let storage = Arc::clone(shared);
        if let Err(error) =
            blocking(move || storage.storage.unstage(staged.name).map_err(Error::Storage)).await
        {
            tracing::error!(error = %chain(&error), "cannot remove a workspace that is nobody's");
        }
    }
}

fn report(shared: &Shared) {
    let (blanks, sites, workspaces) = {
        let state = shared.pool.state();
        (state.blanks.len(), state.sites.len(), state.workspaces.len())
    };
    for (kind, number) in [("blank", blanks), ("site", sites), ("workspace", workspaces)] {
        shared.metrics.set_pool(kind, number);
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
