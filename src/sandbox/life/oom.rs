//! Processes that the kernel killed inside a sandbox for want of memory.
//!
//! What the manifest keeps running is started again by `sandbox-init`; here it is only told. The host's
//! counter of all such kills (`oom_kill` in /proc/vmstat) is read first: as long as it stands still, no
//! sandbox has to be looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::events::What;
use crate::base::tasks::blocking;
use crate::base::view::Usage;
use crate::books::ledger::Books;
use crate::life::lives::Life;
use crate::running::live::Live;
use model::SandboxId;
use sys::memory;

/// How often the counter is read.
const INTERVAL: Duration = Duration::from_millis(500);

/// Looks until the daemon ends.
pub(crate) async fn watch(life: Arc<Life>) {
    let life = &life;
    let mut seen = None;
    while life.ground.tasks.pause(INTERVAL).await {
        let kills = memory::oom_kills();
        if kills == seen && kills.is_some() {
            continue;
        }
        seen = kills;
        let books = Arc::clone(&life.ground.books);
        let looking = blocking(move || {
            for entry in books.registry.present() {
                if let Some(live) = entry.present() {
                    look(&books, entry.id, &live);
                }
            }
            Ok(())
        });
        if let Err(error) = looking.await {
            tracing::error!(error = %crate::chain(&error), "cannot look for sandboxes without memory");
        }
    }
}

/// Tells of kills that have not been told yet.
pub(crate) fn look(books: &Books, id: SandboxId, live: &Live) {
    // One that ends at this moment has no figures any more.
    let Some(kills) = live.cgroup.oom_kills() else { return };
    let known = live.oom_kills.fetch_max(kills, Ordering::AcqRel);
    if kills > known {
        let killed = kills - known;
        let memory = Box::new(Usage::from(live.cgroup.figures()).memory);
        tracing::warn!(%id, killed, memory_max = memory.max, "processes of a sandbox were killed for want of memory");
        books.tell(id, What::Oom { killed, memory });
    }
}
