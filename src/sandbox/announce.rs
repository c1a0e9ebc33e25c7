//! Telling that a sandbox runs to whoever looks after what runs in it.
//!
//! A driver starts no app: it announces, and the room of the clients' uses begins its watch.

use std::sync::Arc;

use super::live::Live;
use super::registry::Entry;
use model::GitSource;

/// A sandbox that has come to run.
#[derive(Debug)]
pub(super) struct Began {
    pub(super) entry: Arc<Entry>,
    pub(super) live: Arc<Live>,
    pub(super) how: How,
}

/// How a sandbox came to run.
#[derive(Debug)]
pub(super) enum How {
    /// It was launched.
    Launched {
        /// A repository that is still to be cloned into it.
        git: Option<GitSource>,
        /// Its workspace is new, and nothing was put into it.
        is_empty: bool,
    },
    /// An earlier daemon launched it.
    Adopted,
}

/// Takes an announcement; it starts tasks at most and does not wait.
type Listener = dyn Fn(Began) + Send + Sync;

/// Whom to tell.
pub(super) struct Announce(Box<Listener>);

impl Announce {
    pub(super) fn to(listener: impl Fn(Began) + Send + Sync + 'static) -> Self {
        Self(Box::new(listener))
    }

    /// Tells that a sandbox runs.
    pub(super) fn began(&self, began: Began) {
        (self.0)(began);
    }
}

impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announce").finish_non_exhaustive()
    }
}
