//! The id of a sandbox: a ULID.
//!
//! It becomes a path, a cgroup, a host name and a part of a URL, so it is parsed strictly: 26
//! characters of Crockford's base 32, nothing else, whatever the case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

/// The number of characters in the text form (<https://github.com/ulid/spec>).
const LENGTH: usize = 26;

/// Identifies a sandbox for ever; ids are not used twice.
///
/// Shown in upper case; [`SandboxId::lower`] is the form for host names, paths and cgroups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId(Ulid);

/// Why a text is not a sandbox id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a sandbox id has 26 characters, this has {0}")]
    Length(usize),
    #[error("a sandbox id has only the letters and digits of Crockford's base 32")]
    Alphabet,
    #[error("a sandbox id is at most 7ZZZZZZZZZZZZZZZZZZZZZZZZZ")]
    Range,
}

impl SandboxId {
    /// Makes an id from the present time and 80 random bits.
    pub fn generate() -> Self {
        Self(Ulid::new())
    }

    /// Returns the lower-case form: 26 characters of `[0-9a-z]`, a valid DNS label.
    pub fn lower(self) -> String {
        self.0.to_string().to_ascii_lowercase()
    }

    /// Returns the host name inside the sandbox and the first part of its preview names: `s-<id>`.
    pub fn host_name(self) -> String {
        format!("s-{}", self.lower())
    }
}

impl FromStr for SandboxId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != LENGTH {
            return Err(IdError::Length(text.chars().count()));
        }
        // The library's parser is lenient about I, L, O and U; a strict one keeps every id in one
        // spelling per case, so that two names can never mean one sandbox.
        let strict =
            |b: u8| b.is_ascii_alphanumeric() && !matches!(b.to_ascii_uppercase(), b'I' | b'L' | b'O' | b'U');
        if !text.bytes().all(strict) {
            return Err(IdError::Alphabet);
        }
        // 26 characters hold 130 bits; the first may only be 0 to 7.
        if text.as_bytes()[0] > b'7' {
            return Err(IdError::Range);
        }
        Ulid::from_string(&text.to_ascii_uppercase()).map(Self).map_err(|_e| IdError::Alphabet)
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for SandboxId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SandboxId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Names one launch on the host: its cgroup and its run directory.
///
/// A sandbox has another one each time it is launched, so that what is left of the last launch can be
/// cleared while the next one begins, and so that a launch can be made before anybody knows whose it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaunchId(SandboxId);

impl LaunchId {
    pub fn generate() -> Self {
        Self(SandboxId::generate())
    }
}

/// 26 characters of `[0-9a-z]`.
impl fmt::Display for LaunchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.lower())
    }
}

impl FromStr for LaunchId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_named_in_lower_case() {
        let launch = LaunchId::generate();
        let name = launch.to_string();
        assert!(name.len() == LENGTH && name.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()));
        assert_eq!((name.parse(), "daemon".parse::<LaunchId>().is_ok()), (Ok(launch), false));
    }

    #[test]
    fn any_case_is_one_id() {
        let id = SandboxId::generate();
        assert_eq!(id.lower().parse(), Ok(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), LENGTH);
    }

    #[test]
    fn refuses_everything_else() {
        let check =
            |text: &str, expected: IdError| assert_eq!(text.parse::<SandboxId>(), Err(expected), "{text}");
        check("", IdError::Length(0));
        check("../../../../../../../../..", IdError::Alphabet);
        check("01ARZ3NDEKTSV4RRFFQ69G5FA", IdError::Length(25));
        check("01ARZ3NDEKTSV4RRFFQ69G5FAI", IdError::Alphabet);
        check("01ARZ3NDEKTSV4RRFFQ69G5FA/", IdError::Alphabet);
        check("81ARZ3NDEKTSV4RRFFQ69G5FAV", IdError::Range);
        check("01ARZ3NDEKTSV4RRFFQ69G5F\u{e4}", IdError::Alphabet);
    }
}
