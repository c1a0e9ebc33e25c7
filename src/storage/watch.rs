//! Changes beneath directories, by an inotify(7) instance for all who watch the same sandbox: root has few of them,
//! and a queue that is shared by two sandboxes overflows for both.
//!
//! A directory is opened beneath the workspace like any other and watched by its descriptor. Watching does
//! not need the sandbox to run. What is lost, because it came too fast, is said to be.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::path::FilePath;
use super::walk::View;
use crate::error::FileError;
use sys::fs::{self as sysfs, Links};

/// Directories of one watch.
const DIRECTORIES_MAX: usize = 2_000;
/// Directories of all watchers: far below what the kernel gives to one user.
const DIRECTORIES_TOTAL_MAX: usize = 50_000;
/// What is read at once: some thousand events.
const BUFFER_BYTES: usize = 64 * 1024;

/// What happened to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Created,
    /// It was written; see [`Writes`].
    Modified,
    Deleted,
    Moved,
}

impl ChangeKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Moved => "moved",
        }
    }
}

/// When it is told that a file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// When it was closed after it had been open for writing: whoever reads it then reads all.
    Closed,
    /// At once, where nothing can be told of closing; what comes in a burst once.
    Each,
}

/// Observed for one who watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    Change {
        /// Relative to the base.
        path: String,
        kind: ChangeKind,
        /// Where it was, if it was moved.
        from: Option<String>,
    },
    /// Something was missed: look again.
    Overflow,
}

/// Opens the directory at the top, anew each time: one that is held open never tells that it is gone.
type Opener = Box<dyn Fn() -> Result<OwnedFd, FileError> + Send>;
/// Takes news; must not wait.
type Sink = Box<dyn Fn(Observed) + Send>;

/// Watches that have a queue in common.
#[derive(Debug)]
pub struct Watcher {
    inotify: OwnedFd,
    state: Mutex<State>,
}

/// How many directories all watchers together watch.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<AtomicUsize>);

/// What the kernel reported.
#[derive(Debug)]
pub struct Event {
    directory: i32,
    what: ReadFlags,
    cookie: u32,
    name: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    /// By the kernel's number: who watches it, and how it is called from there.
    directories: HashMap<i32, Vec<(u64, PathBuf)>>,
    watches: HashMap<u64, Watch>,
    last: u64,
    tally: Tally,
    /// How many of the tally are of this watcher.
    counted: usize,
}

struct Watch {
    open: Opener,
    prefix: String,
    recursive: bool,
    writes: Writes,
    directories: HashMap<PathBuf, i32>,
    /// A name that has gone, until the next event tells where it went.
    moving: Option<(u32, PathBuf)>,
    sink: Sink,
}

impl Watcher {
    /// Makes the instance.
    ///
    /// # Errors
    /// The user has no further one.
    pub fn new(tally: Tally) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut state = State::default();
        state.tally = tally;
        Ok(Self { inotify, state: Mutex::new(state) })
    }

    /// Returns a descriptor that is readable when there is something to [`Watcher::read`].
    ///
    /// # Errors
    /// The daemon has no descriptor left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.try_clone()
    }

    /// Begins to watch a directory; with `recursive` also those in it, without what listings hide.
    ///
    /// # Errors
    /// Not found, not a directory, or too many directories.
    pub fn watch(
        &self,
        open: Opener,
        path: &FilePath,
        (recursive, writes): (bool, Writes),
        sink: Sink,
    ) -> Result<u64, FileError> {
        let prefix = if path.is_root() { String::new() } else { format!("{}/", path.as_str()) };
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        let directories = HashMap::new();
        let watch = Watch { open, prefix, recursive, writes, directories, moving: None, sink };
        state.watches.insert(id, watch);
        let added = state.add(&self.inotify, id, PathBuf::new(), false);
        state.count();
        if let Err(error) = added {
            state.remove(&self.inotify, id);
            return Err(match error {
                Failure::TooMany => {
                    let limit = DIRECTORIES_MAX.try_into().unwrap_or(u64::MAX);
                    FileError::Limit { what: "directories to watch", limit }
                }
                Failure::File(error) => error,
                Failure::Io(error) => FileError::at("watch", path.as_str())(error),
            });
        }
        Ok(id)
    }

    /// Ends a watch.
    pub fn unwatch(&self, id: u64) {
        let mut state = self.state();
        state.remove(&self.inotify, id);
        state.count();
    }

    /// Reads what has happened.
    ///
    /// # Errors
    /// `EAGAIN` if nothing has.
    pub fn read(&self) -> io::Result<Vec<Event>> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut events = Vec::new();
        loop {
            let event = reader.next()?;
            events.push(Event {
                directory: event.wd(),
                what: event.events(),
                cookie: event.cookie(),
                name: event.file_name().map(|n| n.to_bytes().to_vec()).unwrap_or_default(),
            });
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    /// Tells those who watch.
    pub fn tell(&self, events: Vec<Event>) {
        let mut state = self.state();
        let mut written = HashSet::new();
        for event in &events {
            // Whoever hears of the first of a burst reads what the last has left.
            if event.what.contains(ReadFlags::MODIFY) && !written.insert((event.directory, &event.name)) {
                continue;
            }
            if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Whose events were lost is not known.
                for watch in state.watches.values() {
                    (watch.sink)(Observed::Overflow);
                }
                continue;
            }
            for (id, path) in state.directories.get(&event.directory).cloned().unwrap_or_default() {
                state.tell(&self.inotify, id, &path, event);
            }
            if event.what.contains(ReadFlags::IGNORED) {
                state.forget(event.directory);
            }
        }
        for watch in state.watches.values_mut() {
            watch.settle();
        }
        state.count();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Failure {
    TooMany,
    File(FileError),
    Io(io::Error),
}

impl Drop for State {
    fn drop(&mut self) {
        self.tally.0.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl State {
    /// Corrects this watcher's part of the tally.
    fn count(&mut self) {
        let now = self.watches.values().map(|watch| watch.directories.len()).sum();
        self.tally.0.fetch_add(now, Ordering::Relaxed);
        self.tally.0.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = now;
    }

    /// Watches a directory and, where asked, those beneath it; tells of what is in it already if it is new.
    fn add(&mut self, inotify: &OwnedFd, id: u64, path: PathBuf, tell: bool) -> Result<(), Failure> {
        let mut stack = vec![path];
        while let Some(path) = stack.pop() {
            self.count();
            let total = self.tally.0.load(Ordering::Relaxed);
            let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
            if watch.directories.len() >= DIRECTORIES_MAX || total >= DIRECTORIES_TOTAL_MAX {
                return Err(Failure::TooMany);
            }
            let at = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let top = (watch.open)().map_err(Failure::File)?;
            let opened = match sysfs::open_beneath(&top, at, flags, 0, Links::Refuse) {
                Ok(opened) => opened,
                // Gone again, or a link by now.
                Err(_) if !path.as_os_str().is_empty() => continue,
                Err(error) => return Err(Failure::Io(error)),
            };
            let number = match inotify::add_watch(inotify, sysfs::own_path(&opened), events(watch.writes)) {
                Ok(number) => number,
                Err(Errno::NOSPC) => return Err(Failure::TooMany),
                Err(errno) => return Err(Failure::Io(errno.into())),
            };
            watch.directories.insert(path.clone(), number);
            self.directories.entry(number).or_default().push((id, path.clone()));
            if !watch.recursive && !tell {
                continue;
            }
            for name in sysfs::names(&opened).map_err(Failure::Io)? {
                let Ok(name) = name else { break };
                if View::Project.hides(name.bytes.as_bytes()) {
                    continue;
                }
                let inner = path.join(OsStr::from_bytes(name.bytes.as_bytes()));
                if tell {
                    watch.tell(&inner, ChangeKind::Created, None);
                }
                let kind = name.kind.or_else(|| {
                    let stat = sysfs::stat_name(&opened, &name.bytes).ok()?;
                    Some(FileType::from_raw_mode(stat.st_mode))
                });
                if watch.recursive && kind == Some(FileType::Directory) {
                    stack.push(inner);
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, inotify: &OwnedFd, id: u64, path: &Path, event: &Event) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let what = event.what;
        if what.intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED) {
            if path.as_os_str().is_empty() {
                // The directory is gone. Without its sink the watch has ended.
                self.remove(inotify, id);
            }
            return;
        }
        let inner = path.join(OsStr::from_bytes(&event.name));
        let hidden = View::Project.hides(&event.name);
        let is_directory = what.contains(ReadFlags::ISDIR);
        let moved =
            watch.moving.take_if(|(cookie, _)| what.contains(ReadFlags::MOVED_TO) && *cookie == event.cookie);
        watch.settle();
        let is_new = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        if what.contains(ReadFlags::MOVED_FROM) {
            if !hidden {
                watch.moving = Some((event.cookie, inner.clone()));
            }
            if is_directory {
                self.drop_beneath(inotify, id, &inner);
            }
        } else if hidden {
            return;
        } else if let Some((_, from)) = moved {
            watch.tell(&inner, ChangeKind::Moved, Some(&from));
        } else if is_new {
            watch.tell(&inner, ChangeKind::Created, None);
        } else if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MODIFY) {
            watch.tell(&inner, ChangeKind::Modified, None);
        } else if what.contains(ReadFlags::DELETE) {
            watch.tell(&inner, ChangeKind::Deleted, None);
        }
        if is_new && is_directory && self.watches.get(&id).is_some_and(|w| w.recursive) {
            // What was made in it before it was watched would be missed.
            let tell = what.contains(ReadFlags::CREATE);
            let added = self.add(inotify, id, inner, tell);
            if let (Err(_), Some(watch)) = (added, self.watches.get(&id)) {
                (watch.sink)(Observed::Overflow);
            }
        }
    }

    /// Ends the watching of a directory that was moved and of those beneath it: their names have changed.
    fn drop_beneath(&mut self, inotify: &OwnedFd, id: u64, path: &Path) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let gone: Vec<_> = watch.directories.extract_if(|at, _| at.starts_with(path)).collect();
        for (_, number) in gone {
            self.leave(inotify, id, number);
        }
    }

    fn remove(&mut self, inotify: &OwnedFd, id: u64) {
        let Some(watch) = self.watches.remove(&id) else { return };
        for number in watch.directories.into_values() {
            self.leave(inotify, id, number);
        }
    }

    /// Takes one who watches from a directory; the last one takes the kernel's watch with him.
    fn leave(&mut self, inotify: &OwnedFd, id: u64, number: i32) {
        let Some(seats) = self.directories.get_mut(&number) else { return };
        seats.retain(|(watch, _)| *watch != id);
        if seats.is_empty() {
            self.directories.remove(&number);
            // It may be gone with its directory.
            let _ignored: rustix::io::Result<()> = inotify::remove_watch(inotify, number);
        }
    }

    /// The kernel has ended its watch.
    fn forget(&mut self, number: i32) {
        for (id, path) in self.directories.remove(&number).unwrap_or_default() {
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.directories.retain(|at, of| *at != path || *of != number);
            }
        }
    }
}

impl Watch {
    fn tell(&self, path: &Path, kind: ChangeKind, from: Option<&Path>) {
        let shown = |path: &Path| format!("{}{}", self.prefix, path.to_string_lossy());
        (self.sink)(Observed::Change { path: shown(path), kind, from: from.map(shown) });
    }

    /// What has gone and did not come up again is gone.
    fn settle(&mut self) {
        if let Some((_, path)) = self.moving.take() {
            self.tell(&path, ChangeKind::Deleted, None);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn events(writes: Writes) -> WatchFlags {
    let written = match writes {
        Writes::Closed => WatchFlags::CLOSE_WRITE,
        Writes::Each => WatchFlags::MODIFY,
    };
    written
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}
