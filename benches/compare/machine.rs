//! What the figures were measured on. No host name: results are published.

use std::fs;

use serde_json::{Value, json};

/// Describes the machine.
pub(crate) fn describe() -> Value {
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "os": line("/etc/os-release", "PRETTY_NAME=").map(|name| name.trim_matches('"').to_owned()),
        "cpu": line("/proc/cpuinfo", "model name").map(|name| name.trim_start_matches([' ', '\t', ':']).to_owned()),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "memory": line("/proc/meminfo", "MemTotal:").map(|size| size.trim().to_owned()),
        "cgroups": cgroups(),
        "load": read("/proc/loadavg"),
        "mitigations_off": read("/proc/cmdline").map(|line| line.contains("mitigations=off")),
    })
}

fn cgroups() -> &'static str {
    let has = |path: &str| fs::metadata(path).is_ok();
    match (
        has("/sys/fs/cgroup/cgroup.controllers"),
        has("/sys/fs/cgroup/memory"),
        has("/sys/fs/cgroup/unified"),
    ) {
        (true, ..) => "v2",
        (false, true, true) => "hybrid",
        (false, true, false) => "v1",
        (false, false, _) => "none",
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn line(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}
