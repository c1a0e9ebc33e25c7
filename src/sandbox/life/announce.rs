//! Telling that a sandbox runs to whoever looks after what runs in it.
//!
//! A driver starts no app: it announces, and the room of the clients' uses begins its watch.

use std::sync::Arc;

use crate::books::registry::Entry;
use crate::running::live::Live;
use model::GitSource;

/// A sandbox that has come to run.
#[derive(Debug)]
pub(crate) struct Began {
    pub(crate) entry: Arc<Entry>,
    pub(crate) live: Arc<Live>,
    pub(crate) how: How,
}

/// How a sandbox came to run.
#[derive(Debug)]
pub(crate) enum How {
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
pub(crate) struct Announce(Box<Listener>);

impl Announce {
    pub(crate) fn to(listener: impl Fn(Began) + Send + Sync + 'static) -> Self {
        Self(Box::new(listener))
    }

    /// Tells that a sandbox runs.
    pub(crate) fn began(&self, began: Began) {
        (self.0)(began);
    }
}

impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announce").finish_non_exhaustive()
    }
}
