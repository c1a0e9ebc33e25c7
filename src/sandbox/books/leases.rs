//! Which addresses are taken.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Indices into the network's pool. One that is given back is used again as late as possible, so that
/// nothing that still knows its last holder finds another sandbox there.
#[derive(Debug)]
pub(crate) struct Leases {
    capacity: u32,
    state: Mutex<State>,
    has_departed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: BTreeSet<u32>,
    next: u32,
    /// Taken, and given back once the kernel has forgotten the connections of those who had them.
    departed: Vec<u32>,
}

impl Leases {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { capacity, state: Mutex::default(), has_departed: Notify::new() }
    }

    /// Takes an index; `None` when all are taken.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.taken.len() >= usize::try_from(self.capacity).unwrap_or(usize::MAX) {
            return None;
        }
        while state.taken.contains(&state.next) {
            state.next = (state.next + 1) % self.capacity;
        }
        let index = state.next;
        state.taken.insert(index);
        state.next = (index + 1) % self.capacity;
        Some(index)
    }

    /// Takes a certain index, of a sandbox that is found running; false when it is taken already.
    pub(crate) fn adopt(&self, index: u32) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        index < self.capacity && state.taken.insert(index)
    }

    /// Takes down that whoever had an index has ended.
    pub(crate) fn depart(&self, index: u32) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).departed.push(index);
        self.has_departed.notify_one();
    }

    /// Waits until somebody has ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn departure(&self) {
        self.has_departed.notified().await;
    }

    /// The indices of those who have ended and whose connections are to be forgotten; then each is released.
    pub(crate) fn departed(&self) -> Vec<u32> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).departed)
    }

    /// Gives indices back.
    pub(crate) fn release(&self, indices: &[u32]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for index in indices {
            state.taken.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_unique_and_come_back_late() {
        let leases = Leases::new(3);
        assert!(leases.adopt(1) && !leases.adopt(1) && !leases.adopt(3));
        assert_eq!([leases.take(), leases.take(), leases.take()], [Some(0), Some(2), None]);
        leases.depart(2);
        assert_eq!((leases.take(), leases.departed()), (None, vec![2]));
        leases.release(&[2, 0]);
        assert_eq!(leases.take(), Some(0));
    }
}
