//! `memory.high`: it slows down, is told of, and never freezes for long.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::server::Server;
use crate::{root::Test, support::http};

pub(crate) const TESTS: &[Test] = &[
    ("memory::limits_are_written_directly", written),
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
    let limits = ["memory.high", "memory.max", "pids.max"].map(|file| control(&server, &id, file));
    assert_eq!(limits, ["67108864", "268435456", "1024"]);
    assert_eq!(server.sh(&id, "cat /proc/self/cgroup"), "0::/\n", "its own cgroup is the root it sees");
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
