//! Between the daemon and the launcher.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the launcher is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LauncherRequest {
    Launch(LaunchRequest),
    /// Asks for namespaces; only the socket for the reply rides along. Answered by [`LaunchReply::Namespaces`].
    Namespaces(NamespacesRequest),
    /// Asks what of user namespaces works here. Answered by [`LaunchReply::Support`].
    Probe(ProbeRequest),
}

/// `(inside, outside, count)`: so many ids from the first on, inside, are those from the second on, outside.
pub type Extent = (u32, u32, u32);

/// Asks for a user namespace with a network namespace, and for another by which workspaces are mapped.
#[derive(Debug, Serialize, Deserialize)]
pub struct NamespacesRequest {
    pub processes: Vec<Extent>,
    /// Empty: workspaces are not mapped.
    pub workspace: Vec<Extent>,
    /// Whether what runs there may make further ones, of which there is a bound then.
    pub nested: bool,
}

/// Asks whether user namespaces with such ids work, for which of the two paths the file system can be mapped, and whether
/// the root file system can be covered. Without ids the last alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeRequest {
    pub ids: Vec<Extent>,
    pub rootfs: PathBuf,
    pub workspaces: PathBuf,
}

/// What is put on the stage before a container is launched: root of a user namespace cannot pass the directories in
/// which these lie, and no container is to share an inode with another.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stage {
    /// Whether it has a user namespace.
    pub has_users: bool,
    pub rootfs: PathBuf,
    /// Whether its files are shown with the container's ids.
    pub maps_rootfs: bool,
    /// An empty directory, laid under a root file system that cannot be written; without one the files are those of
    /// all containers.
    pub empty: Option<PathBuf>,
    /// Holds the files that the container's spec binds.
    pub etc: PathBuf,
    /// Makes the root file system writable.
    pub overlay: Option<Overlay>,
}

/// What is laid over a root file system.
#[derive(Debug, Serialize, Deserialize)]
pub struct Overlay {
    /// Holds `upper` and `work`; it is mapped by the second user namespace.
    pub layers: PathBuf,
    /// The host's id of the sandbox's root.
    pub root: u32,
    /// What is mounted over in it, and whether that is a directory: nothing on the way may be a link.
    pub destinations: Vec<(PathBuf, bool)>,
}

/// Asks for a container without identity; the descriptors ride along in this order: the socket for the
/// reply, the control socket of `sandbox-init` (listening), the netns, the user namespace where the
/// [`Stage`] says that there is one, the one by which its [`Overlay`] is mapped where there is one, then what [`LaunchRequest::cgroup_v2`] says.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Where libcontainer keeps its state, one directory per id.
    pub state_root: PathBuf,
    /// The rest of the descriptors is one cgroup v2 directory; otherwise `tasks` files of version 1.
    pub cgroup_v2: bool,
    /// Without one there is nothing to be staged: gVisor has a root file system of its own.
    pub stage: Option<Stage>,
    /// Whether programs may make user, pid and network namespaces.
    pub nested: bool,
    /// Launched by gVisor's program instead of libcontainer.
    pub runsc: Option<Runsc>,
}

/// By what a sandbox of the gVisor tier is launched. One more descriptor rides along before those of the cgroup: the
/// workspace, as a mount that is in no namespace yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct Runsc {
    pub program: PathBuf,
    /// Where the bundle expects the workspace.
    pub workspace: PathBuf,
}

/// Which part of a launch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchStep {
    Fork,
    JoinCgroup,
    PlaceDescriptors,
    Namespaces,
    Stage,
    Create,
    Start,
}

/// What the launcher answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LaunchReply {
    /// The pid of `sandbox-init` as the daemon sees it, and how long the steps took.
    Running {
        pid: i32,
        create_us: u32,
        start_us: u32,
    },
    /// The user namespace and the network namespace ride along and, where workspaces are mapped, the one
    /// that says how.
    Namespaces,
    /// `refusal`: why there can be no user namespaces; then the rest is false.
    Support {
        refusal: Option<String>,
        maps_rootfs: bool,
        maps_workspaces: bool,
        covers_rootfs: bool,
    },
    Failed {
        step: LaunchStep,
        errno: Option<i32>,
        message: String,
    },
}
