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
        let number = |file: &str| {
            let text = self.directories().find_map(|d| fs::read_to_string(d.join(file)).ok())?;
            text.trim().parse::<u64>().ok()
        };
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
            pids: pids.0,
            pids_max: pids.1,
        }
    }

    /// Reads how many members the kernel has killed for want of memory; `None` when the cgroup is gone.
    pub fn oom_kills(&self) -> Option<u64> {
        self.field(if self.is_v2() { "memory.events" } else { "memory.oom_control" }, "oom_kill")
    }
}
