//! What the uses of clients have in common.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::launch::ground::Ground;
use crate::serve::files::hubs::Watchers;
use model::ByteSize;

/// Trees that are on their way at once, each with a thread.
const TRANSFERS_MAX: usize = 16;
/// How many may watch at once.
const WATCHES_MAX: usize = 256;
/// How many may follow logs at the same time.
const FOLLOWERS_MAX: usize = 256;

/// How clients' uses are bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServingConfig {
    /// How long a request is held for a sandbox that was just started and whose app says nothing of itself.
    pub(crate) ready_timeout: Duration,
    /// How long a request is held for an app that is known to be starting.
    pub(crate) wake_timeout: Duration,
    /// The most files, directories and links of a tree that is copied, packed or unpacked.
    pub(crate) tree_entries_max: u64,
    /// The most bytes of its content.
    pub(crate) tree_bytes_max: ByteSize,
}

/// What clients' uses take from this room.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) ground: Ground,
    pub(crate) config: ServingConfig,
    /// Permits for trees that are packed or unpacked.
    pub(crate) transfers: Arc<Semaphore>,
    /// Permits for those who watch files.
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) watchers: Watchers,
    /// One permit for each log that may be followed.
    pub(crate) followers: Arc<Semaphore>,
}

impl Serving {
    pub(crate) fn new(ground: Ground, config: ServingConfig) -> Self {
        Self {
            ground,
            config,
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            watchers: Watchers::default(),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }
}
