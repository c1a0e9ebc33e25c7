//! A tree, entry by entry, that a tenant may be changing meanwhile.
//!
//! No link is followed, only real directories are entered, and one descriptor is open per level: neither a
//! wide nor a deep tree uses up the daemon's descriptors or its stack. What vanishes on the way is left out.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat};

use super::FileError;
use super::limits::{Budget, DEPTH_MAX};
use crate::sys::fs as sysfs;

/// What no listing and no export shows: it is large, and made from what is shown.
const HIDDEN: [&str; 4] = ["node_modules", ".git", "dist", ".vite"];
/// Begins the name of a file that is being written.
pub(super) const TEMPORARY: &str = ".upload-";

/// Which entries are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Without `node_modules`, `.git`, `dist` and `.vite`.
    Project,
    Everything,
}

/// One file, link or directory.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: CString,
    /// Relative to where the walk began.
    pub(super) path: Vec<u8>,
    pub(super) kind: FileType,
    pub(super) stat: Stat,
}

/// One step of a walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory, which the walk is in from now on.
    Enter(Node),
    /// The end of a directory; the walk is in the one above again.
    Leave,
    /// Anything but a directory, or a directory that is not to be entered.
    Node(Node),
}

/// A walk through a tree.
#[derive(Debug)]
pub(super) struct Walk {
    levels: Vec<Level>,
    view: View,
    recursive: bool,
}

#[derive(Debug)]
struct Level {
    directory: OwnedFd,
    names: std::vec::IntoIter<CString>,
    path: Vec<u8>,
}

impl View {
    pub(super) fn hides(self, name: &[u8]) -> bool {
        name.starts_with(TEMPORARY.as_bytes())
            || self == Self::Project && HIDDEN.iter().any(|h| h.as_bytes() == name)
    }
}

impl Walk {
    /// Begins in a directory, whose entries are the first ones seen.
    pub(super) fn new(
        directory: OwnedFd,
        view: View,
        recursive: bool,
        budget: &Budget,
    ) -> Result<Self, FileError> {
        let mut walk = Self { levels: Vec::new(), view, recursive };
        walk.enter(directory, Vec::new(), budget)?;
        Ok(walk)
    }

    /// The directory that the walk is in: that of the node just returned, or the one just entered.
    pub(super) fn directory(&self) -> Option<&OwnedFd> {
        self.levels.last().map(|level| &level.directory)
    }

    /// Returns the next step, or `None` at the end.
    pub(super) fn step(&mut self, budget: &mut Budget) -> Result<Option<Step>, FileError> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = level.names.next() else {
                self.levels.pop();
                return Ok(if self.levels.is_empty() { None } else { Some(Step::Leave) });
            };
            // It may be gone by now.
            let Ok(stat) = sysfs::stat_name(&level.directory, &name) else { continue };
            budget.entry()?;
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory || !self.recursive {
                return Ok(Some(Step::Node(Node { name, path, kind, stat })));
            }
            let Ok(inner) = sysfs::open_subdirectory(&level.directory, &name) else { continue };
            if self.levels.len() >= DEPTH_MAX {
                return Err(FileError::Limit {
                    what: "levels of directories",
                    limit: DEPTH_MAX.try_into().unwrap_or(u64::MAX),
                });
            }
            self.enter(inner, path.clone(), budget)?;
            return Ok(Some(Step::Enter(Node { name, path, kind, stat })));
        }
    }

    fn enter(&mut self, directory: OwnedFd, path: Vec<u8>, budget: &Budget) -> Result<(), FileError> {
        let shown = String::from_utf8_lossy(&path).into_owned();
        let failed = FileError::at("list", &shown);
        let limit = budget.limits().entries_max;
        let mut names = Vec::new();
        for name in sysfs::names(&directory).map_err(&failed)? {
            let name = name.map_err(&failed)?.bytes;
            if self.view.hides(name.as_bytes()) {
                continue;
            }
            // Before they are held in memory: a directory can have millions.
            if u64::try_from(names.len()).unwrap_or(u64::MAX) >= limit {
                return Err(FileError::Limit { what: "entries", limit });
            }
            names.push(name);
        }
        names.sort_unstable();
        self.levels.push(Level { directory, names: names.into_iter(), path });
        Ok(())
    }
}

impl Node {
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or_default()
    }
}
