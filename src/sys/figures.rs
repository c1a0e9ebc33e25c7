//! What a cgroup uses: the files of both versions as one set of figures.

use std::fs;
use std::time::Duration;

use super::cgroup::Cgroup;

/// What version 1 shows where there is no limit: the largest number of pages.
const UNLIMITED: u64 = 1 << 62;

/// What a cgroup uses and may use. A figure that the kernel does not have is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    pub memory: MemoryFigures,
    pub cpu: Option<Duration>,
    /// In thousandths of a processor.
    pub cpu_max_milli: Option<u64>,
    pub pids: Option<u64>,
    pub pids_max: Option<u64>,
}

/// In bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryFigures {
    /// Page cache included.
    pub current: Option<u64>,
    pub peak: Option<u64>,
    pub max: Option<u64>,
    pub high: Option<u64>,
    /// What has been moved out of memory.
    pub swap: Option<u64>,
    pub events: MemoryEvents,
}

/// How often something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Members were slowed down at `memory.high`.
    pub high: Option<u64>,
    /// The hard limit was reached.
    pub max: Option<u64>,
    pub oom: Option<u64>,
    /// Members were killed for it.
    pub oom_kill: Option<u64>,
}

impl Cgroup {
    /// Reads what members use.
    pub fn figures(&self) -> Figures {
        // A file's name belongs to one controller; which hierarchy that shares with others does not matter.
        let text = |file: &str| {
            self.directories().find_map(|d| fs::read_to_string(d.join(file)).ok()).unwrap_or_default()
        };
        let number = |file: &str| text(file).trim().parse::<u64>().ok();
        let limit = |file| number(file).filter(|n| *n < UNLIMITED);
        let pids = (number("pids.current"), number("pids.max"));
        if self.is_v2() {
            let event = |name| self.field("memory.events", name);
            return Figures {
                memory: MemoryFigures {
                    current: number("memory.current"),
                    peak: number("memory.peak"),
                    max: limit("memory.max"),
                    high: limit("memory.high"),
                    swap: number("memory.swap.current"),
                    events: MemoryEvents {
                        high: event("high"),
                        max: event("max"),
                        oom: event("oom"),
                        oom_kill: event("oom_kill"),
                    },
                },
                cpu: self.field("cpu.stat", "usage_usec").map(Duration::from_micros),
                cpu_max_milli: cpu_max(&text("cpu.max")),
                pids: pids.0,
                pids_max: pids.1,
            };
        }
        let swap = number("memory.memsw.usage_in_bytes").zip(number("memory.usage_in_bytes"));
        Figures {
            memory: MemoryFigures {
                current: number("memory.usage_in_bytes"),
                peak: number("memory.max_usage_in_bytes"),
                max: limit("memory.limit_in_bytes"),
                high: limit("memory.soft_limit_in_bytes"),
                swap: swap.map(|(both, memory)| both.saturating_sub(memory)),
                events: MemoryEvents {
                    high: None,
                    max: number("memory.failcnt"),
                    oom: None,
                    oom_kill: self.oom_kills(),
                },
            },
            cpu: number("cpuacct.usage").map(Duration::from_nanos),
            cpu_max_milli: cpu_max(&format!(
                "{} {}",
                text("cpu.cfs_quota_us").trim(),
                text("cpu.cfs_period_us")
            )),
            pids: pids.0,
            pids_max: pids.1,
        }
    }

    /// Reads how many members the kernel has killed for want of memory; `None` when the cgroup is gone.
    pub fn oom_kills(&self) -> Option<u64> {
        self.field(if self.is_v2() { "memory.events" } else { "memory.oom_control" }, "oom_kill")
    }
}

/// The quota and the period, both in microseconds; what is no number is no limit.
fn cpu_max(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota * 1000).checked_div(period)
}
