//! Answers of the compatible routes.

use serde::Serialize;
use utoipa::ToSchema;

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct Row {
    pub id: String,
    /// `creating`, `running`, `paused`, `stopped` or `error`.
    pub status: &'static str,
    pub image: String,
    pub workspace_img: String,
    pub workspace_mnt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    #[schema(example = "3686M")]
    pub memory_high: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    pub ports: Vec<u16>,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub updated_at: String,
    /// Unix seconds.
    pub last_active_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_until: Option<i64>,
    /// Empty while the sandbox does not run.
    pub container_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_workspace_id: Option<String>,
    pub visibility: &'static str,
    pub idle_policy: &'static str,
    /// For how long nobody has used it; absent while it is in use or does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_for_s: Option<u64>,
    /// Unix seconds; when it is frozen or, without that tier, stopped if nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleeps_at: Option<i64>,
    /// Unix seconds; when it is stopped if nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops_at: Option<i64>,
    /// `container` or `gvisor`.
    pub isolation: &'static str,
    /// `read_only`, or `overlay`: root may write it, into a layer that lasts as the workspace does.
    pub rootfs: &'static str,
    /// Whether its programs may make namespaces of their own, as was asked for.
    pub nested_namespaces: bool,
    /// Only when it has just been made: fields of the request that the server does not know and has ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `GET /sandbox/{id}`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SandboxDetail {
    pub row: Row,
    pub live_state: Option<LiveState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeState>,
}

/// What runs.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveState {
    /// False while it is frozen.
    pub running: bool,
    /// The first process, in the server's pid namespace.
    pub pid: i32,
    pub started_at: String,
    pub container_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_current_bytes: Option<u64>,
    /// Slowed down, since it uses as much memory as its `memory_high`.
    pub throttled: bool,
    /// Absent where its processes have the host's ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespace: Option<UserNamespace>,
}

/// Which users of the host those of a sandbox are.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserNamespace {
    /// The host's id of its root; the others follow.
    pub first_id: u32,
    pub ids: u32,
    /// Whether processes may run as its root.
    pub root: bool,
    /// Whether files of the root file system belong to its root; otherwise they show as nobody's.
    pub rootfs_mapped: bool,
}

/// The app.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuntimeState {
    pub preview: super::Preview,
    pub processes: Vec<super::Process>,
}

/// `POST /sandbox/{id}/exec`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Exec {
    pub stdout: String,
    pub stderr: String,
    /// 128 + n after signal n.
    pub exit_code: i32,
    /// Output was cut at 16 MiB; ask with `stream` for all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Fields of the request that the server does not know and has ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Purged {
    pub purged: bool,
    pub freed_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PurgedMany {
    pub purged_count: u64,
    pub freed_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct KeptAlive {
    pub id: String,
    /// Unix seconds.
    pub keepalive_until: i64,
    /// Fields of the request that the server does not know and has ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Claimed {
    pub id: String,
    pub external_user_id: String,
    pub claimed: bool,
    /// Fields of the request that the server does not know and has ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Woken {
    pub id: String,
    pub status: &'static str,
    pub wake_duration_ms: u64,
}
