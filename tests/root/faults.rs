//! What an operator may get wrong, and what the host may lack.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("faults::a_start_that_cannot_succeed_says_why", starts),
    ("faults::a_rootfs_with_links_is_refused", rootfs_links),
    ("faults::each_step_of_a_create_that_fails_leaves_nothing", failing_steps),
    ("faults::a_full_disk_refuses_and_recovers", full_record),
    ("faults::a_server_without_another_process_says_so_and_recovers", no_process),
    ("faults::a_command_after_the_run_directory_has_gone_is_told_to_try_again", no_run_directory),
    ("faults::a_log_that_cannot_be_written_stops_nothing", full_log),
    ("faults::terminate_stops_everything_in_time", terminate),
];

fn starts() {
    let mut server = Server::start(&[]);
    let (code, text) = server.run("serve");
    assert!(code == Some(69) && text.contains("another sandboxd"), "{code:?} {text}");
    assert_eq!(server.run("health").0, Some(0));
    server.signal("TERM");
    let (code, text) = server.run("health");
    assert!(code == Some(69) && text.contains("no server answers at"), "{code:?} {text}");
    let check = |server: &mut Server, name: &str, value: &str, expected: i32, word: &str| {
        server.set(name, value);
        let (code, text) = server.run("serve");
        assert!(code == Some(expected) && text.contains(word), "{name}={value}: {code:?} {text}");
        server.unset(name);
    };
    check(&mut server, "SANDBOXD_ROOTFS", "/nonexistent", 69, "build-rootfs");
    check(&mut server, "SANDBOXD_INIT", "/nonexistent", 69, "SANDBOXD_INIT");
    check(&mut server, "SANDBOXD_IDLE_THRESHOLD_SECONDS", "soon", 78, "SANDBOXD_IDLE_THRESHOLD_SECONDS");
    // What the environment has of other programs is refused on demand only.
    server.set("SANDBOXD_IDLE_TRESHOLD_SECONDS", "5");
    let (code, text) = server.run_with("serve", &["--strict-config"]);
    assert!(code == Some(78) && text.contains("did you mean"), "{code:?} {text}");
    assert_eq!(server.run("check-config").0, Some(0));
    server.unset("SANDBOXD_IDLE_TRESHOLD_SECONDS");
    check(&mut server, "SANDBOXD_NETWORK_POOL", "8.8.0.0/16", 78, "private");
    let taken = std::net::TcpListener::bind(("0.0.0.0", crate::support::server::API)).unwrap();
    let (code, text) = server.run("serve");
    assert!(code == Some(69) && text.contains("SANDBOXD_ADDR"), "{code:?} {text}");
    assert!(text.contains("cannot listen on "), "{text}");
    drop(taken);
    // Neither root, nor a control group that can be written.
    let (code, text) = server.run_under("serve", &["unshare", "--user"]);
    assert!(code == Some(77) && text.contains("root"), "{code:?} {text}");
    let read_only = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,ro $d 2>/dev/null; done; exec \"$@\"";
    let inside = ["unshare", "--mount", "sh", "-c", read_only, "sh"];
    for (subcommand, expected) in [("serve", 77), ("check", 1)] {
        let (code, text) = server.run_under(subcommand, &inside);
        assert!(code == Some(expected) && text.contains("ead-only file system"), "{code:?} {text}");
    }
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_sandboxd")).arg("--nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    // A damaged database of which there is no copy is refused, and left as it is.
    assert!(
        !server.data().join("sandboxd.db-wal").exists(),
        "a start that failed did not close the database"
    );
    std::fs::write(server.data().join("sandboxd.db"), vec![b'x'; 8192]).unwrap();
    for copy in [".backup", ".backup.1", ".backup.2"].map(|suffix| format!("sandboxd.db{suffix}")) {
        let _absent = std::fs::remove_file(server.data().join(copy));
    }
    let (code, text) = server.run("serve");
    assert!(code == Some(69) && text.contains("sandboxd.db"), "{code:?} {text}");
    assert!(std::fs::read(server.data().join("sandboxd.db")).unwrap() == vec![b'x'; 8192], "it was changed");
}

/// A rootfs of empty directories, in which one is replaced by a link that leads to `trap`.
fn rootfs_links() {
    for (place, target) in [
        ("dev", "absolute"),
        ("dev", "../../trap"),
        ("proc", "absolute"),
        ("sys", "."),
        ("tmp", "absolute"),
        ("run", "absolute"),
        ("etc", "absolute"),
        ("home", "absolute"),
    ] {
        let mut server = Server::prepare(&[]);
        let base = server.directory.path().to_owned();
        let (root, trap) = (base.join("rootfs"), base.join("trap"));
        for directory in [
            "dev",
            "proc",
            "sys",
            "tmp",
            "var/tmp",
            "run",
            "etc/ssl/certs",
            "home/sandbox",
            "usr",
            "opt/templates",
        ] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        std::fs::create_dir(&trap).unwrap();
        std::fs::write(trap.join("ptmx"), "of the host").unwrap();
        std::fs::rename(root.join(place), base.join("was")).unwrap();
        symlink(if target == "absolute" { trap.clone() } else { target.into() }, root.join(place)).unwrap();
        server.set("SANDBOXD_ROOTFS", root.to_str().unwrap());
        let (code, text) = server.run("serve");
        assert!(code == Some(69) && text.contains(place), "{place} -> {target}: {code:?} {text}");
        assert_eq!(std::fs::read_dir(&trap).unwrap().count(), 1, "something was made on the host");
    }
}

fn failing_steps() {
    for step in sandbox::STEPS.into_iter().chain(["record-running", "storage-prepare-rename"]) {
        let mut server = Server::start(&[]);
        let before = HostSnapshot::take(&server);
        server.signal("TERM");
        server.set("FAILPOINTS", &format!("{step}=return"));
        server.boot();
        let answer = server.api("POST", "/sandbox", json!({ "template": "python-http" }));
        assert_eq!(answer.status, 500, "{step}: {}", answer.text());
        assert!(!answer.text().contains(step), "the cause is told: {}", answer.text());
        eventually(&format!("{step} leaves nothing"), std::time::Duration::from_secs(20), || {
            HostSnapshot::take(&server) == before
        });
        assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]), "{step}");
    }
}

fn full_record() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({}));
    server.signal("TERM");
    server.set("FAILPOINTS", "metadata-write=return");
    server.boot();
    let answer = server.api("POST", "/sandbox", json!({}));
    assert_eq!((answer.status, answer.json()["error"].clone()), (507, json!("the host's disk is full")));
    server.signal("TERM");
    server.unset("FAILPOINTS");
    server.boot();
    server.sh(&id, "true");
    server.create(json!({}));
}

fn full_log() {
    let mut server = Server::prepare(&[("SANDBOXD_LOG", "trace")]);
    server.log_to("/dev/full");
    server.boot();
    let id = server.create(json!({ "ports": [3000], "template": "python-http" }));
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
    assert!(server.preview(&id, 3000, "GET", "/", &[], b"").text().contains("visitor 1"));
    server.purge(&id);
    assert!(server.signal("TERM").success());
}

fn terminate() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let ids: Vec<_> = (0..5).map(|_| server.create(json!({}))).collect();
    server.sh(&ids[0], "echo kept > file; nohup sleep 1000 >/dev/null 2>&1 &");
    // One that does not want to end.
    server.sh(&ids[1], "nohup bash -c 'trap \"\" TERM; while true; do sleep 1; done' >/dev/null 2>&1 &");
    let begun = std::time::Instant::now();
    assert!(server.signal("TERM").success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(9), "{:?}", begun.elapsed());
    let after = HostSnapshot::take(&server);
    assert_eq!(
        (after.inits, after.cgroups.clone(), after.run.len()),
        (before.inits, before.cgroups.clone(), 0)
    );
    server.boot();
    assert!(ids.iter().all(|id| server.status(id) == "stopped"));
    assert_eq!(server.sh(&ids[0], "cat file"), "kept\n");
}

/// A limit on the processes of the server, as an engine sets it for a container.
struct Limit(std::path::PathBuf);

impl Limit {
    /// Holds the server and what it has started to the processes that they have now.
    fn set(server: &Server) -> Self {
        let version_1 = std::path::Path::new("/sys/fs/cgroup/pids");
        let top = if version_1.exists() { version_1 } else { std::path::Path::new("/sys/fs/cgroup") };
        let limit = Self(top.join(format!("{}-limit", crate::support::server::INSTANCE)));
        std::fs::create_dir(&limit.0).unwrap();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
        let children =
            tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let all = children.collect::<String>();
        for pid in all.split_whitespace().map(str::to_owned).chain([server.pid().to_string()]) {
            std::fs::write(limit.0.join("cgroup.procs"), pid).unwrap();
        }
        let current = std::fs::read_to_string(limit.0.join("pids.current")).unwrap();
        std::fs::write(limit.0.join("pids.max"), current.trim()).unwrap();
        limit
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _lifted = std::fs::write(self.0.join("pids.max"), "max");
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().split_whitespace()
        {
            let top = self.0.parent().unwrap();
            let _back = std::fs::write(top.join("cgroup.procs"), pid);
        }
        eventually("the limit is removed", std::time::Duration::from_secs(20), || {
            std::fs::remove_dir(&self.0).is_ok() || !self.0.exists()
        });
    }
}

fn no_process() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let before = HostSnapshot::settled(&server);
    let limit = Limit::set(&server);
    for _attempt in 0..3 {
        let answer = server.api("POST", "/sandbox", json!({}));
        let told = (answer.status, answer.header("retry-after").is_some());
        assert_eq!(told, (503, true), "{} {}", answer.text(), server.log_text());
    }
    // What runs needs none of the server's.
    assert_eq!(server.sh(&id, "echo well"), "well\n");
    drop(limit);
    eventually("nothing is left", std::time::Duration::from_secs(20), || {
        HostSnapshot::take(&server) == before
    });
    server.create(json!({}));
}

fn no_run_directory() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    server.sh(&id, "true");
    std::fs::remove_dir_all(server.directory.path().join("run")).unwrap();
    let body = json!({ "cmd": ["echo", "well"] });
    let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body);
    let told = (answer.status, answer.header("retry-after").is_some());
    assert!(told == (503, true) || answer.status == 200, "{told:?} {}", answer.text());
}
