//! Which addresses are those of sandboxes.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

/// How a sandbox's link finds the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Each end knows the other's Ethernet address from the beginning.
    Told,
    /// They ask one another: it was attached by a version up to 0.1.
    Asks,
}

/// The addresses of all that are attached; copies are of the same set.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<RwLock<HashMap<Ipv4Addr, Link>>>);

impl Live {
    /// Whether an address is a sandbox's.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(&address)
    }

    pub(super) fn add(&self, address: Ipv4Addr, link: Link) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(address, link);
    }

    pub(super) fn remove(&self, address: Ipv4Addr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    /// Those whose Ethernet addresses the host has to know.
    pub(super) fn told(&self) -> Vec<Ipv4Addr> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(_, link)| **link == Link::Told).map(|(address, _)| *address).collect()
    }
}
