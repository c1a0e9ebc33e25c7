//! The daemon's side of the launcher.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot};

use super::connection::{Control, ControlError};
use super::gvisor::Gvisor;
use super::tier::Engine;
use model::{Isolation, LaunchId, PathKind};
use protocol::{
    Decoder, Extent, FrameError, LaunchReply, LaunchRequest, LaunchStep, LauncherRequest, NamespacesRequest,
    Overlay, ProbeRequest, Runsc, Stage, encode,
};
use sys::cgroup::Entry;
use sys::fs::open_directory;
use sys::furnish::{Furnisher, Furniture};
use sys::pidfd::{self, PidFd};
use sys::watch::Watched;
use sys::{mount, process, socket};

/// How long a launch may take before it counts as hung.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(20);
/// How long a launcher that is dying is waited for, at a time, and how often.
const DYING_PAUSE: Duration = Duration::from_millis(2);
const DYING_LOOKS: u32 = 50;
/// How long a launcher may take to start, in seconds.
const READY_SECS_MAX: i64 = 20;
/// Where the workspace goes in a sandbox: the home directory of its user.
const HOME: &str = "/home/sandbox";

/// Where the launcher finds things.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program of this daemon, which is the launcher's too.
    pub executable: PathBuf,
    /// The static `sandbox-init`.
    pub init: PathBuf,
    /// One directory per running sandbox beneath it.
    pub run_dir: PathBuf,
    /// gVisor's program: a path, or a name that is looked for in `PATH`.
    pub runsc: PathBuf,
}

/// Why a container could not be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("start the launcher")]
    Spawn(#[source] io::Error),
    #[error("get the launcher ready: {0}")]
    NotReady(String),
    #[error("send a request to the launcher")]
    Send(#[source] io::Error),
    #[error("exchange frames with the launcher")]
    Frame(#[source] FrameError),
    #[error("get an answer from the launcher: its worker ended without one")]
    NoAnswer,
    #[error("get an answer from the launcher within {} s", LAUNCH_DEADLINE.as_secs())]
    Silent,
    #[error("launch the container: {step:?}: {message}")]
    Container { step: LaunchStep, errno: Option<i32>, message: String },
    #[error("understand the launcher: it gave an answer that does not belong to the question")]
    Unexpected,
    #[error("put the workspace and the host name in place")]
    Furnish(#[source] io::Error),
    #[error("find the launched process")]
    Process(#[source] io::Error),
    #[error("{0}")]
    Gvisor(String),
    #[error("reach sandbox-init")]
    Init(#[source] ControlError),
}

/// What is to be launched: a container without identity, whose `sandbox-init` waits for one.
#[derive(Debug)]
pub struct Launch {
    pub id: LaunchId,
    /// The launch's run directory; will hold the control socket.
    pub directory: PathBuf,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    pub netns: Arc<OwnedFd>,
    /// What it is made of; `None`: gVisor sees to that.
    pub stage: Option<Staging>,
    pub cgroup: Entry,
    /// Whether programs may make user, pid and network namespaces.
    pub nested: bool,
    pub engine: Engine,
    /// For an engine that does not begin nameless.
    pub workspace: Option<PathBuf>,
}

/// The user namespace of a container, and what it is made of.
#[derive(Debug)]
pub struct Staging {
    /// Without one its processes have the host's ids.
    pub namespace: Option<Arc<OwnedFd>>,
    pub rootfs: PathBuf,
    /// Whether its files are shown with the container's ids.
    pub maps_rootfs: bool,
    /// An empty directory; `None`: the kernel cannot cover this root file system, whose inodes are shared then.
    pub empty: Option<PathBuf>,
    /// Holds the files that the spec binds.
    pub etc: PathBuf,
    /// Makes the root file system writable.
    pub overlay: Option<Writable>,
}

/// What is laid over a root file system.
#[derive(Debug)]
pub struct Writable {
    /// Holds the layers.
    pub layers: PathBuf,
    /// By which they are mapped.
    pub namespace: OwnedFd,
    /// The host's id of the sandbox's root.
    pub root: u32,
    /// What is mounted over.
    pub destinations: Vec<(PathBuf, PathKind)>,
}

/// What was made for a launch to come.
#[derive(Debug)]
pub struct Namespaces {
    pub user: OwnedFd,
    /// Belongs to the user namespace.
    pub network: OwnedFd,
    /// By which the workspace is mapped.
    pub workspace: Option<OwnedFd>,
}

/// What of user namespaces works on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    pub maps_rootfs: bool,
    pub maps_workspaces: bool,
    /// Whether each container can have inodes of its own for the root file system, also without user namespaces.
    pub covers_rootfs: bool,
}

/// A container that runs.
#[derive(Debug)]
pub struct Launched {
    pub control: Control,
    pub pid: i32,
    pub start_ticks: u64,
    pub process: PidFd,
    /// How long libcontainer took to create and to start it.
    pub create: Duration,
    pub start: Duration,
}

/// Whom a launched container becomes.
#[derive(Debug, Clone)]
pub struct Identity {
    pub host_name: String,
    pub workspace: PathBuf,
    /// `NAME=value`, all of it.
    pub env: Vec<String>,
}

/// Launches containers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    config: Arc<Config>,
    launcher: Arc<Mutex<Launcher>>,
    furnisher: Arc<Furnisher>,
    gvisor: Arc<Gvisor>,
}

#[derive(Debug)]
struct Launcher {
    /// The how-manieth it is: a request that was sent to an earlier one was lost with that.
    number: u64,
    child: Child,
    socket: Watched<OwnedFd>,
    /// What it can write, as it was found at its start.
    run_dir: Found,
}

/// Which directory is at a path: device and inode; `None` where there is none.
type Found = Option<(u64, u64)>;
/// What a worker says, or why it says nothing.
type Told = Result<(LaunchReply, Vec<OwnedFd>), LaunchError>;

impl Runtime {
    /// Starts the launcher and waits until it is ready. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The launcher cannot be started or set up; the text says why.
    pub fn start(config: Config) -> Result<Self, LaunchError> {
        let launcher = Arc::new(Mutex::new(Launcher::start(&config, 0)?));
        let furnisher = Arc::new(Furnisher::start().map_err(LaunchError::Furnish)?);
        let gvisor = Arc::new(Gvisor::new(config.runsc.clone()));
        Ok(Self { config: Arc::new(config), launcher, furnisher, gvisor })
    }

    /// Says whether this host can run sandboxes of a tier.
    ///
    /// # Errors
    /// What is missing and how to get it, for clients.
    pub fn probe(&self, engine: Engine) -> Result<(), String> {
        self.program_of(engine).map(drop).map_err(|error| error.to_string())
    }

    /// Where the program is that becomes the first process of a sandbox.
    pub fn init(&self) -> &Path {
        &self.config.init
    }

    /// The program that launches a tier; `None`: the launcher itself does.
    fn program_of(&self, engine: Engine) -> Result<Option<PathBuf>, LaunchError> {
        match engine.isolation() {
            Isolation::Container => Ok(None),
            Isolation::Gvisor => self.gvisor.program().map(Some).map_err(LaunchError::Gvisor),
        }
    }

    /// Launches a container; its `sandbox-init` waits for an identity.
    ///
    /// # Errors
    /// See [`LaunchError`]. Processes may be left in the cgroup: the caller destroys that in any case.
    ///
    /// # Cancel safety
    /// Not cancel safe: a launch that has begun goes on.
    pub async fn launch(&self, launch: Launch) -> Result<Launched, LaunchError> {
        let control = Control::open(&launch.directory, launch.engine.way()).map_err(LaunchError::Init)?;
        let listener = control.listen().map_err(LaunchError::Init)?;
        let workspace =
            launch.workspace.as_deref().map(detached).transpose().map_err(LaunchError::Furnish)?;
        let runsc = self.program_of(launch.engine)?;
        let request = LauncherRequest::Launch(LaunchRequest {
            id: launch.id.to_string(),
            bundle: launch.bundle,
            state_root: launch.directory.join("oci"),
            cgroup_v2: matches!(launch.cgroup, Entry::V2(_)),
            nested: launch.nested,
            runsc: runsc.map(|program| Runsc { program, workspace: Engine::workspace(&launch.directory) }),
            stage: launch.stage.as_ref().map(Staging::request),
        });
        let mut descriptors = vec![listener.as_fd(), launch.netns.as_fd()];
        descriptors.extend(workspace.iter().map(|tree| tree.as_fd()));
        if let Some(stage) = &launch.stage {
            descriptors.extend(stage.namespace.iter().map(|namespace| namespace.as_fd()));
            descriptors.extend(stage.overlay.iter().map(|overlay| overlay.namespace.as_fd()));
        }
        match &launch.cgroup {
            Entry::V1(tasks) => descriptors.extend(tasks.iter().map(|fd| fd.as_fd())),
            Entry::V2(directory) => descriptors.push(directory.as_fd()),
        }
        let LaunchReply::Running { pid, create_us, start_us } = self.ask(&request, &descriptors).await?.0
        else {
            return Err(LaunchError::Unexpected);
        };
        let process = PidFd::open(pid).map_err(LaunchError::Process)?;
        let start_ticks = pidfd::start_ticks(pid).map_err(LaunchError::Process)?;
        let [create, start] = [create_us, start_us].map(|us| Duration::from_micros(us.into()));
        Ok(Launched { control, pid, start_ticks, process, create, start })
    }

    /// Makes a user namespace with these ids and a network namespace that belongs to it; and, where there are
    /// ids for it, the one by which a workspace is mapped. Of namespaces that are made in there, `nested`, there is a bound.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn namespaces(
        &self,
        processes: Vec<Extent>,
        workspace: Vec<Extent>,
        nested: bool,
    ) -> Result<Namespaces, LaunchError> {
        let request = LauncherRequest::Namespaces(NamespacesRequest { processes, workspace, nested });
        let (LaunchReply::Namespaces, descriptors) = self.ask(&request, &[]).await? else {
            return Err(LaunchError::Unexpected);
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(user), Some(network)) = (descriptors.next(), descriptors.next()) else {
            return Err(LaunchError::Unexpected);
        };
        Ok(Namespaces { user, network, workspace: descriptors.next() })
    }

    /// Tries what a sandbox with a user namespace needs; an inner error says why there can be none. Without ids it is
    /// tried only what one without needs.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn probe_user_namespaces(
        &self,
        ids: Vec<Extent>,
        rootfs: PathBuf,
        workspaces: PathBuf,
    ) -> Result<Result<Support, String>, LaunchError> {
        let request = LauncherRequest::Probe(ProbeRequest { ids, rootfs, workspaces });
        match self.ask(&request, &[]).await?.0 {
            LaunchReply::Support { refusal: Some(refusal), .. } => Ok(Err(refusal)),
            LaunchReply::Support { refusal: None, maps_rootfs, maps_workspaces, covers_rootfs } => {
                Ok(Ok(Support { maps_rootfs, maps_workspaces, covers_rootfs }))
            }
            _ => Err(LaunchError::Unexpected),
        }
    }

    /// Gives a launched container its workspace, mapped by a user namespace if there is one for it, and its host
    /// name.
    ///
    /// In there nothing has run yet but `sandbox-init`, and the root file system is read-only and was looked at
    /// before the launch, so the path leads where it says.
    ///
    /// # Errors
    /// [`LaunchError::Furnish`]. The container is of no use then.
    ///
    /// # Cancel safety
    /// Not cancel safe: it goes on.
    pub async fn furnish(
        &self,
        process: &PidFd,
        ids: Option<&OwnedFd>,
        identity: &Identity,
        workspace: Option<OwnedFd>,
    ) -> Result<(), LaunchError> {
        let opened = match workspace {
            Some(workspace) => Ok(workspace),
            None => open_directory(&identity.workspace),
        };
        let furniture = Furniture {
            directory: opened.map_err(LaunchError::Furnish)?,
            place: Path::new(HOME),
            ids: ids.map(|fd| fd.try_clone()).transpose().map_err(LaunchError::Furnish)?,
            host_name: identity.host_name.clone(),
        };
        let (sender, receiver) = oneshot::channel();
        // Whoever asked may have gone.
        let done = Box::new(move |result| drop::<Result<(), _>>(sender.send(result)));
        self.furnisher.request(process.as_fd(), furniture, done);
        let result = receiver.await.unwrap_or_else(|_closed| Err(io::ErrorKind::BrokenPipe.into()));
        result.map_err(LaunchError::Furnish)
    }

    /// Sends a request with descriptors and waits for the answer of the worker that deals with it.
    async fn ask(
        &self,
        request: &LauncherRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(LaunchReply, Vec<OwnedFd>), LaunchError> {
        let frame = encode(request).map_err(LaunchError::Frame)?;
        let (number, reply) = self.ask_once(&frame, descriptors).await?;
        let reply = match reply {
            // It may have been killed with the request unread; where it was read, the second try says so.
            Err(LaunchError::NoAnswer) if self.is_replaced(number).await? => {
                self.ask_once(&frame, descriptors).await?.1
            }
            other => other,
        };
        match reply? {
            (LaunchReply::Failed { step, errno, message }, _) => {
                Err(LaunchError::Container { step, errno, message })
            }
            answer => Ok(answer),
        }
    }

    /// Asks once; says which launcher was asked.
    async fn ask_once(
        &self,
        frame: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(u64, Told), LaunchError> {
        let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Send)?;
        let all: Vec<_> = std::iter::once(theirs.as_fd()).chain(descriptors.iter().copied()).collect();
        let number = self.send(frame, &all).await?;
        drop(all);
        // Ours must be closed, or the end of a worker that says nothing is never seen.
        drop(theirs);
        let answer = tokio::time::timeout(LAUNCH_DEADLINE, read_reply(ours)).await;
        Ok((number, answer.unwrap_or(Err(LaunchError::Silent))))
    }

    /// Says whether the launcher of that number is another one now; one that has died is replaced.
    async fn is_replaced(&self, number: u64) -> Result<bool, LaunchError> {
        let mut launcher = self.launcher.lock().await;
        // Whoever else had asked it may have been here first.
        if launcher.number != number {
            return Ok(true);
        }
        // What it held is closed one after the other, and before it can be waited for.
        for _look in 0..DYING_LOOKS {
            if launcher.has_hung_up() {
                tracing::warn!("the launcher has died and is started again");
                *launcher = self.start_again(number).await?;
                return Ok(true);
            }
            tokio::time::sleep(DYING_PAUSE).await;
        }
        Ok(false)
    }

    async fn start_again(&self, number: u64) -> Result<Launcher, LaunchError> {
        let config = Arc::clone(&self.config);
        let started = tokio::task::spawn_blocking(move || Launcher::start(&config, number + 1)).await;
        started.map_err(|e| LaunchError::Spawn(io::Error::other(e)))?
    }

    /// Sends a request; a launcher that has died is replaced, once, and so is one whose mounts are not those of
    /// the host any more: what was put in the place of a directory is read-only to it. Says which one has it.
    async fn send(&self, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<u64, LaunchError> {
        let mut launcher = self.launcher.lock().await;
        // Where there is none now nothing is launched before it is made again.
        let run_dir = found(&self.config.run_dir);
        if run_dir.is_some() && launcher.run_dir != run_dir {
            tracing::warn!("a directory that the launcher writes to was replaced; it is started again");
            *launcher = self.start_again(launcher.number).await?;
        }
        match launcher.send(frame, descriptors).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                tracing::warn!("the launcher has died and is started again");
                *launcher = self.start_again(launcher.number).await?;
                launcher.send(frame, descriptors).await.map_err(LaunchError::Send)?;
            }
            other => other.map_err(LaunchError::Send)?,
        }
        Ok(launcher.number)
    }
}

impl Staging {
    fn request(&self) -> Stage {
        Stage {
            has_users: self.namespace.is_some(),
            rootfs: self.rootfs.clone(),
            maps_rootfs: self.maps_rootfs,
            empty: self.empty.clone(),
            etc: self.etc.clone(),
            overlay: self.overlay.as_ref().map(Writable::request),
        }
    }
}

impl Writable {
    fn request(&self) -> Overlay {
        let destinations = self.destinations.iter();
        let destinations = destinations.map(|(path, kind)| (path.clone(), *kind == PathKind::Directory));
        Overlay { layers: self.layers.clone(), root: self.root, destinations: destinations.collect() }
    }
}

impl Launcher {
    fn start(config: &Config, number: u64) -> Result<Self, LaunchError> {
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, theirs) = pair.map_err(|e| LaunchError::Spawn(e.into()))?;
        let mut command = process::command(&config.executable);
        command.arg("__launcher").arg("--init").arg(&config.init);
        // Before it looks: what is replaced meanwhile is noticed then.
        let run_dir = found(&config.run_dir);
        command.arg("--writable").arg(&config.run_dir);
        command.stdin(Stdio::from(theirs)).stderr(Stdio::inherit());
        let child = command.spawn().map_err(LaunchError::Spawn)?;
        drop(command);
        wait_until_ready(&ours)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|e| LaunchError::Spawn(e.into()))?;
        let socket = Watched::new(ours).map_err(LaunchError::Spawn)?;
        Ok(Self { number, child, socket, run_dir })
    }

    /// Whether its end of the socket is closed, as it is once it has ended or is about to.
    fn has_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(self.socket.get(), PollFlags::empty())];
        let polled_now = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        polled_now.is_ok_and(|ready| ready > 0)
    }

    async fn send(&self, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        // A packet goes whole or not at all.
        self.socket.write_with(|fd| socket::send(fd, frame, descriptors)).await.map(drop)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It has ended already, or ends when its socket is closed, which happens after this; what must
        // not be left is a zombie, and it holds nothing that a kill could damage.
        let _ignored: io::Result<()> = self.child.kill();
        let _ignored: io::Result<std::process::ExitStatus> = self.child.wait();
    }
}

fn found(path: &Path) -> Found {
    std::fs::metadata(path).ok().map(|seen| (seen.dev(), seen.ino()))
}

/// Takes the mount of a directory, to be put in place elsewhere.
fn detached(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mount::detached(rustix::fs::open(directory, flags, Mode::empty())?.as_fd(), Path::new(""), None)
}

fn wait_until_ready(socket_fd: &OwnedFd) -> Result<(), LaunchError> {
    let mut polled = [PollFd::new(socket_fd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: READY_SECS_MAX, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&timeout)).map_err(|e| LaunchError::Spawn(e.into()))?;
    if polled.iter().all(|p| p.revents().is_empty()) {
        return Err(LaunchError::NotReady(format!("it said nothing within {READY_SECS_MAX} s")));
    }
    let mut buffer = [0; 64];
    match socket::receive(socket_fd, &mut buffer) {
        Ok((length, _)) if length > 0 => Ok(()),
        Ok(_) => Err(LaunchError::NotReady("it ended; its message is on standard error".to_owned())),
        Err(error) => Err(LaunchError::Spawn(error)),
    }
}

/// Reads a reply and the descriptors that ride with it.
async fn read_reply(stream: UnixStream) -> Result<(LaunchReply, Vec<OwnedFd>), LaunchError> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    let mut descriptors = Vec::new();
    loop {
        if let Some(reply) = decoder.take().map_err(LaunchError::Frame)? {
            return Ok((reply, descriptors));
        }
        stream.readable().await.map_err(|_e| LaunchError::NoAnswer)?;
        match stream.try_io(Interest::READABLE, || socket::receive(&stream, &mut buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok((0, _)) | Err(_) => return Err(LaunchError::NoAnswer),
            Ok((length, received)) => {
                decoder.push(buffer.get(..length).unwrap_or_default());
                descriptors.extend(received);
            }
        }
    }
}
