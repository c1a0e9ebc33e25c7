//! What `sandboxd check` says of a host, and whether the server serves there when isolation is required: on a
//! host that has everything, and where one thing is taken away at a time.

use serde_json::{Value, json};

use super::Test;
use crate::support::server::{Server, rootfs};
use crate::support::tell;

pub(crate) const TESTS: &[Test] = &[
    ("hosts::each_measure_that_is_taken_away_is_named", taken_away),
    ("hosts::a_copy_is_promised_only_where_there_is_room", room_for_a_copy),
];

/// They change settings of the whole machine.
pub(crate) const MACHINE: &[Test] = &[
    ("hosts::where_nothing_is_weaker_no_waiver_is_needed", whole),
    ("hosts::each_measure_of_the_kernel_that_is_taken_away_is_named", taken_from_the_machine),
];

/// In mount namespaces of their own, each by the name of what is found to be weaker.
const TAKEN: &[(&str, &str)] = &[
    ("host", "exec unshare --pid --fork --mount-proc \"$@\""),
    ("seccomp", "mount -t tmpfs tmpfs /proc/sys/kernel/seccomp"),
    // The kernel mounts no new proc where parts of this one are hidden, as in a container without --privileged.
    ("user namespaces", "mount -t tmpfs tmpfs /proc/irq"),
    (
        "mapped workspaces",
        "cd \"$SANDBOXD_DATA_DIR/..\"; mkdir -p layers data; mount -t tmpfs tmpfs layers; mkdir layers/up layers/work layers/low
         mount -t overlay overlay -o lowerdir=layers/low,upperdir=layers/up,workdir=layers/work data",
    ),
    (
        "ids of their own",
        "cd \"$SANDBOXD_DATA_DIR/..\"; echo bob:1879048192:65536 > subuid; mount --bind subuid /etc/subuid",
    ),
    (
        "control groups",
        "for m in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts); do mount -o remount,bind,ro $m; done",
    ),
    (
        "control groups",
        "for m in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts | sort -r); do umount $m; done",
    ),
    ("root", "exec setpriv --bounding-set=-net_admin \"$@\""),
    ("nftables", "mount --bind /dev/null \"$(command -v nft)\""),
    ("memory.high", "export SANDBOXD_SET_MEMORY_HIGH=false"),
    ("gVisor", "export SANDBOXD_MIN_ISOLATION=gvisor SANDBOXD_RUNSC=/nonexistent"),
];

/// Of the whole machine, with what puts it back.
const TAKEN_FROM_THE_MACHINE: &[(&str, &str, &str)] = &[
    (
        "user namespaces",
        "sysctl -qw user.max_user_namespaces=0",
        "sysctl -qw user.max_user_namespaces=10000",
    ),
    // A container that is given no more than memory and processes.
    (
        "cpu.max",
        "g=/sys/fs/cgroup/outer; mkdir -p $g/inner; for c in memory pids cpu; do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
         for c in memory pids; do echo +$c > $g/cgroup.subtree_control; done; echo $$ > $g/inner/cgroup.procs
         exec unshare --cgroup sh -c 'umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec \"$@\"' sh \"$@\"",
        "for g in inner/daemon inner; do rmdir /sys/fs/cgroup/outer/$g 2>/dev/null; done; rmdir /sys/fs/cgroup/outer",
    ),
    // … and one that is given nothing.
    (
        "control groups",
        "g=/sys/fs/cgroup/outer; mkdir -p $g/inner; echo -memory > $g/cgroup.subtree_control; echo $$ > $g/inner/cgroup.procs
         exec unshare --cgroup sh -c 'umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec \"$@\"' sh \"$@\"",
        "rmdir /sys/fs/cgroup/outer/inner /sys/fs/cgroup/outer",
    ),
    (
        "security modules",
        "echo 'profile confined flags=(attach_disconnected) { capability, file, mount, umount, network, signal, ptrace, unix, userns, pivot_root, dbus, change_profile, }' | apparmor_parser -r
         exec aa-exec -p confined -- \"$@\"",
        "echo 'profile confined { }' | apparmor_parser -R",
    ),
    // Where AppArmor lets nobody make user namespaces, it is told why there are none.
    (
        "user namespaces",
        "echo 'profile narrow flags=(attach_disconnected) { capability, file, mount, umount, network, signal, ptrace, unix, pivot_root, deny userns create, }' | apparmor_parser -r
         exec aa-exec -p narrow -- \"$@\"",
        "echo 'profile narrow { }' | apparmor_parser -R",
    ),
];

/// Runs it in a mount namespace in which something was done before.
fn run_after(server: &Server, subcommand: &str, script: &str) -> (Option<i32>, String) {
    let script = format!("set -e\n{script}\nexec \"$@\"");
    server.run_under(subcommand, &["unshare", "--mount", "sh", "-c", &script, "sh"])
}

/// What is weaker here by what `check` says at its end.
fn weaker(server: &Server) -> Vec<String> {
    let (code, text) = server.run("check");
    assert_eq!(code, Some(0), "{text}");
    let list =
        text.lines().find_map(|l| l.strip_prefix("With --require-isolation it does not, for want of: "));
    let list = list.unwrap_or_else(|| {
        assert!(text.contains("With --require-isolation it starts too."), "{text}");
        "."
    });
    list.trim_end_matches('.').split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// It is refused and told of, though all else that is weaker here is accepted.
fn is_refused(server: &mut Server, here: &[String], feature: &str, script: &str) {
    let waivers: Vec<_> = here.iter().filter(|name| *name != feature).map(String::as_str).collect();
    server.set("SANDBOXD_ISOLATION_WAIVERS", &waivers.join(","));
    server.set("SANDBOXD_REQUIRE_ISOLATION", "true");
    let (code, text) = run_after(server, "serve", script);
    assert_eq!(code, Some(79), "{feature}: {text}");
    assert!(text.contains(&format!("sandboxd:   {feature}: ")), "{feature}: {text}");
    assert!(!server.data().join("api-key").exists(), "{feature}: something was made");
    let (code, text) = run_after(server, "check", script);
    let is_fatal = ["root", "control groups", "nftables", "seccomp"].contains(&feature);
    assert_eq!(code, Some(i32::from(is_fatal)), "{feature}: {text}");
    let mark = if is_fatal { "MISSING" } else { "weaker " };
    assert!(text.contains(&format!("\n{mark}  {feature}")) || text.starts_with(mark), "{feature}: {text}");
    let concluded = text.lines().rev().find(|line| line.contains("for want of: ")).unwrap_or_default();
    assert!(concluded.contains(feature), "{feature}: {text}");
    for line in text.lines().skip_while(|line| !line.contains(&format!("  {feature} "))).take(3) {
        tell(&format!("  {line}"));
    }
}

fn taken_away() {
    let mut server = Server::prepare(&[]);
    let here = weaker(&server);
    for (feature, script) in TAKEN {
        is_refused(&mut server, &here, feature, script);
    }
    // Nor does the supervisor try again and again.
    let (code, text) = run_after(&server, "supervise", TAKEN[0].1);
    assert!(code == Some(79) && text.contains("sandboxd:   host: "), "{code:?} {text}");
    // As strong as demanded it serves.
    server.set("SANDBOXD_ISOLATION_WAIVERS", &here.join(","));
    server.boot();
    let id = server.create(json!({}));
    assert_eq!(server.sh(&id, "echo works"), "works\n");
    let (_, text) = server.run("check");
    let accepted = format!("Weaker, and accepted by isolation_waivers: {}.", here.join(", "));
    assert!(here.is_empty() || text.contains(&accepted), "{text}");
    assert!(text.contains("With --require-isolation it starts too."), "{text}");
    // A waiver of nothing is a slip.
    server.set("SANDBOXD_ISOLATION_WAIVERS", "memory.hi");
    let (_, text) = server.run("check");
    assert!(
        text.contains("isolation_waivers names \"memory.hi\", and nothing above is called so."),
        "{text}"
    );
}

fn room_for_a_copy() {
    let mut server = Server::prepare(&[]);
    let on_overlay = |disk: &str| {
        format!(
            "cd \"$SANDBOXD_DATA_DIR/..\"; mkdir -p layers root data; mount -t tmpfs tmpfs layers; mkdir layers/up layers/work
             mount -t overlay overlay -o lowerdir={},upperdir=layers/up,workdir=layers/work root; touch root/.complete
             mount -t tmpfs -o size={disk} tmpfs data",
            rootfs().display()
        )
    };
    server.set("SANDBOXD_ROOTFS", server.directory.path().join("root").to_str().unwrap());
    for (disk, said) in [
        (
            "100M",
            "weaker   mapped root files      no room for a copy in data_dir that can be: 100 MiB are free, 4096 are needed",
        ),
        ("5G", "found    mapped root files      by a copy in data_dir, which the next start makes"),
    ] {
        let (code, text) = run_after(&server, "check", &on_overlay(disk));
        assert!(code == Some(0) && text.contains(said), "{said}: {text}");
    }
    // What a former image's copy takes is free by then, and the copy of this one is there already.
    let former = "mkdir -p data/rootfs/7.0/etc; head -c 50M /dev/zero > data/rootfs/7.0/etc/file";
    let (_, text) = run_after(&server, "check", &format!("{}; {former}", on_overlay("100M")));
    assert!(text.contains("100 MiB are free, 4096 are needed"), "{text}");
    let there = "mkdir -p data/rootfs/$(stat -c %.9Y root/.complete | sed 's/[.]0*\\([0-9]\\)/.\\1/')";
    let (_, text) = run_after(&server, "check", &format!("{}; {there}", on_overlay("100M")));
    assert!(text.contains("found    mapped root files      by the copy in data_dir"), "{text}");
}

fn whole() {
    // Debian's kernels let users without privileges be kept from user namespaces; the server has privileges.
    let narrow = "sysctl -qw kernel.unprivileged_userns_clone=0";
    let _not_every_kernel = std::process::Command::new("sh").args(["-c", narrow]).status();
    let mut server = Server::prepare(&[("SANDBOXD_REQUIRE_ISOLATION", "true")]);
    let (code, text) = server.run("check");
    tell(&text);
    assert!(code == Some(0) && text.contains("With --require-isolation it starts too."), "{text}");
    server.boot();
    let id = server.create(json!({}));
    assert_eq!(server.sh(&id, "echo works"), "works\n");
    let root = json!({ "cmd": ["id", "-u"], "user": "root" });
    assert_eq!(server.api("POST", &format!("/sandbox/{id}/exec"), root).json()["stdout"], "0\n");
    // What is not enforced here has to do with the disk of the tests alone.
    let limits = server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json()["limits"].clone();
    let lacks = limits["not_enforced"].as_array().unwrap();
    assert!(lacks.iter().all(|name| name.as_str().unwrap().starts_with("io_")), "{limits}");
}

fn taken_from_the_machine() {
    let mut server = Server::prepare(&[]);
    let here = weaker(&server);
    assert!(here.is_empty(), "{here:?}");
    for (feature, take, put_back) in TAKEN_FROM_THE_MACHINE {
        is_refused(&mut server, &here, feature, take);
        let restored = std::process::Command::new("sh").args(["-c", put_back]).status().unwrap();
        assert!(restored.success(), "{feature}: {put_back}");
        assert!(weaker(&server).is_empty(), "{feature} is still taken away");
    }
}
