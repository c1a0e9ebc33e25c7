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
    /// How many processes are called `sandbox-init`.
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
        }
        Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            links: cables(),
            cgroups,
            run: names(&server.directory.path().join("run"))
                .into_iter()
                .filter(|n| n != "etc" && n != "bundles")
                .collect(),
            workspaces: names(&data.join("workspaces")),
            staging: names(&data.join("staging")),
            trash: names(&data.join("trash")),
            inits: processes("sandbox-init"),
        }
    }
}

/// The host's ends of the sandboxes' networks.
pub(crate) fn cables() -> BTreeSet<String> {
    let all = names(Path::new("/sys/class/net"));
    all.into_iter().filter(|n| n.starts_with(&format!("{INSTANCE}p"))).collect()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn directories(directory: &Path) -> BTreeSet<String> {
    names(directory).into_iter().filter(|n| directory.join(n).is_dir()).collect()
}

/// Counts the processes of a name that are not zombies and in no other instance's cgroups.
fn processes(name: &str) -> usize {
    let alive = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let is_ours = cgroups.contains(&format!("/{INSTANCE}/")) || !cgroups.contains("/sb");
        stat.contains(&format!("({name})")) && !stat.contains(") Z ") && is_ours
    };
    names(Path::new("/proc")).iter().filter(|n| n.parse::<u32>().is_ok()).filter(|pid| alive(pid)).count()
}
