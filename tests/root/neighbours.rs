//! Neighbours that are not harmed by who misbehaves.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::{INSTANCE, Server};
use crate::support::{eventually, eventually_seen, tell};

pub(crate) const TESTS: &[Test] = &[
    ("neighbours::a_hog_leaves_its_neighbours_quick", hogs),
    ("neighbours::what_nobody_reads_is_moved_at_a_bounded_pace", unread),
    ("neighbours::who_uses_its_share_of_the_processors_gives_way", gives_way),
];

/// What misbehaves, and how.
pub(super) const HOGS: [(&str, &str); 5] = [
    ("fork bomb", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"),
    (
        "memory hog",
        "import os\nwhile True:\n  if os.fork() == 0:\n    x = b'x' * (1 << 30)\n  else: os.wait()",
    ),
    (
        "disk hog",
        "import os\nwhile True:\n  with open('/home/sandbox/fill', 'wb') as f:\n    for _ in range(256): f.write(b'x' * (1 << 20))\n    os.fsync(f.fileno())",
    ),
    ("log flood", "import os\nwhile True: os.write(1, b'y' * 65536)"),
    (
        "inotify hog",
        "import ctypes, os, threading\nc = ctypes.CDLL(None)\nos.makedirs('/tmp/d', exist_ok=True)\ni = c.inotify_init()\nc.inotify_add_watch(i, b'/tmp/d', 0xfff)\nwhile True:\n  c.inotify_init()\n  for n in range(500): open('/tmp/d/%d' % n, 'w').close()",
    ),
];
/// An app that answers at once.
pub(super) const APP: &str = "import http.server as h\nclass A(h.BaseHTTPRequestHandler):\n  def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'hello')\n  def log_message(self, *a): pass\nh.HTTPServer(('localhost', 3000), A).serve_forever()";
/// Requests in a turn, and turns of each side.
const REQUESTS: usize = 25;
const TURNS: usize = 8;

/// How long requests take.
#[derive(Debug, Clone, Copy)]
struct Times {
    p50: Duration,
    p99: Duration,
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self { p50: all[all.len() / 2], p99: all[all.len() * 99 / 100] }
    }

    fn json(self) -> Value {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 100_000.0).round() / 100.0;
        json!({ "p50_ms": milliseconds(self.p50), "p99_ms": milliseconds(self.p99) })
    }
}

pub(super) fn start(server: &Server, id: &str, script: &str) {
    let body = json!({ "cmd": ["python3", "-c", script], "detach": true });
    let answer = server.api("POST", &format!("/v1/sandboxes/{id}/processes"), body);
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// A sandbox's freezer. Not by the API: a thousand processes on an emulated processor take more time to come to rest than
/// that gives them.
struct Freezer {
    switch: String,
    is_v2: bool,
}

impl Freezer {
    fn of(server: &Server, id: &str) -> Self {
        let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
        let path = row["row"]["cgroup_path"].as_str().unwrap().to_owned();
        let is_v2 = std::path::Path::new(&path).join("cgroup.freeze").exists();
        let file = if is_v2 { "cgroup.freeze" } else { "freezer.state" };
        let switch = format!("{}/{file}", path.replace("/cgroup/memory/", "/cgroup/freezer/"));
        Self { switch, is_v2 }
    }

    fn freeze(&self) {
        std::fs::write(&self.switch, if self.is_v2 { "1" } else { "FROZEN" }).unwrap();
        let (file, text) = if self.is_v2 {
            (self.switch.replace("cgroup.freeze", "cgroup.events"), "frozen 1")
        } else {
            (self.switch.clone(), "FROZEN")
        };
        eventually("it is frozen", Duration::from_secs(120), || {
            std::fs::read_to_string(&file).unwrap().contains(text)
        });
    }

    fn thaw(&self) {
        std::fs::write(&self.switch, if self.is_v2 { "0" } else { "THAWED" }).unwrap();
    }
}

/// How long a request to an app takes while each kind of abuse goes on in another sandbox, with nothing but the limits
/// that every sandbox has. The one is frozen and let go in turns, so that whatever else the machine does counts on both sides.
fn hogs() {
    let server = Server::start(&[]);
    let neighbour = server.create(json!({ "ports": [3000] }));
    start(&server, &neighbour, APP);
    let ask = || server.preview(&neighbour, 3000, "GET", "/", &[], b"").status == 200;
    eventually("the neighbour answers", Duration::from_secs(20), ask);
    let times = || -> Vec<Duration> {
        let one = |_| {
            let begun = Instant::now();
            assert!(ask());
            begun.elapsed()
        };
        (0..REQUESTS).map(one).collect()
    };
    times();
    let mut measured = Vec::new();
    for (name, hog) in HOGS {
        let id = server.create(json!({}));
        start(&server, &id, hog);
        let freezer = Freezer::of(&server, &id);
        // By then it has begun.
        times();
        let (mut beside, mut quiet) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            beside.extend(times());
            freezer.freeze();
            quiet.extend(times());
            freezer.thaw();
        }
        eventually_seen("it is gone", Duration::from_secs(60), || {
            let answer = server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null);
            let errors =
                || server.log_text().lines().filter(|l| l.contains("ERROR")).collect::<Vec<_>>().join("\n");
            if answer.status == 200 { Ok(()) } else { Err(errors()) }
        });
        measured.push((name, Times::of(beside), Times::of(quiet)));
    }
    let table = report(&measured);
    // What little there is when all is quiet doubles for less: a busy core's caches.
    let floor = Duration::from_millis(10);
    assert!(measured.iter().all(|(_, beside, quiet)| beside.p50 < quiet.p50.max(floor) * 2), "{table}");
}

/// Moving output is the daemon's work, which no limit of a sandbox counts.
fn unread() {
    const MIB: u64 = 1 << 20;
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    start(&server, &id, "import os\nwhile True: os.write(1, b'y' * 65536)");
    let begun = Instant::now();
    let written = || {
        let list = server.api("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).json();
        list["processes"][0]["output"]["end"].as_u64().unwrap()
    };
    // Until it is known that nobody comes to read, output waits; then 32 MiB in a second are moved, and 4 MiB at first.
    eventually("it is moved", Duration::from_secs(30), || written() > 40 * MIB);
    let (seen, took) = (written(), begun.elapsed());
    assert!(seen as f64 <= took.as_secs_f64() * (32 * MIB) as f64 + (6 * MIB) as f64, "{seen} in {took:?}");
}

/// The kernel's figures: how weights share processors `limits::weights_share_the_processors` shows.
fn gives_way() {
    let server = Server::start(&[]);
    let [hog, other, quiet] = [(); 3].map(|()| server.create(json!({})));
    let weight = |id: &str| -> u64 {
        let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
        let path = row["row"]["cgroup_path"].as_str().unwrap().replace("/cgroup/memory/", "/cgroup/cpu/");
        // In version 1 it lies beside the instance's directory there.
        let beside = path.replace(&format!("/{INSTANCE}/"), &format!("/{INSTANCE}."));
        let path = if std::path::Path::new(&beside).exists() { beside } else { path };
        let read = |file: &str| std::fs::read_to_string(format!("{path}/{file}")).ok()?.trim().parse().ok();
        // The kernel's default of version 1 is 1024.
        read("cpu.weight")
            .or_else(|| read("cpu.shares").map(|shares: u64| (shares * 100).div_ceil(1024)))
            .unwrap()
    };
    assert_eq!((weight(&hog), weight(&quiet)), (100, 100));
    let cores = std::thread::available_parallelism().unwrap().get();
    for id in [&hog, &other] {
        for _ in 0..cores * 2 {
            start(&server, id, "while True: pass");
        }
    }
    eventually("they give way", Duration::from_secs(30), || (weight(&hog), weight(&other)) == (10, 10));
    assert_eq!((weight(&quiet), server.sh(&quiet, "echo well")), (100, "well\n".to_owned()));
    // By what it is entitled to, and no longer than it uses it.
    let body = json!({ "limits": { "cpu_weight": 1000 } });
    assert_eq!(server.api("PATCH", &format!("/v1/sandboxes/{hog}"), body).status, 200);
    eventually("its new weight gives way too", Duration::from_secs(30), || weight(&hog) == 100);
    let list = server.api("GET", &format!("/v1/sandboxes/{hog}/processes"), Value::Null).json();
    for process in list["processes"].as_array().unwrap() {
        let path = format!("/v1/sandboxes/{hog}/processes/{}/signal", process["id"].as_str().unwrap());
        let kill = json!({ "signal": "KILL", "target": "tree" });
        assert!(server.api("POST", &path, kill).status < 300, "{process}");
    }
    eventually("it has its weight again", Duration::from_secs(30), || weight(&hog) == 1000);
}

/// Prints what was measured, for people and as JSON, and keeps it beside the figures of `scripts/bench`;
/// `scripts/vm` takes it from what is printed in the virtual machine.
fn report(measured: &[(&str, Times, Times)]) -> String {
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let row = |(name, beside, quiet): &(&str, Times, Times)| {
        let ratio = |beside: Duration, quiet: Duration| {
            (beside.as_secs_f64() / quiet.as_secs_f64() * 100.0).round() / 100.0
        };
        json!({
            "hog": name, "quiet": quiet.json(), "beside": beside.json(),
            "ratio_p50": ratio(beside.p50, quiet.p50), "ratio_p99": ratio(beside.p99, quiet.p99),
        })
    };
    let rows: Vec<_> = measured.iter().map(row).collect();
    let all = json!({
        "cgroup": if is_v2 { "v2" } else { "v1" },
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim(),
        "cores": std::thread::available_parallelism().unwrap().get(),
        "requests": REQUESTS * TURNS,
        "rows": rows,
    });
    let line = |row: &Value| {
        let figure = |of: &str, name: &str| row[of][name].as_f64().unwrap_or_default();
        format!(
            "{:<12} {:>7.2} ms {:>8.2} {:>9.2} ms {:>8.2} {:>12} {:>5}\n",
            row["hog"].as_str().unwrap_or_default(),
            figure("quiet", "p50_ms"),
            figure("quiet", "p99_ms"),
            figure("beside", "p50_ms"),
            figure("beside", "p99_ms"),
            row["ratio_p50"],
            row["ratio_p99"],
        )
    };
    let lines: String = rows.iter().map(line).collect();
    let table =
        format!("\nhog           quiet p50      p99   beside p50      p99    ratio p50   p99\n{lines}");
    tell(&format!("{table}neighbours: {all}"));
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    let path = kept.join(format!("neighbours-{}.json", all["cgroup"].as_str().unwrap_or_default()));
    std::fs::create_dir_all(kept).unwrap();
    std::fs::write(path, format!("{all:#}\n")).unwrap();
    table
}
