//! A tar stream from a server as files here, and nothing beyond the destination.
//!
//! A server, or the tenant whose files it sends, may lie in every byte. So: a name with `..` or a leading `/` ends the
//! copy; no link is ever followed, neither one that was there nor one from the archive; what exists is
//! unlinked and made anew, never written through; owners, set-id bits and devices are not taken over; links that lead
//! out of the copied tree are left out and told. Names in headers are bounded before they are read.

use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use sys::fs::{Links, open_beneath};

use super::copied::Copied;
use super::failure::Failure;
use super::pack::local;
use super::pipe::PipeReader;

/// The most bytes of a name that has an entry of its own.
const NAME_BYTES_MAX: u64 = 64 * 1024;
const COPY_BYTES: usize = 128 * 1024;

/// Unpacks into a directory.
#[derive(Debug)]
pub(super) struct Unpacker {
    root: OwnedFd,
    /// Only for messages.
    shown: PathBuf,
    keeps_links: bool,
    copied: Arc<Copied>,
    /// The directory of the last entry: trees come in order.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories that were made here get their modes last, since they may forbid to write.
    made: Vec<(PathBuf, u32)>,
}

/// Names that come before the entry they are of.
#[derive(Debug, Default)]
struct Names {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Unpacker {
    /// Takes a directory that exists; links on the way to it are the user's own.
    pub(super) fn new(directory: &Path, keeps_links: bool, copied: Arc<Copied>) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|e| local("open", directory, e.into()))?;
        let shown = directory.to_owned();
        Ok(Self { root, shown, keeps_links, copied, parent: None, made: Vec::new() })
    }

    /// Unpacks everything.
    ///
    /// # Errors
    /// [`Failure::Archive`] for what must not be unpacked, [`Failure::Local`] for what cannot be.
    pub(super) fn unpack(mut self, reader: PipeReader) -> Result<(), Failure> {
        let broken = |e: io::Error| Failure::Archive(e.to_string());
        let mut archive = Archive::new(reader);
        let mut names = Names::default();
        // Raw, so that the size of a name is known before it is read into memory.
        for entry in archive.entries().map_err(broken)?.raw(true) {
            let mut entry = entry.map_err(broken)?;
            let kind = entry.header().entry_type();
            if names.take(&mut entry, kind)? {
                continue;
            }
            let Names { path, target } = std::mem::take(&mut names);
            let path = confined(&path.unwrap_or_else(|| entry.path_bytes().into_owned()))?;
            self.copied.name(&path.display().to_string());
            match kind {
                EntryType::Regular | EntryType::Continuous => self.file(&mut entry, &path)?,
                EntryType::Directory => self.directory(&path, mode(&entry))?,
                EntryType::Symlink => {
                    let target = target.or_else(|| entry.link_name_bytes().map(|name| name.into_owned()));
                    self.link(&path, &target.unwrap_or_default())?;
                }
                _ => self.copied.skip(&format!("{}, which is no file, directory or link", path.display())),
            }
        }
        self.finish()
    }

    fn file(&mut self, entry: &mut Entry<'_, PipeReader>, path: &Path) -> Result<(), Failure> {
        let shown = self.shown.join(path);
        let failed = |e: io::Error| local("write", &shown, e);
        let mode = mode(entry);
        let mtime = entry.header().mtime().unwrap_or_default();
        let (parent, name) = self.place(path)?;
        remove(parent, name).map_err(failed)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?;
        let mut file = File::from(file);
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let length = entry.read(&mut buffer).map_err(|e| Failure::Archive(e.to_string()))?;
            let Some(data) = buffer.get(..length).filter(|data| !data.is_empty()) else { break };
            io::Write::write_all(&mut file, data).map_err(failed)?;
            self.copied.add_bytes(data.len() as u64);
        }
        settle(&file, mode, mtime).map_err(failed)?;
        self.copied.add_entry();
        Ok(())
    }

    fn directory(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        // The destination itself, which is the user's.
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let shown = self.shown.join(path);
        let (parent, name) = self.place(path)?;
        let is_new = match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                open_directory(parent, name).map_err(|e| local("make", &shown, e))?;
                false
            }
            Err(errno) => return Err(local("make", &shown, errno.into())),
        };
        if is_new {
            self.made.push((path.to_owned(), mode));
        }
        self.copied.add_entry();
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &[u8]) -> Result<(), Failure> {
        let target = Path::new(std::ffi::OsStr::from_bytes(target));
        if !self.keeps_links && !stays_beneath(path, target) {
            self.copied.skip(&format!(
                "{}, a link that leads out of what is copied, to {} (--keep-links makes it all the same)",
                path.display(),
                target.display()
            ));
            return Ok(());
        }
        let shown = self.shown.join(path);
        let failed = |e: io::Error| local("make", &shown, e);
        let (parent, name) = self.place(path)?;
        remove(parent, name).map_err(failed)?;
        symlinkat(target, parent, name).map_err(|e| failed(e.into()))?;
        self.copied.add_entry();
        Ok(())
    }

    /// Returns the directory that an entry is in, opened without following any link, and the entry's name.
    fn place<'a>(&'a mut self, path: &'a Path) -> Result<(&'a OwnedFd, &'a Path), Failure> {
        let (Some(name), Some(directory)) = (path.file_name(), path.parent()) else {
            return Err(Failure::Archive(format!("{path:?} is no name of a file")));
        };
        if self.parent.as_ref().is_none_or(|(known, _)| known != directory) {
            let opened = self.open(directory).map_err(|e| {
                if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
                    let text =
                        "goes through a link in the destination, which is not followed: remove it first";
                    return Failure::Archive(format!("{path:?} {text}"));
                }
                local("make", &self.shown.join(directory), e)
            })?;
            self.parent = Some((directory.to_owned(), opened));
        }
        let (_, opened) = self.parent.as_ref().expect("it has just been set");
        Ok((opened, Path::new(name)))
    }

    fn open(&mut self, directory: &Path) -> io::Result<OwnedFd> {
        if directory.as_os_str().is_empty() {
            return self.root.try_clone();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match open_beneath(self.root.as_fd(), directory, flags, 0, Links::Refuse) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        // An archive need not name its directories.
        let mut made = PathBuf::new();
        for component in directory.components() {
            let above = self.open_made(&made)?;
            made.push(component);
            match mkdirat(&above, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.open_made(directory)
    }

    fn open_made(&self, directory: &Path) -> io::Result<OwnedFd> {
        if directory.as_os_str().is_empty() {
            return self.root.try_clone();
        }
        open_beneath(self.root.as_fd(), directory, OFlags::RDONLY | OFlags::DIRECTORY, 0, Links::Refuse)
    }

    /// Gives the directories their modes, the deepest first.
    fn finish(mut self) -> Result<(), Failure> {
        while let Some((path, mode)) = self.made.pop() {
            let set = self
                .open_made(&path)
                .and_then(|directory| File::from(directory).set_permissions(Permissions::from_mode(mode)));
            set.map_err(|e| local("set the mode of", &self.shown.join(&path), e))?;
        }
        Ok(())
    }
}

impl Names {
    /// Keeps an entry that is the name of the next; returns whether it was one.
    fn take(&mut self, entry: &mut Entry<'_, PipeReader>, kind: EntryType) -> Result<bool, Failure> {
        match kind {
            EntryType::GNULongName => self.path = Some(text(entry)?),
            EntryType::GNULongLink => self.target = Some(text(entry)?),
            EntryType::XHeader => {
                let records = text(entry)?;
                for record in tar::PaxExtensions::new(&records) {
                    let record = record.map_err(|e| Failure::Archive(e.to_string()))?;
                    match record.key_bytes() {
                        b"path" => self.path = Some(record.value_bytes().to_owned()),
                        b"linkpath" => self.target = Some(record.value_bytes().to_owned()),
                        // It says where the next entry begins: taken for nothing, all that follows is misread.
                        b"size" => return Err(Failure::Archive("a size in an extended header".to_owned())),
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => {
                text(entry)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Reads a name, which ends before a NUL.
fn text(entry: &mut Entry<'_, PipeReader>) -> Result<Vec<u8>, Failure> {
    if entry.size() > NAME_BYTES_MAX {
        return Err(Failure::Archive(format!("a name of {} bytes", entry.size())));
    }
    let mut name = Vec::new();
    entry.read_to_end(&mut name).map_err(|e| Failure::Archive(e.to_string()))?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// Returns a path without `.`; one that could lead out is an error.
fn confined(name: &[u8]) -> Result<PathBuf, Failure> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let mut confined = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => confined.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Failure::Archive(format!("{path:?} leads out of the destination")));
            }
        }
    }
    if name.contains(&0) {
        return Err(Failure::Archive(format!("{path:?} has a NUL")));
    }
    Ok(confined)
}

/// Whether a link at `path` leads to something beneath the root, whatever other links there are.
///
/// `..` may only stand at its beginning: the directory of a link is a real one, so these are counted; after a name,
/// which may be a link itself, they cannot be.
fn stays_beneath(path: &Path, target: &Path) -> bool {
    let depth = path.components().count().saturating_sub(1);
    let mut up = 0;
    let mut is_down = false;
    for component in target.components() {
        match component {
            Component::Normal(_) => is_down = true,
            Component::CurDir => {}
            Component::ParentDir if is_down => return false,
            Component::ParentDir => up += 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    up <= depth && !target.as_os_str().is_empty()
}

fn mode(entry: &Entry<'_, PipeReader>) -> u32 {
    entry.header().mode().unwrap_or(0o644) & 0o777
}

/// Makes room for a new file: what a link leads to is left alone.
fn remove(directory: &OwnedFd, name: &Path) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn open_directory(parent: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Gives a file its mode and time.
pub(super) fn settle(file: &File, mode: u32, mtime: u64) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))?;
    // A time that cannot be represented is not worth a failure.
    if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(mtime)) {
        file.set_modified(time).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tar::{Builder, Header};

    use super::super::pipe::pipe;
    use super::*;

    /// A destination with a neighbour that must stay as it is.
    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in ["to", "outside"] {
                std::fs::create_dir(directory.path().join(name)).unwrap();
            }
            std::fs::write(directory.path().join("outside/canary"), "alive").unwrap();
            Self { directory }
        }

        fn to(&self, name: &str) -> PathBuf {
            self.directory.path().join("to").join(name)
        }

        fn unpack(&self, archive: Vec<u8>, keeps_links: bool) -> (Result<(), Failure>, u64) {
            let (sender, receiver) = pipe();
            for piece in archive.chunks(128 * 1024) {
                sender.try_send(Ok(piece.to_vec().into())).unwrap();
            }
            drop(sender);
            let copied = Arc::new(Copied::new(true, true));
            let unpacker = Unpacker::new(&self.to(""), keeps_links, Arc::clone(&copied)).unwrap();
            let result = unpacker.unpack(PipeReader::new(receiver));
            let outside = self.directory.path().join("outside");
            assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "alive");
            assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1, "something was written outside");
            (result, copied.finish())
        }
    }

    fn add(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str, data: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o6754);
        header.set_mtime(1_000_000_000);
        // Not by the methods that refuse what a liar would write.
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    fn archive(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, target, data) in entries {
            add(&mut builder, *kind, name, target, data.as_bytes());
        }
        builder.into_inner().unwrap()
    }

    const FILE: EntryType = EntryType::Regular;
    const LINK: EntryType = EntryType::Symlink;
    const DIRECTORY: EntryType = EntryType::Directory;

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let place = Place::new();
        let long = "n".repeat(200);
        let mut builder = Builder::new(Vec::new());
        add(&mut builder, DIRECTORY, "d/", "", b"");
        add(&mut builder, FILE, "d/f", "", b"content");
        add(&mut builder, LINK, "d/l", "../other/g", b"");
        add(&mut builder, FILE, "./other/deep/g", "", b"g");
        let mut header = Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o600);
        builder.append_data(&mut header, format!("d/{long}"), &b"x"[..]).unwrap();
        let (result, skipped) = place.unpack(builder.into_inner().unwrap(), false);
        assert!(result.is_ok() && skipped == 0, "{result:?}");
        assert_eq!(std::fs::read_to_string(place.to("d/f")).unwrap(), "content");
        let metadata = std::fs::metadata(place.to("d/f")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o754, "set-id bits are not taken over");
        assert_eq!(metadata.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        assert_eq!(std::fs::metadata(place.to("d")).unwrap().permissions().mode() & 0o7777, 0o754);
        assert_eq!(std::fs::read_link(place.to("d/l")).unwrap(), Path::new("../other/g"));
        assert_eq!(std::fs::read_to_string(place.to(&format!("d/{long}"))).unwrap(), "x");
    }

    #[test]
    fn names_that_lead_out_end_it() {
        for name in ["../outside/canary", "/etc/sandboxctl-test", "d/../../outside/canary", "..", "d/.."] {
            let (result, _) = Place::new().unpack(archive(&[(FILE, name, "", "dead")]), false);
            assert!(matches!(result, Err(Failure::Archive(_))), "{name}: {result:?}");
        }
        let long =
            archive(&[(EntryType::GNULongName, "x", "", "../outside/canary"), (FILE, "ok", "", "dead")]);
        assert!(matches!(Place::new().unpack(long, false).0, Err(Failure::Archive(_))));
        let pax = archive(&[
            (EntryType::XHeader, "x", "", "26 path=../outside/canary\n"),
            (FILE, "ok", "", "dead"),
        ]);
        let (result, _) = Place::new().unpack(pax, false);
        assert!(matches!(&result, Err(Failure::Archive(text)) if text.contains("leads out")), "{result:?}");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        // Links from the archive: made only when asked for, and even then not followed.
        for keeps_links in [false, true] {
            let place = Place::new();
            let through = archive(&[(LINK, "d", "../outside", ""), (FILE, "d/canary", "", "dead")]);
            let (result, _) = place.unpack(through, keeps_links);
            assert_eq!(result.is_err(), keeps_links, "{result:?}");
            let place = Place::new();
            let over = archive(&[(LINK, "f", "../outside/canary", ""), (FILE, "f", "", "mine")]);
            let (result, skipped) = place.unpack(over, keeps_links);
            assert!(result.is_ok() && skipped == u64::from(!keeps_links), "{result:?}");
            assert_eq!(std::fs::read_to_string(place.to("f")).unwrap(), "mine");
            let place = Place::new();
            let hard = archive(&[(EntryType::Link, "h", "../outside/canary", ""), (FILE, "h", "", "mine")]);
            let (result, skipped) = place.unpack(hard, keeps_links);
            assert!(result.is_ok() && skipped == 1, "{result:?}");
        }
        // Links that were there before.
        let place = Place::new();
        symlink("../outside", place.to("d")).unwrap();
        symlink("../outside/canary", place.to("f")).unwrap();
        let (result, _) = place.unpack(archive(&[(FILE, "f", "", "mine")]), false);
        assert!(result.is_ok(), "{result:?}");
        let through = archive(&[(FILE, "d/canary", "", "dead")]);
        assert!(matches!(place.unpack(through, false).0, Err(Failure::Archive(_))));
        let made = archive(&[(DIRECTORY, "d/", "", ""), (FILE, "d/new", "", "dead")]);
        assert!(place.unpack(made, false).0.is_err());
    }

    #[test]
    fn what_is_no_file_is_left_out_and_names_are_bounded() {
        let odd =
            archive(&[(EntryType::Fifo, "p", "", ""), (EntryType::Char, "c", "", ""), (FILE, "f", "", "x")]);
        let place = Place::new();
        assert_eq!(place.unpack(odd, false).1, 2);
        assert_eq!(std::fs::read_dir(place.to("")).unwrap().count(), 1);
        let mut builder = Builder::new(Vec::new());
        add(&mut builder, EntryType::GNULongName, "x", "", &vec![b'a'; 100_000]);
        let (result, _) = Place::new().unpack(builder.into_inner().unwrap(), false);
        assert!(matches!(&result, Err(Failure::Archive(text)) if text.contains("100000")), "{result:?}");
        let (result, _) = Place::new().unpack(b"no archive at all".repeat(100), false);
        assert!(matches!(result, Err(Failure::Archive(_))), "{result:?}");
        let mut cut = archive(&[(FILE, "f", "", "content")]);
        cut.truncate(515);
        assert!(matches!(Place::new().unpack(cut, false).0, Err(Failure::Archive(_))));
    }

    #[test]
    fn links_stay_beneath_whatever_other_links_there_are() {
        let check = |path: &str, target: &str, stays: bool| {
            assert_eq!(stays_beneath(Path::new(path), Path::new(target)), stays, "{path} -> {target}");
        };
        check("l", "f", true);
        check("a/b/l", "../../f", true);
        check("a/b/l", "../../../f", false);
        check("l", "..", false);
        check("l", "/etc/passwd", false);
        check("l", "", false);
        check("l", "./a/./b", true);
        // `a` may be a link to something less deep.
        check("x/l", "../a/../..", false);
        check("l", "a/..", false);
    }
}
