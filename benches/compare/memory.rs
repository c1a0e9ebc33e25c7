//! What idle sandboxes cost, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::stats::PerSandbox;

/// The memory of the processes of a contender at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes {
    /// By pid: the name and the proportional set size in bytes.
    pub(crate) by_pid: BTreeMap<u32, (String, u64)>,
}

impl Processes {
    /// Reads every process whose name begins with one of `prefixes`.
    pub(crate) fn read(prefixes: &[&str]) -> Self {
        let mut by_pid = BTreeMap::new();
        for pid in pids() {
            let Some(name) = name(pid) else { continue };
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                // A process that ended meanwhile has no size.
                by_pid.extend(
                    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:").map(|pss| (pid, (name, pss))),
                );
            }
        }
        Self { by_pid }
    }

    /// Compares with what was there before `count` sandboxes were started; `None` if no process came with them,
    /// which is no cost of nothing but a look in the wrong place.
    pub(crate) fn since(&self, before: &Self, contender: &'static str, count: u32) -> Option<PerSandbox> {
        let mut processes = BTreeMap::new();
        let mut growth = 0_i64;
        let mut cgroups = BTreeSet::new();
        for (pid, (name, pss)) in &self.by_pid {
            match before.by_pid.get(pid) {
                Some((_, old)) => growth += signed(*pss) - signed(*old),
                None => {
                    *processes.entry(name.clone()).or_insert(0) += pss / u64::from(count);
                    cgroups.extend(memory_cgroup(*pid));
                }
            }
        }
        // What did not come with the sandboxes is not charged to them: a shim may run in its daemon's cgroup,
        // or in the one this program runs in.
        for pid in before.by_pid.keys().copied().chain([std::process::id()]) {
            if let Some(shared) = memory_cgroup(pid) {
                cgroups.remove(&shared);
            }
        }
        let kernel = kernel_bytes(&cgroups).map(|bytes| bytes / u64::from(count));
        (!processes.is_empty()).then(|| PerSandbox {
            contender,
            sandboxes: count,
            processes,
            daemons_growth: growth / i64::from(count),
            kernel,
        })
    }
}

/// Returns the resident set size of a process in bytes (proc_pid_status(5)).
pub(crate) fn resident(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

/// Reads a line `Name:   123 kB` as bytes.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Returns the directory of the cgroup that counts a process's memory (cgroups(7), /proc/pid/cgroup).
fn memory_cgroup(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let v1 = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|c| c == "memory").then(|| format!("/sys/fs/cgroup/memory{path}"))
    });
    v1.or_else(|| Some(format!("/sys/fs/cgroup{}", text.lines().find_map(|line| line.strip_prefix("0::"))?)))
}

fn kernel_bytes(cgroups: &BTreeSet<String>) -> Option<u64> {
    let one = |directory: &String| {
        let v1 = fs::read_to_string(format!("{directory}/memory.kmem.usage_in_bytes")).ok();
        v1.and_then(|text| text.trim().parse::<u64>().ok()).or_else(|| {
            let text = fs::read_to_string(format!("{directory}/memory.stat")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("kernel "))?.parse().ok()
        })
    };
    (!cgroups.is_empty()).then(|| cgroups.iter().map(one).sum::<Option<u64>>())?
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
