//! The processes that clients run, and what is kept of them for a daemon that may die at any moment.
//!
//! Of each process the other ends of its streams (or the master of its terminal) and its exit status are
//! kept until the daemon says that it has everything. So nobody is killed by SIGPIPE when a daemon
//! dies, what was written stays in the pipes, and the next daemon goes on where the last one stopped.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::PollFlags;

use super::relay::Relay;
use protocol::{ExitStatus, Kept, Reply, Spawn, Target};
use sys::identity::Whom;
use sys::process::{self, Exit, Session, Stdio3};
use sys::pty;

/// The most processes of which something is kept; more than the daemon ever asks for.
const KEPT_MAX: usize = 2048;
/// How often a tree is looked through at once for what it has forked meanwhile.
const KILL_PASSES: usize = 8;
/// The pause before it is looked through again.
const KILL_PAUSE: Duration = Duration::from_millis(5);
/// After so long the rest of a tree is left alone: it forks faster than it can be killed.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// The terminal that browsers' and most people's terminals are like.
const TERM: &str = "xterm-256color";

/// All processes that clients run.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Whether no descriptor can be handed back.
    is_relayed: bool,
    children: BTreeMap<u64, Child>,
    by_pid: HashMap<i32, u64>,
    journal: Option<[OwnedFd; 2]>,
    /// Those whose exit the attached daemon has not been told.
    untold: Vec<u64>,
    killing: Vec<Killing>,
}

#[derive(Debug)]
struct Child {
    pid: i32,
    exit: Option<ExitStatus>,
    /// The other ends of stdout and stderr, or the master of the terminal.
    output: Vec<OwnedFd>,
    /// The other end of stdin.
    input: Option<OwnedFd>,
    /// Its terminal, when that cannot be handed to the daemon.
    terminal: Option<Relay>,
}

/// A tree that is being killed.
#[derive(Debug)]
struct Killing {
    key: u64,
    again_at: Instant,
    give_up_at: Instant,
}

impl Processes {
    pub(super) fn new(is_relayed: bool) -> Self {
        Self { is_relayed, ..Self::default() }
    }

    /// What a daemon that attaches is told; it knows of every exit from then on.
    pub(super) fn attached(&mut self) -> (Reply, Vec<BorrowedFd<'_>>) {
        self.untold.clear();
        let kept = self.children.iter().map(|(&key, child)| Kept { key, pid: child.pid, exit: child.exit });
        let kept = kept.collect();
        let journal = self.journal.iter().filter(|_| !self.is_relayed).flatten();
        let descriptors: Vec<_> = journal.map(|fd| fd.as_fd()).collect();
        (Reply::Attached { journal: !descriptors.is_empty(), kept }, descriptors)
    }

    pub(super) fn keep_journal(&mut self, descriptors: Vec<OwnedFd>) {
        self.journal = descriptors.try_into().ok();
    }

    /// Starts a process; the descriptors of the reply ride with it.
    pub(super) fn spawn(&mut self, spawn: &Spawn, given: Vec<OwnedFd>) -> (Reply, Vec<BorrowedFd<'_>>) {
        let key = spawn.key;
        match self.start(spawn, given) {
            Ok(child) => {
                let pid = child.pid;
                self.by_pid.insert(pid, key);
                let tty = spawn.tty.is_some() && !self.is_relayed;
                let child = self.children.entry(key).or_insert(child);
                let master = child.output.iter().filter(|_| tty).map(|fd| fd.as_fd()).collect();
                (Reply::Started { key, pid, tty }, master)
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                let cwd = !process::can_be_entered(&spawn.cwd, spawn.root);
                (Reply::NotStarted { key, errno, cwd }, Vec::new())
            }
        }
    }

    fn start(&self, spawn: &Spawn, given: Vec<OwnedFd>) -> io::Result<Child> {
        if self.children.len() >= KEPT_MAX || self.children.contains_key(&spawn.key) {
            return Err(rustix::io::Errno::AGAIN.into());
        }
        let mut given = given.into_iter();
        let mut next = || given.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        let (stdio, output, input, session, terminal) = match spawn.tty {
            Some((columns, rows)) => {
                let (master, slave) = pty::open(columns, rows)?;
                let stdio = Stdio3 { stdin: slave.try_clone()?, stdout: slave.try_clone()?, stderr: slave };
                if self.is_relayed {
                    let relay = Relay::new(master, next()?, next()?)?;
                    (stdio, vec![next()?], Some(next()?), Session::Terminal, Some(relay))
                } else {
                    (stdio, vec![master], None, Session::Terminal, None)
                }
            }
            None => {
                let (given_input, stdout, stderr) = (next()?, next()?, next()?);
                // The daemon's is the host's /dev/null, whose inode everybody could lock and watch.
                let stdin = if spawn.input { given_input } else { super::app::null()? };
                let stdio = Stdio3 { stdin, stdout, stderr };
                (stdio, vec![next()?, next()?], given.next(), Session::Group, None)
            }
        };
        let whom = if spawn.root { Whom::Root } else { Whom::User };
        let env = environment(spawn);
        let pid = process::spawn_marked(&spawn.argv, &env, &spawn.cwd, stdio, session, whom, spawn.key)?;
        Ok(Child { pid, exit: None, output, input, terminal })
    }

    /// What is kept of a process; nothing for one that is not known.
    pub(super) fn take(&self, key: u64) -> (Reply, Vec<BorrowedFd<'_>>) {
        let child = self.children.get(&key).filter(|_| !self.is_relayed);
        let kept = child.into_iter().flat_map(|c| c.output.iter().chain(&c.input));
        let descriptors: Vec<_> = kept.map(|fd| fd.as_fd()).collect();
        (Reply::Taken { key, descriptors: descriptors.len() }, descriptors)
    }

    pub(super) fn close_input(&mut self, key: u64) {
        if let Some(child) = self.children.get_mut(&key) {
            child.input = None;
        }
    }

    pub(super) fn resize(&self, key: u64, columns: u16, rows: u16) {
        if let Some(Child { pid, exit: None, terminal: Some(terminal), .. }) = self.children.get(&key) {
            terminal.resize(*pid, columns, rows);
        }
    }

    /// What has to be waited for on behalf of terminals, and for what; [`Processes::relay`] wants to know which
    /// of them is ready.
    pub(super) fn relayed(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.children.values().filter_map(|child| child.terminal.as_ref()).flat_map(Relay::waits)
    }

    /// Moves what goes through terminals.
    pub(super) fn relay(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        for terminal in self.children.values_mut().filter_map(|child| child.terminal.as_mut()) {
            terminal.turn(&mut ready);
        }
    }

    pub(super) fn forget(&mut self, key: u64) {
        if let Some(child) = self.children.remove(&key) {
            self.by_pid.remove(&child.pid);
            if let Child { pid, exit: None, terminal: Some(terminal), .. } = child {
                terminal.hang_up(pid);
            }
        }
    }

    pub(super) fn signal(&mut self, key: u64, number: i32, target: Target, now: Instant) {
        let Ok(signal) = Signal::try_from(number) else { return };
        // Until it is reaped its pid, and the group's number with it, cannot be another's.
        let running = self.children.get(&key).filter(|c| c.exit.is_none()).map(|c| c.pid);
        // Nobody waits for the outcome, which shows in what ends.
        let _ignored: io::Result<()> = match (target, running) {
            (Target::Process, Some(pid)) => process::kill_child(pid, signal),
            (Target::Group, Some(pid)) => process::kill_group(pid, signal),
            (Target::Process | Target::Group, None) => Ok(()),
            (Target::Tree, _) if signal == Signal::SIGKILL => {
                self.killing.retain(|k| k.key != key);
                self.killing.push(Killing { key, again_at: now, give_up_at: now + KILL_DEADLINE });
                self.tick(now);
                Ok(())
            }
            (Target::Tree, _) => process::signal_marked(key, signal).map(drop),
        };
    }

    /// Goes on killing.
    pub(super) fn tick(&mut self, now: Instant) {
        self.killing.retain_mut(|killing| {
            if now < killing.again_at {
                return true;
            }
            // A pass that finds nobody ends it; what was signalled needs a moment to go.
            let found = (0..KILL_PASSES)
                .map(|_| process::signal_marked(killing.key, Signal::SIGKILL).unwrap_or(1))
                .find(|&count| count == 0);
            killing.again_at = now + KILL_PAUSE;
            found.is_none() && now < killing.give_up_at
        });
    }

    /// When [`Processes::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.killing.iter().map(|k| k.again_at).min()
    }

    /// Notes that a child has ended; false for one that is not a client's.
    pub(super) fn ended(&mut self, pid: i32, exit: Exit) -> bool {
        let Some(key) = self.by_pid.remove(&pid) else { return false };
        if let Some(child) = self.children.get_mut(&key) {
            child.exit = Some(match exit {
                Exit::Code(code) => ExitStatus::Code(code),
                Exit::Signal(signal) => ExitStatus::Signal(signal),
            });
            if let Some(terminal) = &mut child.terminal {
                terminal.finish();
            }
            self.untold.push(key);
        }
        true
    }

    /// The exits that the daemon has not been told.
    pub(super) fn untold(&mut self) -> Vec<Reply> {
        let untold = std::mem::take(&mut self.untold);
        let exited = |key| {
            let exit = self.children.get(&key)?.exit?;
            Some(Reply::Exited { key, exit })
        };
        untold.into_iter().filter_map(exited).collect()
    }
}

/// What is added to the sandbox's environment. A process with a terminal has a `TERM`: without one `clear`, `tput` and
/// `less` fail. That of the client or of the sandbox comes first.
fn environment(spawn: &Spawn) -> Cow<'_, [(String, String)]> {
    let has_term = spawn.env.iter().any(|(name, _)| name == "TERM") || std::env::var_os("TERM").is_some();
    if spawn.tty.is_none() || has_term {
        return Cow::Borrowed(&spawn.env);
    }
    let term = ("TERM".to_owned(), TERM.to_owned());
    Cow::Owned(spawn.env.iter().cloned().chain([term]).collect())
}
