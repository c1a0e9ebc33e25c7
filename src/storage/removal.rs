//! Removal of trees that tenants have made, whatever is in them and whoever still changes them.
//!
//! A tree can be deeper than any stack, wider than memory, and named to collide with whatever is put beside it. So each
//! directory in it is lifted into a directory of the host's own under a random name, and taken apart there: three
//! descriptors and no memory are enough for any depth and width. What cannot be lifted (a directory in a btrfs
//! subvolume of the tenant's, or no room for one more name on a full disk) is descended into, and what is beneath it is
//! lifted to it. What cannot be removed is left, and the rest is removed all the same.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use ulid::Ulid;

use sys::btrfs;
use sys::fs as sysfs;

/// The unit of `st_blocks`: man 3 stat.
const BLOCK_BYTES: u64 = 512;
/// How long one removal may take: a tenant who has a directory of the tree open may go on filling it.
const DURATION_MAX: Duration = Duration::from_secs(1800);
/// How deep directories are descended into that cannot be lifted; each level takes three descriptors and some stack.
/// Subvolumes take two levels, however they are nested: the top of each can be lifted.
const DEPTH_MAX: usize = 64;

/// Why a removal ended before it had looked at everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stopped;

/// One removal under way.
struct Removal<'a> {
    /// Where directories are lifted to; the first is the host's own, unless there is no room for one.
    lifts: Vec<OwnedFd>,
    freed_bytes: u64,
    /// How many names were removed or lifted.
    steps: u64,
    /// The last thing that could not be removed.
    failure: Option<io::Error>,
    deadline: Instant,
    go_on: &'a dyn Fn() -> bool,
}

/// Removes what a name in a directory of the host's own stands for; returns the bytes that it took on the disk. Links are
/// removed and not followed. Nothing there is no error.
///
/// # Errors
/// Why something could not be removed, or `TimedOut` when it took too long or `go_on` said no. Everything else is gone,
/// and the names of what is left begin with `name` up to its first dot.
pub(super) fn remove_at(
    parent: &OwnedFd,
    name: impl AsRef<Path>,
    go_on: &dyn Fn() -> bool,
) -> io::Result<u64> {
    let name = CString::new(name.as_ref().as_os_str().as_bytes())?;
    let Some(stat) = present(sysfs::stat_name(parent, &name))? else { return Ok(0) };
    if !is_directory(&stat) {
        return unlink(parent, &name, &stat);
    }
    let label = name.to_string_lossy();
    let beside = format!("{}.{}", label.split('.').next().unwrap_or_default(), Ulid::new());
    // On a full disk there may be none: then what cannot be lifted is descended into.
    let lift = rustix::fs::mkdirat(parent, &beside, Mode::from_raw_mode(0o700)).is_ok();
    let lift = lift.then(|| CString::new(beside)).transpose()?;
    let opened = lift.as_ref().map(|lift| sysfs::open_subdirectory(parent, lift)).transpose()?;
    let mut removal = Removal::new(opened, go_on);
    let stopped = removal.remove_tree(parent, &name);
    let names: Vec<_> = std::iter::once(&name).chain(&lift).collect();
    removal.conclude(stopped, parent, &names)
}

/// The same of a name in a directory that a tenant may see: nothing is made beside it.
///
/// # Errors
/// As [`remove_at`].
pub(super) fn remove_in_place(parent: &OwnedFd, name: &CString, go_on: &dyn Fn() -> bool) -> io::Result<u64> {
    let Some(stat) = present(sysfs::stat_name(parent, name))? else { return Ok(0) };
    if !is_directory(&stat) {
        return unlink(parent, name, &stat);
    }
    let mut removal = Removal::new(None, go_on);
    let stopped = removal.remove_tree(parent, name);
    removal.conclude(stopped, parent, &[name])
}

impl<'a> Removal<'a> {
    fn new(lift: Option<OwnedFd>, go_on: &'a dyn Fn() -> bool) -> Self {
        Self {
            lifts: lift.into_iter().collect(),
            freed_bytes: 0,
            steps: 0,
            failure: None,
            deadline: Instant::now() + DURATION_MAX,
            go_on,
        }
    }

    /// Removes a directory, and then what was lifted out of it.
    fn remove_tree(&mut self, parent: &OwnedFd, name: &CStr) -> Result<(), Stopped> {
        self.descend(parent, name, 0)?;
        let Some(lift) = self.lifts.first().map(OwnedFd::try_clone) else { return Ok(()) };
        match lift {
            Ok(lift) => self.empty(&lift, true, 0),
            Err(error) => {
                self.failure = Some(error);
                Ok(())
            }
        }
    }

    /// Says how it went: by what is left, since what failed once may have worked in a later round.
    fn conclude(
        mut self,
        stopped: Result<(), Stopped>,
        parent: &OwnedFd,
        names: &[&CString],
    ) -> io::Result<u64> {
        let mut is_gone = true;
        for &name in names {
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    is_gone = false;
                    self.failure.get_or_insert_with(|| errno.into());
                }
            }
        }
        match (is_gone, stopped) {
            (true, _) => Ok(self.freed_bytes),
            (false, Err(Stopped)) => Err(io::ErrorKind::TimedOut.into()),
            (false, Ok(())) => Err(self.failure.unwrap_or_else(|| io::ErrorKind::DirectoryNotEmpty.into())),
        }
    }

    /// Removes what is in a directory, round by round until a round removes nothing. `is_lift`: directories in it are
    /// where they are to be, and are taken apart; elsewhere they are lifted first.
    fn empty(&mut self, directory: &OwnedFd, is_lift: bool, depth: usize) -> Result<(), Stopped> {
        loop {
            let before = self.steps;
            let names = match sysfs::names(directory) {
                Ok(names) => names,
                Err(error) => {
                    self.failure = Some(error);
                    return Ok(());
                }
            };
            // Names that come and go while a directory is listed may be missed: the next round finds them.
            let mut is_empty = true;
            for name in names {
                is_empty = false;
                if Instant::now() > self.deadline || !(self.go_on)() {
                    return Err(Stopped);
                }
                match name {
                    Ok(name) => self.remove_one(directory, &name.bytes, is_lift, depth)?,
                    Err(error) => {
                        self.failure = Some(error);
                        break;
                    }
                }
            }
            if is_empty || self.steps == before {
                return Ok(());
            }
        }
    }

    fn remove_one(
        &mut self,
        directory: &OwnedFd,
        name: &CString,
        is_lift: bool,
        depth: usize,
    ) -> Result<(), Stopped> {
        let stat = match present(sysfs::stat_name(directory, name)) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.failure = Some(error);
                return Ok(());
            }
        };
        if !is_directory(&stat) {
            match unlink(directory, name, &stat) {
                Ok(freed_bytes) => self.step(freed_bytes),
                Err(error) => self.failure = Some(error),
            }
            return Ok(());
        }
        if is_lift {
            return self.descend(directory, name, depth + 1);
        }
        if self.lift(directory, name) {
            return Ok(());
        }
        match directory.try_clone() {
            Ok(here) => self.lifts.push(here),
            Err(error) => {
                self.failure = Some(error);
                return Ok(());
            }
        }
        let descended = self.descend(directory, name, depth + 1);
        drop(self.lifts.pop());
        descended
    }

    /// Moves a directory to where directories are lifted to.
    fn lift(&mut self, directory: &OwnedFd, name: &CString) -> bool {
        for lift in &self.lifts {
            // Nobody has this name, so nothing is replaced.
            let random = Ulid::new().to_string();
            match rustix::fs::renameat(directory, name, lift, random.as_str()) {
                Ok(()) => {
                    self.steps += 1;
                    return true;
                }
                // It is gone; or the place is, which another removal of the same tree has emptied. Then this is no step,
                // so that nobody goes on trying.
                Err(Errno::NOENT) => return true,
                // Another subvolume, no room for the name, a directory without its key: the next one may do.
                Err(_) => {}
            }
        }
        false
    }

    /// Empties one directory and removes it.
    fn descend(&mut self, parent: &OwnedFd, name: &CStr, depth: usize) -> Result<(), Stopped> {
        if depth > DEPTH_MAX {
            self.failure = Some(io::Error::other("it is too deep, and nothing can be moved out of it"));
            return Ok(());
        }
        let directory = match open(parent, name) {
            Ok(Some(directory)) => directory,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.failure = Some(error);
                return Ok(());
            }
        };
        let stat = match rustix::fs::fstat(&directory) {
            Ok(stat) => stat,
            Err(errno) => {
                self.failure = Some(errno.into());
                return Ok(());
            }
        };
        if stat.st_ino == btrfs::TOP_INODE {
            if btrfs::destroy_subvolume(parent, name).is_ok() {
                self.step(0);
                return Ok(());
            }
            // Another subvolume is in it, or it is a plain directory of this number. A read-only snapshot must be
            // writable before that can be lifted out of it.
            let _refused_elsewhere: io::Result<()> = btrfs::make_writable(&directory);
        }
        self.empty(&directory, false, depth)?;
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => self.step(bytes_of(&stat)),
            // A tenant who was removing it too, and had it open, has got there first.
            Err(Errno::NOENT) => {}
            // What was missed, or added meanwhile, the next round has; what cannot be removed has said why.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => self.failure = Some(errno.into()),
        }
        Ok(())
    }

    fn step(&mut self, freed_bytes: u64) {
        self.steps += 1;
        self.freed_bytes += freed_bytes;
    }
}

/// Opens a directory; `None` once it is gone or something else. What is mounted is refused: it is not the tenant's.
fn open(parent: &OwnedFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
            // Something was renamed while the kernel resolved.
            Err(Errno::AGAIN) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => return Ok(Some(opened?)),
        }
    }
}

fn unlink(directory: &OwnedFd, name: &CString, stat: &Stat) -> io::Result<u64> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        // Of a file with several names only the last one frees anything.
        Ok(()) => Ok(if stat.st_nlink == 1 { bytes_of(stat) } else { 0 }),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

fn present(stat: io::Result<Stat>) -> io::Result<Option<Stat>> {
    match stat {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn bytes_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_goes_whatever_it_is_called() {
        let host = tempfile::tempdir().unwrap();
        let parent = sysfs::open_directory(host.path()).unwrap();
        let tree = host.path().join("tree.x");
        for path in
            [".removing-0/s/x", ".removing-1/.removing-0/y", "tree.x/tree.x", "a/b/c/d/e/f", ".upload-x/z"]
        {
            fs::create_dir_all(tree.join(path)).unwrap();
            fs::write(tree.join(path).join("file"), path).unwrap();
        }
        let mut deep = tree.join("deep");
        fs::create_dir(&deep).unwrap();
        for level in 0..300 {
            deep.push(if level % 2 == 0 { ".removing-0" } else { "d" });
            fs::create_dir(&deep).unwrap();
        }
        std::os::unix::fs::symlink("/etc", tree.join("link")).unwrap();
        fs::write(host.path().join("neighbour"), "stays").unwrap();
        assert!(remove_at(&parent, "tree.x", &|| true).unwrap() > 0);
        assert_eq!(remove_at(&parent, "tree.x", &|| true).unwrap(), 0);
        let left: Vec<_> = fs::read_dir(host.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["neighbour"]);
    }

    #[test]
    fn a_removal_that_is_stopped_leaves_the_rest_under_its_name_and_goes_on_later() {
        let host = tempfile::tempdir().unwrap();
        let parent = sysfs::open_directory(host.path()).unwrap();
        for number in 0..50 {
            fs::create_dir_all(host.path().join(format!("tree.x/{number}/{number}"))).unwrap();
        }
        let left = std::cell::Cell::new(60);
        let go_on = || left.replace(left.get() - 1) > 0;
        assert_eq!(remove_at(&parent, "tree.x", &go_on).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let names: Vec<_> = fs::read_dir(host.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!names.is_empty());
        for name in names {
            assert!(name.to_str().unwrap().starts_with("tree."), "{name:?}");
            remove_at(&parent, &name, &|| true).unwrap();
        }
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_lifted_is_descended_into() {
        let host = tempfile::tempdir().unwrap();
        let parent = sysfs::open_directory(host.path()).unwrap();
        fs::create_dir_all(host.path().join("tree/".to_owned() + &"d/".repeat(500))).unwrap();
        fs::create_dir_all(host.path().join("tree/wide/a/b")).unwrap();
        assert!(remove_in_place(&parent, &c"tree".to_owned(), &|| true).is_ok());
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }
}
