//! What a cgroup uses: the files of both versions as one set of figures.

use std::fs;
use std::time::Duration;

use super::cgroup::Cgroup;

/// What version 1 shows where there is no limit: the largest number of pages.
const UNLIMITED: u64 = 1 << 62;

/// What a cgroup uses and may use. A figure that the kernel does not have is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    pub memory: MemoryFigures,
    pub cpu: Option<Duration>,
    /// In thousandths of a processor.
    pub cpu_max_milli: Option<u64>,
    /// For how long members had to wait at `cpu_max`.
    pub cpu_held: Option<Duration>,
    pub pids: Option<u64>,
    pub pids_max: Option<u64>,
    /// How often a process could not be made.
    pub pids_refused: Option<u64>,
    pub io: Option<IoFigures>,
    pub pressure: Pressures,
}

/// What was asked of all disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoFigures {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// How much of the last ten seconds members waited for something — the kernel's `Documentation/accounting/psi.rst`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

/// In percent of the time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// One of them waited.
    pub some: f64,
    /// All of them did.
    pub full: f64,
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
    pub swap_max: Option<u64>,
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
    /// Reads how much processor time members have used; `None` when the cgroup is gone, or nobody counts.
    pub fn cpu_used(&self) -> Option<Duration> {
        let text = |file: &str| self.directories().find_map(|d| fs::read_to_string(d.join(file)).ok());
        if self.is_v2() {
            return value(&text("cpu.stat")?, "usage_usec").map(Duration::from_micros);
        }
        text("cpuacct.usage")?.trim().parse().ok().map(Duration::from_nanos)
    }

    /// Reads what members use.
    pub fn figures(&self) -> Figures {
        // A file's name belongs to one controller; which hierarchy that shares with others does not matter.
        let text = |file: &str| {
            self.directories().find_map(|d| fs::read_to_string(d.join(file)).ok()).unwrap_or_default()
        };
        let number = |file: &str| text(file).trim().parse::<u64>().ok();
        let limit = |file| number(file).filter(|n| *n < UNLIMITED);
        let field = |file: &str, name: &str| value(&text(file), name);
        let common = Figures {
            pids: number("pids.current"),
            pids_max: number("pids.max"),
            pids_refused: field("pids.events", "max"),
            ..Figures::default()
        };
        if self.is_v2() {
            let event = |name| field("memory.events", name);
            let pressure = |file| pressure(&text(file));
            return Figures {
                memory: MemoryFigures {
                    current: number("memory.current"),
                    peak: number("memory.peak"),
                    max: limit("memory.max"),
                    high: limit("memory.high"),
                    swap: number("memory.swap.current"),
                    swap_max: limit("memory.swap.max"),
                    events: MemoryEvents {
                        high: event("high"),
                        max: event("max"),
                        oom: event("oom"),
                        oom_kill: event("oom_kill"),
                    },
                },
                cpu: field("cpu.stat", "usage_usec").map(Duration::from_micros),
                cpu_max_milli: cpu_max(&text("cpu.max")),
                cpu_held: field("cpu.stat", "throttled_usec").map(Duration::from_micros),
                io: self.directory("io").join("io.stat").exists().then(|| io_stat(&text("io.stat"))),
                pressure: Pressures {
                    cpu: pressure("cpu.pressure"),
                    memory: pressure("memory.pressure"),
                    io: pressure("io.pressure"),
                },
                ..common
            };
        }
        let swap = number("memory.memsw.usage_in_bytes").zip(number("memory.usage_in_bytes"));
        let swap_max = limit("memory.memsw.limit_in_bytes").zip(limit("memory.limit_in_bytes"));
        Figures {
            memory: MemoryFigures {
                current: number("memory.usage_in_bytes"),
                peak: number("memory.max_usage_in_bytes"),
                max: limit("memory.limit_in_bytes"),
                high: limit("memory.soft_limit_in_bytes"),
                swap: swap.map(|(both, memory)| both.saturating_sub(memory)),
                swap_max: swap_max.map(|(both, memory)| both.saturating_sub(memory)),
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
            cpu_held: field("cpu.stat", "throttled_time").map(Duration::from_nanos),
            io: io_v1(&text("blkio.throttle.io_service_bytes"), &text("blkio.throttle.io_serviced")),
            ..common
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

/// The figure of a name, in a file with lines of a name and a number.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// `some avg10=1.23 avg60=…`, and the same of `full`.
fn pressure(text: &str) -> Option<Pressure> {
    let avg10 = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(" avg10="))?;
        line.split(' ').next()?.parse().ok()
    };
    // Older kernels do not say it of processors.
    Some(Pressure { some: avg10("some")?, full: avg10("full").unwrap_or_default() })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`, a line for each disk; without any nothing was read yet.
fn io_stat(text: &str) -> IoFigures {
    let sum = |name: &str| {
        let fields = text.split_ascii_whitespace();
        fields.filter_map(|f| f.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok()).sum()
    };
    IoFigures {
        read_bytes: sum("rbytes"),
        written_bytes: sum("wbytes"),
        reads: sum("rios"),
        writes: sum("wios"),
    }
}

/// `8:0 Read 1`, `8:0 Write 2` …, of bytes and of requests.
fn io_v1(bytes: &str, requests: &str) -> Option<IoFigures> {
    if bytes.is_empty() {
        return None;
    }
    let sum = |text: &str, kind: &str| {
        let of_kind = |line: &str| {
            let mut words = line.split_ascii_whitespace().skip(1);
            (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
        };
        text.lines().filter_map(of_kind).sum()
    };
    Some(IoFigures {
        read_bytes: sum(bytes, "Read"),
        written_bytes: sum(bytes, "Write"),
        reads: sum(requests, "Read"),
        writes: sum(requests, "Write"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=9\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(pressure(text), Some(Pressure { some: 1.5, full: 0.25 }));
        assert_eq!(pressure("some avg10=3.00 avg60=0.00\n"), Some(Pressure { some: 3.0, full: 0.0 }));
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn what_was_asked_of_disks_is_read_in_both_forms() {
        let v2 = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:1 rbytes=1 wbytes=0 rios=1 wios=0\n7:2\n";
        let figures = IoFigures { read_bytes: 11, written_bytes: 20, reads: 2, writes: 2 };
        assert_eq!(io_stat(v2), figures);
        let bytes = "8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Total 30\n7:1 Read 1\nTotal 31\n";
        let requests = "8:0 Read 1\n8:0 Write 2\n7:1 Read 1\nTotal 4\n";
        assert_eq!(io_v1(bytes, requests), Some(figures));
        assert_eq!(io_v1("", ""), None);
    }
}
