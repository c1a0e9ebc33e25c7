//! The files beneath the app directory, as the API shows them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, OFlags};

use super::FileError;
use super::path::FilePath;
use super::upload::Upload;
use crate::sys::fs::{self as sysfs, Links};

/// What no listing shows: it is large, and made from what is shown.
const HIDDEN: [&str; 5] = ["node_modules", ".git", "dist", ".vite", ".upload-"];
const ENTRIES_MAX: usize = 50_000;
const DEPTH_MAX: usize = 64;

/// The app directory of one workspace.
#[derive(Debug)]
pub struct Files {
    directory: OwnedFd,
}

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the app directory; a name that is not UTF-8 is shown with replacement characters.
    pub path: String,
    pub kind: EntryKind,
    /// Of files only; a link counts as a file of the length of its target's name.
    pub size: Option<u64>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Dir,
}

impl Files {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self { directory }
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Lists a directory, sorted by path. Links are listed, and not followed.
    ///
    /// # Errors
    /// Not found, not a directory, or more than 50,000 entries.
    pub fn list(&self, path: &FilePath, recursive: bool) -> Result<Vec<Entry>, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let failed = FileError::at("list", path.as_str());
        let top = sysfs::open_beneath(&self.directory, path.as_path(), flags, 0, Links::FollowBeneath);
        let mut stack = vec![(top.map_err(&failed)?, prefix_of(path), 0)];
        let mut entries = Vec::new();
        while let Some((directory, prefix, depth)) = stack.pop() {
            for name in sysfs::names(&directory).map_err(&failed)? {
                let name = name.map_err(&failed)?.bytes;
                let shown = name.to_string_lossy();
                if HIDDEN.iter().any(|h| shown == *h || (h.ends_with('-') && shown.starts_with(h))) {
                    continue;
                }
                // It may be gone by now.
                let Ok(stat) = sysfs::stat_name(&directory, &name) else { continue };
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let path = format!("{prefix}{shown}");
                if is_directory && recursive {
                    if depth >= DEPTH_MAX {
                        return Err(FileError::TooMany { limit: ENTRIES_MAX });
                    }
                    let name = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
                    if let Ok(inner) = sysfs::open_beneath(&directory, name, flags, 0, Links::Refuse) {
                        stack.push((inner, format!("{path}/"), depth + 1));
                    }
                }
                let kind = if is_directory { EntryKind::Dir } else { EntryKind::File };
                let size = (!is_directory).then(|| u64::try_from(stat.st_size).unwrap_or_default());
                entries.push(Entry { path, kind, size });
                if entries.len() > ENTRIES_MAX {
                    return Err(FileError::TooMany { limit: ENTRIES_MAX });
                }
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Opens a regular file; returns its size and when it was changed. Links that stay beneath the app
    /// directory are followed.
    ///
    /// # Errors
    /// Not found, not a regular file, or a link that leads out.
    pub fn open(&self, path: &FilePath) -> Result<(File, u64, Option<SystemTime>), FileError> {
        let opened = sysfs::open_file_beneath(&self.directory, path.as_path(), Links::FollowBeneath);
        let (file, stat) = opened.map_err(FileError::at("open", path.as_str()))?;
        let modified =
            u64::try_from(stat.st_mtime).ok().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        Ok((file, u64::try_from(stat.st_size).unwrap_or_default(), modified))
    }

    /// Begins to write a file; directories above it are made.
    ///
    /// # Errors
    /// The path is a directory, leads out, or nothing can be written.
    pub fn create(&self, path: &FilePath) -> Result<Upload, FileError> {
        Upload::begin(&self.directory, path)
    }
}

fn prefix_of(path: &FilePath) -> String {
    if path.as_str() == "." { String::new() } else { format!("{}/", path.as_str()) }
}
