//! Between the daemon and the launcher.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Asks for a container without identity; the descriptors ride along in this order: the socket for the
/// reply, the control socket of `sandbox-init` (listening), the netns, then what [`LaunchRequest::cgroup_v2`] says.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Where libcontainer keeps its state, one directory per id.
    pub state_root: PathBuf,
    /// The rest of the descriptors is one cgroup v2 directory; otherwise `tasks` files of version 1.
    pub cgroup_v2: bool,
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
    Failed {
        step: LaunchStep,
        errno: Option<i32>,
        message: String,
    },
}
