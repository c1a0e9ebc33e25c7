//! What of the relay one sandbox may use at once.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what is under way, for each address and for all.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    of_each: usize,
    of_all: usize,
    taken: Arc<Mutex<Taken>>,
}

/// Holds no address that has nothing under way, and so never more than `of_all`.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<Ipv4Addr, usize>,
}

/// One piece of a share; it is given back with the value.
#[derive(Debug)]
pub(super) struct Piece {
    address: Ipv4Addr,
    shares: Shares,
}

impl Shares {
    pub(super) fn new(of_each: usize, of_all: usize) -> Self {
        Self { of_each, of_all, taken: Arc::default() }
    }

    /// Takes a piece; `None` beyond the share.
    pub(super) fn take(&self, address: Ipv4Addr) -> Option<Piece> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.each.get(&address).copied().unwrap_or_default();
        if own >= self.of_each || taken.all >= self.of_all {
            return None;
        }
        taken.all += 1;
        taken.each.insert(address, own + 1);
        Some(Piece { address, shares: self.clone() })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        match taken.each.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.each.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_does_not_take_what_is_another_s() {
        let shares = Shares::new(2, 3);
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        let held = [shares.take(a), shares.take(a)];
        assert!(held.iter().all(Option::is_some) && shares.take(a).is_none());
        let other = shares.take(b).unwrap();
        assert!(shares.take(b).is_none(), "all together have a limit too");
        drop(held);
        assert!(shares.take(a).is_some());
        drop(other);
        let taken = shares.taken.lock().unwrap();
        assert!(taken.all == 0 && taken.each.is_empty(), "{taken:?}");
    }
}
