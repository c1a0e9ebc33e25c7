//! Places in a workspace, and places of the host's own where trees are made and taken apart.
//!
//! A tree is made in `staging` and appears by one rename; it vanishes by one rename to `trash`. Neither
//! directory can be seen by a tenant, and both are emptied at the next start.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::path::FilePath;
use super::walk::TEMPORARY;
use crate::owner::Owner;
use crate::removal;
use sys::fs::{self as sysfs, Links};

/// The directories of the host's own, on the file system of the workspaces.
#[derive(Debug)]
pub(super) struct Yard {
    pub(super) staging: OwnedFd,
    pub(super) trash: OwnedFd,
}

/// A name in a directory beneath the base.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: OwnedFd,
    pub(super) name: CString,
}

/// A directory of the host's own in which something is made; what is left in it goes with the value.
#[derive(Debug)]
pub(super) struct Stage {
    yard: Arc<Yard>,
    name: String,
    pub(super) directory: OwnedFd,
    /// Whose everything is that is made in it.
    pub(super) owner: Owner,
}

/// What was taken out of a workspace and has still to be removed.
#[derive(Debug)]
#[must_use = "it takes up space until it is removed"]
pub struct Rubbish {
    place: RubbishPlace,
    name: String,
}

#[derive(Debug)]
enum RubbishPlace {
    Trash(Arc<Yard>),
    /// Where it was: it could not be moved to the trash.
    Workspace(OwnedFd),
}

impl Place {
    /// Finds the place of a path whose directory exists.
    pub(super) fn find(root: &OwnedFd, path: &FilePath) -> io::Result<Self> {
        let (parent, name) = path.split();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent =
            sysfs::open_beneath(root, Path::new(parent.unwrap_or(".")), flags, 0, Links::FollowBeneath)?;
        Ok(Self { parent, name: CString::new(name)? })
    }

    /// Finds the place of a path, and makes the directories above it.
    pub(super) fn make(root: &OwnedFd, path: &FilePath, owner: Owner) -> io::Result<Self> {
        let (parent, name) = path.split();
        Ok(Self {
            parent: make_directories(root, parent.unwrap_or("."), owner)?.0,
            name: CString::new(name)?,
        })
    }

    /// Puts what another name stands for in this place. What stood there is, where that is allowed, replaced
    /// in the same instant, and returned.
    pub(super) fn put(
        &self,
        from: &OwnedFd,
        name: &CString,
        overwrite: bool,
        yard: &Arc<Yard>,
    ) -> io::Result<Option<Rubbish>> {
        let rename = |flags| rustix::fs::renameat_with(from, name, &self.parent, &self.name, flags);
        match rename(RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) if overwrite => {}
            other => return Ok(other.map(|()| None)?),
        }
        match rename(RenameFlags::empty()) {
            // One of the two is a directory, or both are and the one that is replaced has something in it.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => {}
            other => return Ok(other.map(|()| None)?),
        }
        rename(RenameFlags::EXCHANGE)?;
        Rubbish::take(yard, from, name).map(Some)
    }
}

/// Opens a directory beneath the root, making those that are missing, one by one; says whether the last one
/// was made.
pub(super) fn make_directories(root: &OwnedFd, path: &str, owner: Owner) -> io::Result<(OwnedFd, bool)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let open = |path: &str| sysfs::open_beneath(root, Path::new(path), flags, 0, Links::FollowBeneath);
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return Ok((other?, false)),
    }
    let (mut directory, mut made) = (root.try_clone()?, false);
    let mut reached = String::new();
    for component in path.split('/') {
        reached = if reached.is_empty() { component.to_owned() } else { format!("{reached}/{component}") };
        made = false;
        // From the root each time, so that a link may lead anywhere beneath it, and nowhere else.
        directory = match open(&reached) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&directory, component, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        owner.take_name(&directory, component)?;
                        made = true;
                    }
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                open(&reached)?
            }
            other => other?,
        };
    }
    Ok((directory, made))
}

impl Stage {
    pub(super) fn new(yard: &Arc<Yard>, owner: Owner) -> io::Result<Self> {
        let name = format!("tree.{}", ulid::Ulid::new());
        rustix::fs::mkdirat(&yard.staging, name.as_str(), Mode::from_raw_mode(0o700))?;
        let directory = sysfs::open_beneath(
            &yard.staging,
            Path::new(&name),
            OFlags::RDONLY | OFlags::DIRECTORY,
            0,
            Links::Refuse,
        )?;
        Ok(Self { yard: Arc::clone(yard), name, directory, owner })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = removal::remove_at(&self.yard.staging, &self.name, &|| true) {
            // It is swept at the next start.
            tracing::warn!(%error, name = self.name, "cannot remove what was staged");
        }
    }
}

impl Rubbish {
    /// Takes what a name stands for out of a workspace.
    pub(super) fn take(
        yard: &Arc<Yard>,
        directory: impl AsFd,
        name: impl rustix::path::Arg + Copy,
    ) -> io::Result<Self> {
        let rubbish = format!("files.{}", ulid::Ulid::new());
        match rustix::fs::renameat(&directory, name, &yard.trash, rubbish.as_str()) {
            Ok(()) => Ok(Self { place: RubbishPlace::Trash(Arc::clone(yard)), name: rubbish }),
            // A directory in a btrfs subvolume of the tenant's, or no room in the trash on a full disk.
            Err(Errno::XDEV | Errno::NOSPC | Errno::DQUOT | Errno::MLINK) => {
                let hidden = format!("{TEMPORARY}{}", ulid::Ulid::new());
                rustix::fs::renameat(&directory, name, &directory, hidden.as_str())?;
                let directory = directory.as_fd().try_clone_to_owned()?;
                Ok(Self { place: RubbishPlace::Workspace(directory), name: hidden })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes it while `go_on` says so; returns the bytes that it took. What is left is removed at the next start.
    ///
    /// # Errors
    /// Something in it cannot be removed, or it was told to end.
    pub fn remove(self, go_on: &dyn Fn() -> bool) -> io::Result<u64> {
        match self.place {
            RubbishPlace::Trash(yard) => removal::remove_at(&yard.trash, &self.name, go_on),
            RubbishPlace::Workspace(directory) => {
                removal::remove_in_place(&directory, &CString::new(self.name)?, go_on)
            }
        }
    }
}
