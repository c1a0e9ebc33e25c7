//! The launcher: a process with one thread and no tokio, the only code that names libcontainer.
//!
//! It stays small, so that its forks are cheap. For each request it forks a worker, which answers and
//! ends; a crash or a hang in there is that request's alone. It joins the sandbox's cgroup and lets libcontainer
//! create and start a container without identity. The launcher lives in a mount namespace in which only the run
//! directory can be written, so a path that libcontainer follows wrongly cannot change the host.
//!
//! ```text
//! daemon ──request + descriptors──► launcher ──fork──► worker ─► libcontainer ─► sandbox-init
//!    ▲                                                    │
//!    └──────────────── reply ─────────────────────────────┘ (ends; the supervisor inherits the init)
//! ```

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use rustix::fs::{FileType, OFlags};

use super::runsc;
use crate::bundle::{self, seccomp};
use protocol::{
    CONTROL_DESCRIPTOR, Decoder, LaunchReply, LaunchRequest, LaunchStep, LauncherRequest, NamespacesRequest,
    ProbeRequest, Stage, encode,
};
use sys::clone::{self, Fork};
use sys::fs::{self as sysfs, Links};
use sys::userns::{self, Bounds, Support};
use sys::{capabilities, identity, keyring, mount, process, seccomp as filter, signal, socket};

/// Where a worker puts the netns, so that the spec can name it: `/proc/self/fd/4`.
pub const NETNS_DESCRIPTOR: i32 = 4;
/// The same of the user namespace.
pub const USERNS_DESCRIPTOR: i32 = 5;
/// Descriptors below this number are given a meaning in a worker; everything else is kept above.
const FIRST_FREE_DESCRIPTOR: i32 = 16;
/// The longest request: a few paths.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// How many namespaces there can be in a sandbox whose programs may make some, its own among them. A browser has one
/// network namespace, some user namespaces and a pid namespace for each process; of the others nobody can make any, but each
/// mount that the launch has in its hands is in a mount namespace for a moment. The kernel takes network namespaces of
/// all down one after the other, and counts those that wait: so the bound is also one of how much of that one sandbox can cause.
const NAMESPACES_MAX: &[(&str, u32)] = &[
    ("user", 33),
    ("pid", 257),
    ("net", 17),
    ("mnt", 16),
    ("ipc", 1),
    ("uts", 1),
    ("cgroup", 1),
    ("time", 0),
];
/// The name under which `sandbox-init` shows in a process list.
const INIT_NAME: &CStr = c"sandbox-init";

/// What a launcher is started with.
#[derive(Debug)]
pub struct Options {
    /// The static program that becomes PID 1 of every sandbox.
    pub init: PathBuf,
    /// The directories that stay writable.
    pub writable: Vec<PathBuf>,
}

/// Why a launcher cannot work.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    #[error("{action}")]
    Setup {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "open {path}: build it with `cargo build --release --no-default-features --bin sandbox-init`, or name it by SANDBOXD_INIT"
    )]
    Init {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("compile the seccomp profile")]
    Seccomp(#[source] seccomp::SeccompError),
    #[error("read the limits of the template")]
    Template(#[source] bundle::BundleError),
}

/// Serves requests that arrive on standard input, a `SOCK_SEQPACKET` socket, until it ends.
///
/// # Errors
/// What keeps the launcher from starting; a request that fails is answered instead.
pub fn run(options: &Options) -> Result<(), LauncherError> {
    let setup = |action| move |source| LauncherError::Setup { action, source };
    let init = File::open(&options.init)
        .and_then(|file| lift(file.into()))
        .map(Rc::new)
        .map_err(|source| LauncherError::Init { path: options.init.clone(), source })?;
    let executor = |program: Vec<_>| InitExecutor { init: Rc::clone(&init), filter: Rc::from(program) };
    let executors = Executors {
        ordinary: executor(seccomp::embedded().map_err(LauncherError::Seccomp)?),
        nested: executor(seccomp::nested().map_err(LauncherError::Seccomp)?),
    };
    let template = bundle::Template::embedded().map_err(LauncherError::Template)?;
    let bounds = template.bounds().map_err(LauncherError::Template)?;

    capabilities::keep(capabilities::LAUNCHER, capabilities::LAUNCHER)
        .or_else(|error| if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) })
        .map_err(setup("lay down what the launcher does not need"))?;
    capabilities::gain_nothing().map_err(setup("give up gaining by executing"))?;

    let requests = socket::inherited(0).and_then(lift).map_err(setup("take over the request socket"))?;
    let null = File::options().read(true).write(true).open("/dev/null").and_then(|file| lift(file.into()));
    let null = null.map_err(setup("open /dev/null"))?;
    for number in 0..3 {
        // A worker's standard streams become those of PID 1 in a sandbox: nothing of ours may be there.
        socket::place(null.as_fd(), number).map_err(setup("put /dev/null in place"))?;
    }
    drop(null);
    signal::ignore_children().map_err(setup("let the kernel reap workers"))?;
    let writable: Vec<_> = options.writable.iter().map(PathBuf::as_path).collect();
    mount::confine(&writable).map_err(setup("confine the launcher's mounts"))?;
    // In a user namespace no hard limit can be raised, whoever asks, and there libcontainer sets them.
    process::raise_hard_limits();

    // The first message tells the daemon that all of the above has worked.
    socket::send(&requests, b"ready", &[]).map_err(setup("report readiness"))?;
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        match socket::receive(&requests, &mut buffer) {
            // The daemon is gone: nobody is left to launch for.
            Ok((0, _)) => return Ok(()),
            Ok((length, descriptors)) => {
                serve(buffer.get(..length).unwrap_or_default(), descriptors, &executors, &bounds);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LauncherError::Setup { action: "receive a request", source }),
        }
    }
}

/// Forks a worker for one request. A request that makes no sense is dropped with its reply socket,
/// which the daemon sees as the end of it.
fn serve(frame: &[u8], descriptors: Vec<OwnedFd>, executors: &Executors, bounds: &Bounds) {
    let mut decoder = Decoder::default();
    decoder.push(frame);
    let Ok(Some(request)) = decoder.take::<LauncherRequest>() else { return };
    // Out of the way of the numbers that the worker fills.
    let Ok(descriptors) = descriptors.into_iter().map(lift).collect::<io::Result<Vec<_>>>() else { return };
    let mut descriptors = descriptors.into_iter();
    let Some(reply) = descriptors.next() else { return };
    match request {
        LauncherRequest::Launch(request) => {
            let executor = if request.nested { &executors.nested } else { &executors.ordinary };
            serve_launch(&request, &reply, descriptors, executor);
        }
        LauncherRequest::Namespaces(request) => in_worker(None, &reply, || namespaces(&request, bounds)),
        LauncherRequest::Probe(request) => in_worker(None, &reply, || Ok(probe(&request, bounds).into())),
    }
}

fn serve_launch(
    request: &LaunchRequest,
    reply: &OwnedFd,
    mut descriptors: impl Iterator<Item = OwnedFd>,
    executor: &InitExecutor,
) {
    let (Some(control), Some(netns)) = (descriptors.next(), descriptors.next()) else { return };
    let workspace = if request.runsc.is_some() { descriptors.next() } else { None };
    let has_users = request.stage.as_ref().is_some_and(|stage| stage.has_users);
    let user = if has_users { descriptors.next() } else { None };
    let overlay = request.stage.as_ref().and_then(|stage| stage.overlay.as_ref());
    let layers = overlay.and_then(|_| descriptors.next());
    let spaces = Spaces { user, layers };
    let cgroup: Vec<OwnedFd> = descriptors.collect();
    let directory = cgroup.first().filter(|_| request.cgroup_v2).map(|fd| fd.as_fd());
    let tasks: &[OwnedFd] = if request.cgroup_v2 { &[] } else { &cgroup };
    in_worker(directory, reply, || {
        launch(request, control, netns, (workspace, spaces, tasks), executor).map(Answer::from)
    });
}

/// Does the work in a fork of this process, which answers and ends.
fn in_worker(
    cgroup: Option<BorrowedFd<'_>>,
    reply: &OwnedFd,
    work: impl FnOnce() -> Result<Answer, LaunchReply>,
) {
    match clone::fork_into(cgroup) {
        Ok(Fork::Parent(_)) => {}
        Ok(Fork::Child) => {
            respond(reply, &work().unwrap_or_else(Answer::from));
            clone::exit_now(0);
        }
        Err(error) => respond(reply, &failed(LaunchStep::Fork, &error).into()),
    }
}

/// A reply and the descriptors that ride with it.
struct Answer {
    reply: LaunchReply,
    descriptors: Vec<OwnedFd>,
}

impl From<LaunchReply> for Answer {
    fn from(reply: LaunchReply) -> Self {
        Self { reply, descriptors: Vec::new() }
    }
}

/// Runs in the worker: makes the namespaces of a launch to come.
fn namespaces(request: &NamespacesRequest, bounds: &Bounds) -> Result<Answer, LaunchReply> {
    let make = || {
        let made = if request.nested {
            userns::make_bounded(&request.processes, NAMESPACES_MAX, bounds)?
        } else {
            userns::make(&request.processes, true, bounds)?
        };
        let mut descriptors: Vec<_> = std::iter::once(made.user).chain(made.network).collect();
        if !request.workspace.is_empty() {
            descriptors.push(userns::make(&request.workspace, false, &Bounds::default())?.user);
        }
        Ok(Answer { reply: LaunchReply::Namespaces, descriptors })
    };
    make().map_err(|e| failed(LaunchStep::Namespaces, &e))
}

/// Runs in the worker.
fn probe(request: &ProbeRequest, bounds: &Bounds) -> LaunchReply {
    let none = Support { maps_rootfs: false, maps_workspaces: false, covers_rootfs: false };
    let probed = if request.ids.is_empty() {
        Ok(Support { covers_rootfs: userns::covers(&request.rootfs), ..none })
    } else {
        userns::probe(&request.ids, &request.rootfs, &request.workspaces, bounds)
    };
    let (found, refusal) = probed.map_or_else(|refusal| (none, Some(refusal)), |found| (found, None));
    let Support { maps_rootfs, maps_workspaces, covers_rootfs } = found;
    LaunchReply::Support { refusal, maps_rootfs, maps_workspaces, covers_rootfs }
}

/// The user namespaces that a launch needs.
struct Spaces {
    user: Option<OwnedFd>,
    /// By which the layers of an overlay are mapped.
    layers: Option<OwnedFd>,
}

/// A tenant may have put links where libcontainer is about to mount. Nothing of his runs now, so what is seen stays
/// so. What is missing is made.
fn check_destinations(destinations: &[(PathBuf, bool)]) -> io::Result<()> {
    let root = sysfs::open_directory(&staged("rootfs"))?;
    for (destination, is_directory) in destinations {
        let relative = destination.strip_prefix("/").unwrap_or(destination);
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let refused = |problem| {
            io::Error::other(format!(
                "{} in the sandbox's own root file system {problem}",
                destination.display()
            ))
        };
        let found = match sysfs::open_beneath(&root, relative, flags, 0, Links::Refuse) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(|_e| refused("is reached through a link"))?,
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode);
        let expected = if *is_directory { FileType::Directory } else { FileType::RegularFile };
        if kind != expected {
            return Err(refused("is not what it has to be"));
        }
    }
    Ok(())
}

/// Runs in the worker: puts what the container is made of where root of its user namespace finds it, in a mount
/// namespace that ends with this process and the container. Whatever of it is the same for all containers has
/// inodes of this one's own in there.
fn stage(stage: &Stage, spaces: &Spaces) -> io::Result<()> {
    mount::unshare()?;
    let place = |name: &str, tree| mount::attach(tree, &staged(name));
    let ids = spaces.user.as_ref().filter(|_| stage.maps_rootfs).map(|fd| fd.as_fd());
    place("rootfs", mount::detached_at(&stage.rootfs, ids)?)?;
    if let Some(overlay) = &stage.overlay {
        let layers = mount::detached_at(&overlay.layers, spaces.layers.as_ref().map(|fd| fd.as_fd()))?;
        // Of the host's files these alone, for this launch alone.
        mount::make_writable(&layers)?;
        place("layers", layers)?;
        // As the sandbox's root: what the kernel makes in the layers by itself is then theirs too.
        let mounted =
            identity::with_file_owner(overlay.root, || mount::overlay(&staged("rootfs"), &staged("layers")))?;
        place("rootfs", mounted)?;
        check_destinations(&overlay.destinations)?;
    } else if let Some(empty) = &stage.empty {
        // It may have been removed, or lie on overlays itself. Only device numbers differ with one on another file system.
        let covered = mount::cover(&staged("rootfs"), empty)
            .or_else(|_unusable| mount::cover(&staged("rootfs"), &staged("layers")));
        place("rootfs", covered?)?;
    }
    mount::attach(mount::own_files(&stage.etc)?, Path::new(mount::OWN))?;
    match mount::unshare_time() {
        // This kernel has no such namespaces.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        unshared => unshared,
    }
}

/// Runs in the worker: joins the cgroup, creates and starts the container.
fn launch(
    request: &LaunchRequest,
    control: OwnedFd,
    netns: OwnedFd,
    (workspace, spaces, tasks): (Option<OwnedFd>, Spaces, &[OwnedFd]),
    executor: &InitExecutor,
) -> Result<LaunchReply, LaunchReply> {
    for file in tasks {
        // "0" is the writer itself; the file was opened by the daemon, whose right to write counts.
        rustix::io::write(file, b"0").map_err(|e| failed(LaunchStep::JoinCgroup, &e.into()))?;
    }
    let place = |fd: OwnedFd, number: i32| {
        socket::place(fd.as_fd(), number).map_err(|e| failed(LaunchStep::PlaceDescriptors, &e))
    };
    place(control, CONTROL_DESCRIPTOR)?;
    place(netns, NETNS_DESCRIPTOR)?;
    if let Some(plan) = &request.stage {
        stage(plan, &spaces).map_err(|e| failed(LaunchStep::Stage, &e))?;
    }
    if let Some(user) = spaces.user {
        place(user, USERNS_DESCRIPTOR)?;
    }
    // Those of whoever started the daemon would be kept, and nothing inside takes them away.
    identity::leave_groups().map_err(|e| failed(LaunchStep::PlaceDescriptors, &e))?;
    // The same with its keys, which `sandbox-init` would have on its session keyring.
    keyring::leave().map_err(|e| failed(LaunchStep::PlaceDescriptors, &e))?;
    // libcontainer waits for its intermediate process by itself.
    signal::keep_children().map_err(|e| failed(LaunchStep::PlaceDescriptors, &e))?;
    if let Some((runsc, workspace)) = request.runsc.as_ref().zip(workspace) {
        return runsc::launch(request, runsc, workspace);
    }

    let create = || {
        ContainerBuilder::new(request.id.clone(), SyscallType::default())
            .with_executor(executor.clone())
            .with_root_path(&request.state_root)?
            .with_preserved_fds(1)
            .validate_id()?
            .as_init(&request.bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()
    };
    let begun = Instant::now();
    let mut container = create().map_err(|e| described(LaunchStep::Create, &e))?;
    let created = Instant::now();
    container.start().map_err(|e| described(LaunchStep::Start, &e))?;
    let pid = container.pid().map(|pid| pid.as_raw()).unwrap_or_default();
    let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    let (create_us, start_us) = (micros(created - begun), micros(created.elapsed()));
    Ok(LaunchReply::Running { pid, create_us, start_us })
}

/// What containers become, by what their programs may do.
struct Executors {
    ordinary: InitExecutor,
    nested: InitExecutor,
}

/// Becomes `sandbox-init` as the last step of libcontainer's, capabilities dropped, no_new_privs set.
#[derive(Debug, Clone)]
struct InitExecutor {
    init: Rc<OwnedFd>,
    filter: Rc<[filter::Instruction]>,
}

impl Executor for InitExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let environment: Result<Vec<CString>, _> = spec
            .process()
            .as_ref()
            .and_then(|process| process.env().as_ref())
            .into_iter()
            .flatten()
            .map(|entry| CString::new(entry.as_bytes()))
            .collect();
        let environment = environment.map_err(|_e| ExecutorError::InvalidArg)?;
        filter::load(&self.filter).map_err(|e| ExecutorError::Execution(e.into()))?;
        Err(ExecutorError::Execution(clone::execute(self.init.as_fd(), INIT_NAME, &environment).into()))
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The program is not one of the rootfs: there is nothing to look for in its PATH.
        Ok(())
    }

    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes straight from the spec to execveat(2).
        Ok(())
    }
}

/// Moves a descriptor out of the way of the numbers that have a meaning in a worker.
fn lift(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(&descriptor, FIRST_FREE_DESCRIPTOR)?)
}

fn failed(step: LaunchStep, error: &io::Error) -> LaunchReply {
    LaunchReply::Failed { step, errno: error.raw_os_error(), message: error.to_string() }
}

/// Joins the causes into one line: libcontainer's errors cross processes as text anyway.
fn described(step: LaunchStep, error: &LibcontainerError) -> LaunchReply {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut errno = None;
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        let of_kernel = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let of_nix = || cause.downcast_ref::<nix::errno::Errno>().map(|errno| *errno as i32);
        errno = of_kernel.or_else(of_nix).or(errno);
        source = cause.source();
    }
    LaunchReply::Failed { step, errno, message }
}

fn respond(reply: &OwnedFd, answer: &Answer) {
    if let Ok(frame) = encode(&answer.reply) {
        let descriptors: Vec<_> = answer.descriptors.iter().map(|fd| fd.as_fd()).collect();
        // Without the daemon there is nobody to tell; its successor finds the cgroup.
        let _ignored: io::Result<usize> = socket::send(reply, &frame, &descriptors);
    }
}

/// The name of the certificates in the directory of files that containers have of their own.
pub const CERTIFICATES: &str = "ca-certificates.crt";

/// Where a container finds the files that it has of its own, while it is created.
pub fn own(name: &str) -> PathBuf {
    Path::new(mount::OWN).join(name)
}

/// Where the root of a container with a user namespace finds what was staged for it.
pub fn staged(name: &str) -> PathBuf {
    Path::new(mount::STAGE).join(name)
}

/// The path by which the spec names the netns; it is opened in a process that has the descriptor.
pub fn netns_path() -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{NETNS_DESCRIPTOR}"))
}

/// The same of the user namespace.
pub fn userns_path() -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{USERNS_DESCRIPTOR}"))
}
