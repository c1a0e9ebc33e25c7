//! What the server's own processes may do.

use std::collections::BTreeMap;

use serde_json::json;

use super::Test;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[("privileges::each_process_holds_what_it_needs", held)];

/// Numbers of `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 17] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("SYS_RESOURCE", 24),
    ("MKNOD", 27),
    ("SETFCAP", 31),
];
const DAEMON: &str = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_ADMIN NET_BIND_SERVICE SYS_ADMIN SYS_CHROOT SYS_PTRACE SYS_RESOURCE";
const LAUNCHER: &str = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_ADMIN SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_PTRACE SYS_RESOURCE";

fn mask(names: &str) -> u64 {
    let bits: BTreeMap<_, _> = CAPABILITIES.into_iter().collect();
    names.split(' ').fold(0, |mask, name| mask | 1 << bits[name])
}

fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect()
}

fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent.to_string())
    })
    .collect()
}

fn held() {
    let mut server = Server::prepare(&[]);
    server.boot_supervised();
    let supervisor = server.pid();
    let daemon = children(supervisor)[0];
    let is_launcher =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("__launcher");
    let launcher = children(daemon).into_iter().find(is_launcher).unwrap();
    // What this machine does not give cannot be held.
    let given = u64::from_str_radix(&status(std::process::id())["CapBnd"], 16).unwrap();
    let reachable = mask(DAEMON) | mask(LAUNCHER) | mask("NET_RAW");
    for (what, pid, held, bound) in [
        ("supervisor", supervisor, mask("KILL"), reachable),
        ("daemon", daemon, mask(DAEMON), reachable),
        ("launcher", launcher, mask(LAUNCHER), mask(LAUNCHER)),
    ] {
        let shown = status(pid);
        let set = |name: &str| u64::from_str_radix(&shown[name], 16).unwrap();
        let found = ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"].map(set);
        assert_eq!(found, [held & given, held & given, bound & given, 0, 0], "{what}: {shown:?}");
    }
    // The tokio threads were started after that, or they would hold more.
    for thread in std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flatten() {
        let text = std::fs::read_to_string(thread.path().join("status")).unwrap();
        let wanted = format!("CapEff:\t{:016x}", mask(DAEMON) & given);
        assert!(text.contains(&wanted), "{text}");
    }
    assert_eq!((&*status(launcher)["NoNewPrivs"], &*status(daemon)["NoNewPrivs"]), ("1", "0"));
    let id = server.create(json!({}));
    assert_eq!(server.sh(&id, "echo works"), "works\n");
}
