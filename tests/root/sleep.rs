//! Frozen and woken: nothing is lost, nothing hangs, nothing runs that should not.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http::Answer;
use crate::support::server::{PREVIEWS, Server, preview_host};

pub(crate) const TESTS: &[Test] = &[
    ("sleep::a_frozen_sandbox_takes_no_time_and_keeps_its_state", frozen),
    ("sleep::every_use_thaws_it_and_nothing_is_lost", every_use),
    ("sleep::a_frozen_sandbox_can_be_ended", ended),
    ("sleep::a_frozen_sandbox_is_adopted_frozen", adopted),
    ("sleep::two_tiers_by_policy_changed_live", policy),
    ("sleep::what_is_no_use_keeps_nothing_awake", not_fooled),
    ("sleep::memory_is_given_back_in_order", pressure),
    ("sleep::a_herd_is_answered_or_told_when_to_come_back", herd),
    ("sleep::a_freeze_or_thaw_that_fails_is_taken_back", failing),
];

/// An app that counts in memory, and whose every answer tells the count.
const APP: &str = r#"
import http.server, socketserver, hashlib
n = 0
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def say(self, body):
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        global n
        if self.headers.get('Upgrade'):
            self.send_response(101); self.send_header('Connection', 'Upgrade'); self.send_header('Upgrade', self.headers['Upgrade']); self.end_headers(); self.wfile.flush()
            while True:
                data = self.connection.recv(4096)
                if not data: break
                self.connection.sendall(data)
            self.close_connection = True; return
        if self.path == "/count": n += 1
        self.say(str(n).encode())
    def do_POST(self):
        left = int(self.headers['Content-Length']); total = 0
        while left:
            data = self.rfile.read(min(left, 65536)); left -= len(data); total += sum(data)
        self.say(str(total).encode())
class S(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True; request_queue_size = 128
S(('127.0.0.1', 3000), H).serve_forever()
"#;

pub(crate) fn with_app(server: &Server) -> String {
    let id = server.create(json!({ "ports": [3000] }));
    assert_eq!(server.put(&id, "app.py", APP.as_bytes()).status, 200);
    assert_eq!(server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status, 200);
    eventually("the app is ready", Duration::from_secs(20), || {
        v1(server, "GET", &id, "", Value::Null).json()["preview"]["status"] == "ready"
    });
    id
}

fn v1(server: &Server, method: &str, id: &str, action: &str, body: Value) -> Answer {
    server.api(method, &format!("/v1/sandboxes/{id}{action}"), body)
}

fn pause(server: &Server, id: &str) {
    let answer = v1(server, "POST", id, "/pause", Value::Null);
    assert_eq!((answer.status, answer.json()["status"].clone()), (200, json!("paused")), "{}", answer.text());
}

fn cpu(server: &Server, id: &str) -> f64 {
    v1(server, "GET", id, "/stats", Value::Null).json()["cpu"]["usage_seconds"].as_f64().unwrap()
}

fn frozen() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    server.sh(&id, "(while true; do :; done) >/dev/null 2>&1 & (while true; do date +%s%N > beat; sleep 0.05; done) >/dev/null 2>&1 &");
    let beat = || std::fs::read_to_string(server.data().join("workspaces").join(&id).join("workspace/beat"));
    eventually("it works", Duration::from_secs(20), || cpu(&server, &id) > 0.3 && beat().is_ok());
    pause(&server, &id);
    pause(&server, &id);
    let (used, last) = (cpu(&server, &id), beat().unwrap());
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((cpu(&server, &id), beat().unwrap()), (used, last.clone()), "it runs while it is frozen");
    // What is known of it can be asked, and does not wake it.
    let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    assert_eq!(
        (row["row"]["status"].clone(), row["live_state"]["running"].clone()),
        (json!("paused"), json!(false))
    );
    let stats = v1(&server, "GET", &id, "/stats", Value::Null).json();
    assert!(
        stats["memory"]["current"].as_u64().unwrap() > 100_000
            && stats["pids"]["current"].as_u64().unwrap() >= 3,
        "{stats}"
    );
    assert!(
        server
            .api("GET", "/metrics", Value::Null)
            .text()
            .contains("sandboxd_sandboxes_total{status=\"paused\"} 1")
    );
    assert_eq!(
        server.api("GET", "/v1/sandboxes?status=paused", Value::Null).json()["sandboxes"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let resumed = v1(&server, "POST", &id, "/resume", Value::Null);
    assert_eq!((resumed.status, resumed.json()["status"].clone()), (200, json!("running")));
    assert_eq!(v1(&server, "POST", &id, "/resume", Value::Null).status, 200);
    eventually("the same process goes on", Duration::from_secs(20), || {
        beat().unwrap() != last && cpu(&server, &id) > used
    });
    v1(&server, "POST", &id, "/stop", Value::Null);
    for action in ["/pause", "/resume"] {
        assert_eq!(v1(&server, "POST", &id, action, Value::Null).status, 409, "{action}");
    }
    assert_eq!(v1(&server, "GET", &id, "/stats", Value::Null).json()["memory"]["current"], 0);
    assert_eq!(v1(&server, "POST", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "/pause", Value::Null).status, 404);
}

fn every_use() {
    let server = Server::start(&[]);
    let id = with_app(&server);
    let get = || server.preview(&id, 3000, "GET", "/count", &[], b"");
    assert_eq!(get().text(), "1");
    // An open connection that was upgraded, and a command that runs, outlast the sleep.
    let mut tunnel = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        preview_host(&id, 3000)
    );
    tunnel.write_all(head.as_bytes()).unwrap();
    let mut read = |count: usize| {
        let mut bytes = vec![0; count];
        tunnel.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        tunnel.read_exact(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer += &read(1);
    }
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    pause(&server, &id);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.status(&id), "paused", "an open connection alone keeps it awake");
    (&tunnel).write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    tunnel.read_exact(&mut echoed).unwrap();
    assert_eq!((&echoed, server.status(&id)), (b"hello", "running".to_owned()));
    // A request, a body of 20 MB, a command; and a hundred requests at once.
    pause(&server, &id);
    assert_eq!(get().text(), "2", "the app was started anew");
    pause(&server, &id);
    let body = vec![1_u8; 20_000_000];
    assert_eq!(server.preview(&id, 3000, "POST", "/", &[], &body).text(), "20000000");
    pause(&server, &id);
    assert_eq!(server.sh(&id, "echo awake"), "awake\n");
    pause(&server, &id);
    let thaws = |server: &Server| {
        let text = server.api("GET", "/metrics", Value::Null).text();
        let line = text.lines().find_map(|l| l.strip_prefix("sandboxd_thaw_duration_seconds_count "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = thaws(&server);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert_eq!(get().status, 200));
        }
    });
    assert_eq!(thaws(&server) - before, 1, "it was thawed more than once");
    assert_eq!(get().text(), "103");
    // A command that runs while it is paused by request goes on afterwards.
    std::thread::scope(|scope| {
        let command = scope.spawn(|| server.sh(&id, "sleep 0.6; echo done"));
        std::thread::sleep(Duration::from_millis(300));
        pause(&server, &id);
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(server.status(&id), "paused");
        v1(&server, "POST", &id, "/resume", Value::Null);
        assert_eq!(command.join().unwrap(), "done\n");
    });
    assert!(!server.log_text().contains("ERROR"), "{}", server.log_text());
}

fn ended() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let ids: Vec<_> = (0..4).map(|_| server.create(Value::Null)).collect();
    for id in &ids {
        // TERM can be heard, so that a stop is seen to be one with grace.
        server.sh(id, "(trap 'echo heard > heard; exit' TERM; while true; do sleep 0.1; done) >/dev/null 2>&1 & sleep 0.2");
        pause(&server, id);
    }
    let begun = Instant::now();
    assert_eq!(v1(&server, "POST", &ids[0], "/stop", Value::Null).json()["status"], "stopped");
    assert_eq!(server.sh(&ids[0], "cat heard"), "heard\n");
    server.purge(&ids[0]);
    server.purge(&ids[1]);
    assert_eq!(server.api("DELETE", &format!("/sandbox/{}", ids[2]), Value::Null).status, 204);
    server.purge(&ids[2]);
    // Its first process is killed by somebody else while it is frozen.
    let pid = server.api("GET", &format!("/sandbox/{}", ids[3]), Value::Null).json()["live_state"]["pid"]
        .to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    server.purge(&ids[3]);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}

fn adopted() {
    let mut server = Server::start(&[]);
    let id = with_app(&server);
    let lost = server.create(Value::Null);
    let get = |server: &Server| server.preview(&id, 3000, "GET", "/count", &[], b"").text();
    assert_eq!(get(&server), "1");
    pause(&server, &id);
    pause(&server, &lost);
    let pid =
        server.api("GET", &format!("/sandbox/{lost}"), Value::Null).json()["live_state"]["pid"].to_string();
    server.kill();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let begun = Instant::now();
    server.boot();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "it waits for one that cannot answer: {:?}",
        begun.elapsed()
    );
    assert_eq!(server.status(&id), "paused");
    assert_eq!(get(&server), "2", "the app was started anew");
    assert_eq!(server.sh(&id, "echo well"), "well\n");
    // What was killed meanwhile can be used all the same.
    assert_eq!(server.sh(&lost, "echo again"), "again\n");
    // The host's freezer is the truth: the record is behind when the daemon dies at the wrong moment.
    server.signal("USR2");
    let database = rusqlite::Connection::open(server.data().join("sandboxd.db")).unwrap();
    database.execute("UPDATE sandboxes SET status = 'paused'", []).unwrap();
    drop(database);
    server.boot();
    assert_eq!(server.status(&id), "running");
    // TERM ends frozen ones in an orderly way too.
    pause(&server, &id);
    assert!(server.signal("TERM").success());
    server.boot();
    assert_eq!(server.status(&id), "stopped");
}

fn policy() {
    let server = Server::start(&[
        ("SANDBOXD_FREEZE_AFTER_SECONDS", "2"),
        ("SANDBOXD_IDLE_THRESHOLD_SECONDS", "5"),
        ("SANDBOXD_IDLE_REAP_INTERVAL_SECONDS", "1"),
    ]);
    let patch = |id: &str, body: Value| v1(&server, "PATCH", id, "", body);
    let plain = server.create(Value::Null);
    let made = v1(&server, "GET", &plain, "", Value::Null).json();
    assert_eq!(made["sleep"], json!({ "after": 2, "then_stop_after": 3 }));
    assert!(made["sleeps_at"].is_string() && made["stops_at"].is_string(), "{made}");
    let kept = server.create(json!({ "sleep": { "after": 1, "then_stop_after": null } }));
    let manual = server.create(json!({ "idle_policy": "manual" }));
    let direct = server.create(json!({ "sleep": { "after": 1, "then_stop_after": 0 } }));
    let mut seen = std::collections::BTreeSet::new();
    eventually("the first tier, then the second", Duration::from_secs(20), || {
        seen.insert(server.status(&direct));
        server.status(&kept) == "paused" && server.status(&direct) == "stopped"
    });
    assert!(!seen.contains("paused"), "{seen:?}");
    eventually("frozen by the instance's time", Duration::from_secs(20), || {
        server.status(&plain) == "paused"
    });
    eventually("stopped by the instance's time", Duration::from_secs(20), || {
        server.status(&plain) == "stopped"
    });
    assert_eq!((server.status(&kept), server.status(&manual)), ("paused".to_owned(), "running".to_owned()));
    // A change is in force at once, for a frozen one too.
    assert_eq!(patch(&kept, json!({ "sleep": { "after": 1, "then_stop_after": 1 } })).status, 200);
    eventually("it is stopped", Duration::from_secs(20), || server.status(&kept) == "stopped");
    let changed = patch(&manual, json!({ "idle_policy": "sleep", "sleep": { "after": 1 } })).json();
    assert_eq!(
        (changed["idle_policy"].clone(), changed["sleep"].clone()),
        (json!("sleep"), json!({ "after": 1, "then_stop_after": 4 }))
    );
    eventually("it is frozen", Duration::from_secs(20), || server.status(&manual) != "running");
    assert_eq!(
        patch(&manual, json!({ "sleep": null })).json()["sleep"],
        json!({ "after": 2, "then_stop_after": 3 })
    );
    for bad in [
        json!({ "colour": 1 }),
        json!({ "idle_policy": "never" }),
        json!({ "sleep": { "after": 0 } }),
        json!({ "sleep": { "then_stop_after": 5 } }),
        json!({ "sleep": { "after": 5, "x": 1 } }),
    ] {
        assert_eq!(patch(&manual, bad.clone()).status, 400, "{bad}");
    }
}

fn failing() {
    for (point, action) in [("freeze", "/pause"), ("freeze-record", "/pause"), ("thaw", "/resume")] {
        let mut server = Server::start(&[]);
        let id = server.create(Value::Null);
        if action == "/resume" {
            pause(&server, &id);
        }
        server.signal("USR2");
        server.set("FAILPOINTS", &format!("{point}=1*return"));
        server.boot();
        assert_eq!(v1(&server, "POST", &id, action, Value::Null).status, 500, "{point}");
        assert_eq!(server.sh(&id, "echo well"), "well\n", "{point}");
        pause(&server, &id);
        server.purge(&id);
    }
}

/// Frozen again although something goes on that is no use of it.
fn not_fooled() {
    let server = Server::start(&[
        ("SANDBOXD_IDLE_REAP_INTERVAL_SECONDS", "1"),
        ("SANDBOXD_PROBE_PATHS", "/well,/fine"),
        ("SANDBOXD_SILENT_CONNECTION_SECONDS", "3"),
    ]);
    let id = with_app(&server);
    let asleep = || server.status(&id) == "paused";
    // Health checks, by agent and by path.
    let probe =
        |path: &str, agent: &str| server.preview(&id, 3000, "GET", path, &[("User-Agent", agent)], b"");
    assert_eq!((probe("/well", "curl").text(), probe("/", "kube-probe/1.30").status), ("0".to_owned(), 200));
    assert_eq!(v1(&server, "PATCH", &id, "", json!({ "sleep": { "after": 1 } })).status, 200);
    eventually("it sleeps although it is looked after", Duration::from_secs(20), || {
        let _answer = probe("/fine", "curl");
        asleep()
    });
    let refused = probe("/", "kube-probe/1.30");
    assert_eq!((refused.status, refused.json()["error"].clone(), asleep()), (503, json!("asleep"), true));
    assert!(refused.header("retry-after").is_some());
    // A WebSocket through which only pings go keeps it awake as long as the setting says, and not longer.
    let mut socket = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        preview_host(&id, 3000)
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    let begun = Instant::now();
    let ping = [0x89, 0x80, 1, 2, 3, 4];
    eventually("a socket with nothing but pings lets it sleep", Duration::from_secs(20), || {
        if !asleep() {
            socket.write_all(&ping).unwrap();
        }
        asleep()
    });
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "an open connection did not count: {:?}",
        begun.elapsed()
    );
    let data = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    socket.write_all(&data).unwrap();
    let mut echoed = Vec::new();
    while !echoed.ends_with(&data) {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        echoed.push(byte[0]);
    }
    // The app may answer a moment before the status is published.
    eventually("its status says that it is awake", Duration::from_millis(800), || !asleep());
}

/// Short of memory the host freezes, then stops what frees most, and spares what is used and what is always on to the last.
fn pressure() {
    let mut server =
        Server::start(&[("SANDBOXD_PRESSURE_INTERVAL_SECONDS", "1"), ("SANDBOXD_DRAIN_SECONDS", "1")]);
    let always = server.create(json!({ "idle_policy": "always_on" }));
    let old = server.create(Value::Null);
    std::thread::sleep(Duration::from_millis(50));
    let (young, busy) = (server.create(Value::Null), server.create(Value::Null));
    // Used last, and it holds what there is to be had.
    let large = server.create(Value::Null);
    let hog = "import time; held = bytearray(96 << 20); open('held', 'w'); time.sleep(1000)";
    server.sh(
        &large,
        &format!("nohup python3 -c \"{hog}\" >/dev/null 2>&1 & until [ -e held ]; do sleep 0.05; done"),
    );
    let restart = |server: &mut Server, settings: &[(&str, &str)]| {
        server.signal("USR2");
        settings.iter().for_each(|(name, value)| server.set(name, value));
        server.boot();
    };
    // First what nobody uses is frozen; wakes of what is stopped are refused, thaws are not.
    restart(&mut server, &[("SANDBOXD_MEM_HEADROOM_PCT", "100"), ("SANDBOXD_MEM_REFUSE_WAKES_PCT", "100")]);
    let command = |server: &Server| {
        let body = json!({ "cmd": ["sleep", "30"], "stream": true });
        let (key, path) = (server.key(), format!("/sandbox/{busy}/exec"));
        let mut stream = TcpStream::connect(("127.0.0.1", crate::support::server::API)).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let held = command(&server);
    eventually("what nobody uses is frozen", Duration::from_secs(20), || {
        [&old, &young, &large].iter().all(|id| server.status(id) == "paused")
    });
    assert_eq!((server.status(&always), server.status(&busy)), ("running".to_owned(), "running".to_owned()));
    assert_eq!(server.sh(&young, "echo thawed"), "thawed\n");
    drop(held);
    // Then they are stopped, one after the other.
    restart(
        &mut server,
        &[("SANDBOXD_MEM_EMERGENCY_PCT", "100"), ("SANDBOXD_PRESSURE_INTERVAL_SECONDS", "2")],
    );
    let mut events = super::events::Reader::open(&server, "?from=0", None);
    let _held = command(&server);
    let mut order = Vec::new();
    while order.len() < 5 {
        let (_, name, data) = events.next();
        if name == "sandbox.stopped" {
            assert_eq!(data["reason"], "memory");
            let message = data["message"].as_str().unwrap();
            assert!(message.contains("short of memory") && message.contains(" MiB"), "{message}");
            order.push(data["sandbox_id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(order, [large, old, young, busy, always]);
    assert_eq!(
        server.api("POST", &format!("/wake/{}", order[0]), Value::Null).json()["error"],
        "wakes_refused"
    );
}

/// How many requests come at once, and for how many sandboxes; `scripts/soak` asks for more.
fn herd_size() -> (usize, usize) {
    let text = std::env::var("SANDBOXD_TEST_HERD").unwrap_or_else(|_unset| "400:40".to_owned());
    let (requests, sandboxes) = text.split_once(':').expect("REQUESTS:SANDBOXES");
    (requests.parse().unwrap(), sandboxes.parse().unwrap())
}

/// Sandboxes whose apps have answered once; made and stopped a few at a time. One of five is frozen instead.
fn many_asleep(server: &Server, count: usize) -> Vec<String> {
    let all = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let all = &all;
            scope.spawn(move || {
                for number in (worker..count).step_by(4) {
                    let id = with_app(server);
                    let action = if number % 5 == 0 { "/pause" } else { "/stop" };
                    assert_eq!(v1(server, "POST", &id, action, Value::Null).status, 200);
                    all.lock().unwrap().push(id);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// All requests at once; how many were served. The others were told when to come back.
fn stampede(server: &Server, ids: &[String], requests: usize) -> usize {
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let ask = |number: usize| {
            let id = &ids[number % ids.len()];
            scope.spawn(move || server.preview(id, 3000, "GET", "/", &[], b""))
        };
        let threads: Vec<_> = (0..requests).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let honest = |answer: &&Answer| {
        answer.status == 200 || (answer.status == 503 && answer.header("retry-after").is_some())
    };
    let odd: Vec<_> = answers.iter().filter(|a| !honest(a)).map(|a| (a.status, a.text())).collect();
    assert!(odd.is_empty(), "{} of {requests}: {:?}", odd.len(), odd.first());
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// Many requests for many sleeping sandboxes: answers, or refusals that say when to come back.
fn herd() {
    let (requests, count) = herd_size();
    let mut server = Server::start(&[("SANDBOXD_MEMORY_MAX", "128M")]);
    let before = HostSnapshot::take(&server);
    let ids = many_asleep(&server, count);
    let begun = Instant::now();
    let served = stampede(&server, &ids, requests);
    let took = begun.elapsed();
    if std::env::var_os("SANDBOXD_TEST_HERD").is_some() {
        let text = format!("{served} of {requests} requests for {count} sandboxes were served in {took:?}\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    assert!(served > requests / 2, "{served} of {requests}");
    assert_eq!(server.api("GET", "/readyz", Value::Null).status, 200);
    assert!(!server.api("GET", "/metrics", Value::Null).text().contains("sandbox.oom"), "memory ran out");
    // The same on a host that has memory for a few starts at once.
    server.signal("TERM");
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let figure = |name: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    let spare = figure("MemAvailable:") - figure("MemTotal:") / 10;
    server.set("SANDBOXD_WAKE_COST_MB", &(spare / 3).to_string());
    server.boot();
    let served = stampede(&server, &ids, requests);
    assert!(served > 0 && served < requests, "{served} of {requests} on a small host");
    for id in &ids[..2] {
        eventually("it is there for whoever comes back", Duration::from_secs(20), || {
            server.preview(id, 3000, "GET", "/", &[], b"").status == 200
        });
    }
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| server.purge(id));
        }
    });
    // The kernel takes their networks away one after the other.
    let patience = Duration::from_secs(20 + count as u64);
    eventually("nothing is left", patience, || HostSnapshot::take(&server) == before);
}
