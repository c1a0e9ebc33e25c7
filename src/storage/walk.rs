//! A tree, entry by entry, that a tenant may be changing meanwhile.
//!
//! No link is followed, only real directories are entered, and at most two descriptors are open per level: neither a
//! wide nor a deep tree uses up the daemon's descriptors, its stack or its memory. What vanishes on the way is left out.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat};

use super::limits::{Budget, DEPTH_MAX};
use crate::error::FileError;
use sys::fs::{self as sysfs, Names};

/// What no listing and no export shows: it is large, and made from what is shown.
const HIDDEN: [&str; 4] = ["node_modules", ".git", "dist", ".vite"];
/// Begins the name of a file that is being written.
pub(super) const TEMPORARY: &str = ".upload-";

/// How many bytes of names a walk holds to sort them, about 4,000 names; what a directory has beyond comes as the file
/// system has it. A tenant can make millions.
const NAMES_BYTES_MAX: usize = 256 * 1024;
/// What a name that is held costs beside its bytes.
const NAME_OVERHEAD_BYTES: usize = 48;
/// So many names that are not shown are passed over between two looks at the clock.
const LOOK_EVERY: usize = 1024;

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
    /// Bytes of the names that all levels hold.
    held: usize,
}

#[derive(Debug)]
struct Level {
    directory: OwnedFd,
    /// Sorted.
    names: std::vec::IntoIter<CString>,
    /// Where there were too many to be sorted.
    rest: Option<Names>,
    path: Vec<u8>,
    held: usize,
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
        let mut walk = Self { levels: Vec::new(), view, recursive, held: 0 };
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
            let Some(name) = level.next(self.view, budget)? else {
                self.held -= level.held;
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
        let rest = Some(sysfs::names(&directory).map_err(&failed)?);
        let mut level = Level { directory, names: Vec::new().into_iter(), rest, path, held: 0 };
        let mut names = Vec::new();
        while let Some(name) = level.unread(self.view, budget)? {
            level.held += name.as_bytes().len() + NAME_OVERHEAD_BYTES;
            names.push(name);
            if self.held + level.held >= NAMES_BYTES_MAX {
                break;
            }
        }
        names.sort_unstable();
        level.names = names.into_iter();
        self.held += level.held;
        self.levels.push(level);
        Ok(())
    }
}

impl Level {
    /// Returns the next name, or `None` at the end.
    fn next(&mut self, view: View, budget: &Budget) -> Result<Option<CString>, FileError> {
        match self.names.next() {
            Some(name) => Ok(Some(name)),
            None => self.unread(view, budget),
        }
    }

    /// Reads the next name that is seen.
    fn unread(&mut self, view: View, budget: &Budget) -> Result<Option<CString>, FileError> {
        let Some(rest) = &mut self.rest else { return Ok(None) };
        for (number, name) in rest.enumerate() {
            if number % LOOK_EVERY == LOOK_EVERY - 1 {
                budget.in_time()?;
            }
            let shown = || String::from_utf8_lossy(&self.path).into_owned();
            let name = name.map_err(|error| FileError::at("list", &shown())(error))?.bytes;
            if !view.hides(name.as_bytes()) {
                return Ok(Some(name));
            }
        }
        self.rest = None;
        Ok(None)
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
