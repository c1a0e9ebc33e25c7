//! Starting, signalling and reaping processes.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::identity::{self, Whom};
use super::vfork::Program;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The status it gave to exit(2), 0 to 255.
    Code(i32),
    /// The number of the signal that ended it.
    Signal(i32),
}

impl Exit {
    /// The number a shell would show: the status, or 128 + the signal.
    pub const fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// What [`reap`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    Child {
        pid: i32,
        exit: Exit,
    },
    /// Children live, none has ended.
    Nothing,
    /// The caller has no children at all.
    NoChildren,
}

/// What else a new process is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It leads a process group.
    Group,
    /// It leads a session whose controlling terminal is its stdin.
    Terminal,
}

/// The standard streams of a new process.
#[derive(Debug)]
pub struct Stdio3 {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Where host programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Prepares a host program: the only way to run one. Fixed environment, cwd `/`, no input, no output.
#[expect(clippy::disallowed_methods, reason = "this is the one place that fixes environment and stdio")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command.env("PATH", PATH).env("LC_ALL", "C");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts a process that inherits the caller's environment plus `env`, as the sandbox's user, in a process group
/// of its own; every descriptor but the three is close-on-exec, no signal is blocked. Returns its pid; reap it
/// with [`reap`], which must be called once after this in any case: a SIGCHLD may have been lost.
///
/// # Errors
/// That of execve(2) or chdir(2); an empty argument list is `EINVAL`.
pub fn spawn(argv: &[String], env: &[(String, String)], cwd: &str, stdio: Stdio3) -> io::Result<i32> {
    start(argv, env, cwd, stdio, Session::Group, Whom::User)
}

/// Like [`spawn`], and marks the process and whatever it starts, for [`signal_marked`].
///
/// The mark is the soft `RLIMIT_LOCKS`, which the kernel has kept for each process and passed on to its
/// children, but never looked at, since Linux 2.4.25 — man 2 getrlimit. It goes with a child that
/// daemonises or begins a session, costs two system calls, and needs no process beside the child. gVisor, which
/// lets nobody set that one, has `RLIMIT_RSS` of the same kind.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_marked(
    argv: &[String],
    env: &[(String, String)],
    cwd: &str,
    stdio: Stdio3,
    session: Session,
    whom: Whom,
    mark: u64,
) -> io::Result<i32> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let set = |resource| {
        let own = getrlimit(resource);
        setrlimit(resource, Rlimit { current: Some(mark), maximum: own.maximum }).map(|()| (resource, own))
    };
    let (resource, own) = match set(Resource::Locks) {
        Err(rustix::io::Errno::PERM) => set(Resource::Rss)?,
        other => other?,
    };
    let started = start(argv, env, cwd, stdio, session, whom);
    setrlimit(resource, own)?;
    started
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs inside a sandbox, where the sandbox's environment is wanted"
)]
fn start(
    argv: &[String],
    env: &[(String, String)],
    cwd: &str,
    stdio: Stdio3,
    session: Session,
    whom: Whom,
) -> io::Result<i32> {
    if identity::has_root() {
        return start_as(argv, env, cwd, &stdio, session, whom);
    }
    let (program, arguments) =
        argv.split_first().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut command = Command::new(program);
    command.args(arguments);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr);
    if session == Session::Group {
        command.process_group(0);
    }
    if whom == Whom::Root {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    if session == Session::Terminal {
        let cwd = CString::new(cwd)?;
        let prepare = move || {
            take_terminal()?;
            Ok(rustix::process::chdir(cwd.as_c_str())?)
        };
        // SAFETY: the closure makes system calls and neither allocates nor takes a lock, which is what
        // may be done between fork and exec; stdin is the terminal already.
        unsafe { command.pre_exec(prepare) };
    } else {
        // Without a step of its own a child needs no copy of this process's memory: std uses vfork then.
        command.current_dir(cwd);
    }
    let child = super::signal::with_none_blocked(|| command.spawn())?;
    let pid = i32::try_from(child.id()).map_err(|_e| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // When memory runs out the workload goes before PID 1. Best effort: the process may have ended.
    let _ignored: io::Result<()> = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000");
    Ok(pid)
}

/// `stat(path/.)` — man 2 stat: whether a process could begin in this directory. What is closed to the caller is
/// not to root of a sandbox.
pub fn can_be_entered(directory: &str, by_root: bool) -> bool {
    match std::fs::metadata(std::path::Path::new(directory).join(".")) {
        Ok(_) => true,
        Err(error) => by_root && error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Starts a process that becomes somebody, for which std would copy this process's memory.
fn start_as(
    argv: &[String],
    env: &[(String, String)],
    cwd: &str,
    stdio: &Stdio3,
    session: Session,
    whom: Whom,
) -> io::Result<i32> {
    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    environment.extend(env.iter().map(|(name, value)| (name.into(), value.into())));
    let environment: Vec<_> = environment.into_iter().collect();
    let program = Program::new(argv, &environment)?;
    let cwd = CString::new(cwd)?;
    program.start(|| {
        for (number, stream) in (0..).zip([&stdio.stdin, &stdio.stdout, &stdio.stderr]) {
            super::socket::place(stream.as_fd(), number)?;
        }
        match session {
            Session::Group => rustix::process::setpgid(None, None)?,
            Session::Terminal => take_terminal()?,
        }
        identity::become_whom(whom)?;
        // Who changes identity is as dumpable as the host's fs.suid_dumpable says, and until execve(2) this memory is
        // PID 1's too.
        set_not_dumpable()?;
        // As whom it will be: root has directories that are closed to the user.
        Ok(rustix::process::chdir(cwd.as_c_str())?)
    })
}

/// Leads a session of which stdin is the terminal.
fn take_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
}

/// `chdir(path)` — man 2 chdir. For a process with one thread.
///
/// # Errors
/// The kernel's.
pub fn enter_directory(path: &str) -> io::Result<()> {
    Ok(rustix::process::chdir(path)?)
}

/// Executes the caller's own program anew, with another environment and one descriptor under a number of its
/// choice; everything else is as it was, pid and blocked signals included. Returns only if it fails.
pub fn execute_again(environment: &[String], kept: BorrowedFd<'_>, number: RawFd) -> io::Error {
    let prepare = || {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let program = rustix::fs::open("/proc/self/exe", flags, rustix::fs::Mode::empty())?;
        let environment: Result<Vec<_>, _> = environment.iter().map(|e| CString::new(e.as_bytes())).collect();
        if kept.as_raw_fd() == number {
            rustix::io::fcntl_setfd(kept, rustix::io::FdFlags::empty())?;
        } else {
            super::socket::place(kept, number)?;
        }
        Ok((program, environment?))
    };
    let prepared = prepare().and_then(|all| identity::take_up_root().map(|()| all));
    let (program, environment) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let name = std::env::args_os().next().unwrap_or_default();
    let name = CString::new(name.into_encoded_bytes()).unwrap_or_default();
    super::clone::execute(program.as_fd(), &name, &environment)
}

/// Signals every process of a mark that has not ended, wherever it has gone; returns how many there were.
///
/// One that is being forked meanwhile may be missed: who means to kill them all asks until there are none.
///
/// # Errors
/// `/proc` cannot be read.
pub fn signal_marked(mark: u64, signal: Signal) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if is_marked(pid, mark) && !is_zombie(pid) {
            count += 1;
            ignore_gone(nix::sys::signal::kill(Pid::from_raw(pid), signal))?;
        }
    }
    Ok(count)
}

/// Signals every process of a session, by field 6 of `/proc/<pid>/stat` — man 5 proc_pid_stat.
///
/// # Errors
/// `/proc` cannot be read.
pub fn signal_session(leader: i32, signal: Signal) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name: state, parent, group, session.
        let session = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3));
        if session.and_then(|session| session.parse().ok()) == Some(leader) {
            ignore_gone(nix::sys::signal::kill(Pid::from_raw(pid), signal))?;
        }
    }
    Ok(())
}

/// Whether a process has a mark, from `/proc/<pid>/limits`; one that is gone has none. Asking by prlimit(2) is
/// refused in a sandbox, where it could also take the limits away from PID 1.
fn is_marked(pid: i32, mark: u64) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let mark = mark.to_string();
    let mut soft = ["Max file locks", "Max resident set"].into_iter().filter_map(|name| {
        limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
    });
    soft.any(|soft| soft == mark)
}

/// Says whether a process only waits to be reaped: it can be signalled, to no effect.
fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets is the process's own choice, brackets and blanks included.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// `waitpid(-1, WNOHANG)`: takes one child that has ended.
///
/// # Errors
/// The kernel's, but not `ECHILD`, which is [`Reaped::NoChildren`].
pub fn reap() -> io::Result<Reaped> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Ok(Reaped::Child { pid: pid.as_raw(), exit: Exit::Code(code) }),
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            Ok(Reaped::Child { pid: pid.as_raw(), exit: Exit::Signal(signal as i32) })
        }
        Ok(_) => Ok(Reaped::Nothing),
        Err(nix::errno::Errno::ECHILD) => Ok(Reaped::NoChildren),
        Err(errno) => Err(errno.into()),
    }
}

/// `kill(-group, signal)`: signals a process group; one that is gone is no error.
///
/// # Errors
/// The kernel's.
pub fn kill_group(group: i32, signal: Signal) -> io::Result<()> {
    ignore_gone(nix::sys::signal::killpg(Pid::from_raw(group), signal))
}

/// `kill(-1, signal)`: signals every process the caller may signal but itself — man 2 kill.
///
/// # Errors
/// The kernel's.
pub fn kill_all(signal: Signal) -> io::Result<()> {
    ignore_gone(nix::sys::signal::kill(Pid::from_raw(-1), signal))
}

/// `kill(pid, signal)` for a child of the caller that it has not reaped, so the pid cannot be another's.
///
/// # Errors
/// The kernel's.
pub fn kill_child(pid: i32, signal: Signal) -> io::Result<()> {
    ignore_gone(nix::sys::signal::kill(Pid::from_raw(pid), signal))
}

/// `kill(getpid(), SIGSTOP)`: stops the caller until somebody continues it.
///
/// # Errors
/// The kernel's.
pub fn stop_self() -> io::Result<()> {
    Ok(nix::sys::signal::kill(Pid::this(), Signal::SIGSTOP)?)
}

/// Names the time since the host was started, by `/proc/sys/kernel/random/boot_id` — man 4 random; empty if the
/// kernel does not say.
pub fn boot_id() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    told.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// `prctl(PR_SET_DUMPABLE, 0)`: no ptrace, no core dump, `/proc/<pid>` belongs to root — man 2 PR_SET_DUMPABLE.
///
/// # Errors
/// The kernel's.
pub fn set_not_dumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// `getrlimit(resource)`: the hard limit; `None` when there is none — man 2 getrlimit.
pub fn hard_limit(resource: rustix::process::Resource) -> Option<u64> {
    rustix::process::getrlimit(resource).maximum
}

/// `setrlimit(RLIMIT_NOFILE)`: raises the soft limit to the hard one; returns it, `None` when there is none.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let resource = rustix::process::Resource::Nofile;
    let maximum = rustix::process::getrlimit(resource).maximum;
    rustix::process::setrlimit(resource, rustix::process::Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// `getrlimit(RLIMIT_NOFILE)`: the most descriptors that this process may have, `u64::MAX` when there is no limit.
pub fn open_files() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the hard limits that sandboxes are given theirs from as far as the kernel lets the caller; the soft ones
/// stay. Without CAP_SYS_RESOURCE nothing can be raised, and nothing is.
pub fn raise_hard_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files =
        std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let files = files.map(|maximum| (Resource::Nofile, Some(maximum)));
    let others = [Resource::Core, Resource::Memlock, Resource::Sigpending, Resource::Msgqueue];
    let others = others.map(|resource| (resource, None));
    for (resource, maximum) in others.into_iter().chain(files) {
        let current = getrlimit(resource).current;
        let _refused: rustix::io::Result<()> = setrlimit(resource, Rlimit { current, maximum });
    }
}

fn ignore_gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
