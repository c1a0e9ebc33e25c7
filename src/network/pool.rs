//! The addresses of sandboxes.
//!
//! A bridge takes 1,023 ports (`BR_MAX_PORTS` of the kernel), so the pool is cut into /22 networks, one
//! for each thousand sandboxes.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// How many sandboxes share a bridge.
pub(super) const PER_BRIDGE: u32 = 1000;
/// The network of one bridge.
pub(super) const BRIDGE_PREFIX_LEN: u8 = 22;
const PER_BRIDGE_ADDRESSES: u32 = 1024;
/// The gateway is the first address of a bridge's network; sandboxes begin behind it.
pub(super) const GATEWAY: u32 = 1;
const FIRST: u32 = 2;

/// A private IPv4 network, from /12 to /22.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    base: u32,
    prefix_len: u8,
}

/// Why a text is not a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a pool is a private IPv4 network from /12 to /22 such as 10.213.0.0/16, not {0:?}")]
pub struct PoolError(String);

impl Pool {
    pub(super) fn capacity(self) -> u32 {
        (1 << (32 - u32::from(self.prefix_len))) / PER_BRIDGE_ADDRESSES * PER_BRIDGE
    }

    /// How many addresses there are, with those that are nobody's.
    pub(super) fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix_len))
    }

    /// How many bridges the whole pool needs.
    pub(super) fn bridges(self) -> u32 {
        self.size() / PER_BRIDGE_ADDRESSES
    }

    /// Whether an address is of the pool.
    pub(super) fn has(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_of(self.prefix_len) == self.base
    }

    pub(super) fn address(self, index: u32) -> Ipv4Addr {
        let network = self.base + index / PER_BRIDGE * PER_BRIDGE_ADDRESSES;
        Ipv4Addr::from_bits(network + FIRST + index % PER_BRIDGE)
    }

    pub(super) fn gateway(self, bridge: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + bridge * PER_BRIDGE_ADDRESSES + GATEWAY)
    }

    /// An address of a bridge's network that no sandbox ever has.
    pub(super) fn spare(self, bridge: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + (bridge + 1) * PER_BRIDGE_ADDRESSES - 2)
    }

    pub(super) fn base(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    pub(super) fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Says whether a network has an address in common with the pool.
    pub(super) fn overlaps(self, network: u32, mask: u32) -> bool {
        let common = mask & mask_of(self.prefix_len);
        network & common == self.base & common
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PoolError(text.chars().take(64).collect());
        let (address, prefix_len) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_e| error())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_e| error())?;
        let base = address.to_bits();
        let valid =
            (12..=22).contains(&prefix_len) && base & !mask_of(prefix_len) == 0 && address.is_private();
        if valid { Ok(Self { base, prefix_len }) } else { Err(error()) }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix_len)
    }
}

const fn mask_of(prefix_len: u8) -> u32 {
    u32::MAX << (32 - prefix_len as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_are_unique_and_never_a_gateway() {
        let pool: Pool = "10.88.0.0/20".parse().unwrap();
        assert_eq!(pool.capacity(), 4000);
        let mut seen: BTreeSet<_> = (0..pool.capacity()).map(|i| pool.address(i)).collect();
        assert_eq!(seen.len(), 4000);
        assert!((0..4).all(|bridge| seen.insert(pool.gateway(bridge)) && seen.insert(pool.spare(bridge))));
        assert!(seen.iter().all(|a| pool.overlaps(a.to_bits(), u32::MAX)));
        assert_eq!(pool.address(1000), Ipv4Addr::new(10, 88, 4, 2));
    }

    #[test]
    fn overlap_is_seen_both_ways() {
        let pool: Pool = "10.88.0.0/16".parse().unwrap();
        assert!(pool.overlaps(0x0a00_0000, 0xff00_0000));
        assert!(pool.overlaps(0x0a58_0100, 0xffff_ff00));
        assert!(!pool.overlaps(0x0a59_0000, 0xffff_0000));
    }

    #[test]
    fn refuses_what_is_not_a_pool() {
        for text in
            ["", "10.88.0.0", "10.88.0.0/8", "10.88.0.0/24", "10.88.0.1/16", "8.8.0.0/16", "10.88.0.0/x"]
        {
            assert!(text.parse::<Pool>().is_err(), "{text}");
        }
    }
}
