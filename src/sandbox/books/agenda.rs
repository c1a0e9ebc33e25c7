//! When each sandbox has to be looked at again, so that the others need not be.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

use model::SandboxId;

/// Sandboxes by the time of their next look; each has one.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Reverse<(Instant, SandboxId)>>,
    /// What stands in the heap and not here has been replaced since.
    next: HashMap<SandboxId, Instant>,
}

impl Agenda {
    /// Sets when a sandbox is looked at, instead of what was set before.
    pub(crate) fn set(&mut self, id: SandboxId, at: Instant) {
        if self.next.insert(id, at) != Some(at) {
            self.heap.push(Reverse((at, id)));
        }
    }

    /// When the next look is due.
    pub(crate) fn first(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, id)) = *self.heap.peek()?;
            if self.next.get(&id) == Some(&at) {
                return Some(at);
            }
            self.heap.pop();
        }
    }

    /// Takes those whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<SandboxId> {
        let mut due = Vec::new();
        while self.first().is_some_and(|at| at <= now) {
            let Some(Reverse((_, id))) = self.heap.pop() else { break };
            self.next.remove(&id);
            due.push(id);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_looked_at_once_when_it_is_due() {
        let now = Instant::now();
        let at = |secs| now + Duration::from_secs(secs);
        let [a, b, c] = [SandboxId::generate(), SandboxId::generate(), SandboxId::generate()];
        let mut agenda = Agenda::default();
        assert_eq!(agenda.first(), None);
        agenda.set(a, at(5));
        agenda.set(b, at(3));
        agenda.set(c, at(9));
        // Later, and earlier, than was set before.
        agenda.set(b, at(7));
        agenda.set(c, at(1));
        assert_eq!((agenda.first(), agenda.take_due(at(0))), (Some(at(1)), vec![]));
        assert_eq!((agenda.take_due(at(6)), agenda.first()), (vec![c, a], Some(at(7))));
        assert_eq!((agenda.take_due(at(60)), agenda.first()), (vec![b], None));
    }
}
