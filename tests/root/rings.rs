//! What processes have written is kept in the run directory, and takes no more of that than it may.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("rings::the_output_of_a_purged_sandbox_goes_with_it", purged),
    ("rings::no_number_of_sandboxes_fills_the_run_directory_with_output", bounded),
];

/// How much of the run directory is used, in bytes.
fn used(server: &Server) -> u64 {
    let found = rustix::fs::statvfs(server.directory.path().join("run")).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// A server whose run directory is a small file system.
fn small() -> (Server, Unmount) {
    let mut server = Server::prepare(&[]);
    let run = server.directory.path().join("run");
    std::fs::create_dir_all(&run).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m,mode=755", "tmpfs"]).arg(&run).status();
    assert!(mounted.unwrap().success());
    let mounted = Unmount(run);
    server.boot();
    (server, mounted)
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Starts a process that writes 2 MB, and waits for its end.
fn write(server: &Server, id: &str) {
    let body = json!({ "cmd": ["head", "-c", "2000000", "/dev/zero"] });
    let started = server.api("POST", &format!("/v1/sandboxes/{id}/processes"), body);
    assert!(started.status < 300, "{} {}", started.status, started.text());
}

fn all_ended(server: &Server, id: &str) -> bool {
    let list = server.api("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).json();
    let is_ended = |process: &Value| !process["exit_code"].is_null() || process["status"] == "exited";
    list.as_array().or_else(|| list["processes"].as_array()).unwrap().iter().all(is_ended)
}

fn purged() {
    let (server, _mounted) = small();
    let warm = server.create(Value::Null);
    write(&server, &warm);
    server.purge(&warm);
    eventually("it settles", Duration::from_secs(20), || used(&server) < 1 << 20);
    let (before, open) = (used(&server), descriptors(&server));
    for _round in 0..6 {
        let id = server.create(Value::Null);
        for _process in 0..16 {
            write(&server, &id);
        }
        eventually("they have ended", Duration::from_secs(20), || all_ended(&server, &id));
        server.purge(&id);
    }
    eventually("their output is gone", Duration::from_secs(10), || used(&server) < before + (1 << 20));
    eventually("their descriptors are closed", Duration::from_secs(10), || descriptors(&server) < open + 16);
    assert!(Path::new(&server.directory.path().join("run")).exists());
}

fn bounded() {
    let (server, _mounted) = small();
    // None is purged: what they have written is kept for a quarter of an hour, as far as there is room.
    let mut all = Vec::new();
    for _round in 0..6 {
        let id = server.create(Value::Null);
        for _process in 0..16 {
            write(&server, &id);
        }
        all.push(id);
    }
    assert!(used(&server) < 36 << 20, "{}", used(&server));
    // The last output is there, and the oldest made way.
    let last = all.last().unwrap();
    eventually("they have ended", Duration::from_secs(20), || all.iter().all(|id| all_ended(&server, id)));
    assert_eq!(server.sh(last, "echo well"), "well\n");
    let fresh = server.create(Value::Null);
    assert_eq!(server.sh(&fresh, "head -c 100000 /dev/zero | wc -c"), "100000\n");
}
