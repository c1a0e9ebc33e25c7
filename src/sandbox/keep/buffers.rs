//! Sandboxes that fill the kernel's memory with answers of netlink which they do not read.
//!
//! No limit of a sandbox counts them (`sys::buffers`), and a program of 64 MiB can have thousands of such sockets. Whoever
//! lists its network interfaces reads the answer at once and never holds a megabyte. So what the kernel holds is watched,
//! which takes one file, and when it has grown the sandboxes are looked at, and one that holds too much is ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::tasks::blocking;
use crate::books::registry::Entry;
use crate::life::lives::Life;
use sys::buffers;

/// How often the kernel's memory is looked at. Filling a gigabyte takes one processor about a second.
const INTERVAL: Duration = Duration::from_millis(500);
/// By how much it has to grow before sandboxes are looked at.
const GROWTH: u64 = 64 << 20;
/// The most that one sandbox may leave unread: dozens of times what any use of netlink needs.
const UNREAD_MAX: u64 = 16 << 20;
/// Looks until the daemon ends.
pub(crate) async fn watch(life: Arc<Life>) {
    let life = &life;
    let mut seen = 0;
    while life.ground.tasks.pause(INTERVAL).await {
        let Some(held) = buffers::unreclaimable() else { return };
        if !has_grown(&mut seen, held) {
            continue;
        }
        let present = life.ground.books.registry.present();
        let looking = blocking(move || {
            present.iter().for_each(look);
            Ok(())
        });
        if let Err(error) = looking.await {
            tracing::error!(error = %crate::chain(&error), "failed to look for unread netlink messages");
        }
    }
}

/// Whether so much more is held than at the last look; less is remembered too.
fn has_grown(seen: &mut u64, held: u64) -> bool {
    let has_grown = held > seen.saturating_add(GROWTH);
    if has_grown || held < *seen {
        *seen = held;
    }
    has_grown
}

fn look(entry: &Arc<Entry>) {
    let Some(live) = entry.present() else { return };
    let id = entry.id;
    let unread = match buffers::netlink(&live.netns) {
        Ok(unread) => unread,
        Err(error) => return tracing::warn!(%id, %error, "failed to read a sandbox's netlink sockets"),
    };
    if unread <= UNREAD_MAX {
        return;
    }
    tracing::warn!(%id, unread, most = UNREAD_MAX, "a sandbox is ended for unread netlink messages");
    live.is_hoarder.store(true, Ordering::Release);
    // Its driver sees the end and clears up. One that is frozen dies once it is thawed.
    if let Err(error) =
        live.init.get().kill().and_then(|()| live.cgroup.thaw().map_err(std::io::Error::other))
    {
        tracing::error!(%id, %error, "failed to end a sandbox that fills the kernel's memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_has_sandboxes_looked_at() {
        let mut seen = 0;
        assert!(has_grown(&mut seen, 2 * GROWTH) && !has_grown(&mut seen, 2 * GROWTH));
        assert!(!has_grown(&mut seen, 3 * GROWTH), "not more than one step above the last look");
        assert!(has_grown(&mut seen, 3 * GROWTH + 1));
        assert!(
            !has_grown(&mut seen, GROWTH) && has_grown(&mut seen, 2 * GROWTH + 1),
            "it has shrunk between"
        );
    }
}
