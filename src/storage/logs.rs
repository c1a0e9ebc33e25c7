//! The logs of an app's processes: `~/.runtimed/<name>.log`, and `<name>.log.1` before it.
//!
//! They are written by the sandbox and lie in a directory of the tenant: each is opened beneath the
//! workspace without following a link, is read if it is a regular file, and only so much of it as is
//! shown. Nothing of it needs the sandbox to run.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::lines::Lines;
use crate::sys::fs::{self as sysfs, Links};

/// Beneath a workspace.
const DIRECTORY: &str = ".runtimed";
/// How much of the end of a log is looked at for its last lines.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;
/// How much is read at once by a follower.
const CHUNK_BYTES: usize = 64 * 1024;

/// The logs of one workspace.
#[derive(Debug)]
pub struct Logs {
    workspace: OwnedFd,
}

/// What a follower has reached.
#[derive(Debug)]
pub struct Follower {
    logs: Logs,
    name: String,
    /// `None` while there is no log.
    file: Option<File>,
    offset: u64,
    lines: Lines,
}

/// What has come since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub lines: Vec<String>,
    /// More was written than was kept until it could be read.
    pub gap: bool,
    /// There may be more, or another log: look again at once.
    pub more: bool,
}

impl Logs {
    pub(super) fn new(workspace: OwnedFd) -> Self {
        Self { workspace }
    }

    /// Reads the last lines of a log, the older part of it included; `None` when there is none.
    pub fn tail(&self, name: &str, count: usize) -> Option<Vec<String>> {
        let newer = self.open(name, "log");
        // Turned over in between, it would be read twice.
        let same = |older: &File| newer.as_ref().and_then(identity) == identity(older);
        let older = self.open(name, "log.1").filter(|older| !same(older));
        if newer.is_none() && older.is_none() {
            return None;
        }
        let newer = newer.map(|mut file| end_of(&mut file, TAIL_BYTES_MAX)).unwrap_or_default();
        let left = TAIL_BYTES_MAX.saturating_sub(u64::try_from(newer.len()).unwrap_or(u64::MAX));
        let wanted = newer.iter().filter(|b| **b == b'\n').count() < count.saturating_add(1);
        let mut bytes = match older {
            Some(mut file) if wanted => end_of(&mut file, left),
            Some(_) | None => Vec::new(),
        };
        bytes.extend(newer);
        let mut lines = Lines::default();
        let mut all = lines.push(bytes.get(start_of(&bytes, count)..).unwrap_or_default());
        all.extend(lines.rest());
        Some(all)
    }

    /// Follows a log from its present end, whether it exists or not.
    pub fn follow(self, name: &str) -> Follower {
        let file = self.open(name, "log");
        let offset = file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        Follower { logs: self, name: name.to_owned(), file, offset, lines: Lines::default() }
    }

    fn open(&self, name: &str, extension: &str) -> Option<File> {
        let path = PathBuf::from(DIRECTORY).join(format!("{name}.{extension}"));
        let (file, _) = sysfs::open_file_beneath(&self.workspace, &path, Links::Refuse).ok()?;
        Some(file)
    }
}

impl Follower {
    /// Reads what has come, at most a piece of it.
    pub fn read(&mut self) -> News {
        let mut news = News::default();
        let Some(file) = &mut self.file else {
            self.file = self.logs.open(&self.name, "log");
            self.offset = 0;
            news.more = self.file.is_some();
            return news;
        };
        let length = file.metadata().map_or(0, |m| m.len());
        if length < self.offset {
            // Cut: what is in it now is new.
            self.offset = 0;
        }
        let bytes = piece_of(file, self.offset);
        if !bytes.is_empty() {
            self.offset += u64::try_from(bytes.len()).unwrap_or_default();
            news.more = true;
            news.lines = self.lines.push(&bytes);
            return news;
        }
        self.turn_page(&mut news);
        news
    }

    /// Goes on with the next log if the one that was read to its end is not the newest any more.
    fn turn_page(&mut self, news: &mut News) {
        let Some(newest) = self.logs.open(&self.name, "log") else { return };
        if self.file.as_ref().and_then(identity) == identity(&newest) {
            return;
        }
        // Between the end that was seen and the move something may have been written.
        let rest = self.file.as_mut().map(|file| piece_of(file, self.offset)).unwrap_or_default();
        if !rest.is_empty() {
            self.offset += u64::try_from(rest.len()).unwrap_or_default();
            news.lines = self.lines.push(&rest);
            news.more = true;
            return;
        }
        let older = self.logs.open(&self.name, "log.1");
        news.gap = older.as_ref().and_then(identity) != self.file.as_ref().and_then(identity);
        if news.gap {
            news.lines.extend(self.lines.rest());
        }
        self.file = Some(newest);
        self.offset = 0;
        news.more = true;
    }
}

/// Where the last lines begin.
fn start_of(bytes: &[u8], count: usize) -> usize {
    // The end of the last line is no beginning of another.
    let ends_with_newline = bytes.last() == Some(&b'\n');
    let newlines = bytes.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(index, _)| index + 1);
    match count {
        0 => bytes.len(),
        _ => newlines.skip(usize::from(ends_with_newline)).nth(count - 1).unwrap_or(0),
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// A file that fails to be read has ended.
fn end_of(file: &mut File, bytes: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let length = file.metadata().map_or(0, |m| m.len());
    if file.seek(SeekFrom::Start(length.saturating_sub(bytes))).is_ok() {
        let _failed: io::Result<usize> = file.take(bytes).read_to_end(&mut text);
    }
    text
}

fn piece_of(file: &mut File, offset: u64) -> Vec<u8> {
    let mut piece = vec![0; CHUNK_BYTES];
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read(&mut piece));
    piece.truncate(read.unwrap_or(0));
    piece
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use super::*;

    fn logs(workspace: &Path) -> Logs {
        Logs::new(sysfs::open_directory(workspace).unwrap())
    }

    fn append(path: &Path, text: &[u8]) {
        File::options().create(true).append(true).open(path).unwrap().write_all(text).unwrap();
    }

    fn all(follower: &mut Follower) -> (Vec<String>, bool) {
        let (mut lines, mut gap) = (Vec::new(), false);
        loop {
            let news = follower.read();
            lines.extend(news.lines);
            gap |= news.gap;
            if !news.more {
                return (lines, gap);
            }
        }
    }

    #[test]
    fn the_tail_spans_both_parts() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(logs(home.path()).tail("web", 5), None);
        std::fs::create_dir(home.path().join(DIRECTORY)).unwrap();
        let path = home.path().join(DIRECTORY).join("web.log");
        append(&path.with_extension("log.1"), b"one\ntwo\nthr");
        append(&path, b"ee\nfour\nfive");
        let tail = |n| logs(home.path()).tail("web", n).unwrap();
        assert_eq!(tail(3), ["three", "four", "five"]);
        assert_eq!(tail(1), ["five"]);
        assert_eq!((tail(0).len(), tail(100).len()), (0, 5));
        // One line of 100 MB, most of it a hole: bounded, and told.
        File::options().write(true).open(&path).unwrap().set_len(100_000_000).unwrap();
        let huge = tail(2);
        assert_eq!(huge.len(), 1);
        assert!(huge[0].len() < 40_000 && huge[0].contains("bytes more"), "{}", huge[0].len());
    }

    #[test]
    fn a_follower_survives_what_happens_to_a_log() {
        let home = tempfile::tempdir().unwrap();
        let mut follower = logs(home.path()).follow("web");
        assert_eq!(all(&mut follower), (vec![], false));
        std::fs::create_dir(home.path().join(DIRECTORY)).unwrap();
        let path = home.path().join(DIRECTORY).join("web.log");
        append(&path, b"one\ntw");
        assert_eq!(all(&mut follower).0, ["one"]);
        append(&path, b"o\nthree\n");
        std::fs::rename(&path, path.with_extension("log.1")).unwrap();
        append(&path, b"four\n");
        assert_eq!(all(&mut follower), (vec!["two".to_owned(), "three".into(), "four".into()], false));
        // Turned over twice between two looks: the follower says that something is missing.
        for text in ["lost\n", "five\n"] {
            std::fs::rename(&path, path.with_extension("log.1")).unwrap();
            append(&path, text.as_bytes());
        }
        assert_eq!(all(&mut follower), (vec!["five".to_owned()], true));
        // Cut by the tenant.
        File::create(&path).unwrap();
        append(&path, b"6\n");
        assert_eq!(all(&mut follower).0, ["6"]);
    }

    #[test]
    fn only_regular_files_are_read() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(DIRECTORY);
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.join("link.log")).unwrap();
        nix::unistd::mkfifo(&directory.join("fifo.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "fifo", "../../etc/passwd"] {
            assert_eq!(logs(home.path()).tail(name, 5), None, "{name}");
            assert_eq!(all(&mut logs(home.path()).follow(name)), (vec![], false), "{name}");
        }
        std::fs::remove_file(directory.join("link.log")).unwrap();
        std::fs::remove_file(directory.join("fifo.log")).unwrap();
        std::fs::remove_dir(&directory).unwrap();
        std::os::unix::fs::symlink("/etc", &directory).unwrap();
        assert_eq!(logs(home.path()).tail("passwd", 5), None);
    }
}
