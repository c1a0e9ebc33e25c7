//! Gives back the memory of connections that have gone.
//!
//! glibc keeps what was freed in the heaps of the threads that asked for it, and gives back only what lies at their
//! ends. Behind ten thousand connections of 15 KiB that is most of it: what came after them lies in between.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use edge::proxy::Proxy;
use sys::memory;

/// How often it is looked whether there is something to give back.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// How many connections must have gone: some 4 MiB. A trim takes milliseconds, so it is not done for less.
const GONE_MIN: usize = 256;

/// Looks until told to end.
pub(super) async fn give_back(proxy: Arc<Proxy>, ending: CancellationToken) {
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            () = tokio::time::sleep(LOOK_PAUSE) => {}
        }
        if let Some(gone) = proxy.gone(GONE_MIN) {
            // It waits for locks of the allocator, as everything that allocates meanwhile does.
            let trimmed = tokio::task::spawn_blocking(memory::give_back).await;
            tracing::debug!(gone, done = trimmed.is_ok(), "gave memory back");
        }
    }
}
