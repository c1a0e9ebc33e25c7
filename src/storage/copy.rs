//! Files and trees copied within a workspace.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::edit::MODE_BITS;
use super::files::Files;
use super::limits::{Budget, TreeLimits};
use super::path::FilePath;
use super::place::{Place, Rubbish, Stage};
use super::walk::{Node, Step, View, Walk};
use crate::error::FileError;
use crate::owner::Owner;
use model::FileStat;
use sys::fs as sysfs;

impl Files {
    /// Copies a file, a link or a tree; directories above the new place are made. The copy appears whole or
    /// not at all. FIFOs, sockets and devices are left out, and files with several names become several
    /// files. With `overwrite` whatever is there is replaced; what that leaves has to be removed.
    ///
    /// # Errors
    /// Not found, neither file nor directory nor link, the new place is taken, or a limit is passed.
    pub fn copy(
        &self,
        from: &FilePath,
        to: &FilePath,
        overwrite: bool,
        limits: TreeLimits,
    ) -> Result<(FileStat, Option<Rubbish>), FileError> {
        let failed = FileError::at("copy", from.as_str());
        let source = Place::find(self.directory(), from).map_err(&failed)?;
        let stat = sysfs::stat_name(&source.parent, &source.name).map_err(&failed)?;
        if !overwrite && self.stat(to).is_ok() {
            return Err(FileError::Exists { path: to.as_str().to_owned() });
        }
        let mut budget = self.budget(limits);
        budget.entry()?;
        let stage = Stage::new(self.yard(), self.owner()).map_err(&failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let inner = sysfs::open_subdirectory(&source.parent, &source.name).map_err(&failed)?;
            let top = make_directory(&stage.directory, &source.name, &stat, self.owner()).map_err(&failed)?;
            copy_tree(inner, top, self.owner(), &mut budget)?;
        } else if !copy_node(
            (&source.parent, &stage.directory),
            &source.name,
            kind,
            self.owner(),
            &mut budget,
        )? {
            return Err(FileError::NotRegular { path: from.as_str().to_owned() });
        }
        let failed = FileError::at("copy to", to.as_str());
        let target = Place::make(self.directory(), to, self.owner()).map_err(&failed)?;
        let put = target.put(&stage.directory, &source.name, overwrite, self.yard());
        let rubbish = put.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => FileError::IntoItself { path: from.as_str().to_owned() },
            _ => failed(error),
        })?;
        Ok((self.stat(to)?, rubbish))
    }
}

fn copy_tree(source: OwnedFd, target: OwnedFd, owner: Owner, budget: &mut Budget) -> Result<(), FileError> {
    let mut walk = Walk::new(source, View::Everything, true, budget)?;
    let mut targets = vec![target];
    while let Some(step) = walk.step(budget)? {
        let Some(target) = targets.last() else { break };
        match step {
            Step::Enter(Node { name, path, stat, .. }) => {
                let made = make_directory(target, &name, &stat, owner);
                targets.push(made.map_err(FileError::at("copy", &String::from_utf8_lossy(&path)))?);
            }
            Step::Leave => drop(targets.pop()),
            Step::Node(Node { name, kind, .. }) => {
                let Some(source) = walk.directory() else { break };
                copy_node((source, target), &name, kind, owner, budget)?;
            }
        }
    }
    Ok(())
}

fn make_directory(parent: &OwnedFd, name: &CString, like: &Stat, owner: Owner) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let directory = sysfs::open_subdirectory(parent, name)?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(like.st_mode & MODE_BITS))?;
    owner.take(&directory)?;
    Ok(directory)
}

/// Copies a file or link; says whether it was one. What has vanished counts as copied.
fn copy_node(
    (source, target): (&OwnedFd, &OwnedFd),
    name: &CString,
    kind: FileType,
    owner: Owner,
    budget: &mut Budget,
) -> Result<bool, FileError> {
    let copied = match kind {
        FileType::RegularFile => copy_file((source, target), name, owner, budget),
        FileType::Symlink => copy_link((source, target), name, owner),
        _ => return Ok(false),
    };
    match copied {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(FileError::from_io("copy", &name.to_string_lossy(), error)),
    }
}

fn copy_link((source, target): (&OwnedFd, &OwnedFd), name: &CString, owner: Owner) -> io::Result<()> {
    let link = rustix::fs::readlinkat(source, name, Vec::new())?;
    rustix::fs::symlinkat(&link, target, name)?;
    owner.take_name(target, name)
}

fn copy_file(
    (source, target): (&OwnedFd, &OwnedFd),
    name: &CString,
    owner: Owner,
    budget: &mut Budget,
) -> io::Result<()> {
    let (from, stat) = sysfs::open_file_at(source, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = File::from(rustix::fs::openat(target, name, flags, Mode::from_raw_mode(0o600))?);
    let length = u64::try_from(stat.st_size).unwrap_or_default();
    sysfs::copy_data(&from, &to, length, |bytes| budget.bytes(bytes).map_err(FileError::into_io))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & MODE_BITS))?;
    owner.take(&to)?;
    sysfs::set_modified(&to, stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default())
}
