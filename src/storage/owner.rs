//! Whose the files of sandboxes are on the disk, and how they become another's.
//!
//! Where workspaces are mounted with other ids, what is 1000 inside is `id_base` + 1000 on the disk: nobody on the host, so
//! that a set-user-id program of a tenant's is nobody's either. Elsewhere (no user namespaces, the gVisor tier, a file
//! system that cannot be mapped) it is 1000. Earlier versions stored 1000 everywhere. A workspace that was stored in
//! another way is converted before it is mounted: its top last, so that a conversion that was cut short begins again.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use model::{IDS, IdBase, SANDBOX_USER};
use sys::fs as sysfs;

/// How many directories are open at once; further ones up the way are opened again on the way back.
const OPEN_MAX: usize = 256;

/// The user and group on the disk of what belongs to a sandbox's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u32);

/// What a conversion has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Converted {
    pub(super) changed: u64,
    /// What cannot be changed, such as files of a read-only snapshot.
    pub(super) refused: u64,
}

impl Owner {
    /// Where the ids of files are not mapped.
    pub const HOST: Self = Self(SANDBOX_USER);

    /// Where they are.
    pub fn mapped(base: IdBase) -> Self {
        Self(base.first() + SANDBOX_USER)
    }

    /// The owner in a workspace, by that of its top. Root of a sandbox may have given that to somebody else, who has an id
    /// of the same range.
    pub(super) fn of(top: &Stat) -> Self {
        if top.st_uid < IDS { Self::HOST } else { Self(first_of(top.st_uid) + SANDBOX_USER) }
    }

    /// Gives an open file to the user.
    pub(super) fn take(self, file: impl AsFd) -> io::Result<()> {
        sysfs::give(file, self.0, self.0)
    }

    /// Gives what a name stands for, itself and not where it leads, to the user.
    pub(super) fn take_name(self, directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<()> {
        sysfs::give_name(directory, name, self.0, self.0)
    }

    /// What an id on the disk becomes; `None` if it stays.
    fn convert(self, id: u32) -> Option<u32> {
        let inside = match id {
            SANDBOX_USER => SANDBOX_USER,
            _ if id >= IDS => id % IDS,
            // Of the host's, and no sandbox's.
            _ => return None,
        };
        let new = match self {
            Self::HOST if inside == SANDBOX_USER => SANDBOX_USER,
            // What root of a sandbox has made cannot be stored there as anybody's.
            Self::HOST => return None,
            Self(user) => first_of(user) + inside,
        };
        (new != id).then_some(new)
    }
}

/// The first id of the range that an id is in: ranges begin at multiples of their size.
fn first_of(id: u32) -> u32 {
    id - id % IDS
}

/// Says whether a workspace, or what is in these directories of it, has another owner.
pub(super) fn differs(workspace: &OwnedFd, directories: &[&str], owner: Owner) -> io::Result<bool> {
    let top = rustix::fs::fstat(workspace)?;
    if Owner::of(&top) != owner {
        return Ok(true);
    }
    // Root of a sandbox of an earlier version may have given the top away. Elsewhere what is not the user's stays so.
    let is_old = |name: &&str| {
        sysfs::stat_name(workspace, *name).is_ok_and(|stat| owner != Owner::HOST && Owner::of(&stat) != owner)
    };
    Ok(directories.iter().any(is_old))
}

/// Converts a tree that no process changes: what is in it, then its top.
///
/// # Errors
/// The disk is full or fails, or somebody moves directories meanwhile. It may be begun again.
pub(super) fn convert(top: &OwnedFd, owner: Owner) -> io::Result<Converted> {
    let mut done = Converted::default();
    let mut levels = vec![Level::enter(top.try_clone()?, owner, &mut done)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.inner.pop() else {
            leave(&mut levels)?;
            continue;
        };
        let Some(directory) = level.directory.as_ref() else { return Err(io::ErrorKind::NotFound.into()) };
        let Some(inner) = open(directory, &name)? else { continue };
        let inner = Level::enter(inner, owner, &mut done)?;
        levels.push(inner);
        if let Some(far) = levels.len().checked_sub(OPEN_MAX).and_then(|far| levels.get_mut(far)) {
            // The top stays open: it is the caller's.
            far.directory = None;
        }
    }
    let stat = rustix::fs::fstat(top)?;
    let (uid, gid) = match owner {
        // The top tells how the rest is stored.
        Owner::HOST => (SANDBOX_USER, SANDBOX_USER),
        _ => (
            owner.convert(stat.st_uid).unwrap_or(stat.st_uid),
            owner.convert(stat.st_gid).unwrap_or(stat.st_gid),
        ),
    };
    if (uid, gid) != (stat.st_uid, stat.st_gid) {
        sysfs::give(top, uid, gid)?;
        done.changed += 1;
    }
    Ok(done)
}

/// One directory on the way.
struct Level {
    directory: Option<OwnedFd>,
    /// By which it is known again.
    identity: (u64, u64),
    /// The directories in it that are left.
    inner: Vec<CString>,
}

impl Level {
    /// Converts what is in a directory, but not what is in the directories in it.
    fn enter(directory: OwnedFd, owner: Owner, done: &mut Converted) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&directory)?;
        let mut inner = Vec::new();
        for name in sysfs::names(&directory)? {
            let name = name?.bytes;
            let stat = match sysfs::stat_name(&directory, &name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match change(&directory, &name, &stat, owner) {
                Ok(is_changed) => done.changed += u64::from(is_changed),
                Err(error) if is_refusal(&error) => done.refused += 1,
                Err(error) => return Err(error),
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                inner.push(name);
            }
        }
        Ok(Self { directory: Some(directory), identity: (stat.st_dev, stat.st_ino), inner })
    }
}

fn change(directory: &OwnedFd, name: &CStr, stat: &Stat, owner: Owner) -> io::Result<bool> {
    let (uid, gid) = (owner.convert(stat.st_uid), owner.convert(stat.st_gid));
    if uid.is_none() && gid.is_none() {
        return Ok(false);
    }
    sysfs::give_name(directory, name, uid.unwrap_or(stat.st_uid), gid.unwrap_or(stat.st_gid))?;
    Ok(true)
}

/// Goes back to the directory above, which is opened again if it is far away.
fn leave(levels: &mut Vec<Level>) -> io::Result<()> {
    let Some(below) = levels.pop() else { return Ok(()) };
    let Some(level) = levels.last_mut() else { return Ok(()) };
    if level.directory.is_some() || level.inner.is_empty() && levels.len() == 1 {
        return Ok(());
    }
    let below = below.directory.ok_or(io::ErrorKind::NotFound)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::openat(below, "..", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&above)?;
    let Some(level) = levels.last_mut() else { return Ok(()) };
    if (stat.st_dev, stat.st_ino) != level.identity {
        return Err(io::Error::other("a directory was moved while its files were given to another owner"));
    }
    level.directory = Some(above);
    Ok(())
}

/// Opens a directory; `None` once it is gone, or if something of the host's is mounted there.
fn open(parent: &OwnedFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    use rustix::io::Errno;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// A read-only snapshot, or an immutable file of the operator's.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base(text: &str) -> IdBase {
        text.parse().unwrap()
    }

    #[test]
    fn ids_become_those_of_the_new_range_and_the_hosts_stay() {
        let (one, other) = (Owner::mapped(base("1879048192")), Owner::mapped(base("2030043136")));
        for (to, id, expected) in [
            (one, 1000, Some(1_879_049_192)),
            (one, 0, None),
            (one, 33, None),
            (one, 1_879_049_192, None),
            (one, 1_879_048_192, None),
            (other, 1_879_048_192, Some(2_030_043_136)),
            (other, 1_879_049_192, Some(2_030_044_136)),
            (Owner::HOST, 1_879_049_192, Some(1000)),
            (Owner::HOST, 1_879_048_192, None),
            (Owner::HOST, 1000, None),
        ] {
            assert_eq!(to.convert(id), expected, "{id} to {to:?}");
        }
    }

    proptest! {
        #[test]
        fn a_conversion_settles_and_can_be_taken_back(first in 1_u32..65_000, id in 0_u32..IDS) {
            let owner = Owner::mapped(base(&(first * IDS).to_string()));
            if let Some(new) = owner.convert(SANDBOX_USER) {
                prop_assert_eq!(owner.convert(new), None);
                prop_assert_eq!(Owner::HOST.convert(new), Some(SANDBOX_USER));
            }
            let stored = first * IDS + id;
            prop_assert_eq!(owner.convert(stored), None);
        }
    }
}
