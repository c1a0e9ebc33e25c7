//! Starting a process, and finding it again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::pipe::PipeFlags;

use super::pump::Sources;
use super::{Description, Follower, Process, ProcessId, Purpose, link, relay, rings};
use crate::activity::{monotonic_ms, now_ms};
use crate::driver::Command;
use crate::error::Error;
use crate::events::Why;
use crate::live::Live;
use crate::provision::fail_point;
use crate::registry::Entry;
use crate::sleep::kept_awake;
use crate::supervisor::{Shared, Supervisor, ask};
use engine::bundle::root_environment;
use engine::{Channel, ControlError, Journal, Ring, Started};
use model::{Environment, SandboxId};
use protocol::Spawn;
use sys::watch::Watched;
use telemetry::{Trace, phase};

/// Where a command runs unless it says otherwise.
const DIRECTORY: &str = "/home/sandbox/workspace";
/// The most bytes of a command's arguments; execve(2) takes 128 KiB in one and 2 MiB in all.
const ARGUMENTS_BYTES_MAX: usize = 1024 * 1024;
/// How much of the arguments is written down, to be shown.
const SHOWN_BYTES_MAX: usize = 4096;
/// How much of a program's name is repeated in an error.
const NAME_CHARS_MAX: usize = 200;
/// The longest time-out.
const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The most columns and rows of a terminal.
const SIZE_MAX: u16 = 1000;
/// How long a sandbox that does not answer may take to be seen to end.
const ENDING_DEADLINE: Duration = Duration::from_secs(2);
/// The first pause before a start is tried again for which the sandbox had no room; they double.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How often it is tried again: for about two thirds of a second.
const RETRIES: u32 = 6;
/// Why nothing runs as root.
const NO_USER_NAMESPACE: &str = "\"user\" can only be \"sandbox\": this sandbox has no user namespace, and its root would be the host's; see user_namespaces and `sandboxd check`";
const NOT_MAPPED: &str = "\"user\" can only be \"sandbox\": the file system of the data directory cannot be mapped, and what root makes would belong to nobody; see `sandboxd check`";
/// How long a process that is to be deleted may take to end.
const DELETE_DEADLINE: Duration = Duration::from_secs(10);

/// A process that a client asks for.
#[derive(Debug, Clone)]
pub struct ProcessRequest {
    pub cmd: Vec<String>,
    /// Added to the sandbox's environment.
    pub env: Environment,
    /// Absolute; `~/workspace` when absent.
    pub cwd: Option<String>,
    /// As root of the sandbox's user namespace instead of as its user.
    pub root: bool,
    /// Columns and rows of its terminal.
    pub tty: Option<(u16, u16)>,
    /// Whether it has an input; a terminal always has.
    pub input: bool,
    /// After which it is killed with everything that it has started.
    pub timeout: Option<Duration>,
    /// Whether the sandbox may fall asleep under it.
    pub detach: bool,
    /// How much of its output is kept; at most what is configured, which is the default.
    pub output_bytes: Option<u64>,
    pub purpose: Purpose,
}

impl ProcessRequest {
    /// A command without input or terminal.
    pub fn of(cmd: Vec<String>, purpose: Purpose) -> Self {
        Self {
            cmd,
            env: Environment::default(),
            cwd: None,
            root: false,
            tty: None,
            input: false,
            timeout: None,
            detach: false,
            output_bytes: None,
            purpose,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
        let bytes: usize = self.cmd.iter().map(|argument| argument.len() + 1).sum();
        if self.cmd.first().is_none_or(String::is_empty) {
            return invalid(
                "\"cmd\" is a list of strings that begins with a program, for example [\"bash\",\"-lc\",\"ls\"]",
            );
        }
        if self.cmd.iter().any(|argument| argument.contains('\0')) {
            return invalid("\"cmd\" has a NUL character");
        }
        if bytes > ARGUMENTS_BYTES_MAX {
            return invalid("\"cmd\" has more than 1 MiB");
        }
        if self.cwd.as_deref().is_some_and(|cwd| !cwd.starts_with('/') || cwd.contains('\0')) {
            return invalid("\"cwd\" is an absolute path");
        }
        if self.tty.is_some_and(|(columns, rows)| {
            !(1..=SIZE_MAX).contains(&columns) || !(1..=SIZE_MAX).contains(&rows)
        }) {
            return invalid("\"cols\" and \"rows\" of a terminal are from 1 to 1000");
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > TIMEOUT_MAX) {
            return invalid("\"timeout_s\" is from 1 to 604800");
        }
        Ok(())
    }

    fn describe(&self, cwd: &str) -> Description {
        let mut room = SHOWN_BYTES_MAX;
        let mut cmd = Vec::new();
        for argument in &self.cmd {
            if argument.len() > room {
                let shown: String = argument.chars().take(room / 4).collect();
                cmd.push(shown + "…");
                break;
            }
            room -= argument.len();
            cmd.push(argument.clone());
        }
        Description {
            cmd,
            cwd: cwd.chars().take(SHOWN_BYTES_MAX).collect(),
            root: self.root,
            tty: self.tty.is_some(),
            input: self.input,
            detach: self.detach,
            timeout_ms: self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            purpose: self.purpose,
            started_at: now_ms(),
            started_ms: Some(monotonic_ms()),
        }
    }
}

/// The two sides of a process's streams.
pub(super) struct Streams {
    /// What it gets, and what is kept of the others.
    pub(super) theirs: Vec<OwnedFd>,
    pub(super) sources: Sources,
    pub(super) input: Option<Arc<Watched<OwnedFd>>>,
}

impl Supervisor {
    /// Starts a process, waking the sandbox if it sleeps, and follows it from its first byte.
    ///
    /// # Errors
    /// Not found, not to be woken, too many processes, or the command cannot be started.
    pub async fn start_process(&self, id: SandboxId, request: ProcessRequest) -> Result<Follower, Error> {
        request.check()?;
        let entry = self.find(id)?;
        let shared = Arc::clone(&self.shared);
        // On a task of its own: whether or not the client waits, it is started whole or not at all.
        let trace = Trace::current().unwrap_or_else(Trace::new);
        let work = async move { start(&shared, &entry, request).await };
        let started = self.shared.tasks.spawn(trace.around(work));
        started.await.unwrap_or(Err(Error::Panicked))
    }

    /// The processes of a sandbox, the newest first.
    ///
    /// # Errors
    /// Not found.
    pub async fn processes(&self, id: SandboxId) -> Result<Vec<Arc<Process>>, Error> {
        Ok(self.entry_of_processes(id).await?.processes.all())
    }

    /// Finds a process.
    ///
    /// # Errors
    /// Not found.
    pub async fn process(&self, id: SandboxId, process: ProcessId) -> Result<Arc<Process>, Error> {
        self.entry_of_processes(id).await?.processes.find(process)
    }

    /// Kills a process with everything that it has started, and forgets it.
    ///
    /// # Errors
    /// Not found, or it cannot be killed.
    pub async fn delete_process(&self, id: SandboxId, process: ProcessId) -> Result<(), Error> {
        let entry = self.entry_of_processes(id).await?;
        let process = entry.processes.find(process)?;
        // What it has left behind goes too, so also when it has ended itself.
        let killed = process.kill().await;
        if !process.ended.is_cancelled() {
            killed?;
            if tokio::time::timeout(DELETE_DEADLINE, process.ended.cancelled()).await.is_err() {
                return Err(Error::Conflict("the process could not be killed in time".to_owned()));
            }
        }
        entry.processes.remove(process.id);
        Ok(())
    }

    /// A sandbox that was frozen when this daemon began has not been asked for its processes yet.
    async fn entry_of_processes(&self, id: SandboxId) -> Result<Arc<Entry>, Error> {
        let entry = self.find(id)?;
        if entry.present().is_some_and(|live| link::is_unopened(&live)) {
            let live = awake(&entry).await?;
            kept_awake(&entry, link::of(&self.shared, &entry, &live)).await?;
        }
        Ok(entry)
    }

    /// Hangs up: forgets a process, which sees its terminal go.
    pub fn hang_up(&self, id: SandboxId, process: &Process) {
        if let Ok(entry) = self.find(id) {
            entry.processes.remove(process.id);
        }
    }

    /// Forgets a process of which a client has got everything.
    pub(crate) fn finish_process(&self, id: SandboxId, process: &Process) {
        if let Ok(entry) = self.find(id)
            && process.is_over()
        {
            entry.processes.remove(process.id);
        }
    }
}

async fn start(shared: &Arc<Shared>, entry: &Arc<Entry>, request: ProcessRequest) -> Result<Follower, Error> {
    let busy = entry.activity.begin();
    let mut retries = 0;
    let mut is_second = false;
    let result = loop {
        let live = awake(entry).await?;
        fail_point("exec")?;
        match kept_awake(entry, start_in(shared, entry, &live, &request)).await {
            // It was put to sleep between the look and the command, which was not sent: once more, awake.
            Err(Error::Control(ControlError::Ended | ControlError::Socket { .. })) if !is_second => {
                is_second = true;
                // If it lives on, what is missing is on our side, such as a descriptor.
                let _lives: Result<(), _> = tokio::time::timeout(ENDING_DEADLINE, live.wait()).await;
            }
            Err(Error::Control(ControlError::Unanswered)) => {
                let text =
                    "the sandbox ended while the command was being started; whether it ran is not known";
                break Err(Error::Conflict(text.to_owned()));
            }
            // Its own processes have used up what it may have; some of them may be about to end.
            Err(Error::Control(ControlError::Exec { errno, .. })) if is_exhausted(errno) => {
                if retries == RETRIES {
                    let text = "the sandbox has no room for another process; end some, or try again";
                    break Err(Error::TooMany(text.to_owned()));
                }
                tokio::time::sleep(RETRY_PAUSE * 2_u32.pow(retries)).await;
                retries += 1;
            }
            Err(Error::Control(ControlError::Exec { errno, cwd })) => {
                break Err(Error::Unstartable { what: at_fault(&request, cwd), errno });
            }
            other => break other,
        }
    };
    drop(busy);
    result
}

/// What of a command keeps it from being started.
fn at_fault(request: &ProcessRequest, cwd: bool) -> String {
    if cwd {
        return format!("the working directory {}", request.cwd.as_deref().unwrap_or(DIRECTORY));
    }
    request.cmd.first().into_iter().flat_map(|name| name.chars().take(NAME_CHARS_MAX)).collect()
}

/// The running sandbox, which is woken if need be.
async fn awake(entry: &Arc<Entry>) -> Result<Arc<Live>, Error> {
    if let Some(live) = entry.live() {
        return Ok(live);
    }
    ask(entry, |reply| Command::Start { why: Why::Use, reply }).await?;
    entry.live().ok_or(Error::Ending)
}

async fn start_in(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    live: &Arc<Live>,
    request: &ProcessRequest,
) -> Result<Follower, Error> {
    if request.root {
        let ids = live.ids.ok_or_else(|| Error::Invalid(NO_USER_NAMESPACE.to_owned()))?;
        if !ids.has_root {
            return Err(Error::Invalid(NOT_MAPPED.to_owned()));
        }
    }
    let link = phase("link", link::of(shared, entry, live)).await?;
    let config = &shared.config.processes;
    let wanted = request.output_bytes.map_or(config.output_bytes, |bytes| bytes.min(config.output_bytes));
    let id = ProcessId::generate();
    let cwd = request.cwd.as_deref().unwrap_or(DIRECTORY);
    let description = request.describe(cwd);
    let failed = |source| Error::ProcessOutput { action: "make the ring of a process", source };
    let text = serde_json::to_vec(&description).map_err(|e| failed(io::Error::other(e)))?;
    let wanted = entry.processes.admit(wanted, config.running_max)?;
    let (share, capacity) = rings::admit(shared, wanted)?;
    let ring = Ring::create(&link.ring_path(id), capacity, &text).map_err(failed)?;
    let process = Process::new(id, description, (ring, share), Arc::clone(&link)).map_err(failed)?;
    // Before it is started: it may end before its start is told.
    entry.processes.insert(Arc::clone(&process));
    let started = phase("start", spawn(&link, request, id, cwd)).await;
    let (pid, sources, input) = match started {
        Ok(started) => started,
        Err(error) => {
            entry.processes.remove(id);
            return Err(error);
        }
    };
    process.pid.store(pid, Ordering::Relaxed);
    process.output.note_pid(pid);
    process.begin(entry, &sources, input);
    if process.ended.is_cancelled() {
        process.detach();
    }
    // Before anything is taken: whoever asked for it sees its first byte.
    let follower = process.follow(0)?;
    process.spawn_tasks(shared, entry, sources);
    Ok(follower)
}

type Begun = (i32, Sources, Option<Arc<Watched<OwnedFd>>>);

async fn spawn(
    link: &link::Link,
    request: &ProcessRequest,
    id: ProcessId,
    cwd: &str,
) -> Result<Begun, Error> {
    let of_root = root_environment().filter(|_| request.root);
    let own = request.env.entries().iter().map(|(name, value)| (name.clone(), value.clone()));
    let spawn = Spawn {
        key: id.key(),
        argv: request.cmd.clone(),
        // The later of two wins.
        env: of_root.chain(own).collect(),
        cwd: cwd.to_owned(),
        root: request.root,
        tty: request.tty,
        input: request.input && request.tty.is_none(),
        relayed: link.is_relayed(),
    };
    let failed = |source| Error::ProcessOutput { action: "make the pipes of a process", source };
    let (channel, journal) = (link.channel()?, link.journal()?);
    if spawn.relayed {
        let Streams { theirs, sources, input } = relay::streams(link, id, &spawn, journal).map_err(failed)?;
        let kept = [&sources.stdout, &sources.stderr, &input].into_iter().flatten();
        return start_with(&channel, spawn, theirs, kept).await.map(|pid| (pid, sources, input));
    }
    if request.tty.is_some() {
        let Started { pid, master } = channel.spawn(spawn, &[]).await.map_err(Error::Control)?;
        let master = master.ok_or(Error::Control(ControlError::Unexpected))?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|e| failed(e.into()))?;
        let master = Arc::new(Watched::new(master).map_err(failed)?);
        return Ok((pid, Sources { stdout: Some(Arc::clone(&master)), stderr: None, journal }, Some(master)));
    }
    let Streams { theirs, sources, input } = streams(spawn.input, journal).map_err(failed)?;
    let kept = [&sources.stdout, &sources.stderr, &input].into_iter().flatten();
    start_with(&channel, spawn, theirs, kept).await.map(|pid| (pid, sources, input))
}

/// Starts a process with pipes; returns its pid inside the sandbox.
async fn start_with(
    channel: &Channel,
    spawn: Spawn,
    theirs: Vec<OwnedFd>,
    kept: impl Iterator<Item = &Arc<Watched<OwnedFd>>>,
) -> Result<i32, Error> {
    let ours = kept.map(|watched| watched.get().as_fd());
    let descriptors: Vec<_> = theirs.iter().map(|fd| fd.as_fd()).chain(ours).collect();
    let started = channel.spawn(spawn, &descriptors).await;
    // Our copies of its ends must be closed, or the end of the output is never seen.
    drop(descriptors);
    drop(theirs);
    Ok(started.map_err(Error::Control)?.pid)
}

fn streams(has_input: bool, journal: Arc<Journal>) -> io::Result<Streams> {
    let pipe = || {
        let ends = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // `/dev/stdout` is opened anew, by the mode of the pipe: proc(5). It is the daemon's, whose id is nobody's
        // inside. Only who may look into a process's descriptors comes to it.
        rustix::fs::fchmod(&ends.0, Mode::from_raw_mode(0o666))?;
        Ok::<_, rustix::io::Errno>(ends)
    };
    let watched = |fd: OwnedFd| {
        // Ours only: a program may take a stream that does not block for broken.
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok::<_, io::Error>(Some(Arc::new(Watched::new(fd)?)))
    };
    let (stdin, input) = if has_input {
        let (read, write) = pipe()?;
        (read, watched(write)?)
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let sources = Sources { stdout: watched(stdout)?, stderr: watched(stderr)?, journal };
    Ok(Streams { theirs: vec![stdin, stdout_end, stderr_end], sources, input })
}

/// `EAGAIN`: the limit of processes; `ENOMEM`: that of memory; `ENOSPC`: that of terminals.
fn is_exhausted(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::AGAIN, Errno::NOMEM, Errno::NOSPC].iter().any(|e| e.raw_os_error() == errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked() {
        let check = |change: fn(&mut ProcessRequest)| {
            let mut request = ProcessRequest::of(vec!["true".to_owned()], Purpose::Process);
            change(&mut request);
            request.check().is_ok()
        };
        assert!(check(|_| ()));
        assert!(!check(|r| r.cmd.clear()));
        assert!(!check(|r| r.cmd = vec![String::new()]));
        assert!(!check(|r| r.cmd.push("a\0b".to_owned())));
        assert!(!check(|r| r.cmd.push("x".repeat(ARGUMENTS_BYTES_MAX))));
        assert!(!check(|r| r.cwd = Some("tmp".to_owned())));
        assert!(!check(|r| r.tty = Some((0, 24))));
        assert!(!check(|r| r.timeout = Some(Duration::ZERO)));
    }

    #[test]
    fn long_commands_are_cut_for_showing() {
        let request = ProcessRequest::of(vec!["a".to_owned(), "ü".repeat(5000)], Purpose::Process);
        let shown = request.describe("/").cmd;
        assert!(shown.len() == 2 && shown[1].len() <= SHOWN_BYTES_MAX && shown[1].ends_with('…'));
    }
}
