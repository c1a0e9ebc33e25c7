//! What was measured, and its percentiles.

use std::collections::BTreeMap;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    CreateExec,
    Create,
    Exec,
    ExecHot,
    ExecAmid,
    FirstByte,
    Stream,
    Stop,
    Wake,
    /// The same app without a wake, beside it.
    AppStart,
    Freeze,
    Thaw,
    Purge,
    Upload,
    Download,
    TreeIn,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) contender: &'static str,
    pub(crate) operation: Operation,
    pub(crate) round: u32,
    pub(crate) milliseconds: f64,
}

/// What one idle sandbox costs, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PerSandbox {
    pub(crate) contender: &'static str,
    pub(crate) sandboxes: u32,
    /// PSS of the processes that came with the sandboxes, by name.
    pub(crate) processes: BTreeMap<String, u64>,
    /// Growth of the PSS of what was there before (daemons).
    pub(crate) daemons_growth: i64,
    /// Kernel memory charged to the sandboxes' cgroups; `None` where it cannot be read.
    pub(crate) kernel: Option<u64>,
}

/// What a server does under load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    pub(crate) contender: &'static str,
    pub(crate) throughput: Vec<Throughput>,
    pub(crate) burst: Option<Burst>,
    pub(crate) crowds: Vec<Crowd>,
    /// The server's processor time with the largest crowd doing nothing, in percent of one core.
    pub(crate) idle_percent: Option<f64>,
}

/// Sandboxes per second, each with a first command, and a purge or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Throughput {
    pub(crate) clients: u32,
    pub(crate) purges: bool,
    pub(crate) per_second: f64,
}

/// So many at once, each with a first command, until the last has answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Burst {
    pub(crate) count: u32,
    pub(crate) seconds: f64,
}

/// Create → first exec output while so many others live, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Crowd {
    pub(crate) live: u32,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
}

/// The percentiles of one contender's samples of one operation, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Operation {
    pub(crate) const ALL: [Self; 16] = [
        Self::CreateExec,
        Self::Create,
        Self::Exec,
        Self::ExecHot,
        Self::ExecAmid,
        Self::FirstByte,
        Self::Stream,
        Self::Stop,
        Self::Wake,
        Self::AppStart,
        Self::Freeze,
        Self::Thaw,
        Self::Purge,
        Self::Upload,
        Self::Download,
        Self::TreeIn,
    ];

    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::CreateExec => "create_exec",
            Self::Create => "create",
            Self::Exec => "exec",
            Self::ExecHot => "exec_hot",
            Self::ExecAmid => "exec_amid_idle",
            Self::FirstByte => "first_byte",
            Self::Stream => "stream_256_mib",
            Self::Stop => "stop",
            Self::Wake => "wake",
            Self::AppStart => "app_start",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Purge => "purge",
            Self::Upload => "upload_256_mib",
            Self::Download => "download_256_mib",
            Self::TreeIn => "tree_in_10000_files",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::CreateExec => "create → first exec output",
            Self::Create => "create",
            Self::Exec => "exec true, after a pause",
            Self::ExecHot => "exec true, at once again",
            Self::ExecAmid => "exec true, with 50 idle sandboxes",
            Self::FirstByte => "start a process → first byte of its output",
            Self::Stream => "256 MiB of output by one WebSocket",
            Self::Stop => "stop, with an app running",
            Self::Wake => "wake → first byte of the app",
            Self::AppStart => "the app alone: start → first byte",
            Self::Freeze => "freeze, with an app running",
            Self::Thaw => "thaw → first byte of the app",
            Self::Purge => "purge",
            Self::Upload => "upload 256 MiB, durable",
            Self::Download => "download 256 MiB to a file",
            Self::TreeIn => "10,000 small files in, as tar",
        }
    }
}

impl Load {
    pub(crate) fn new(contender: &'static str) -> Self {
        Self { contender, throughput: Vec::new(), burst: None, crowds: Vec::new(), idle_percent: None }
    }

    /// Sandboxes per second with so many clients.
    pub(crate) fn per_second(&self, clients: u32, purges: bool) -> Option<f64> {
        let found = self.throughput.iter().find(|t| t.clients == clients && t.purges == purges);
        found.map(|t| t.per_second)
    }
}

impl PerSandbox {
    pub(crate) fn process_bytes(&self) -> u64 {
        self.processes.values().sum()
    }
}

impl Summary {
    /// Summarises samples; `None` of none.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            p50: percentile(&sorted, 50)?,
            p95: percentile(&sorted, 95)?,
            p99: percentile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }

    /// Summarises one contender's samples of one operation.
    pub(crate) fn select(samples: &[Sample], contender: &str, operation: Operation) -> Option<Self> {
        let chosen = samples.iter().filter(|s| s.contender == contender && s.operation == operation);
        Self::of(chosen.map(|s| s.milliseconds))
    }
}

/// Returns the nearest-rank percentile of sorted samples: the smallest that `percent` of all do not exceed.
/// Nothing is interpolated, so every figure is one that was seen.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}
