//! User and group ids of the host that sandboxes are given.
//!
//! ```text
//! base                base + 65536          base + 2 · 65536
//! │ on disk: all files│ lease 0: the ids of │ lease 1 …
//! │ of sandboxes      │ one sandbox         │
//! ```
//!
//! No process ever has an id of the first range: files of sandboxes are stored with it, so that they are nobody's on the
//! disk, and the same whichever lease comes next.

use std::fmt;
use std::str::FromStr;

/// How many ids each sandbox has.
pub const IDS: u32 = 65_536;
/// The user of a sandbox, inside, and on the disk where ids cannot be mapped.
pub const SANDBOX_USER: u32 = 1000;

/// Where the ids of sandboxes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBase(u32);

/// The ids of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    base: IdBase,
    first: u32,
}

/// So many ids, the third, from the first on, inside, are those from the second on, outside: one line of
/// `/proc/<pid>/uid_map`.
pub type IdExtent = (u32, u32, u32);

/// Why a text is no base.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the first id is a multiple of 65536 from 65536 to 4294770688, not {0:?}")]
pub struct IdBaseError(String);

impl IdBase {
    pub fn first(self) -> u32 {
        self.0
    }

    /// How many sandboxes can have ids at once.
    pub fn capacity(self) -> u32 {
        // The last id of all means "none" to the kernel.
        (u32::MAX - self.0) / IDS - 1
    }

    /// The ids of the sandbox that has a lease; `None` when there are none for it.
    pub fn range(self, lease: u32) -> Option<IdRange> {
        let first = (lease < self.capacity()).then(|| self.0 + IDS * (lease + 1))?;
        Some(IdRange { base: self, first })
    }
}

impl IdRange {
    pub fn first(self) -> u32 {
        self.first
    }

    /// Its user namespace.
    pub fn processes(self) -> Vec<IdExtent> {
        vec![(0, self.first, IDS)]
    }

    /// Its user namespace where the workspace cannot be mapped: what its user makes must then be stored as it
    /// is, and so that user is the host's of this number, like those of all other sandboxes.
    pub fn processes_unmapped(self) -> Vec<IdExtent> {
        let rest = SANDBOX_USER + 1;
        vec![
            (0, self.first, SANDBOX_USER),
            (SANDBOX_USER, SANDBOX_USER, 1),
            (rest, self.first + rest, IDS - rest),
        ]
    }

    /// How its workspace is mounted: from the ids on the disk to those of the host.
    pub fn workspace(self) -> Vec<IdExtent> {
        vec![(self.base.0, self.first, IDS)]
    }
}

impl FromStr for IdBase {
    type Err = IdBaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || IdBaseError(text.chars().take(64).collect());
        let first: u32 = text.parse().map_err(|_e| error())?;
        let fits = first >= IDS && first.is_multiple_of(IDS) && first <= u32::MAX - 3 * IDS + 1;
        if fits { Ok(Self(first)) } else { Err(error()) }
    }
}

impl fmt::Display for IdBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(extents: &[IdExtent]) -> Vec<(u64, u64)> {
        extents.iter().map(|&(_, out, count)| (u64::from(out), u64::from(out) + u64::from(count))).collect()
    }

    proptest! {
        #[test]
        fn no_two_leases_have_an_id_in_common(base in 1_u32..65_534, a in 0_u32..70_000, b in 0_u32..70_000) {
            let base: IdBase = (base * IDS).to_string().parse().unwrap();
            let (Some(one), Some(other)) = (base.range(a), base.range(b)) else {
                prop_assert!(a.max(b) >= base.capacity());
                return Ok(());
            };
            let stored = (u64::from(base.first()), u64::from(base.first()) + u64::from(IDS));
            for (start, end) in ids(&one.processes()) {
                prop_assert!(end < u64::from(u32::MAX), "the last id is none");
                prop_assert!(start >= stored.1, "a process has an id that files are stored with");
                for (start2, end2) in ids(&other.processes()) {
                    prop_assert!(a == b || end <= start2 || end2 <= start);
                }
            }
        }

        #[test]
        fn a_workspace_is_mounted_with_the_ids_of_its_processes(lease in 0_u32..30_000, id in 0_u32..IDS) {
            let base: IdBase = "1879048192".parse().unwrap();
            let range = base.range(lease).unwrap();
            let map = |extents: Vec<IdExtent>, id: u32| {
                let found = extents.into_iter().find(|&(inside, _, count)| inside <= id && id - inside < count);
                found.map(|(inside, outside, _)| outside + (id - inside))
            };
            prop_assert_eq!(map(range.workspace(), base.first() + id), map(range.processes(), id));
            // Nobody of the host owns anything in there.
            prop_assert_eq!(map(range.workspace(), id), None);
        }
    }

    #[test]
    fn a_base_leaves_room() {
        for text in ["", "0", "1000", "65537", "4294836224", "-65536", "x"] {
            assert!(text.parse::<IdBase>().is_err(), "{text}");
        }
        assert_eq!("4294770688".parse::<IdBase>().unwrap().capacity(), 1);
        assert_eq!("1879048192".parse::<IdBase>().unwrap().capacity(), 36_862);
    }
}
