//! The logs of an app's processes: `~/.runtimed/<name>.log`, and `<name>.log.1` before it.
//!
//! They are written by the sandbox and lie in a directory of the tenant: each is opened beneath the
//! workspace without following a link, is read if it is a regular file, and only so much of it as is
//! shown. Nothing of it needs the sandbox to run.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use super::lines::Lines;
use sys::fs::{self as sysfs, Links};

/// Beneath a workspace.
const DIRECTORY: &str = ".runtimed";
/// How much of the end of a log is looked at for its last lines.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;
/// How much is read at once by a follower, and how many lines: each costs memory of its own, and a newline alone is one.
const CHUNK_BYTES: usize = 16 * 1024;
const CHUNK_LINES_MAX: usize = 256;
/// Last lines of so much are told at once; of more, a follower begins where they do and reads one piece after another.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;

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
    /// What came before is not kept, which is still to be told.
    gap: bool,
}

/// A place between two lines, by which another follower can go on. It names the file and not its path: a log is
/// turned over to another, and its inode used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    file: Identity,
    offset: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Identity {
    inode: u64,
    born_ns: u64,
}

/// A line, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub after: Position,
}

/// What has come since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    pub lines: Vec<Line>,
    /// More was written than was kept until it could be read.
    pub gap: bool,
    /// There may be more, or another log: look again at once.
    pub more: bool,
}

/// The end of a part of a log.
#[derive(Debug)]
struct End {
    file: File,
    bytes: Vec<u8>,
    /// Where in the file they end.
    offset: u64,
}

impl Logs {
    pub(super) fn new(workspace: OwnedFd) -> Self {
        Self { workspace }
    }

    /// Reads the last lines of a log, the older part of it included; `None` when there is none.
    pub fn tail(&self, name: &str, count: usize) -> Option<Vec<String>> {
        let ends = self.ends(name, count);
        if ends.is_empty() {
            return None;
        }
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for end in ends {
            all.extend(lines.push(&end.bytes).into_iter().map(|(text, _)| text));
        }
        all.extend(lines.rest());
        Some(all)
    }

    /// Follows a log, whether it exists or not, from its present end: the last lines before it are returned, and a
    /// last one that has no end yet comes when it has.
    pub fn follow(self, name: &str, count: usize) -> (Vec<Line>, Follower) {
        let ends = self.ends(name, count);
        let mut follower = Follower::new(self, name, None);
        let mut last = Vec::new();
        let is_much = ends.iter().map(|end| end.bytes.len()).sum::<usize>() > AT_ONCE_BYTES_MAX;
        for End { file, bytes, offset } in ends {
            let begin = offset.saturating_sub(length(&bytes));
            if is_much {
                (follower.file, follower.offset) = (Some(file), begin);
                break;
            }
            last.extend(lines_of(&mut follower.lines, &file, begin, &bytes));
            (follower.file, follower.offset) = (Some(file), offset);
        }
        (last, follower)
    }

    /// Follows a log from where another follower was, or from the beginning of what is kept, and then says so.
    pub fn resume(self, name: &str, from: Position) -> Follower {
        let parts = ["log", "log.1"].map(|extension| self.open(name, extension));
        let is_it = |file: &&File| {
            let length = file.metadata().map_or(0, |m| m.len());
            identity(file) == Some(from.file) && from.offset <= length
        };
        if let Some(file) = parts.iter().flatten().find(is_it).and_then(|file| file.try_clone().ok()) {
            return Follower { offset: from.offset, ..Follower::new(self, name, Some(file)) };
        }
        let [newer, older] = parts;
        Follower { gap: true, ..Follower::new(self, name, older.or(newer)) }
    }

    /// The ends of the older part, if its lines are wanted, and of the newer; those that there are.
    fn ends(&self, name: &str, count: usize) -> Vec<End> {
        let newer = self.open(name, "log");
        // Turned over in between, it would be read twice.
        let same = |older: &File| newer.as_ref().and_then(identity) == identity(older);
        let older = self.open(name, "log.1").filter(|older| !same(older));
        let newer = newer.map(|file| End::read(file, TAIL_BYTES_MAX));
        let bytes = newer.as_ref().map_or(&[][..], |end| &end.bytes);
        let left = TAIL_BYTES_MAX.saturating_sub(length(bytes));
        let newlines = bytes.iter().filter(|b| **b == b'\n').count();
        let older = older.map(|file| {
            let wanted = newlines < count.saturating_add(1);
            End::read(file, if wanted { left } else { 0 })
        });
        let mut ends: Vec<End> = older.into_iter().chain(newer).collect();
        let all = ends.iter().map(|end| end.bytes.as_slice()).collect::<Vec<_>>().concat();
        let mut left_out = start_of(&all, count);
        for end in &mut ends {
            let here = left_out.min(end.bytes.len());
            end.bytes.drain(..here);
            left_out -= here;
        }
        ends
    }

    fn open(&self, name: &str, extension: &str) -> Option<File> {
        let path = PathBuf::from(DIRECTORY).join(format!("{name}.{extension}"));
        let (file, _) = sysfs::open_file_beneath(&self.workspace, &path, Links::Refuse).ok()?;
        Some(file)
    }
}

impl End {
    /// A file that fails to be read has ended.
    fn read(mut file: File, bytes_max: u64) -> Self {
        let mut bytes = Vec::new();
        let begin = file.metadata().map_or(0, |m| m.len()).saturating_sub(bytes_max);
        if file.seek(SeekFrom::Start(begin)).is_ok() {
            let _failed: io::Result<usize> = (&file).take(bytes_max).read_to_end(&mut bytes);
        }
        let offset = begin + length(&bytes);
        Self { file, bytes, offset }
    }
}

impl Follower {
    fn new(logs: Logs, name: &str, file: Option<File>) -> Self {
        Self { logs, name: name.to_owned(), file, offset: 0, lines: Lines::default(), gap: false }
    }

    /// Where the next line begins; `None` while there is no log.
    pub fn position(&self) -> Option<Position> {
        self.file.as_ref().map(|file| position(file, self.offset.saturating_sub(self.lines.begun())))
    }

    /// Reads what has come, at most a piece of it.
    pub fn read(&mut self) -> News {
        let mut news = News { gap: std::mem::take(&mut self.gap), ..News::default() };
        if news.gap {
            news.more = true;
            return news;
        }
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
        if !self.take_piece(&mut news) {
            self.turn_page(&mut news);
        }
        news
    }

    /// Reads a piece of the log that is followed; false at its end.
    fn take_piece(&mut self, news: &mut News) -> bool {
        let Some(file) = &mut self.file else { return false };
        let bytes = piece_of(file, self.offset);
        news.lines = lines_of(&mut self.lines, file, self.offset, &bytes);
        self.offset += length(&bytes);
        news.more = !bytes.is_empty();
        news.more
    }

    /// Goes on with the next log if the one that was read to its end is not the newest any more.
    fn turn_page(&mut self, news: &mut News) {
        let Some(newest) = self.logs.open(&self.name, "log") else { return };
        if self.file.as_ref().and_then(identity) == identity(&newest) {
            return;
        }
        // Between the end that was seen and the move something may have been written.
        if self.take_piece(news) {
            return;
        }
        let older = self.logs.open(&self.name, "log.1");
        news.gap = older.as_ref().and_then(identity) != self.file.as_ref().and_then(identity);
        if news.gap {
            let (rest, after) = (self.lines.rest(), position(&newest, 0));
            news.lines.extend(rest.map(|text| Line { text, after }));
        }
        self.file = Some(newest);
        self.offset = 0;
        news.more = true;
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.file.inode, self.file.born_ns, self.offset)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let numbers = text.split('-').map(|part| u64::from_str_radix(part, 16));
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().map_err(|_not_a_number| ())?;
        let &[inode, born_ns, offset] = numbers.as_slice() else { return Err(()) };
        Ok(Self { file: Identity { inode, born_ns }, offset })
    }
}

/// The lines that a piece of a file completes.
fn lines_of(lines: &mut Lines, file: &File, begin: u64, bytes: &[u8]) -> Vec<Line> {
    let first = position(file, begin);
    let place = |end| Position { offset: begin + u64::try_from(end).unwrap_or(u64::MAX), ..first };
    lines.push(bytes).into_iter().map(|(text, end)| Line { text, after: place(end) }).collect()
}

fn position(file: &File, offset: u64) -> Position {
    Position { file: identity(file).unwrap_or_default(), offset }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
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

fn identity(file: &File) -> Option<Identity> {
    let metadata = file.metadata().ok()?;
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let born_ns = born.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
    Some(Identity { inode: metadata.ino(), born_ns })
}

fn piece_of(file: &mut File, offset: u64) -> Vec<u8> {
    let mut piece = vec![0; CHUNK_BYTES];
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read(&mut piece));
    piece.truncate(read.unwrap_or(0));
    let mut newlines = piece.iter().enumerate().filter(|(_, b)| **b == b'\n');
    if let Some((last, _)) = newlines.nth(CHUNK_LINES_MAX - 1) {
        piece.truncate(last + 1);
    }
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
            lines.extend(news.lines.into_iter().map(|line| line.text));
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
        let mut follower = logs(home.path()).follow("web", 0).1;
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
    fn whoever_was_cut_off_goes_on_where_they_were() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(DIRECTORY).join("web.log");
        std::fs::create_dir(home.path().join(DIRECTORY)).unwrap();
        append(&path, b"one\ntwo\nthree\nfo");
        let (last, mut follower) = logs(home.path()).follow("web", 3);
        let text = |lines: &[Line]| lines.iter().map(|line| line.text.clone()).collect::<Vec<_>>();
        assert_eq!(text(&last), ["two", "three"]);
        let after_two = last[0].after.to_string().parse().unwrap();
        let resumed = || all(&mut logs(home.path()).resume("web", after_two));
        assert_eq!(resumed(), (vec!["three".to_owned()], false));
        append(&path, b"ur\n");
        assert_eq!(all(&mut follower).0, ["four"]);
        let turn = |text: &[u8]| {
            std::fs::rename(&path, path.with_extension("log.1")).unwrap();
            append(&path, text);
        };
        turn(b"five\n");
        assert_eq!(resumed(), (vec!["three".to_owned(), "four".into(), "five".into()], false));
        // Of what the older part ends with the last lines are told with their places too.
        let (last, _) = logs(home.path()).follow("web", 2);
        assert_eq!(text(&last), ["four", "five"]);
        assert_eq!(
            all(&mut logs(home.path()).resume("web", last[0].after)),
            (vec!["five".to_owned()], false)
        );
        // Turned over once more: what followed is not kept, even if the file's number is used again.
        turn(b"six\n");
        assert_eq!(resumed(), (vec!["five".to_owned(), "six".into()], true));
        for bad in ["", "1", "1-2", "1-2-x", "1-2-3-4", "-1-2"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
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
            assert_eq!(all(&mut logs(home.path()).follow(name, 5).1), (vec![], false), "{name}");
        }
        std::fs::remove_file(directory.join("link.log")).unwrap();
        std::fs::remove_file(directory.join("fifo.log")).unwrap();
        std::fs::remove_dir(&directory).unwrap();
        std::os::unix::fs::symlink("/etc", &directory).unwrap();
        assert_eq!(logs(home.path()).tail("passwd", 5), None);
    }
}
