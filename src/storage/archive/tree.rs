//! A tree that is made from an archive, in a directory that only the daemon can reach.
//!
//! Names come from an enemy: each is taken apart, and each part is opened alone, without following a link,
//! in the directory before it. What the archive itself has put there cannot lead anywhere.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::bounds::{BUFFER_BYTES, Unpacked, broken, refused};
use crate::edit::MODE_BITS;
use crate::error::FileError;
use crate::limits::{Budget, DEPTH_MAX};
use crate::owner::Owner;
use crate::place::Stage;
use sys::fs::{self as sysfs, Links};

/// The name of the tree in its stage.
pub(super) const TOP: &str = "tree";
const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

/// The tree and the way to the directory that was used last.
#[derive(Debug)]
pub(super) struct Tree {
    top: OwnedFd,
    owner: Owner,
    /// Entries of an archive mostly lie beside one another.
    way: Vec<(CString, OwnedFd)>,
    buffer: Vec<u8>,
    unpacked: Unpacked,
}

impl Tree {
    pub(super) fn new(stage: &Stage) -> io::Result<Self> {
        rustix::fs::mkdirat(&stage.directory, TOP, Mode::from_raw_mode(0o755))?;
        let top = sysfs::open_subdirectory(&stage.directory, c"tree")?;
        rustix::fs::fchmod(&top, Mode::from_raw_mode(0o755))?;
        stage.owner.take(&top)?;
        let unpacked = Unpacked { entries: 0, bytes: 0 };
        Ok(Self { top, owner: stage.owner, way: Vec::new(), buffer: vec![0; BUFFER_BYTES], unpacked })
    }

    pub(super) fn unpacked(&self) -> Unpacked {
        self.unpacked
    }

    pub(super) fn directory(&mut self, path: &[u8], mode: u32) -> Result<(), FileError> {
        let components = components(path)?;
        if components.is_empty() {
            // The directory itself stays as it is.
            return Ok(());
        }
        let directory = self.enter(&components, path)?;
        let mode = Mode::from_raw_mode(mode & MODE_BITS);
        rustix::fs::fchmod(directory, mode).map_err(|e| failed(path)(e.into()))?;
        self.unpacked.entries += 1;
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        path: &[u8],
        mode: u32,
        modified: i64,
        size: u64,
        content: &mut dyn Read,
        budget: &mut Budget,
    ) -> Result<(), FileError> {
        let (parent, name) = split(path)?;
        // What it says it has: more is not taken, and less is refused.
        budget.bytes(size)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |directory: &OwnedFd| {
            Ok(rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(0o600))?)
        };
        let mut file = File::from(self.make(&parent, &name, path, create)?);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let Some(piece) = self.buffer.get_mut(..wanted) else { break };
            let read = content.read(piece).map_err(broken)?;
            let Some(piece) = piece.get(..read).filter(|p| !p.is_empty()) else {
                return Err(refused("it is cut short"));
            };
            budget.in_time()?;
            file.write_all(piece).map_err(failed(path))?;
            left -= u64::try_from(read).unwrap_or(u64::MAX);
        }
        // A reader that checks what it has read does so at its end.
        let mut more = [0];
        if content.read(&mut more).map_err(broken)? != 0 {
            return Err(refused("an entry is longer than it says"));
        }
        self.owner.take(&file).map_err(failed(path))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & MODE_BITS))
            .map_err(|e| failed(path)(e.into()))?;
        if modified > 0 {
            // A time that the file system cannot hold is left as it is.
            let _ignored: io::Result<()> = sysfs::set_modified(&file, modified, 0);
        }
        self.unpacked.bytes += size;
        Ok(())
    }

    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), FileError> {
        if target.is_empty() || target.len() >= PATH_BYTES_MAX || target.contains(&0) {
            return Err(refused("it has a link with a bad target"));
        }
        let ((parent, name), owner) = (split(path)?, self.owner);
        self.make(&parent, &name, path, |directory| {
            rustix::fs::symlinkat(target, directory, &name)?;
            owner.take_name(directory, &name)
        })
    }

    /// Gives a file of this archive a second name.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), FileError> {
        let missing = || refused("it has a hard link to what is no file of its own");
        let (target_parent, target_name) = split(target)?;
        let mut text = target_parent.iter().fold(vec![b'.'], |mut text, part| {
            text.push(b'/');
            text.extend_from_slice(part.to_bytes());
            text
        });
        text.push(b'/');
        let way = Path::new(OsStr::from_bytes(&text));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let source = sysfs::open_beneath(&self.top, way, flags, 0, Links::Refuse).map_err(|_e| missing())?;
        let stat = sysfs::stat_name(&source, &target_name).map_err(|_e| missing())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(missing());
        }
        let (parent, name) = split(path)?;
        if parent == target_parent && name == target_name {
            return Err(missing());
        }
        self.make(&parent, &name, path, |directory| {
            Ok(rustix::fs::linkat(&source, &target_name, directory, &name, AtFlags::empty())?)
        })
    }

    /// Makes something in a directory; what the archive had there before is replaced, as tar does.
    fn make<T>(
        &mut self,
        parent: &[CString],
        name: &CString,
        path: &[u8],
        make: impl Fn(&OwnedFd) -> io::Result<T>,
    ) -> Result<T, FileError> {
        let directory = self.enter(parent, path)?;
        let made = match make(directory) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                // A directory is not: then it is in the archive twice, as two things.
                rustix::fs::unlinkat(directory, name, AtFlags::empty())
                    .map_err(|_e| refused(format!("{:?} is a directory in it too", shown(path))))?;
                make(directory)
            }
            other => other,
        };
        self.unpacked.entries += 1;
        made.map_err(failed(path))
    }

    /// Opens a directory of the tree, and makes those that are missing on the way.
    fn enter(&mut self, components: &[CString], path: &[u8]) -> Result<&OwnedFd, FileError> {
        let common = self.way.iter().zip(components).take_while(|(have, want)| have.0 == **want).count();
        self.way.truncate(common);
        for component in components.iter().skip(common) {
            let parent = self.way.last().map_or(&self.top, |last| &last.1);
            let made = match rustix::fs::mkdirat(parent, component, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(failed(path)(errno.into())),
            };
            let directory = sysfs::open_subdirectory(parent, component)
                .map_err(|_e| refused(format!("{:?} passes through a file or link", shown(path))))?;
            if made {
                self.owner.take(&directory).map_err(failed(path))?;
            }
            self.way.push((component.clone(), directory));
        }
        Ok(self.way.last().map_or(&self.top, |last| &last.1))
    }
}

/// Takes a name apart into the parts of a path beneath the tree.
fn components(path: &[u8]) -> Result<Vec<CString>, FileError> {
    let refuse = |why: &str| Err(refused(format!("{:?} {why}", shown(path))));
    if path.len() > PATH_BYTES_MAX {
        return refuse("is too long");
    }
    if path.first() == Some(&b'/') {
        return refuse("is an absolute name");
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")) {
        if part == b".." {
            return refuse("leads out");
        }
        if part.len() > NAME_BYTES_MAX {
            return refuse("is too long");
        }
        let Ok(part) = CString::new(part) else { return refuse("has a NUL character") };
        parts.push(part);
    }
    if parts.len() > DEPTH_MAX {
        return refuse("is too deep");
    }
    Ok(parts)
}

fn split(path: &[u8]) -> Result<(Vec<CString>, CString), FileError> {
    let mut parts = components(path)?;
    let Some(name) = parts.pop() else { return Err(refused("it has a file without a name")) };
    Ok((parts, name))
}

fn failed(path: &[u8]) -> impl Fn(io::Error) -> FileError {
    let path = shown(path);
    move |error| FileError::at("unpack", &path)(error)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..path.len().min(200)).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let parts = |path: &[u8]| {
            components(path).map(|c| c.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parts(b"./a//b/./c/").unwrap(), ["a", "b", "c"]);
        assert!(parts(b"./").unwrap().is_empty());
        let long = [b"a/".repeat(65), b"x".repeat(256), b"a/".repeat(2049)];
        let bad = [b"/etc".as_slice(), b"..", b"a/../b", b"a/..", b"a\0b"];
        for bad in bad.into_iter().chain(long.iter().map(Vec::as_slice)) {
            assert!(parts(bad).is_err(), "{:?}", shown(bad));
        }
    }

    proptest! {
        #[test]
        fn no_part_leads_anywhere(path in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..60)) {
            for part in components(&path).unwrap_or_default() {
                let part = part.to_bytes();
                prop_assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&b'/'));
            }
        }
    }
}
