//! The first process of the image: reaps what the daemon leaves, starts it again, forwards signals.
//!
//! It holds no state, so nothing can be lost in it. Sandboxes whose daemon has died become its
//! children, and are adopted by the next daemon from the record.

use std::io;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags};

use super::exit::{Exit, complain};
use crate::sys::process::{self, Exit as Ended, Reaped};
use crate::sys::signal::{self, Signals};
use crate::sys::{capabilities, fs, mount};

const RUN: &str = "/run";
/// The pause before a daemon that died is started again; it doubles up to the second figure.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A daemon that ran for so long begins with the short pause again.
const STEADY: Duration = Duration::from_secs(60);
/// What the daemon is told when the supervisor is told it.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1];

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
    let mut pause = RESTART_PAUSE;
    loop {
        let begun = Instant::now();
        let daemon = start(flags)?;
        let pid = i32::try_from(daemon.id()).unwrap_or_default();
        let (ended, told_to_end) = wait(&signals, pid)?;
        if told_to_end {
            return Ok(if ended == Ended::Code(0) { Exit::Success } else { Exit::Software });
        }
        match ended {
            // It ended by itself and said why: it would do so again.
            Ended::Code(0) => return Ok(Exit::Success),
            Ended::Code(code) if code == i32::from(Exit::Config.code()) => return Ok(Exit::Config),
            Ended::Code(code) if code == i32::from(Exit::Isolation.code()) => return Ok(Exit::Isolation),
            Ended::Code(code) if code == i32::from(Exit::Permission.code()) => return Ok(Exit::Permission),
            Ended::Code(code) if code == i32::from(Exit::Unavailable.code()) => return Ok(Exit::Unavailable),
            Ended::Code(_) | Ended::Signal(_) => {}
        }
        if begun.elapsed() >= STEADY {
            pause = RESTART_PAUSE;
        }
        complain(&format!(
            "sandboxd: the daemon has died ({ended:?}); it is started again in {} ms",
            pause.as_millis()
        ));
        std::thread::sleep(pause);
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

fn start(flags: &[(String, String)]) -> io::Result<Child> {
    let mut command = process::command(std::env::current_exe()?);
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

/// Forwards and reaps until the daemon has ended; says how, and whether it was told to.
fn wait(signals: &Signals, daemon: i32) -> io::Result<(Ended, bool)> {
    let mut told_to_end = false;
    loop {
        // First, since a SIGCHLD may have been lost while the daemon was being started.
        while let Reaped::Child { pid, exit } = process::reap()? {
            if pid == daemon {
                return Ok((exit, told_to_end));
            }
        }
        let mut polled = [PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(signal) = signals.take()? {
            if FORWARDED.contains(&signal) {
                told_to_end |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
                process::kill_child(daemon, signal)?;
            }
        }
    }
}
