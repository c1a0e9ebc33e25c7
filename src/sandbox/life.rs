//! What the lives of all sandboxes have in common.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::announce::Announce;
use super::ground::Ground;
use super::launching::Launching;
use super::rules::SleepRules;

/// What drivers, and those who ask them, share.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) ground: Ground,
    pub(super) launching: Arc<Launching>,
    pub(super) sleep: SleepRules,
    /// Between TERM and KILL when a sandbox is stopped.
    pub(super) stop_grace: Duration,
    /// Memory is moved out of one sandbox at a time.
    pub(super) reclaiming: Semaphore,
    /// Who is told that a sandbox runs.
    pub(super) announce: Announce,
}
