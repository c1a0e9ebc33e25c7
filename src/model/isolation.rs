//! What stands between a sandbox and the host.

use std::fmt;
use std::str::FromStr;

use crate::spec_error::SpecError;

/// A tier of isolation; a greater one is stronger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// Namespaces, dropped capabilities and a filter of system calls; the kernel is the host's.
    #[default]
    Container,
    /// A kernel of its own, in user space: gVisor.
    Gvisor,
}

impl Isolation {
    pub const ALL: [Self; 2] = [Self::Container, Self::Gvisor];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Gvisor => "gvisor",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Isolation {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|tier| tier.as_str() == text);
        found.ok_or_else(|| SpecError::Choice(text.chars().take(64).collect(), "container, gvisor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_ordered_by_strength() {
        for tier in Isolation::ALL {
            assert_eq!(tier.as_str().parse(), Ok(tier));
        }
        assert!("runc".parse::<Isolation>().is_err() && Isolation::Gvisor > Isolation::default());
    }
}
