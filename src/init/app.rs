//! The app of a sandbox: what its manifest declares is built, kept running, and stopped.
//!
//! ```text
//! replace ─► build (once per command) ─► processes start
//!                                          │ ends: again after 1 s · 2ⁿ ≤ 30 s
//!                                          │ five ends within 10 s of their start: given up
//! replace ─► what is gone or changed: TERM, 5 s, KILL, then the new one starts
//! ```
//!
//! A build whose command has changed meanwhile is killed and the new one runs in its place.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::log::{Logs, open_plain};
use protocol::{App, Build, Process, ProcessState, Reply, Stamp};
use sys::process::{self, Exit, Stdio3};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A run that is shorter counts as a failure to start.
const RUN_MIN: Duration = Duration::from_secs(10);
/// After so many short runs in a row a process is given up.
const SHORT_RUNS_MAX: u32 = 5;
/// Between TERM and KILL when a process is replaced.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the manifest is looked at. A watch would cost one of the 128 inotify instances that the sandbox's user has.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How much of a failed build's output is told.
const BUILD_TAIL_BYTES: u64 = 2000;
/// The manifest's name in the app directory.
const MANIFEST: &str = "sandbox.yaml";
/// The home directory of the sandbox's user.
pub(super) const HOME: &str = "/home/sandbox";
/// The build's log is `build.log`; no process of the app has this name.
const BUILD: &str = "build";

/// The app and how it is doing.
#[derive(Debug)]
pub(super) struct Supervised {
    app: App,
    build: Option<RunningBuild>,
    processes: Vec<Running>,
    logs: Logs,
    /// What the daemon has not been told yet.
    changes: Vec<Reply>,
    /// The manifest as the daemon has read it; set once there is an app.
    stamp: Option<Option<Stamp>>,
    /// What the daemon was told last to read again. It may not be able to: it follows no link that leads out
    /// of the app directory, for one.
    told: Option<Stamp>,
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct RunningBuild {
    pid: i32,
    /// `None` once it has been killed.
    kill_at: Option<Instant>,
    build: Build,
    /// The app has another build by now.
    outdated: bool,
}

/// A process of the app in whatever state it is.
#[derive(Debug)]
struct Running {
    process: Process,
    state: State,
    restarts: u32,
    short_runs: u32,
    /// How the last run ended.
    last_exit: Option<Exit>,
    /// Removed from the app: forgotten once it has ended.
    leaving: bool,
}

#[derive(Debug)]
enum State {
    /// Waits for the build.
    Waiting,
    Up {
        pid: i32,
        since: Instant,
    },
    /// TERM was sent; KILL follows then.
    Stopping {
        pid: i32,
        kill_at: Instant,
    },
    /// Ended; to be started again then.
    Down {
        again_at: Instant,
    },
    GivenUp,
}

impl Default for Supervised {
    fn default() -> Self {
        Self {
            app: App::default(),
            build: None,
            processes: Vec::new(),
            logs: Logs::new(Path::new(HOME)),
            changes: Vec::new(),
            stamp: None,
            told: None,
            looked_at: None,
        }
    }
}

impl Supervised {
    /// Takes over a new app: what is the same runs on.
    pub(super) fn replace(&mut self, app: App, now: Instant) {
        for running in &mut self.processes {
            if !app.processes.contains(&running.process) {
                running.leave(now);
            }
        }
        self.processes.retain(|r| !(r.leaving && r.pid().is_none()));
        for process in &app.processes {
            // One that was given up gets a new chance with every new manifest.
            match self.processes.iter_mut().find(|r| !r.leaving && r.process == *process) {
                Some(same) => same.revive(),
                None => self.processes.push(Running::new(process.clone())),
            }
        }
        let build_changed = self.app.build != app.build;
        // What the daemon has read, not what lies there now: it may have been changed in between.
        self.stamp = Some(app.stamp);
        self.looked_at = Some(now);
        self.app = app;
        if let Some(running) = &mut self.build
            && self.app.build.as_ref() != Some(&running.build)
        {
            running.outdated = true;
            running.kill_at = running.kill_at.map(|_| now);
        }
        self.begin_build(build_changed, now);
        self.tick(now, false);
        let states: Vec<Reply> =
            self.processes.iter().filter(|r| !r.leaving).map(|r| Reply::Process(r.view())).collect();
        self.changes.extend(states);
    }

    /// Deals with a child that has ended; one that is not of the app is nobody's.
    pub(super) fn ended(&mut self, pid: i32, exit: Exit, now: Instant) {
        if let Some(build) = self.build.take_if(|b| b.pid == pid) {
            return self.build_ended(&build, exit, now);
        }
        let Some(index) = self.processes.iter().position(|r| r.pid() == Some(pid)) else { return };
        let Some(running) = self.processes.get_mut(index) else { return };
        // What it left behind in its process group goes with it, or a restart would find its port taken.
        let _ignored: io::Result<()> = process::kill_group(pid, Signal::SIGKILL);
        if running.leaving {
            self.processes.swap_remove(index);
            return;
        }
        running.ended(Some(exit), now);
        self.changes.push(Reply::Process(running.view()));
    }

    /// What has to be waited for beside the deadline: [`Supervised::pump`] wants to know what is ready.
    pub(super) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.logs.pipes()
    }

    /// Moves what the processes have printed into their logs.
    pub(super) fn pump(&mut self, ready: &[bool]) {
        self.logs.pump(ready);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant, ending: bool) {
        if ending {
            return;
        }
        if let Some(build) = &mut self.build
            && build.kill_at.take_if(|at| now >= *at).is_some()
        {
            let _ignored: io::Result<()> = process::kill_group(build.pid, Signal::SIGKILL);
        }
        let building = self.build.is_some();
        let count = self.processes.len();
        for index in 0..count {
            let blocked = building || self.predecessor_runs(index);
            let Some(running) = self.processes.get_mut(index) else { continue };
            if running.tick(blocked, now) {
                // Without a log (no descriptor is left) the app runs all the same.
                let output = self.logs.open(&running.process.name, count).or_else(|_e| null());
                let command = &running.process.command;
                let started = output.and_then(|output| start_shell(command, &self.app.directory, output));
                running.started(started, now);
                self.changes.push(Reply::Process(running.view()));
            }
        }
        self.look(now);
    }

    /// When [`Supervised::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let look = self.looked_at.map(|at| at + LOOK_INTERVAL);
        let build = self.build.as_ref().and_then(|b| b.kill_at);
        let processes = self.processes.iter().filter_map(|r| match &r.state {
            State::Stopping { kill_at, .. } => Some(*kill_at),
            State::Down { again_at } if !r.leaving => Some(*again_at),
            State::Waiting | State::Up { .. } | State::Down { .. } | State::GivenUp => None,
        });
        processes.chain(look).chain(build).min()
    }

    pub(super) fn take_changes(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.changes)
    }

    /// Says whether an earlier version of the same process has not ended yet.
    fn predecessor_runs(&self, index: usize) -> bool {
        let Some(this) = self.processes.get(index) else { return false };
        !this.leaving && self.processes.iter().any(|r| r.leaving && r.process.name == this.process.name)
    }

    fn begin_build(&mut self, changed: bool, now: Instant) {
        let Some(wanted) = self.app.build.clone() else { return };
        // A build that succeeded is not repeated at every wake: the workspace kept what it made.
        if self.build.is_some()
            || (!changed && self.processes.iter().any(|r| r.pid().is_some()))
            || is_built(&wanted)
        {
            return;
        }
        let output = self.logs.open(BUILD, self.processes.len() + 1);
        let started = output.and_then(|o| start_shell(&wanted.command, &self.app.directory, o));
        match started {
            Ok(pid) => {
                let kill_at = Some(now + Duration::from_millis(wanted.timeout_ms));
                self.build = Some(RunningBuild { pid, kill_at, build: wanted, outdated: false });
                self.changes.push(Reply::Build { running: true, error: None });
            }
            Err(error) => self.build_failed(format!("the build could not be started: {error}")),
        }
    }

    fn build_ended(&mut self, ended: &RunningBuild, exit: Exit, now: Instant) {
        let _ignored: io::Result<()> = process::kill_group(ended.pid, Signal::SIGKILL);
        if ended.outdated {
            self.changes.push(Reply::Build { running: false, error: None });
            return self.begin_build(true, now);
        }
        if exit == Exit::Code(0) {
            mark_built(&ended.build);
            self.changes.push(Reply::Build { running: false, error: None });
            return;
        }
        let how = match exit {
            Exit::Code(code) => format!("exit status {code}"),
            Exit::Signal(9) if ended.kill_at.is_none() => "it took too long and was killed".to_owned(),
            Exit::Signal(signal) => format!("signal {signal}"),
        };
        let tail = self.logs.tail(BUILD, BUILD_TAIL_BYTES);
        self.build_failed(format!("the build failed ({how}):\n{tail}"));
    }

    /// Without its build the app cannot run: nothing is started until the manifest changes.
    fn build_failed(&mut self, message: String) {
        for running in &mut self.processes {
            if matches!(running.state, State::Waiting) {
                running.state = State::GivenUp;
                self.changes.push(Reply::Process(running.view()));
            }
        }
        self.changes.push(Reply::Build { running: false, error: Some(message) });
    }

    fn look(&mut self, now: Instant) {
        let Some(last) = self.looked_at else { return };
        if now < last + LOOK_INTERVAL {
            return;
        }
        self.looked_at = Some(now);
        let stamp = stamp_of(&self.app.directory);
        if self.stamp.is_some_and(|known| known != stamp) && (stamp.is_none() || self.told != stamp) {
            // Until the daemon has read it there is nothing new to say.
            self.stamp = Some(stamp);
            self.told = stamp;
            self.changes.push(Reply::ManifestChanged);
        }
    }
}

impl Running {
    fn new(process: Process) -> Self {
        Self { process, state: State::Waiting, restarts: 0, short_runs: 0, last_exit: None, leaving: false }
    }

    fn pid(&self) -> Option<i32> {
        match &self.state {
            State::Up { pid, .. } | State::Stopping { pid, .. } => Some(*pid),
            State::Waiting | State::Down { .. } | State::GivenUp => None,
        }
    }

    fn view(&self) -> ProcessState {
        ProcessState {
            name: self.process.name.clone(),
            kind: self.process.kind,
            pid: self.pid(),
            restarts: self.restarts,
            given_up: matches!(self.state, State::GivenUp),
            exit_code: self.last_exit.map(Exit::shell_code),
        }
    }

    fn leave(&mut self, now: Instant) {
        self.leaving = true;
        if let State::Up { pid, .. } = self.state {
            let _ignored: io::Result<()> = process::kill_group(pid, Signal::SIGTERM);
            self.state = State::Stopping { pid, kill_at: now + STOP_GRACE };
        }
    }

    fn revive(&mut self) {
        if matches!(self.state, State::GivenUp) {
            self.state = State::Waiting;
            self.short_runs = 0;
        }
    }

    /// `None`: it could not even be started.
    fn ended(&mut self, exit: Option<Exit>, now: Instant) {
        self.last_exit = exit.or(self.last_exit);
        let long = matches!(&self.state, State::Up { since, .. } if now - *since >= RUN_MIN);
        let short = !long;
        self.short_runs = if short { self.short_runs + 1 } else { 0 };
        self.state = if self.short_runs >= SHORT_RUNS_MAX {
            State::GivenUp
        } else {
            let doubled = BACKOFF_FIRST * 2_u32.pow(self.short_runs.saturating_sub(1));
            State::Down { again_at: now + doubled.min(BACKOFF_MAX) }
        };
    }

    /// Kills what is due; true when it is due to be started.
    fn tick(&mut self, blocked: bool, now: Instant) -> bool {
        match &self.state {
            State::Stopping { pid, kill_at } if now >= *kill_at => {
                let _ignored: io::Result<()> = process::kill_group(*pid, Signal::SIGKILL);
                self.state = State::Stopping { pid: *pid, kill_at: now + STOP_GRACE };
                false
            }
            State::Waiting => !blocked && !self.leaving,
            State::Down { again_at } if now >= *again_at && !blocked && !self.leaving => {
                self.restarts += 1;
                true
            }
            State::Stopping { .. } | State::Down { .. } | State::Up { .. } | State::GivenUp => false,
        }
    }

    fn started(&mut self, started: io::Result<i32>, now: Instant) {
        match started {
            Ok(pid) => self.state = State::Up { pid, since: now },
            Err(_) => self.ended(None, now),
        }
    }
}

/// Looks at the manifest; `None`: there is none.
fn stamp_of(directory: &str) -> Option<Stamp> {
    let metadata = fs::metadata(Path::new(directory).join(MANIFEST)).ok()?;
    Some(Stamp {
        inode: metadata.ino(),
        modified_s: metadata.mtime(),
        modified_ns: metadata.mtime_nsec(),
        length: metadata.len(),
    })
}

/// Opens the sandbox's own `/dev/null`.
pub(super) fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Starts `bash -lc <command>` with one output for both streams.
fn start_shell(command: &str, directory: &str, output: OwnedFd) -> io::Result<i32> {
    let argv = ["bash", "-lc", command].map(str::to_owned);
    let stderr = output.try_clone()?;
    process::spawn(&argv, &[], directory, Stdio3 { stdin: null()?, stdout: output, stderr })
}

/// Where it is noted which build succeeded last.
fn built_marker() -> String {
    format!("{HOME}/.runtimed/build.ok")
}

fn is_built(build: &Build) -> bool {
    let read = || {
        let file = open_plain(File::options().read(true), Path::new(&built_marker()))?;
        let mut text = Vec::new();
        file.take(u64::try_from(build.command.len() + 1).unwrap_or(u64::MAX)).read_to_end(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    read().is_ok_and(|text| text == build.command.as_bytes())
}

fn mark_built(build: &Build) {
    let write = || {
        let options = &mut File::options();
        let options = options.create(true).write(true).truncate(true);
        open_plain(options, Path::new(&built_marker()))?.write_all(build.command.as_bytes())
    };
    // If it cannot be noted the build runs again at the next start, which is right too.
    let _ignored: io::Result<()> = write();
}
