//! The app of a sandbox: what its manifest declares is built, kept running, and stopped.
//!
//! ```text
//! replace ─► build (once per command) ─► processes start
//!                                          │ ends: again after 1 s · 2ⁿ ≤ 30 s
//!                                          │ five ends within 10 s of their start: given up
//! replace ─► what is gone or changed: TERM, 5 s, KILL, then the new one starts
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::log::Log;
use crate::protocol::{App, Build, Process, ProcessState, Reply};
use crate::sys::process::{self, Exit, Stdio3};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A run that is shorter counts as a failure to start.
const RUN_MIN: Duration = Duration::from_secs(10);
/// After so many short runs in a row a process is given up.
const SHORT_RUNS_MAX: u32 = 5;
/// Between TERM and KILL when a process is replaced.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the manifest is looked at and the logs are cut. A watch would cost one of the 128
/// inotify instances that all sandboxes share while they run under one uid of the host.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How much of a failed build's output is told.
const BUILD_TAIL_BYTES: u64 = 2000;
/// The manifest's name in the app directory.
const MANIFEST: &str = "sandbox.yaml";
/// The home directory of the sandbox's user.
const HOME: &str = "/home/sandbox";

/// The app and how it is doing.
#[derive(Debug, Default)]
pub(super) struct Supervised {
    app: App,
    build: Option<RunningBuild>,
    processes: Vec<Running>,
    /// What the daemon has not been told yet.
    changes: Vec<Reply>,
    /// The manifest as it was last seen; set once there is an app directory to look at.
    stamp: Option<Stamp>,
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct RunningBuild {
    pid: i32,
    kill_at: Instant,
    log: Log,
}

/// A process of the app in whatever state it is.
#[derive(Debug)]
struct Running {
    process: Process,
    state: State,
    restarts: u32,
    short_runs: u32,
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
        log: Option<Log>,
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

/// Enough of stat(2) to see that a file is not the same any more; `None` fields: there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp(Option<(u64, i64, i64, u64)>);

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
        self.stamp = Some(Stamp::of(&app.directory));
        self.looked_at = Some(now);
        self.app = app;
        self.begin_build(build_changed, now);
        self.tick(now, false);
        let states: Vec<Reply> =
            self.processes.iter().filter(|r| !r.leaving).map(|r| Reply::Process(r.view())).collect();
        self.changes.extend(states);
    }

    /// Deals with a child that has ended; one that is not of the app is nobody's.
    pub(super) fn ended(&mut self, pid: i32, exit: Exit, now: Instant) {
        if let Some(build) = self.build.take_if(|b| b.pid == pid) {
            return self.build_ended(build, exit);
        }
        let Some(index) = self.processes.iter().position(|r| r.pid() == Some(pid)) else { return };
        let Some(running) = self.processes.get_mut(index) else { return };
        // What it left behind in its process group goes with it, or a restart would find its port taken.
        let _ignored: io::Result<()> = process::kill_group(pid, Signal::SIGKILL);
        if running.leaving {
            self.processes.swap_remove(index);
            return;
        }
        running.ended(now);
        self.changes.push(Reply::Process(running.view()));
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant, ending: bool) {
        if ending {
            return;
        }
        if self.build.as_ref().is_some_and(|b| now >= b.kill_at)
            && let Some(build) = &self.build
        {
            let _ignored: io::Result<()> = process::kill_group(build.pid, Signal::SIGKILL);
        }
        let building = self.build.is_some();
        for index in 0..self.processes.len() {
            let blocked = building || self.predecessor_runs(index);
            if let Some(running) = self.processes.get_mut(index)
                && running.tick(&self.app.directory, blocked, now)
            {
                self.changes.push(Reply::Process(running.view()));
            }
        }
        self.look(now);
    }

    /// When [`Supervised::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let look = self.looked_at.map(|at| at + LOOK_INTERVAL);
        let build = self.build.as_ref().map(|b| b.kill_at);
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
        let started = Log::open(HOME, "build").and_then(|log| {
            let pid = start_shell(&wanted.command, &self.app.directory, log.writer()?)?;
            Ok(RunningBuild { pid, kill_at: now + Duration::from_millis(wanted.timeout_ms), log })
        });
        match started {
            Ok(build) => {
                self.build = Some(build);
                self.changes.push(Reply::Build { running: true, error: None });
            }
            Err(error) => self.build_failed(format!("the build could not be started: {error}")),
        }
    }

    fn build_ended(&mut self, mut build: RunningBuild, exit: Exit) {
        let _ignored: io::Result<()> = process::kill_group(build.pid, Signal::SIGKILL);
        if exit == Exit::Code(0) {
            if let Some(wanted) = &self.app.build {
                mark_built(wanted);
            }
            self.changes.push(Reply::Build { running: false, error: None });
            return;
        }
        let how = match exit {
            Exit::Code(code) => format!("exit status {code}"),
            Exit::Signal(9) if Instant::now() >= build.kill_at => {
                "it took too long and was killed".to_owned()
            }
            Exit::Signal(signal) => format!("signal {signal}"),
        };
        let tail = build.log.tail(BUILD_TAIL_BYTES).unwrap_or_default();
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
        for running in &mut self.processes {
            if let State::Up { log: Some(log), .. } = &mut running.state {
                // A full disk is the tenant's own; the log is cut at the next look.
                let _ignored: io::Result<()> = log.cut();
            }
        }
        let stamp = Stamp::of(&self.app.directory);
        if self.stamp.is_some_and(|seen| seen != stamp) {
            self.stamp = Some(stamp);
            self.changes.push(Reply::ManifestChanged);
        }
    }
}

impl Running {
    fn new(process: Process) -> Self {
        Self { process, state: State::Waiting, restarts: 0, short_runs: 0, leaving: false }
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

    fn ended(&mut self, now: Instant) {
        let short = matches!(&self.state, State::Up { since, .. } if now - *since < RUN_MIN);
        self.short_runs = if short { self.short_runs + 1 } else { 0 };
        self.state = if self.short_runs >= SHORT_RUNS_MAX {
            State::GivenUp
        } else {
            let doubled = BACKOFF_FIRST * 2_u32.pow(self.short_runs.saturating_sub(1));
            State::Down { again_at: now + doubled.min(BACKOFF_MAX) }
        };
    }

    /// Starts or kills what is due; true when the state has changed.
    fn tick(&mut self, directory: &str, blocked: bool, now: Instant) -> bool {
        match &self.state {
            State::Stopping { pid, kill_at } if now >= *kill_at => {
                let _ignored: io::Result<()> = process::kill_group(*pid, Signal::SIGKILL);
                self.state = State::Stopping { pid: *pid, kill_at: now + STOP_GRACE };
                false
            }
            State::Waiting if !blocked && !self.leaving => self.start(directory, now),
            State::Down { again_at } if now >= *again_at && !blocked && !self.leaving => {
                self.restarts += 1;
                self.start(directory, now)
            }
            State::Stopping { .. }
            | State::Waiting
            | State::Down { .. }
            | State::Up { .. }
            | State::GivenUp => false,
        }
    }

    fn start(&mut self, directory: &str, now: Instant) -> bool {
        let log = Log::open(HOME, &self.process.name).ok();
        // Without a log (a full disk, a directory in its place) the app runs all the same.
        let output = match log.as_ref().map(Log::writer) {
            Some(Ok(file)) => Ok(file),
            Some(Err(_)) | None => File::options().write(true).open("/dev/null"),
        };
        match output.and_then(|file| start_shell(&self.process.command, directory, file)) {
            Ok(pid) => self.state = State::Up { pid, since: now, log },
            Err(_) => self.ended(now),
        }
        true
    }
}

impl Stamp {
    fn of(directory: &str) -> Self {
        let metadata = fs::metadata(Path::new(directory).join(MANIFEST)).ok();
        Self(metadata.map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.len())))
    }
}

/// Starts `bash -lc <command>` with both outputs in one file.
fn start_shell(command: &str, directory: &str, output: File) -> io::Result<i32> {
    let argv = ["bash", "-lc", command].map(str::to_owned);
    let stdin = File::open("/dev/null")?.into();
    let stderr = output.try_clone()?.into();
    process::spawn(&argv, &[], directory, Stdio3 { stdin, stdout: output.into(), stderr })
}

/// Where it is noted which build succeeded last.
fn built_marker() -> String {
    format!("{HOME}/.runtimed/build.ok")
}

fn is_built(build: &Build) -> bool {
    fs::read_to_string(built_marker()).is_ok_and(|text| text == build.command)
}

fn mark_built(build: &Build) {
    // If it cannot be noted the build runs again at the next start, which is right too.
    let _ignored: io::Result<()> = fs::write(built_marker(), &build.command);
}
