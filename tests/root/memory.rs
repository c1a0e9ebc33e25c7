//! Memory as cgroup version 2 limits it. `memory.high`: it slows down, is told of, and never freezes for long.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::server::Server;
use crate::{root::Test, support::http};

pub(crate) const TESTS: &[Test] = &[
    ("memory::limits_are_written_directly", written),
    ("memory::swap_holds_at_its_edge_and_changes_live", swap),
    ("memory::out_of_memory_ends_one_process_or_the_sandbox", group),
    ("memory::pressure_and_events_are_told", pressure),
    ("memory::high_slows_down_nobody_else_and_changes_live", high),
    ("memory::a_sandbox_held_at_its_high_is_told_of_and_let_go", held),
];

fn control(server: &Server, id: &str, file: &str) -> String {
    let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    let path = format!("{}/{file}", row["row"]["cgroup_path"].as_str().unwrap());
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

fn written() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "memory_high": "64M" }));
    let files = |id: &str| {
        let files = [
            "memory.high",
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "pids.max",
            "cpu.max",
            "cpu.weight",
        ];
        files.map(|file| control(&server, id, file))
    };
    assert_eq!(files(&id), ["67108864", "268435456", "268435456", "0", "1024", "max 100000", "100"]);
    // Without a word by the client, memory is throttled before it is denied.
    let plain = server.create(json!({}));
    assert_eq!(files(&plain)[..2], ["241590272", "268435456"]);
    let limits = json!({ "limits": {
        "memory_max": "128M", "swap_max": "0", "oom_group": true, "pids_max": 64, "cpu_max": 0.5, "cpu_weight": 300,
    } });
    let wanted = ["120795136", "134217728", "0", "1", "64", "50000 100000", "300"];
    assert_eq!(server.api("PATCH", &format!("/v1/sandboxes/{plain}"), limits.clone()).status, 200);
    assert_eq!(files(&plain), wanted);
    let born = server.create(limits);
    assert_eq!(files(&born), wanted);
    assert_eq!(server.sh(&id, "cat /proc/self/cgroup"), "0::/\n", "its own cgroup is the root it sees");
}

/// Swap in a file, for as long as this lives.
struct Swap(String);

impl Swap {
    fn on() -> Self {
        let file = format!("/var/tmp/{}.swap", crate::support::server::INSTANCE);
        let make = format!(
            "dd if=/dev/zero of={file} bs=1M count=192 status=none && chmod 600 {file} && mkswap -q {file} && swapon {file}"
        );
        assert!(std::process::Command::new("sh").args(["-c", &make]).status().unwrap().success());
        Self(file)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let undo = format!("swapoff {0}; rm -f {0}", self.0);
        let _left = std::process::Command::new("sh").args(["-c", &undo]).status();
    }
}

fn swap() {
    let _swap = Swap::on();
    let server = Server::start(&[]);
    let id =
        server.create(json!({ "limits": { "memory_max": "64M", "memory_high": "64M", "swap_max": "0" } }));
    // Not zeros: the kernel gives pages of them back where it is short.
    let holds = |mib: u32| server.exec(&id, &format!("python3 -c 'x = b\"x\" * ({mib} << 20)'")).1 == 0;
    assert!(holds(32) && !holds(96), "64M and no swap");
    let change = json!({ "limits": { "swap_max": "64M" } });
    assert_eq!(server.api("PATCH", &format!("/v1/sandboxes/{id}"), change).status, 200);
    assert!(holds(96) && !holds(160), "64M and as much swap");
}

/// By default the kernel ends what uses most, and PID 1 and the rest go on; as a group, all of it.
fn group() {
    let server = Server::start(&[]);
    let one = server.create(json!({ "limits": { "memory_max": "64M" } }));
    server.sh(&one, "(setsid sleep 1000 > /dev/null 2>&1 < /dev/null &)");
    assert_eq!(server.exec(&one, "python3 -c 'x = bytearray(200 << 20)'").1, 137);
    assert_eq!(server.sh(&one, "pgrep -c sleep"), "1\n");
    let id = server.create(json!({ "limits": { "memory_max": "64M", "oom_group": true } }));
    server.sh(&id, "echo kept > ~/file; (setsid sleep 1000 > /dev/null 2>&1 < /dev/null &)");
    server.sh(&id, "(setsid python3 -c 'import time; time.sleep(0.5); x = bytearray(200 << 20)' > /dev/null 2>&1 < /dev/null &)");
    eventually("the sandbox has ended", Duration::from_secs(30), || server.status(&id) == "stopped");
    // The next use starts it anew.
    assert_eq!(server.sh(&id, "cat ~/file; pgrep -c sleep || true"), "kept\n0\n");
}

fn pressure() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "limits": { "pids_max": 16 } }));
    let stats = || server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json();
    let forks = "python3 -c 'import os, time\ntry:\n  for _ in range(40):\n    if os.fork() == 0: time.sleep(1); os._exit(0)\nexcept OSError: print(\"refused\")'";
    assert_eq!(server.sh(&id, forks), "refused\n");
    assert_eq!(
        server.api("PATCH", &format!("/v1/sandboxes/{id}"), json!({ "limits": { "cpu_max": 0.2 } })).status,
        200
    );
    server.sh(&id, "timeout 3 sh -c 'while :; do :; done' || true");
    eventually("it is told of", Duration::from_secs(20), || {
        let stats = stats();
        stats["pids"]["refused"].as_u64() > Some(0)
            && stats["cpu"]["throttled_seconds"].as_f64() > Some(0.5)
            && stats["pressure"]["cpu"]["some"].as_f64() > Some(1.0)
            && stats["io"]["reads"].is_u64()
    });
}

fn high() {
    let server = Server::start(&[]);
    let neighbour = server.create(json!({}));
    let id = server.create(json!({ "limits": { "memory_max": "256M", "memory_high": "200M" } }));
    let limit = |high: &str| {
        let change = json!({ "limits": { "memory_high": high } });
        assert_eq!(server.api("PATCH", &format!("/v1/sandboxes/{id}"), change).status, 200);
    };
    let stats = || server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json();
    let times_high = || stats()["memory"]["events"]["high"].as_u64().unwrap();
    let takes = "python3 -c 'x = b\"x\" * (100 << 20); print(\"took it\")'";
    assert_eq!((server.sh(&id, takes).as_str(), times_high()), ("took it\n", 0), "100M below 200M");
    limit("64M");
    assert_eq!(stats()["memory"]["high"], 64 << 20);
    server.sh(&id, &format!("(setsid {takes} > ~/said 2>&1 < /dev/null &)"));
    eventually("it is slowed down", Duration::from_secs(30), || {
        times_high() > 0 && stats()["throttled"] == true
    });
    // Meanwhile another one works, and takes as much.
    assert_eq!(server.sh(&neighbour, takes), "took it\n");
    limit("200M");
    eventually("it goes on", Duration::from_secs(30), || server.exec(&id, "grep -q took ~/said").1 == 0);
    assert_eq!(stats()["memory"]["events"]["oom_kill"], 0);
}

fn held() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "memory_high": "64M" }));
    let detail = || server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    assert_eq!(detail()["live_state"]["throttled"], false);
    let key = format!("Bearer {}", server.key());
    let path = format!("/sandbox/{id}/exec");
    // 120 MiB fit beneath memory.max, and are twice memory.high.
    let command = json!({ "cmd": ["python3", "-c", "x = bytearray(120 << 20); print(len(x))"] }).to_string();
    let begun = Instant::now();
    let hog = std::thread::Builder::new()
        .spawn(move || {
            http::request(
                crate::support::server::API,
                "localhost",
                "POST",
                &path,
                &[("Authorization", &key)],
                command.as_bytes(),
            )
        })
        .unwrap();
    eventually("it is told of", Duration::from_secs(30), || detail()["live_state"]["throttled"] == true);
    let answer = hog.join().unwrap().json();
    assert_eq!((answer["stdout"].as_str(), answer["exit_code"].as_i64()), (Some("125829120\n"), Some(0)));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}: it was frozen", begun.elapsed());
    eventually("the limit holds again", Duration::from_secs(20), || {
        control(&server, &id, "memory.high") == "67108864"
    });
    // More than memory.max is killed, inside, instead of waiting for ever.
    let (_, code) = server.exec(&id, "python3 -c 'x = bytearray(600 << 20)'");
    assert_eq!(code, 137);
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
}
