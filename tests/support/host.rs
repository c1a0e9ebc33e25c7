//! What a host looks like from outside: the oracle of every test that may leave something behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::eventually;
use super::server::{INSTANCE, Server};

/// Everything of ours that is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSnapshot {
    pub mounts: Vec<String>,
    pub links: BTreeSet<String>,
    pub cgroups: BTreeSet<String>,
    pub run: BTreeSet<String>,
    pub workspaces: BTreeSet<String>,
    pub staging: BTreeSet<String>,
    pub trash: BTreeSet<String>,
    /// How many sandboxes have their first process.
    pub inits: usize,
}

impl HostSnapshot {
    /// What is there once nothing changes any more: tear-down goes on behind answers.
    pub(crate) fn settled(server: &Server) -> Self {
        let mut last = Self::take(server);
        eventually("the host settles", Duration::from_secs(20), || {
            std::thread::sleep(Duration::from_millis(300));
            let now = Self::take(server);
            std::mem::replace(&mut last, now) == last
        });
        last
    }

    pub(crate) fn take(server: &Server) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let data = server.directory.path().join("data");
        let mut cgroups = BTreeSet::new();
        for controller in ["memory", "pids", "cpu", "cpuacct", "freezer", "unified", ""] {
            let parent = Path::new("/sys/fs/cgroup").join(controller).join(INSTANCE);
            cgroups.extend(directories(&parent).into_iter().map(|name| format!("{controller}/{name}")));
            // Those that compete for the processors lie beside it.
            let beside = directories(parent.parent().unwrap()).into_iter();
            let prefix = format!("{INSTANCE}.");
            cgroups.extend(beside.filter(|n| n.starts_with(&prefix)).map(|n| format!("{controller}/{n}")));
        }
        Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            links: cables(),
            cgroups,
            run: names(&server.directory.path().join("run"))
                .into_iter()
                .filter(|n| !["etc", "bundles", "clock", ".clock.new"].contains(&n.as_str()))
                .collect(),
            workspaces: names(&data.join("workspaces")),
            staging: names(&data.join("staging")),
            trash: names(&data.join("trash")),
            inits: first_processes(),
        }
    }
}

/// The host's ends of the sandboxes' networks.
pub(crate) fn cables() -> BTreeSet<String> {
    // Not by `/sys/class/net`: that shows the links of the network namespace in which it was mounted.
    let table = std::fs::read_to_string("/proc/net/dev").unwrap();
    let all = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    let prefix = network::LinkNames::of(INSTANCE).cable_prefix();
    all.filter(|name| name.starts_with(&prefix)).collect()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn directories(directory: &Path) -> BTreeSet<String> {
    names(directory).into_iter().filter(|n| directory.join(n).is_dir()).collect()
}

/// Counts the first processes of sandboxes that are neither zombies nor in another instance's cgroups.
///
/// What a sandbox forks bears the same name until it has executed its program, which it never does while it is frozen;
/// the first one is number 1 of a pid namespace just beneath ours (`NSpid`, proc_pid_status(5)).
fn first_processes() -> usize {
    let depth = namespace_pids("self").len() + 1;
    let is_one = |pid: &String| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (stat, cgroups, pids) = (read("stat"), read("cgroup"), namespace_pids(pid));
        let is_ours = cgroups.contains(&format!("/{INSTANCE}/")) || !cgroups.contains("/sb");
        let is_first = pids.len() == depth && pids.last().is_some_and(|pid| pid == "1");
        is_first && is_ours && stat.contains("(sandbox-init)") && !stat.contains(") Z ")
    };
    names(Path::new("/proc")).iter().filter(|n| n.parse::<u32>().is_ok()).filter(|pid| is_one(pid)).count()
}

/// A process's numbers, from our pid namespace inwards.
fn namespace_pids(pid: &str) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}
