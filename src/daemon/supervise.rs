//! The first process of the image: reaps what the daemon leaves, starts it again, forwards signals.
//!
//! It holds no state, so nothing can be lost in it. Sandboxes whose daemon has died become its
//! children, and are adopted by the next daemon from the record.

use std::io;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::exit::{Exit, complain};
use sys::process::{self, Exit as Ended, Reaped};
use sys::signal::{self, Signals};
use sys::{capabilities, fs, mount};

const RUN: &str = "/run";
/// The pause before a daemon that died is started again; it doubles up to the second figure.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A daemon that ran for so long begins with the short pause again.
const STEADY: Duration = Duration::from_secs(60);
/// What the daemon is told when the supervisor is told it.
const FORWARDED: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// What the daemon was told by the supervisor before it ended.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    /// TERM or INT.
    to_end: bool,
    /// USR2: the next daemon, maybe of a new binary, is to be started.
    to_hand_over: bool,
}

/// Runs the daemon until it ends by itself or is told to.
pub(super) fn run(flags: &[(String, String)]) -> Exit {
    if let Err(error) = keep_run_in_memory() {
        complain(&format!("sandboxd: {RUN} stays on the disk: {error}"));
    }
    match supervise(flags) {
        Ok(exit) => exit,
        Err(error) => Exit::Software.because(&error, "the supervisor could not work"),
    }
}

/// Gives a container of ours what every host has: a `/run` without a disk, where the output of processes is kept.
///
/// Only as a container's first process, whose `/run` nobody else uses, and not over what has been mounted there.
fn keep_run_in_memory() -> io::Result<()> {
    let run = Path::new(RUN);
    if std::process::id() != 1 || fs::is_in_memory(fs::open_directory(run)?) {
        return Ok(());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let is_used =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|path| Path::new(path).starts_with(run));
    if is_used { Ok(()) } else { mount::in_memory(run) }
}

fn supervise(flags: &[(String, String)]) -> io::Result<Exit> {
    if let Err(error) = capabilities::keep(capabilities::SUPERVISOR, capabilities::REACHABLE) {
        complain(&format!("sandboxd: the supervisor cannot lay down what it does not need: {error}"));
    }
    let signals = Signals::block(&[FORWARDED.as_slice(), &[Signal::SIGCHLD]].concat())?;
    // Named now: once the binary has been replaced, /proc/self/exe names a file that is gone.
    let program = std::env::current_exe()?;
    let mut pause = RESTART_PAUSE;
    let mut daemon = start(&program, flags)?;
    // Whether sandboxes of an earlier daemon may be running, for which no exit code is final: they would end with the image.
    let mut is_follower = false;
    loop {
        let begun = Instant::now();
        let pid = i32::try_from(daemon.id()).unwrap_or_default();
        let (ended, told) = wait(&signals, pid)?;
        if told.to_end {
            return Ok(if ended == Ended::Code(0) { Exit::Success } else { Exit::Software });
        }
        let is_steady = begun.elapsed() >= STEADY;
        let hands_over = told.to_hand_over && ended == Ended::Code(0);
        if let Some(exit) = final_exit(ended).filter(|exit| {
            let is_asked = *exit == Exit::Success && !hands_over;
            is_asked || (*exit != Exit::Success && (!is_follower || is_steady))
        }) {
            return Ok(exit);
        }
        if is_steady || hands_over {
            pause = RESTART_PAUSE;
        }
        is_follower = true;
        if hands_over {
            complain("sandboxd: the daemon has handed over; the next one is started");
        } else {
            complain(&format!(
                "sandboxd: the daemon has died ({ended:?}); it is started again in {} ms",
                pause.as_millis()
            ));
            if is_told_to_end(&signals, pause)? {
                return Ok(Exit::Software);
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
        daemon = loop {
            match start(&program, flags) {
                Ok(daemon) => break daemon,
                // While a binary is being replaced there may be none, or one that is not whole.
                Err(error) => complain(&format!("sandboxd: failed to start {}: {error}", program.display())),
            }
            if is_told_to_end(&signals, pause)? {
                return Ok(Exit::Software);
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        };
    }
}

/// The exit codes after which a daemon is not started again: it ended by itself and said why, and would do so again.
fn final_exit(ended: Ended) -> Option<Exit> {
    let finals = [Exit::Success, Exit::Config, Exit::Isolation, Exit::Permission, Exit::Unavailable];
    finals.into_iter().find(|exit| ended == Ended::Code(i32::from(exit.code())))
}

/// Reaps for the length of a pause; true as soon as the supervisor is told to end.
fn is_told_to_end(signals: &Signals, pause: Duration) -> io::Result<bool> {
    let end = Instant::now() + pause;
    loop {
        while let Reaped::Child { .. } = process::reap()? {}
        let Some(left) = end.checked_duration_since(Instant::now()) else { return Ok(false) };
        poll(signals, Some(left))?;
        while let Some(signal) = signals.take()? {
            if is_end(signal) {
                return Ok(true);
            }
        }
    }
}

fn start(program: &Path, flags: &[(String, String)]) -> io::Result<Child> {
    let mut command = process::command(program);
    // The daemon's settings are in the environment.
    command.envs(std::env::vars_os()).arg("serve");
    for (name, value) in flags {
        if name == "config" {
            command.arg("--config").arg(value);
        } else {
            command.arg("--set").arg(format!("{name}={value}"));
        }
    }
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    signal::with_none_blocked(|| command.spawn())
}

/// Forwards and reaps until the daemon has ended; says how, and what it was told.
fn wait(signals: &Signals, daemon: i32) -> io::Result<(Ended, Told)> {
    let mut told = Told::default();
    loop {
        // First, since a SIGCHLD may have been lost while the daemon was being started.
        while let Reaped::Child { pid, exit } = process::reap()? {
            if pid == daemon {
                return Ok((exit, told));
            }
        }
        poll(signals, None)?;
        while let Some(signal) = signals.take()? {
            if FORWARDED.contains(&signal) {
                told.to_end |= is_end(signal);
                told.to_hand_over |= signal == Signal::SIGUSR2;
                process::kill_child(daemon, signal)?;
            }
        }
    }
}

fn is_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT)
}

/// Waits for a signal, or until the time is over.
fn poll(signals: &Signals, limit: Option<Duration>) -> io::Result<()> {
    let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut polled = [PollFd::new(signals, PollFlags::IN)];
    match rustix::event::poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
