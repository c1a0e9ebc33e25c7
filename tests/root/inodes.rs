//! What sandboxes have in common: no inode, so no watch, lock or lease of one is seen by another; but the memory of the
//! files that are the same.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::Test;
use super::userns::Overlay;
use crate::support::server::{Server, rootfs};
use crate::support::{eventually, eventually_seen};

pub(crate) const TESTS: &[Test] = &[
    ("inodes::no_two_sandboxes_have_one_in_common", none_in_common),
    ("inodes::without_user_namespaces_that_alone_is_in_common", || {
        let server = Server::start(&[("SANDBOXD_USER_NAMESPACES", "off")]);
        let [one, other] = [(); 2].map(|()| sandbox(&server, json!({})));
        assert_eq!(in_common(&server, &one, &other), ["/proc/self/ns/user"]);
    }),
    ("inodes::watches_and_locks_end_at_the_sandbox", watches_and_locks),
    ("inodes::the_memory_of_programs_is_shared_all_the_same", memory_is_shared),
    ("inodes::where_the_kernel_cannot_it_is_said", uncovered),
    ("inodes::certificates_are_copied_when_they_change", certificates),
    ("inodes::a_leased_file_makes_nobody_wait", leased),
];

const SCRIPT: &[u8] = include_bytes!("inodes.py");

fn sandbox(server: &Server, body: Value) -> String {
    let id = server.create(body);
    assert_eq!(server.put(&id, "inodes.py", SCRIPT).status, 200);
    id
}

/// Everything that can be seen in a sandbox: device and inode, and a path.
fn inodes(server: &Server, id: &str) -> HashMap<(u64, u64), String> {
    server.sh(id, "cd app && python3 inodes.py list all");
    let list = server.data().join("workspaces").join(id).join("workspace/app/all");
    let text = String::from_utf8_lossy(&std::fs::read(list).unwrap()).into_owned();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let mut number = || parts.next()?.parse().ok();
        Some(((number()?, number()?), parts.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// The paths of what two sandboxes have in common, as the first sees it.
fn in_common(server: &Server, one: &str, other: &str) -> Vec<String> {
    let (one, other) = (inodes(server, one), inodes(server, other));
    assert!(one.len() > 10_000, "{}", one.len());
    let mut common: Vec<_> = one.iter().filter(|(inode, _)| other.contains_key(inode)).collect();
    common.sort_by_key(|(_, path)| path.as_str());
    common.into_iter().map(|(_, path)| path.clone()).collect()
}

fn none_in_common() {
    let server = Server::start(&[]);
    let plain = [(); 2].map(|()| sandbox(&server, json!({})));
    let layered = [(); 2].map(|()| sandbox(&server, json!({ "rootfs": "overlay" })));
    let nested = sandbox(&server, json!({ "nested_namespaces": true }));
    let [one, other] = &plain;
    // The list is of one that would find something: everything is in common with itself.
    assert!(in_common(&server, one, one).len() > 10_000);
    for (one, other) in [(one, other), (one, &layered[0]), (&layered[0], &layered[1]), (one, &nested)] {
        let common = in_common(&server, one, other);
        assert!(
            common.is_empty(),
            "{} in common, such as {:?}",
            common.len(),
            &common[..common.len().min(8)]
        );
    }
    // Nor with the host.
    let host = std::fs::File::open("/dev/null").unwrap();
    let seen = server.sh(one, "flock -n /dev/null echo free; flock -n 0 echo free");
    assert_eq!(seen, "free\nfree\n");
    flock(&host, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(server.sh(one, "flock -n /dev/null echo free; flock -n 0 echo free"), "free\nfree\n");
}

/// Starts the script in a sandbox, and returns once it is ready.
fn begin(server: &Server, id: &str, what: &str) {
    server.sh(id, &format!("rm -f {what} {what}.end; setsid python3 app/inodes.py {what} {what} > {what}.out 2>&1 < /dev/null &"));
    let is_ready = || server.sh(id, &format!("cat {what}.out")).contains("ready");
    eventually("the script is ready", Duration::from_secs(10), is_ready);
}

/// Ends it and returns what it said.
fn end(server: &Server, id: &str, what: &str) -> String {
    // A pattern that is not in the command that looks for it.
    let (first, rest) = what.split_at(1);
    server.sh(
        id,
        &format!(
            "touch {what}.end; while pgrep -f 'inodes.py [{first}]{rest}' > /dev/null; do sleep 0.02; done"
        ),
    );
    server.sh(id, &format!("cat {what}.out")).replacen("ready\n", "", 1)
}

fn watches_and_locks() {
    apart(&json!({}), &[json!({}), json!({ "rootfs": "overlay" })]);
}

/// The same between sandboxes of gVisor's, and between one and a container, whose files it opens on the host.
pub(crate) fn watches_and_locks_of_gvisor() {
    let gvisor = json!({ "isolation": "gvisor" });
    apart(&gvisor, std::slice::from_ref(&gvisor));
    apart(&json!({}), &[gvisor]);
}

/// What one sandbox watches and locks, and what it is told of what its neighbours do.
fn apart(watcher: &Value, neighbours: &[Value]) {
    let server = Server::start(&[]);
    // gVisor's kernel locks and watches no devices.
    let has_devices = watcher["isolation"].is_null();
    let watcher = sandbox(&server, watcher.clone());
    for neighbour in neighbours {
        let neighbour = sandbox(&server, neighbour.clone());
        begin(&server, &watcher, "hold");
        assert_eq!(server.sh(&neighbour, "python3 app/inodes.py lock"), "", "a neighbour's files are locked");
        let own = server.sh(&watcher, "python3 app/inodes.py lock");
        assert!(own.contains("flock /etc/passwd"), "{own}");
        assert!(own.contains("fcntl /dev/null") || !has_devices, "{own}");
        assert_eq!(end(&server, &watcher, "hold"), "");
        begin(&server, &watcher, "watch");
        server.sh(&neighbour, "python3 app/inodes.py use");
        // What watches is a process of its own, which uses some of it when it is started and looked for.
        let seen = end(&server, &watcher, "watch");
        assert!(!seen.contains("/usr/bin/git") && !seen.contains("/etc/hosts"), "{seen}");
    }
    begin(&server, &watcher, "watch");
    server.sh(&watcher, "python3 app/inodes.py use");
    let seen = end(&server, &watcher, "watch");
    for path in ["/usr/bin/git", "/etc/hosts", "/dev/zero", "/dev/urandom"] {
        let is_seen = seen.lines().any(|line| line == path);
        assert!(is_seen || (path.starts_with("/dev/") && !has_devices), "{path} among {seen}");
    }
}

/// `Shared_Clean` and `Rss` of what a process maps of a file, in KiB, as the host counts.
fn mapped(pid: &str, name: &str) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut is_of_file, mut shared, mut resident) = (false, 0, 0);
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let first = fields.next().unwrap_or_default();
        let number = || fields.clone().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
        match first {
            "Shared_Clean:" if is_of_file => shared += number(),
            "Rss:" if is_of_file => resident += number(),
            range if range.contains('-') && !range.ends_with(':') => is_of_file = line.ends_with(name),
            _ => {}
        }
    }
    (shared, resident)
}

fn memory_is_shared() {
    let server = Server::start(&[]);
    let ids = [(); 2].map(|()| sandbox(&server, json!({})));
    let pids = ids.clone().map(|id| {
        server.sh(&id, "setsid python3 -c 'import time; time.sleep(30.25)' > /dev/null 2>&1 < /dev/null &");
        let init =
            server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["pid"].clone();
        let space = std::fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
        let find = || {
            std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                let is_it = command.starts_with("python3") && command.contains("30.25");
                let is_here =
                    is_it && std::fs::read_link(entry.path().join("ns/pid")).is_ok_and(|s| s == space);
                is_here.then(|| entry.file_name().into_string().unwrap())
            })
        };
        eventually("the program runs", Duration::from_secs(5), || find().is_some());
        find().unwrap()
    });
    let program = std::fs::read_link(format!("/proc/{}/exe", pids[0])).unwrap();
    let name = program.file_name().unwrap().to_str().unwrap().to_owned();
    for pid in &pids {
        // A program that has just been executed has read few of its pages yet.
        eventually_seen("the memory is shared", Duration::from_secs(5), || {
            let (shared, resident) = mapped(pid, &name);
            let is_shared = resident > 1000 && shared * 2 > resident;
            if is_shared { Ok(()) } else { Err(format!("{name}: {shared} of {resident} KiB")) }
        });
    }
}

/// The kernel stacks two overlays and no third one.
fn uncovered() {
    let scene = tempfile::tempdir().unwrap();
    let lower = Overlay::over(&rootfs(), &scene.path().join("lower"));
    let tree = Overlay::over(&lower.0, &scene.path().join("rootfs"));
    // Only what was built whole is copied to where it can be mapped.
    std::fs::remove_file(tree.0.join(".complete")).unwrap();
    let mut server = Server::prepare(&[("SANDBOXD_ROOTFS", tree.0.to_str().unwrap())]);
    server.boot();
    let [one, other] = [(); 2].map(|()| sandbox(&server, json!({})));
    let common = in_common(&server, &one, &other);
    let has = |path: &str| common.iter().any(|found| found == path);
    assert!(has("/etc/passwd") && !has("/dev/null") && !has("/etc/hosts"), "{}", common.len());
    let (_, text) = server.run("check");
    assert!(text.contains("weaker   inodes of their own"), "{text}");
    server.signal("TERM");
}

fn certificates() {
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), "the first\n").unwrap();
    let server = Server::start(&[("SANDBOXD_CA_BUNDLE", bundle.path().to_str().unwrap())]);
    let certificates = "cat /etc/ssl/certs/ca-certificates.crt";
    let one = server.create(json!({}));
    assert_eq!(server.sh(&one, certificates), "the first\n");
    std::fs::write(bundle.path(), "the other one\n").unwrap();
    // What is launched from now on; the pool has some from before.
    let other = server.create(json!({ "rootfs": "overlay" }));
    assert_eq!(server.sh(&other, certificates), "the other one\n");
    assert_eq!(server.sh(&one, certificates), "the first\n");
}

/// Holds a lease as only a program of the host's can: what is opened waits for it, for 45 s.
struct Lease(Child);

impl Lease {
    fn take(path: &Path) -> Self {
        // The kernel asks for it back by SIGIO, which would end the program.
        let program = "import fcntl, signal, sys\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\nfile = open(sys.argv[1])\nfcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\nprint('held', flush=True)\nsys.stdin.read()";
        let mut python = Command::new("python3");
        python.args(["-c", program]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = python.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(holder)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Both fail only when it has ended, which the test has noticed.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The time that a process has spent, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn leased() {
    let server = Server::start(&[]);
    let (id, neighbour) = (server.create(json!({})), server.create(json!({})));
    let manifest = "version: 1\nweb:\n  command: sleep 1000\n  port: 3000\n";
    assert_eq!(server.put(&id, "sandbox.yaml", manifest.as_bytes()).status, 200);
    let path = server.data().join("workspaces").join(&id).join("workspace/app/sandbox.yaml");
    let _lease = Lease::take(&path);
    let begun = Instant::now();
    let answer =
        server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path=sandbox.yaml"), Value::Null);
    let text = answer.text();
    assert!([502, 503].contains(&answer.status) && text.contains("\"retryable\":true"), "{text}");
    // Begun before the file's turn comes: it breaks off, and is not taken for a whole one.
    let archive = server.api("GET", &format!("/v1/sandboxes/{id}/files/archive"), Value::Null);
    assert!(archive.status != 200 || archive.body.is_empty(), "{}", archive.status);
    // It has to be read again, and cannot be.
    server.sh(&id, "touch app/sandbox.yaml");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let before = ticks(server.pid());
    std::thread::sleep(Duration::from_secs(2));
    let spent = ticks(server.pid()) - before;
    assert!(spent < 60, "{spent} ticks of 200");
    assert_eq!(server.sh(&neighbour, "echo alive"), "alive\n");
    server.purge(&id);
}
