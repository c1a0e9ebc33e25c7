//! What the lives of all sandboxes have in common.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::launch::ground::Ground;
use crate::launch::launching::Launching;
use crate::life::announce::Announce;
use crate::life::rules::SleepRules;

/// What drivers, and those who ask them, share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) ground: Ground,
    pub(crate) launching: Arc<Launching>,
    pub(crate) sleep: SleepRules,
    /// Between TERM and KILL when a sandbox is stopped.
    pub(crate) stop_grace: Duration,
    /// Memory is moved out of one sandbox at a time.
    pub(crate) reclaiming: Semaphore,
    /// Who is told that a sandbox runs.
    pub(crate) announce: Announce,
}
