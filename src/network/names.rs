//! The names of our links.
//!
//! A firewall rule that matches too much would close the host's own network, so no name of ours may be that of
//! another link: each begins with `sb` and five digits of a hash of the instance's name. The whole name does not
//! fit: an interface's has 15 bytes (`IFNAMSIZ`, man 7 netdevice).

use sha2::{Digest as _, Sha256};

/// Digits of the hash: 36^5, sixty million. That two instances of one host share them is noticed at the start.
const HASH_DIGITS: usize = 5;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The names of one instance's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkNames {
    instance: String,
    prefix: String,
}

impl LinkNames {
    /// Derives them from an instance's name.
    pub fn of(instance: &str) -> Self {
        let hash = Sha256::digest(instance.as_bytes());
        let number = hash.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let prefix = format!("sb{}", digits(number, HASH_DIGITS));
        Self { instance: instance.to_owned(), prefix }
    }

    /// What the name of every link begins with, and of no other's.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the names of cables begin with.
    pub fn cable_prefix(&self) -> String {
        format!("{}p", self.prefix)
    }

    /// What the names of bridges begin with.
    pub(super) fn bridge_prefix(&self) -> String {
        format!("{}b", self.prefix)
    }

    pub(super) fn bridge(&self, number: u32) -> String {
        format!("{}b{number}", self.prefix)
    }

    /// The host's end of a cable: at most 7 digits, since 36^7 is more than 2^32.
    pub(super) fn cable(&self, number: u32) -> String {
        format!("{}p{}", self.prefix, digits(number.into(), 1))
    }

    /// The text beside a link that says whose it is.
    pub(super) fn alias(&self) -> String {
        format!("sandboxd instance {}", self.instance)
    }

    /// What names began with up to version 0.1, when two instances could have the same.
    pub(super) fn former_prefix(&self) -> String {
        if self.instance == "sandboxd" { "sbx".to_owned() } else { self.instance.chars().take(6).collect() }
    }
}

/// A number in base 36, with at least so many digits; of the hash, the last so many.
fn digits(mut number: u64, least: usize) -> String {
    let mut text = Vec::new();
    if least > 1 {
        number %= 36_u64.pow(u32::try_from(least).unwrap_or_default());
    }
    while number > 0 || text.len() < least {
        let digit = usize::try_from(number % 36).unwrap_or_default();
        text.push(char::from(DIGITS.get(digit).copied().unwrap_or(b'0')));
        number /= 36;
    }
    text.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_an_instance_s_own() {
        for instance in ["sandboxd", "sandboxe", "eth", "lo", "w", "zzzzzzzz"] {
            let names = LinkNames::of(instance);
            assert!(names.prefix.len() == 7 && names.prefix.starts_with("sb"), "{names:?}");
            assert!(names.cable(u32::MAX).len() <= 15 && names.bridge(1023).len() <= 15);
            assert!(!"eth0".starts_with(names.prefix()));
        }
        assert_ne!(LinkNames::of("sandboxd").prefix, LinkNames::of("sandboxe").prefix);
        assert_ne!(LinkNames::of("a").cable(36), LinkNames::of("a").cable(1));
        assert_eq!(LinkNames::of("sandboxd").former_prefix(), "sbx");
    }
}
