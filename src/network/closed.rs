//! Where no sandbox may connect to, unless the operator says so.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Net {
    base: u32,
    length: u8,
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network is an IPv4 address or one with a prefix, such as 192.168.7.0/24, not {0:?}")]
pub struct NetError(String);

impl Net {
    const fn new(octets: [u8; 4], length: u8) -> Self {
        Self { base: u32::from_be_bytes(octets), length }
    }

    pub(super) const fn host(address: Ipv4Addr) -> Self {
        Self::new(address.octets(), 32)
    }

    pub(super) fn base(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    pub(super) fn length(self) -> u8 {
        self.length
    }

    /// Whether all of another network lies in this one.
    pub(super) fn contains(self, other: Self) -> bool {
        self.length <= other.length && other.base & mask(self.length) == self.base
    }
}

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NetError(text.chars().take(64).collect());
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_e| error())?;
        let length: u8 = length.parse().map_err(|_e| error())?;
        if length > 32 || address.to_bits() & !mask(length) != 0 {
            return Err(error());
        }
        Ok(Self { base: address.to_bits(), length })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.length)
    }
}

/// What is no destination at all: "this network", the loopback device, multicast, reserved addresses, broadcast.
/// Nothing opens these.
pub(super) const NEVER: [Net; 3] =
    [Net::new([0, 0, 0, 0], 8), Net::new([127, 0, 0, 0], 8), Net::new([224, 0, 0, 0], 3)];

/// Metadata services of clouds, which give credentials to whoever asks: link-local ones (most clouds), and
/// those of Alibaba, Azure and Oracle. Opened only by a network that lies within one of them, since an operator
/// who opens a whole private range does not mean these. IPv6 ones need no entry: there is no IPv6 to the outside.
pub(super) const METADATA: [Net; 4] = [
    Net::new([169, 254, 0, 0], 16),
    Net::new([100, 100, 100, 200], 32),
    Net::new([168, 63, 129, 16], 32),
    Net::new([192, 0, 0, 0], 24),
];

/// Networks that are somebody's own: RFC 1918, RFC 6598. What the host can reach there was not meant for tenants.
pub(super) const PRIVATE: [Net; 4] = [
    Net::new([10, 0, 0, 0], 8),
    Net::new([100, 64, 0, 0], 10),
    Net::new([172, 16, 0, 0], 12),
    Net::new([192, 168, 0, 0], 16),
];

/// Parts opened networks into those within one of the special ones, and the others. Of two of which one contains
/// the other only the outer is kept: nft refuses sets whose elements overlap.
pub(super) fn part(opened: &[Net], special: &[Net]) -> (Vec<Net>, Vec<Net>) {
    let (within, others): (Vec<Net>, Vec<Net>) =
        opened.iter().partition(|net| special.iter().any(|one| one.contains(**net)));
    (outermost(&within), outermost(&others))
}

/// Those that lie in none of the others, each once.
pub(super) fn outermost(nets: &[Net]) -> Vec<Net> {
    let mut kept: Vec<Net> = Vec::new();
    let mut sorted = nets.to_vec();
    // The wider come first.
    sorted.sort_by_key(|net| (net.length, net.base));
    for net in sorted {
        if !kept.iter().any(|outer| outer.contains(net)) {
            kept.push(net);
        }
    }
    kept
}

const fn mask(length: u8) -> u32 {
    match u32::MAX.checked_shl(32 - length as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    fn is_closed(text: &str) -> bool {
        NEVER.iter().chain(&METADATA).chain(&PRIVATE).any(|range| range.contains(net(text)))
    }

    #[test]
    fn what_is_somebody_s_own_is_closed_and_documentation_is_not() {
        for closed in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(is_closed(closed), "{closed}");
        }
        for open in ["192.0.2.1", "198.51.100.1", "203.0.113.7", "1.1.1.1", "172.32.0.1", "100.128.0.1"] {
            assert!(!is_closed(open), "{open}");
        }
    }

    #[test]
    fn a_wide_network_does_not_open_what_lies_in_it_and_is_special() {
        let opened = [net("100.64.0.0/10"), net("169.254.169.254"), net("10.1.0.0/16"), net("10.1.2.0/24")];
        let (special, others) = part(&opened, &METADATA);
        assert_eq!(special, [net("169.254.169.254/32")]);
        assert_eq!(others, [net("100.64.0.0/10"), net("10.1.0.0/16")]);
    }

    #[test]
    fn refuses_what_is_not_a_network() {
        assert_eq!(net("0.0.0.0/0").to_string(), "0.0.0.0/0");
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/x", "::1", "10.0.0.0/-1"] {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
    }
}
