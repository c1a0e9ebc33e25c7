//! The files of a workspace, as the API shows them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};

use super::limits::{Budget, TreeLimits, Wanted};
use super::path::FilePath;
use super::place::Yard;
use super::upload::Upload;
use super::walk::{Step, View, Walk};
use crate::error::FileError;
use crate::owner::Owner;
use sys::fs::{self as sysfs, Links};

/// A listing is sorted, and so held in memory as a whole: with paths of 80 bytes, which are long, there are as many bytes
/// as there may be entries.
const LISTING: TreeLimits =
    TreeLimits { entries_max: 50_000, bytes_max: 4 * 1024 * 1024, time_max: Duration::from_secs(60) };

/// The files beneath the base of one workspace: the app directory, or the whole home.
#[derive(Debug)]
pub struct Files {
    directory: OwnedFd,
    owner: Owner,
    yard: Arc<Yard>,
    wanted: Wanted,
}

/// What is in a directory: the paths in one piece of memory, and where each lies in it.
#[derive(Debug, Default)]
pub struct Listing {
    paths: String,
    entries: Vec<Listed>,
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    at: usize,
    length: usize,
    kind: EntryKind,
    size: u64,
}

/// One file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Relative to the base; a name that is not UTF-8 is shown with replacement characters.
    pub path: &'a str,
    pub kind: EntryKind,
    /// Of files only; a link counts as a file of the length of its target's name.
    pub size: Option<u64>,
}

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct Opened {
    pub content: Content,
    pub size: u64,
    /// Changes when the content does.
    pub version: String,
}

/// What is in a file, read by positions: several may read at once.
#[derive(Debug)]
pub struct Content(File);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Dir,
}

impl Files {
    pub(super) fn new(directory: OwnedFd, owner: Owner, yard: Arc<Yard>) -> Self {
        Self { directory, owner, yard, wanted: Wanted::default() }
    }

    /// Ends what is long, such as a listing or a copy, once nobody waits for it any more.
    pub fn while_wanted(mut self, wanted: &Wanted) -> Self {
        self.wanted = wanted.clone();
        self
    }

    pub(super) fn budget(&self, limits: TreeLimits) -> Budget {
        Budget::new(limits).wanted(&self.wanted)
    }

    /// The same files by descriptors of their own.
    ///
    /// # Errors
    /// The daemon has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, FileError> {
        let directory = self.directory.try_clone().map_err(FileError::at("open", "the base"))?;
        let yard = Arc::clone(&self.yard);
        Ok(Self { directory, owner: self.owner, yard, wanted: Wanted::default() })
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Whose everything is that is made here.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn yard(&self) -> &Arc<Yard> {
        &self.yard
    }

    /// Lists a directory, sorted by path. Links are listed, and not followed.
    ///
    /// # Errors
    /// Not found, not a directory, or more than 50,000 entries or 4 MiB of paths.
    pub fn list(&self, path: &FilePath, recursive: bool) -> Result<Listing, FileError> {
        let mut budget = self.budget(LISTING);
        let mut walk = Walk::new(self.subdirectory(path)?, View::Project, recursive, &budget)?;
        let prefix = if path.is_root() { String::new() } else { format!("{}/", path.as_str()) };
        let mut listing = Listing::default();
        while let Some(step) = walk.step(&mut budget)? {
            let (Step::Enter(node) | Step::Node(node)) = step else { continue };
            let shown = node.shown();
            budget.bytes(u64::try_from(prefix.len() + shown.len()).unwrap_or(u64::MAX))?;
            let kind = if node.kind == FileType::Directory { EntryKind::Dir } else { EntryKind::File };
            let at = listing.paths.len();
            listing.paths.extend([prefix.as_str(), shown.as_str()]);
            listing.entries.push(Listed { at, length: listing.paths.len() - at, kind, size: node.size() });
        }
        listing.sort();
        Ok(listing)
    }

    /// Opens a directory. Links that stay beneath the base are followed.
    ///
    /// # Errors
    /// Not found, not a directory, or a link that leads out.
    pub fn subdirectory(&self, path: &FilePath) -> Result<OwnedFd, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = sysfs::open_beneath(&self.directory, path.as_path(), flags, 0, Links::FollowBeneath);
        opened.map_err(FileError::at("open the directory", path.as_str()))
    }

    /// Opens a regular file. Links that stay beneath the base are followed.
    ///
    /// # Errors
    /// Not found, not a regular file, or a link that leads out.
    pub fn open(&self, path: &FilePath) -> Result<Opened, FileError> {
        let opened = sysfs::open_file_beneath(&self.directory, path.as_path(), Links::FollowBeneath);
        let (file, stat) = opened.map_err(FileError::at("open", path.as_str()))?;
        // The kernel changes the time with every write, to the tick; a replaced file is another inode.
        let version =
            format!("{:x}-{:x}.{:x}-{:x}", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
        Ok(Opened { content: Content(file), size: u64::try_from(stat.st_size).unwrap_or_default(), version })
    }

    /// Begins to write a file; directories above it are made.
    ///
    /// # Errors
    /// The path is a directory, leads out, or nothing can be written.
    pub fn create(&self, path: &FilePath) -> Result<Upload, FileError> {
        Upload::begin(&self.directory, path, self.owner)
    }
}

impl Listing {
    /// All entries, sorted by path.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.entries.iter().map(|listed| Entry {
            path: text_of(&self.paths, *listed),
            kind: listed.kind,
            size: (listed.kind == EntryKind::File).then_some(listed.size),
        })
    }

    fn sort(&mut self) {
        let paths = &self.paths;
        self.entries.sort_unstable_by(|a, b| text_of(paths, *a).cmp(text_of(paths, *b)));
    }
}

fn text_of(paths: &str, listed: Listed) -> &str {
    paths.get(listed.at..listed.at + listed.length).unwrap_or_default()
}

impl Content {
    pub(super) fn of(file: File) -> Self {
        Self(file)
    }

    /// Whether it has no name any more: then its last close gives its blocks back, which takes seconds for a large one.
    pub fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.0).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Reads at most `length` bytes; fewer only at the end.
    ///
    /// # Errors
    /// The disk fails.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        sysfs::read_at(&self.0, at, length)
    }

    /// The same without ever waiting: `None` for what is not in memory. Fewer bytes than are wanted may come; none
    /// at all is the end.
    ///
    /// # Errors
    /// The disk fails.
    pub fn read_cached(&self, at: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        sysfs::read_cached_at(&self.0, at, length)
    }
}
