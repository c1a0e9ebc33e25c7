//! How a tree that is whole comes into a workspace.
//!
//! What is not there yet comes by one rename, however large it is; directories that are there are entered, files
//! are exchanged. Each step is written down, so that a conflict takes all of them back.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::tree::TOP;
use crate::error::FileError;
use crate::files::Files;
use crate::path::FilePath;
use crate::place::Stage;
use sys::fs::{self as sysfs, Links};

/// One name that came into the workspace.
struct Done {
    /// Of its directory, the same beneath both tops.
    directory: usize,
    name: CString,
    flags: RenameFlags,
}

/// Says before anything is read whether there can be a directory.
pub(super) fn check(files: &Files, path: &FilePath) -> Result<(), FileError> {
    target(files, path).map(drop)
}

/// Brings the tree of a stage into a directory.
pub(super) fn run(files: &Files, path: &FilePath, stage: &Stage) -> Result<(), FileError> {
    let failed = FileError::at("unpack into", path.as_str());
    let (target, missing) = target(files, path)?;
    for component in missing.iter().rev() {
        wrap(stage, component).map_err(&failed)?;
    }
    let top = sysfs::open_subdirectory(&stage.directory, c"tree").map_err(&failed)?;
    let (mut done, mut directories) = (Vec::new(), Vec::new());
    let merged = merge(&top, &target, &mut done, &mut directories);
    let Err(error) = merged else { return Ok(()) };
    for step in done.into_iter().rev() {
        // A name that the tenant has taken away meanwhile cannot be taken back, and need not.
        let _ignored: io::Result<()> = take_back(&top, &target, &directories, &step);
    }
    Err(error)
}

/// Opens the directory, or the last one above it that exists; then also returns what is missing.
fn target(files: &Files, path: &FilePath) -> Result<(OwnedFd, Vec<String>), FileError> {
    let mut missing = Vec::new();
    let mut at = path.as_str();
    loop {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match sysfs::open_beneath(files.directory(), Path::new(at), flags, 0, Links::FollowBeneath) {
            Ok(directory) => {
                missing.reverse();
                return Ok((directory, missing));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && at != "." => {
                let (above, name) = at.rsplit_once('/').unwrap_or((".", at));
                missing.push(name.to_owned());
                at = above;
            }
            Err(error) => return Err(FileError::at("unpack into", path.as_str())(error)),
        }
    }
}

/// Puts the tree into a new directory of a given name, which then is the tree.
fn wrap(stage: &Stage, name: &str) -> io::Result<()> {
    const OUTER: &str = "outer";
    let inside = &stage.directory;
    rustix::fs::mkdirat(inside, OUTER, Mode::from_raw_mode(0o755))?;
    let outer = sysfs::open_subdirectory(inside, c"outer")?;
    rustix::fs::fchmod(&outer, Mode::from_raw_mode(0o755))?;
    stage.owner.take(&outer)?;
    rustix::fs::renameat(inside, TOP, &outer, name)?;
    Ok(rustix::fs::renameat(inside, OUTER, inside, TOP)?)
}

struct Level {
    from: OwnedFd,
    to: OwnedFd,
    names: std::vec::IntoIter<CString>,
    directory: usize,
}

fn merge(
    top: &OwnedFd,
    target: &OwnedFd,
    done: &mut Vec<Done>,
    directories: &mut Vec<PathBuf>,
) -> Result<(), FileError> {
    let whole = |error: io::Error| FileError::at("unpack into", "the directory")(error);
    let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(whole);
    let names = |fd: &OwnedFd| -> io::Result<std::vec::IntoIter<CString>> {
        let names: io::Result<Vec<CString>> = sysfs::names(fd)?.map(|n| n.map(|n| n.bytes)).collect();
        Ok(names?.into_iter())
    };
    directories.push(PathBuf::from("."));
    let first = Level {
        from: duplicate(top)?,
        to: duplicate(target)?,
        names: names(top).map_err(whole)?,
        directory: 0,
    };
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let above = directories.get(level.directory).cloned().unwrap_or_default();
        let path = above.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let shown = path.strip_prefix(".").unwrap_or(&path).to_string_lossy().into_owned();
        let failed = FileError::at("unpack", &shown);
        let rename = |flags| rustix::fs::renameat_with(&level.from, &name, &level.to, &name, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => {
                done.push(Done { directory: level.directory, name, flags: RenameFlags::NOREPLACE });
                continue;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let kind = |directory: &OwnedFd| {
            sysfs::stat_name(directory, &name).map(|s| FileType::from_raw_mode(s.st_mode)).map_err(&failed)
        };
        match (kind(&level.from)? == FileType::Directory, kind(&level.to)? == FileType::Directory) {
            (true, true) => {
                let from = sysfs::open_subdirectory(&level.from, &name).map_err(&failed)?;
                let to = sysfs::open_subdirectory(&level.to, &name).map_err(&failed)?;
                let names = names(&from).map_err(&failed)?;
                directories.push(path);
                let directory = directories.len() - 1;
                levels.push(Level { from, to, names, directory });
            }
            (false, false) => {
                rename(RenameFlags::EXCHANGE).map_err(|errno| failed(errno.into()))?;
                done.push(Done { directory: level.directory, name, flags: RenameFlags::EXCHANGE });
            }
            (true, false) | (false, true) => return Err(FileError::Exists { path: shown.clone() }),
        }
    }
    Ok(())
}

fn take_back(top: &OwnedFd, target: &OwnedFd, directories: &[PathBuf], step: &Done) -> io::Result<()> {
    let Some(path) = directories.get(step.directory) else { return Ok(()) };
    let open = |root| sysfs::open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY, 0, Links::Refuse);
    let (to, from) = (open(top)?, open(target)?);
    Ok(rustix::fs::renameat_with(&from, &step.name, &to, &step.name, step.flags)?)
}
