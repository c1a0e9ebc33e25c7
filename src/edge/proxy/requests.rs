//! How many requests of one connection are open.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// How many have come.
    pub(crate) come: AtomicU64,
    /// The answers of how many have ended.
    pub(crate) answered: AtomicU64,
    /// The number of the first with two lengths, from 1; 0: there is none yet.
    pub(crate) ambiguous: AtomicU64,
    /// Whether the head of an answer is on its way to the connection.
    pub(crate) is_due: AtomicBool,
}

impl Requests {
    /// Counts a request; true if it has two lengths.
    pub(crate) fn begin(&self) -> bool {
        let number = self.come.fetch_add(1, Ordering::AcqRel) + 1;
        self.ambiguous.load(Ordering::Acquire) == number
    }

    /// Notes that one is answered: the next head that is written is not hyper's own.
    pub(crate) fn answer(&self) {
        self.is_due.store(true, Ordering::Release);
    }

    /// Notes that the answer to one has ended.
    pub(crate) fn end(&self) {
        self.answered.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn is_working(&self) -> bool {
        self.come.load(Ordering::Acquire) != self.answered.load(Ordering::Acquire)
    }
}
