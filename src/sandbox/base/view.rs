//! A sandbox as readers see it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{Record, SleepPolicy};
use sys::figures::{Figures, IoFigures, Pressures};

/// A sandbox as it is at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub record: Arc<Record>,
    /// What runs or is frozen; `None` unless the status is one of these.
    pub live: Option<LiveView>,
    pub app: AppView,
    /// `<data>/workspaces/<ID>`.
    pub workspace: PathBuf,
    /// Grows with every change.
    pub generation: u64,
    /// For how long nobody has used it; `None` when it is in use right now or is stopped.
    pub idle_for: Option<Duration>,
    /// When it will be frozen or, without that tier, stopped if nobody uses it; unix milliseconds.
    pub sleeps_at: Option<i64>,
    /// When it will be stopped if nobody uses it, unix milliseconds.
    pub stops_at: Option<i64>,
    /// Its own policy, else the instance's.
    pub sleep: SleepPolicy,
    /// Which of its limits the host cannot enforce.
    pub not_enforced: Vec<&'static str>,
}

/// What runs.
#[derive(Debug, Clone)]
pub struct LiveView {
    pub init_pid: i32,
    pub address: Ipv4Addr,
    /// `None`: its processes have the host's.
    pub ids: Option<Ids>,
    pub cgroup_path: String,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Bytes, page cache included; only of a sandbox that is looked at alone.
    pub memory_current: Option<u64>,
    /// Whether it is slowed down at its `memory.high`.
    pub is_throttled: bool,
}

/// What `sandbox.yaml` declares and what became of it.
#[derive(Debug, Clone, Default)]
pub struct AppView {
    pub preview: Preview,
    pub processes: Vec<ProcessView>,
}

impl AppView {
    /// What is to be said of an app whose sandbox has ended.
    pub(crate) fn ended(&mut self) {
        if self.preview.status != PreviewStatus::None {
            self.preview.status = PreviewStatus::Down;
        }
        for process in &mut self.processes {
            process.running = false;
            process.pid = None;
        }
    }
}

/// The app's main port.
#[derive(Debug, Clone, Default)]
pub struct Preview {
    /// The web process's port, else the first exposed one.
    pub port: Option<u16>,
    pub status: PreviewStatus,
    pub last_http_status: Option<u16>,
    /// Unix milliseconds.
    pub last_checked_at: Option<i64>,
    pub build_error_message: Option<String>,
}

/// How the app's main port is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PreviewStatus {
    /// There is no web process.
    #[default]
    None,
    /// The sandbox or the web process does not run.
    Down,
    Starting,
    Ready,
    /// The build failed, or the web process was given up.
    Error,
}

/// One process of the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessView {
    pub name: String,
    pub kind: ProcessKind,
    pub running: bool,
    /// In the sandbox's pid namespace.
    pub pid: Option<i32>,
    pub restarts: u32,
    pub given_up: bool,
    /// How its last run ended, as a shell shows it.
    pub last_exit_code: Option<i32>,
}

/// Which part of the manifest a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessKind {
    Web,
    Worker,
}

/// What a sandbox uses.
#[derive(Debug, Clone)]
pub struct Stats {
    pub snapshot: Snapshot,
    pub usage: Usage,
}

/// What a cgroup uses and may use; a figure that the kernel does not have is absent.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    pub memory: MemoryUsage,
    pub cpu: Option<Duration>,
    /// In thousandths of a processor.
    pub cpu_max_milli: Option<u64>,
    /// For how long it had to wait there.
    pub cpu_held: Option<Duration>,
    pub pids: Option<u64>,
    pub pids_max: Option<u64>,
    pub pids_refused: Option<u64>,
    pub io: Option<IoUsage>,
    pub pressure: PressureUsage,
}

/// What was asked of disks.
#[derive(Debug, Clone, Copy, Default)]
pub struct IoUsage {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// How much of the last ten seconds some, or all, of its processes waited for something: percent. Absent where the
/// kernel does not count it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PressureUsage {
    pub cpu: Option<(f64, f64)>,
    pub memory: Option<(f64, f64)>,
    pub io: Option<(f64, f64)>,
}

/// Bytes, and how often something happened.
#[derive(Debug, Clone, Default)]
pub struct MemoryUsage {
    /// Page cache included.
    pub current: Option<u64>,
    pub peak: Option<u64>,
    pub max: Option<u64>,
    pub high: Option<u64>,
    pub swap: Option<u64>,
    pub swap_max: Option<u64>,
    /// Slowed down at `high`.
    pub high_events: Option<u64>,
    pub max_events: Option<u64>,
    pub oom_events: Option<u64>,
    pub oom_kills: Option<u64>,
}

impl From<Figures> for Usage {
    fn from(figures: Figures) -> Self {
        let Figures { memory, cpu, cpu_max_milli, cpu_held, pids, pids_max, pids_refused, io, pressure } =
            figures;
        let events = memory.events;
        Self {
            memory: MemoryUsage {
                current: memory.current,
                peak: memory.peak,
                max: memory.max,
                high: memory.high,
                swap: memory.swap,
                swap_max: memory.swap_max,
                high_events: events.high,
                max_events: events.max,
                oom_events: events.oom,
                oom_kills: events.oom_kill,
            },
            cpu,
            cpu_max_milli,
            cpu_held,
            pids,
            pids_max,
            pids_refused,
            io: io.map(IoUsage::from),
            pressure: pressure.into(),
        }
    }
}

impl From<IoFigures> for IoUsage {
    fn from(figures: IoFigures) -> Self {
        let IoFigures { read_bytes, written_bytes, reads, writes } = figures;
        Self { read_bytes, written_bytes, reads, writes }
    }
}

impl From<Pressures> for PressureUsage {
    fn from(pressures: Pressures) -> Self {
        let [cpu, memory, io] =
            [pressures.cpu, pressures.memory, pressures.io].map(|p| p.map(|p| (p.some, p.full)));
        Self { cpu, memory, io }
    }
}

/// How many sandboxes there are, by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub creating: u64,
    pub running: u64,
    pub paused: u64,
    pub stopped: u64,
    pub error: u64,
}

/// The ids that a sandbox has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Root's, on the host.
    pub first: u32,
    /// Whether somebody may be root inside: not where what root makes in the workspace would be stored as it is.
    pub has_root: bool,
    /// Whether files of the root file system are shown with them.
    pub maps_rootfs: bool,
}
