//! The host's side of all launches: where things are, and whom to ask for them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::base::error::Error;
use crate::launch::spaces::UserSpaces;
use engine::Runtime;
use engine::bundle::Template;
use model::{Limits, PathKind};
use network::Network;
use storage::Storage;
use sys::cgroup::Hierarchy;
use sys::controls::Disk;
use sys::netns::SocketMaker;
use sys::{memory, tables};

/// How sandboxes are launched.
#[derive(Debug, Clone)]
pub(crate) struct HostConfig {
    /// One directory per running sandbox beneath it.
    pub(crate) run_dir: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// How sandboxes get ids of their own; `None`: their processes have the host's.
    pub(crate) user_spaces: Option<UserSpaces>,
    /// Whether each sandbox has inodes of its own for the root file system.
    pub(crate) covers_rootfs: bool,
    /// Whether a sandbox may be asked for whose programs may make namespaces.
    pub(crate) nested_namespaces: bool,
    /// Certificates bound over the sandbox's own, for hosts behind an inspecting proxy.
    pub(crate) ca_bundle: Option<PathBuf>,
    /// The limits of a sandbox that does not ask for others.
    pub(crate) limits: Limits,
    /// Whether `memory.high` is written at all.
    pub(crate) set_memory_high: bool,
}

/// The parts of the host that a launch uses.
#[derive(Debug)]
pub(crate) struct HostParts {
    pub(crate) storage: Storage,
    pub(crate) network: Network,
    pub(crate) runtime: Runtime,
    pub(crate) cgroups: Hierarchy,
    pub(crate) sockets: SocketMaker,
    pub(crate) template: Template,
}

/// What launches are made with.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: HostConfig,
    /// Holds the `resolv.conf` and `hosts` of all sandboxes.
    pub(crate) etc_dir: PathBuf,
    pub(crate) storage: Storage,
    pub(crate) network: Network,
    pub(crate) runtime: Runtime,
    pub(crate) cgroups: Hierarchy,
    sockets: SocketMaker,
    pub(crate) template: Template,
    pub(crate) destinations: Vec<(PathBuf, PathKind)>,
    /// The directories with `config.json`, by the limit on open files that each asks for.
    pub(crate) bundles: Mutex<HashMap<(u64, bool), PathBuf>>,
    /// What holds the workspaces, if it is one disk.
    pub(crate) disk: Option<Disk>,
    /// How many files the machine can have open at once.
    open_files: u64,
    /// Which limits the host cannot enforce.
    pub(crate) not_enforced: Vec<&'static str>,
    /// Whether the host has a freezer.
    pub(crate) can_freeze: bool,
}

impl Host {
    pub(crate) fn new(config: HostConfig, parts: HostParts) -> Self {
        let HostParts { storage, network, runtime, cgroups, sockets, template } = parts;
        let disk = Disk::of(&storage.workspaces_dir());
        Self {
            etc_dir: config.run_dir.join("etc"),
            destinations: template.destinations(),
            bundles: Mutex::default(),
            disk,
            open_files: open_files(),
            not_enforced: not_enforced(&cgroups, disk),
            can_freeze: cgroups.has_freezer(),
            config,
            storage,
            network,
            runtime,
            cgroups,
            sockets,
            template,
        }
    }

    /// How many sandboxes can run at once: each needs an address and, where they have them, ids.
    pub(crate) fn capacity(&self) -> u32 {
        let ids = self.config.user_spaces.map_or(u32::MAX, |spaces| spaces.base.capacity());
        self.network.capacity().min(ids)
    }

    pub(crate) fn check_rootfs(&self) -> Result<(), Error> {
        let destinations: Vec<_> =
            self.destinations.iter().map(|(path, kind)| (path.as_path(), *kind)).collect();
        self.storage.check_rootfs(&destinations).map_err(Error::Storage)
    }

    /// The limit on open files that a process of a sandbox with such limits starts with.
    pub(crate) fn nofile(&self, limits: &Limits) -> u64 {
        limits.nofile_within(self.open_files)
    }

    /// Makes a socket in a sandbox's network.
    pub(crate) async fn socket(
        &self,
        netns: Arc<OwnedFd>,
        domain: sys::netns::Domain,
    ) -> std::io::Result<OwnedFd> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| drop::<Result<(), _>>(sender.send(result)));
        self.sockets.request(netns, domain, done);
        receiver.await.unwrap_or_else(|_closed| Err(std::io::ErrorKind::BrokenPipe.into()))
    }
}

/// How many files this machine can have open at once. Without figures no more than the least that any has.
fn open_files() -> u64 {
    memory::host().map_or(0, |host| tables::open_files(host.total_bytes))
}

/// Names the limits that this host does not have: its control groups, and the disk of the workspaces.
fn not_enforced(cgroups: &Hierarchy, disk: Option<Disk>) -> Vec<&'static str> {
    let has = cgroups.controls();
    let all = [
        // Buffers of TCP and UDP sockets, which are the sandbox's memory wherever the kernel counts them.
        ("memory_max.sockets", has.sockets),
        ("memory_high", has.memory_high),
        ("swap_max", has.swap_max),
        ("oom_group", has.oom_group),
        ("cpu_max", has.cpu_max),
        ("cpu_weight", has.cpu_weight),
        ("io_max", has.io_max && disk.is_some()),
        ("io_weight", disk.is_some_and(|disk| cgroups.weighs(disk))),
    ];
    all.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
}
