//! Keeps the pool filled, and takes away what is too much.
//!
//! It waits until nothing is being started, then makes what is missing, one at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, chain};
use crate::base::tasks::blocking;
use crate::launch::blank::{Blank, Site, discard};
use crate::launch::ids;
use crate::launch::launching::Launching;
use crate::launch::pool::{Lack, Surplus};
use crate::launch::undo::take_back;
use engine::SOCKET_NAME;
use model::{Isolation, LaunchId};

/// How often the keeper looks by itself.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after something could not be made, which is rarely mended at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Keeps the pool filled until the daemon ends; then takes everything away.
pub(crate) async fn keep(launching: Arc<Launching>) {
    let pool = &launching.pool;
    if pool.blanks_max == 0 && pool.config.sites == 0 {
        return;
    }
    while !launching.ground.tasks.ending.is_cancelled() {
        // Waits first until nothing is being started: looking costs something too.
        let pause = fill(&launching).await;
        remove(&launching, pool.surplus(launching.admission.is_emergency())).await;
        tokio::select! {
            () = launching.ground.tasks.ending.cancelled() => break,
            () = pool.taken.notified(), if pause == LOOK_INTERVAL => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    remove(&launching, pool.surplus(true)).await;
    report(&launching);
}

/// Makes what is missing; returns how long to wait afterwards.
async fn fill(launching: &Arc<Launching>) -> Duration {
    let pool = &launching.pool;
    loop {
        report(launching);
        let Some(lack) = pool.lack() else { return LOOK_INTERVAL };
        pool.quiet().await;
        if !launching.admission.has_headroom() {
            return LOOK_INTERVAL;
        }
        if launching.ground.tasks.ending.is_cancelled() || launching.ground.tasks.closing.is_cancelled() {
            return LOOK_INTERVAL;
        }
        // Never cancelled: what is half made would be lost until the next start.
        match make(launching, lack).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "nothing can be made ahead");
                return FAILURE_PAUSE;
            }
        }
    }
}

/// Throws away what has lost its run directory: nothing could be told to it.
pub(crate) async fn drop_lost(launching: &Arc<Launching>) {
    let lost = {
        let mut state = launching.pool.state();
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
        remove(launching, lost).await;
        launching.pool.taken.notify_one();
    }
}

async fn make(launching: &Arc<Launching>, lack: Lack) -> Result<(), Error> {
    let limits = &launching.ground.host.config.limits;
    match lack {
        Lack::Workspace => {
            let host = Arc::clone(&launching.ground.host);
            let name = LaunchId::generate().to_string();
            let owner = ids::owner(&launching.ground.host, Isolation::Container);
            let stage = move || host.storage.stage_ahead(&name, owner).map_err(Error::Storage);
            let staged = blocking(stage).await?;
            launching.pool.state().workspaces.push(staged);
        }
        Lack::Site => {
            let site = Site::make(&launching.ground, limits, false).await?;
            launching.pool.state().sites.push_back(site);
        }
        Lack::Blank => {
            let site = match launching.pool.take_site() {
                Some(site) => site,
                None => Site::make(&launching.ground, limits, false).await?,
            };
            let blank =
                match Blank::launch(&launching.ground, site, launching.ground.host.nofile(limits)).await {
                    Ok(blank) => blank,
                    Err(failed) => {
                        return Err(take_back(&launching.ground, failed.site.undo(), failed.cause).await);
                    }
                };
            match blank.wait_ready().await {
                Ok(()) => launching.pool.state().blanks.push_back(blank),
                Err(cause) => return Err(take_back(&launching.ground, blank.site.undo(), cause).await),
            }
        }
    }
    Ok(())
}

async fn remove(launching: &Arc<Launching>, surplus: Surplus) {
    let sites = surplus.blanks.into_iter().map(|blank| blank.site).chain(surplus.sites);
    futures_util::future::join_all(sites.map(|site| discard(&launching.ground, site))).await;
    for staged in surplus.workspaces {
        let host = Arc::clone(&launching.ground.host);
        if let Err(error) = blocking(move || host.storage.unstage(staged.name).map_err(Error::Storage)).await
        {
            tracing::error!(error = %chain(&error), "cannot remove a workspace that is nobody's");
        }
    }
}

fn report(launching: &Launching) {
    let (blanks, sites, workspaces) = {
        let state = launching.pool.state();
        (state.blanks.len(), state.sites.len(), state.workspaces.len())
    };
    for (kind, number) in [("blank", blanks), ("site", sites), ("workspace", workspaces)] {
        launching.ground.books.metrics.set_pool(kind, number);
    }
}
