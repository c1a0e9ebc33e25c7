//! Waking a sandbox for a use, and keeping it awake meanwhile.

use std::sync::Arc;

use crate::base::command::Command;
use crate::base::error::Error;
use crate::base::events::Why;
use crate::books::registry::{Entry, Published, ask};
use crate::running::live::Live;
use model::Status;

/// Waits for an answer from within a sandbox. If it is frozen meanwhile by request it is thawed again:
/// whoever waits for it uses it.
pub(crate) async fn kept_awake<T>(entry: &Entry, work: impl Future<Output = T>) -> T {
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

/// The running sandbox, which is woken if need be.
pub(crate) async fn awake(entry: &Arc<Entry>) -> Result<Arc<Live>, Error> {
    if let Some(live) = entry.live() {
        return Ok(live);
    }
    ask(entry, |reply| Command::Start { why: Why::Use, reply }).await?;
    entry.live().ok_or(Error::Ending)
}
