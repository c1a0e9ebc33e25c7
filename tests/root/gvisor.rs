//! The gVisor tier, with the real `runsc`: the same API, and another kernel.

use std::time::Duration;

use serde_json::{Value, json};

use super::events::Reader;
use super::{Test, files, hostile, inodes, previews, processes, terminal, uncounted};
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http;
use crate::support::server::{API, INSTANCE, Server, with};

pub(crate) const TESTS: &[Test] = &[
    ("gvisor::a_sandbox_has_its_own_kernel_and_leaves_no_trace", own_kernel),
    ("gvisor::a_process_is_followed_to_its_end", || everywhere(processes::followed)),
    ("gvisor::input_and_its_end", || everywhere(processes::input)),
    ("gvisor::signals_reach_process_group_and_tree", || everywhere(processes::signals)),
    ("gvisor::a_kill_takes_daemonised_children_too", || everywhere(processes::tree)),
    ("gvisor::a_killed_daemon_loses_no_byte", || everywhere(processes::killed_daemon)),
    ("gvisor::what_ends_while_no_daemon_lives_is_known", || everywhere(processes::ended_meanwhile)),
    ("gvisor::a_terminal_is_one", || everywhere(terminal::is_terminal)),
    ("gvisor::a_shell_outlives_its_connection", || everywhere(terminal::outlives)),
    ("gvisor::every_byte_of_a_terminal_goes_both_ways", || everywhere(terminal::bytes_but_signals)),
    ("gvisor::changes_of_files_are_told", || everywhere(files::watch::told)),
    ("gvisor::upgrades_and_streams_pass", || everywhere(previews::upgrades)),
    ("gvisor::apps_and_files_are_as_ever", apps_and_files),
    ("gvisor::it_is_frozen_stopped_woken_and_adopted", sleeps),
    ("gvisor::memory_that_runs_out_ends_that_sandbox_alone", memory),
    ("gvisor::processes_that_run_out_end_that_sandbox_alone", forks),
    ("gvisor::processors_are_held_and_deadlines_kept", processors),
    ("gvisor::what_it_cannot_do_is_refused_with_a_reason", refused),
    ("gvisor::a_key_can_demand_it", demanded),
    ("gvisor::watches_and_locks_end_at_the_sandbox", inodes::watches_and_locks_of_gvisor),
    ("gvisor::what_its_kernel_is_made_to_hold_is_its_own", holds),
    ("gvisor::neither_pressure_nor_leases_reach_the_host", host_files),
    ("gvisor::a_flood_of_previews_leaves_the_neighbour_alone", flooded),
];

/// Runs a test that knows nothing of tiers with every sandbox in this one.
fn everywhere(test: fn()) {
    with(&[("SANDBOXD_MIN_ISOLATION", "gvisor")], test);
    assert_eq!(kernels(), 0, "a kernel is left");
}

fn create(server: &Server, mut body: Value) -> String {
    body["isolation"] = json!("gvisor");
    server.create(body)
}

/// How many processes of gVisor's are in this instance's cgroups.
fn kernels() -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = all.filter(|entry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        read("cmdline").contains("runsc") && read("cgroup").contains(&format!("/{INSTANCE}/"))
    });
    ours.count()
}

fn own_kernel() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let id = create(&server, json!({ "env": { "COLOUR": "blue" } }));
    assert!(kernels() >= 2);
    for path in [format!("/sandbox/{id}"), format!("/v1/sandboxes/{id}")] {
        let shown = server.api("GET", &path, Value::Null).json();
        assert_eq!(shown.get("row").unwrap_or(&shown)["isolation"], "gvisor", "{shown}");
    }
    assert!(server.sh(&id, "dmesg").contains("gVisor"));
    assert!(server.sh(&id, "python3 --version").starts_with("Python 3"));
    assert_eq!(
        server.sh(&id, "echo $COLOUR; pwd; id -un; hostname"),
        format!("blue\n/home/sandbox/workspace\nsandbox\ns-{}\n", id.to_lowercase())
    );
    assert_eq!(server.exec(&id, "echo out; echo err >&2; exit 7"), ("out\nerr\n".to_owned(), 7));
    // The root cannot be written, PID 1's program neither removed nor moved nor used, and nothing is granted.
    for forbidden in [
        "touch /usr/x",
        "rm -f /run/sandbox-init",
        "mv /run/sandbox-init /run/x",
        "echo > /run/sandbox-init",
        "cat /proc/1/mem",
        "cat < /proc/1/fd/3",
    ] {
        assert_ne!(server.exec(&id, forbidden).1, 0, "{forbidden}");
    }
    let granted = server.sh(&id, "grep -E '^Cap(Inh|Prm|Eff|Bnd)' /proc/self/status");
    assert!(granted.lines().all(|line| line.ends_with("0000000000000000")), "{granted}");
    server.purge(&id);
    eventually("nothing is left", Duration::from_secs(20), || {
        HostSnapshot::take(&server) == before && kernels() == 0
    });
}

fn apps_and_files() {
    let server = Server::start(&[]);
    let id = create(&server, json!({ "ports": [3000], "template": "python-http" }));
    // Listens on localhost only, inside.
    eventually("the app answers", Duration::from_secs(30), || {
        server.preview(&id, 3000, "GET", "/", &[], b"").text().contains("visitor")
    });
    assert_eq!(server.put(&id, "from-outside", b"one\n").status, 200);
    assert_eq!(server.sh(&id, "cd app; cat from-outside; echo two > from-inside"), "one\n");
    let read = server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path=from-inside"), Value::Null);
    assert_eq!(read.text(), "two\n");
    // Changed from outside while it is known inside.
    assert_eq!(server.put(&id, "from-inside", b"three\n").status, 200);
    assert_eq!(server.sh(&id, "cat app/from-inside"), "three\n");
    let logs = server.api("GET", &format!("/v1/sandboxes/{id}/processes/web/logs"), Value::Null);
    assert_eq!(logs.status, 200);
    let stats = server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json();
    assert!(
        stats["memory"]["current"].as_u64().unwrap() > 0 && stats["pids"]["current"].as_u64().unwrap() > 2
    );
}

fn sleeps() {
    let mut server = Server::start(&[]);
    let id = create(&server, json!({}));
    let count = "i=0; while :; do i=$((i+1)); echo $i > tick; sleep 0.01; done";
    server.start_process(&id, json!({ "cmd": ["bash", "-c", count], "detach": true }));
    let ticks = || std::fs::read_to_string(workspace(&server, &id).join("tick")).unwrap_or_default();
    eventually("it counts", Duration::from_secs(20), || !ticks().is_empty());
    assert_eq!(
        server.api("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null).json()["status"],
        "paused"
    );
    let frozen = ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ticks(), frozen, "it is not frozen");
    // What is frozen is adopted as it is, and thawed by its next use.
    server.kill();
    server.boot();
    assert_eq!(server.status(&id), "paused");
    assert_eq!(server.sh(&id, "echo awake"), "awake\n");
    let ticks = || std::fs::read_to_string(workspace(&server, &id).join("tick")).unwrap_or_default();
    eventually("it counts again", Duration::from_secs(20), || ticks() != frozen && !ticks().is_empty());
    server.sh(&id, "echo kept > file");
    assert_eq!(
        server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).json()["status"],
        "stopped"
    );
    eventually("no kernel runs", Duration::from_secs(20), || kernels() == 0);
    assert_eq!(server.sh(&id, "cat file; dmesg | grep -c gVisor"), "kept\n1\n");
}

fn workspace(server: &Server, id: &str) -> std::path::PathBuf {
    server.data().join("workspaces").join(id).join("workspace")
}

fn memory() {
    let server = Server::start(&[]);
    let neighbour = create(&server, json!({}));
    let id = create(&server, json!({ "limits": { "memory_max": "192M" } }));
    server.sh(&id, "echo kept > file");
    let hog = json!({ "cmd": ["python3", "-c", "b=[]\nwhile True: b.append(bytearray(b'x'*1048576))"] });
    let process = server.start_process(&id, hog);
    eventually("it has ended", Duration::from_secs(60), || {
        let answer = server.api("GET", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null);
        answer.status == 404 || answer.json()["status"] != "running"
    });
    // The whole sandbox went, its kernel being what held the memory; its neighbour and its files did not.
    eventually("it says why", Duration::from_secs(20), || reason(&server, &id).contains("limits.memory_max"));
    let told = Reader::open(&server, "?from=0", None).until("sandbox.oom");
    assert_eq!(told.last().unwrap().2["sandbox_id"], id.as_str());
    assert_eq!(server.sh(&neighbour, "echo well"), "well\n");
    assert_eq!(server.sh(&id, "cat file"), "kept\n");
}

/// Why a sandbox that has ended by itself says it did.
fn reason(server: &Server, id: &str) -> String {
    let shown = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    shown["row"]["error_message"].as_str().unwrap_or_default().to_owned()
}

fn forks() {
    let server = Server::start(&[]);
    let neighbour = create(&server, json!({}));
    let id = create(&server, json!({ "limits": { "pids_max": 128 } }));
    server.sh(&id, "echo kept > file");
    let many = "for i in $(seq 300); do sleep 300 & done; wait";
    server.start_process(&id, json!({ "cmd": ["bash", "-c", many] }));
    eventually("it has ended", Duration::from_secs(60), || server.status(&id) == "stopped");
    let reason = reason(&server, &id);
    assert!(reason.contains("limits.pids_max"), "{reason}");
    assert_eq!(server.sh(&neighbour, "echo well"), "well\n");
    assert_eq!(server.sh(&id, "cat file"), "kept\n");
}

fn processors() {
    let server = Server::start(&[]);
    let id = create(&server, json!({ "limits": { "cpu_max": 0.3 } }));
    let stats = || server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json()["cpu"].clone();
    let used = || stats()["usage_seconds"].as_f64().unwrap();
    let begun = std::time::Instant::now();
    let before = used();
    let spin = json!({ "cmd": ["bash", "-c", "while :; do :; done"], "timeout_s": 3 });
    let process = server.start_process(&id, spin);
    let exit = server.output(&id, &process, 0).exit.unwrap();
    assert_eq!(exit, json!({ "exit_code": 137, "signal": "KILL", "timed_out": true }));
    let share = (used() - before) / begun.elapsed().as_secs_f64();
    assert!(share < 0.45, "{share} of a processor, of 0.3");
    assert_eq!(
        server.api("PATCH", &format!("/v1/sandboxes/{id}"), json!({ "limits": { "cpu_max": null } })).status,
        200
    );
    assert_eq!(stats()["max"], Value::Null);
}

fn refused() {
    let server = Server::start(&[("SANDBOXD_RUNSC", "/no/such/runsc")]);
    let ask = |body: Value| server.api("POST", "/sandbox", body);
    let answer = ask(json!({ "isolation": "gvisor" }));
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("install Debian's package runsc"), "{}", answer.text());
    assert_eq!(ask(json!({ "isolation": "microvm" })).status, 400);
    for limits in [json!({ "memory_max": "64M" }), json!({ "pids_max": 64 })] {
        let answer = ask(json!({ "isolation": "gvisor", "limits": limits }));
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("or more"), "{}", answer.text());
    }
    assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]));
    assert_eq!(ask(json!({})).status, 201);
    let (_, text) = server.run("check");
    assert!(text.contains("gVisor"), "{text}");
}

fn demanded() {
    let settings = [
        ("SANDBOXD_API_TOKENS", "strict=0123456789abcdef"),
        ("SANDBOXD_TOKEN_MIN_ISOLATION", "strict=gvisor"),
    ];
    let server = Server::start(&settings);
    let ask = |path: &str, body: Value| {
        let headers = [("Authorization", "Bearer 0123456789abcdef")];
        http::request(API, "localhost", "POST", path, &headers, body.to_string().as_bytes())
    };
    let answer = ask("/sandbox", json!({ "isolation": "container" }));
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("weaker than this key may use"), "{}", answer.text());
    let made = ask("/sandbox", json!({}));
    assert_eq!((made.status, &made.json()["isolation"]), (201, &json!("gvisor")), "{}", made.text());
    // The other key is as free as ever, and its sandbox of a project is not given to this one.
    let project = json!({ "project": { "id": "p", "user_id": "u" } });
    let made = server.api("POST", "/v1/sandboxes", project.clone());
    assert_eq!((made.status, &made.json()["isolation"]), (201, &json!("container")));
    let answer = ask("/v1/sandboxes", project);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &json!("forbidden")));
}

/// Descriptors and buffers of sockets are its kernel's, which has what its sandbox may have; the host's tables and
/// its neighbours do not feel it.
fn holds() {
    let server = Server::start(&[]);
    let neighbour = create(&server, json!({}));
    let before = uncounted::sockets();
    for means in ["tcp", "udp"] {
        let id = create(&server, json!({ "limits": { "memory_max": "192M" } }));
        uncounted::hold(&server, &id, means, 60);
        let mut most = 0;
        let end = std::time::Instant::now() + Duration::from_secs(4);
        while std::time::Instant::now() < end {
            most = most.max(uncounted::sockets().saturating_sub(before));
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(most < 96 << 20, "{means}: {} MiB of the host's memory", most >> 20);
        server.purge(&id);
    }
    let id = create(&server, json!({ "limits": { "memory_max": "256M" } }));
    server.start_process(&id, json!({ "cmd": ["python3", "-c", uncounted::ALL_FILES] }));
    std::thread::sleep(Duration::from_secs(4));
    let (open, most) = uncounted::open_files();
    assert!(open < most / 2, "{open} open files of {most}");
    assert_eq!(server.sh(&neighbour, "echo well"), "well\n");
    server.purge(&id);
}

/// What the host's kernel would watch, or ask for, on a tenant's word.
fn host_files() {
    let server = Server::start(&[]);
    let (id, neighbour) = (create(&server, json!({})), create(&server, json!({})));
    let script = r"
import fcntl, os
for name in ('memory', 'cpu', 'io'):
    try: os.write(os.open('/proc/pressure/' + name, os.O_RDWR), b'some 150000 2000000\x00'); print('a trigger on', name)
    except OSError: pass
for path in ('/usr/bin/git', '/etc/passwd', 'sandbox.yaml'):
    try: fcntl.fcntl(os.open(path, os.O_RDONLY), 1024, fcntl.F_RDLCK); print('a lease on', path)
    except OSError: pass
print('done')
";
    let answer =
        server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["python3", "-c", script] }));
    assert_eq!(answer.json()["stdout"], "done\n", "{}", answer.text());
    assert_eq!(server.sh(&neighbour, "git --version > /dev/null; echo well"), "well\n");
}

fn flooded() {
    let server = Server::start(&[]);
    let (id, neighbour) = (create(&server, json!({ "ports": [3000] })), create(&server, json!({})));
    super::neighbours::start(&server, &id, hostile::SILENT);
    eventually("it listens", Duration::from_secs(30), || {
        server.exec(&id, "python3 -c 'import socket; socket.create_connection((\"localhost\", 3000))'").1 == 0
    });
    hostile::flood(&server, &id);
    assert_eq!(server.sh(&neighbour, "echo well"), "well\n");
    let made = create(&server, json!({}));
    assert_eq!(server.sh(&made, "echo made"), "made\n");
    server.purge(&id);
}
