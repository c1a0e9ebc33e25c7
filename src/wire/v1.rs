//! Answers of `/v1`.

use serde::Serialize;
use utoipa::ToSchema;

/// A sandbox and its app.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sandbox {
    pub id: String,
    pub status: &'static str,
    pub preview: Preview,
    pub processes: Vec<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_task_id: Option<String>,
    pub template: String,
    pub created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    pub idle_policy: &'static str,
    pub sleep: Sleep,
    pub limits: Limits,
    /// For how long nobody has used it; absent while it is in use or stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_for_s: Option<u64>,
    /// When it is frozen or, without that tier, stopped if nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleeps_at: Option<String>,
    /// When it is stopped if nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops_at: Option<String>,
    /// What stands between it and the host: `container` or `gvisor`.
    pub isolation: &'static str,
    /// `read_only`, or `overlay`: root may write it, into a layer that lasts as the workspace does.
    pub rootfs: &'static str,
    /// Whether its programs may make namespaces of their own, as was asked for.
    pub nested_namespaces: bool,
}

/// When it sleeps, in seconds; its own policy, else the server's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sleep {
    pub after: u64,
    /// `null`: never.
    pub then_stop_after: Option<u64>,
}

/// What it may use.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    pub memory_max: String,
    pub memory_high: String,
    pub swap_max: String,
    pub oom_group: bool,
    /// In processors; `null`: whatever is free.
    pub cpu_max: Option<f64>,
    pub cpu_weight: u32,
    pub io_max: IoMax,
    pub io_weight: u32,
    pub pids_max: u32,
    pub nofile: u64,
    /// Those of them that this host cannot enforce, and `memory_max.sockets` where it does not count buffers of
    /// sockets; `sandboxd check` says why.
    pub not_enforced: Vec<&'static str>,
}

/// The most it may ask of the workspaces' disk in a second; `null`: whatever is free.
#[derive(Debug, Serialize, ToSchema)]
pub struct IoMax {
    pub read_bps: Option<String>,
    pub write_bps: Option<String>,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// What a sandbox uses. A figure that the host's kernel does not have is left out.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stats {
    pub status: &'static str,
    pub memory: MemoryStats,
    pub cpu: CpuStats,
    pub pids: PidsStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<IoStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_for_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleeps_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops_at: Option<String>,
    /// Slowed down, since it uses as much memory as its `memory_high`.
    pub throttled: bool,
}

/// In bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryStats {
    /// Page cache included.
    pub current: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    pub max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// Moved out of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_max: Option<u64>,
    pub events: MemoryEvents,
}

/// How often, since it was started.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryEvents {
    /// It was slowed down at `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// It was at `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom: Option<u64>,
    /// Processes were killed for want of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CpuStats {
    pub usage_seconds: f64,
    /// In processors, as the kernel has it; left out where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// How long it had to wait at `max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_seconds: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PidsStats {
    pub current: u64,
    pub max: u64,
    /// How often a process could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
}

/// What it has asked of disks since it was started. On cgroup v1 what is cached does not count.
#[derive(Debug, Serialize, ToSchema)]
pub struct IoStats {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Time that its processes had to wait, in percent of the last ten seconds; left out where the kernel does not count it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PressureStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Pressure>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Pressure {
    /// One of them waited.
    pub some: f64,
    /// All of them did.
    pub full: f64,
}

/// The app's main port.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preview {
    pub url: String,
    pub port: u16,
    /// `down`, `starting`, `ready`, `error` or `none`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_error_message: Option<String>,
}

/// One process of the app.
#[derive(Debug, Serialize, ToSchema)]
pub struct Process {
    pub name: String,
    /// `web` or `worker`.
    pub kind: &'static str,
    pub running: bool,
    /// In the sandbox's own pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub restarts: u32,
    /// It ended too often too soon: it is started again when the manifest changes or the sandbox starts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// How its last run ended; 128 + n after signal n.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SandboxList {
    pub sandboxes: Vec<Sandbox>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
