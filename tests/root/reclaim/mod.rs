//! The memory of a frozen sandbox is moved out to swap, and is there when it wakes.
//!
//! Needs `memory.reclaim` (cgroup version 2) and a machine of its own: swap is the whole machine's.

#![expect(clippy::print_stdout, reason = "figures that are worth seeing beside the result")]

mod sleepers;
mod swap;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::Server;
use swap::Swap;

/// On any host.
pub(crate) const SLEEPERS: &[Test] =
    &[("sleepers::many_frozen_apps_are_adopted_at_once_and_wake_as_they_were", sleepers::many)];
pub(crate) const TESTS: &[Test] = &[
    ("reclaim::frozen_memory_moves_to_compressed_memory_and_comes_back", to_zram),
    ("reclaim::frozen_memory_moves_to_a_swap_file_and_comes_back", to_file),
    ("reclaim::a_wake_ends_the_moving_out", woken_meanwhile),
];

const MIB: u64 = 1 << 20;
/// What is left in memory of a frozen sandbox whose app has 64 MiB: the kernel's own part (page tables, stacks,
/// sockets), and what is not worth a step.
const LEFT_MAX: u64 = 8 * MIB;
/// 64 MiB, half of them random and half of them text.
const HALF_RANDOM: &str = r#"DATA = bytearray(64 << 20)
DATA[:32 << 20] = os.urandom(1 << 20) * 32
DATA[32 << 20:] = ((b'0123456789abcdef' * 256 + b'%08d' % 7) * 8192)[:32 << 20]"#;

/// An app that has the bytes which a piece of Python calls `DATA`, and knows when one of them has changed.
pub(super) fn app_with(data: &str) -> String {
    format!("import http.server, os, zlib\n{data}\n{SERVER}")
}

const SERVER: &str = r#"DIGEST = zlib.crc32(DATA)
class H(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        well = self.path != '/check' or zlib.crc32(DATA) == DIGEST
        body = b'well' if well else b'DAMAGED'
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.ThreadingHTTPServer(('127.0.0.1', 3000), H).serve_forever()
"#;

/// A running app with 64 MiB.
struct App<'a> {
    server: &'a Server,
    id: String,
    cgroup: PathBuf,
}

impl<'a> App<'a> {
    fn start(server: &'a Server) -> Self {
        let id = server.create(json!({ "ports": [3000] }));
        assert_eq!(server.put(&id, "app.py", app_with(HALF_RANDOM).as_bytes()).status, 200);
        assert_eq!(
            server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status,
            200
        );
        let app = Self { cgroup: cgroup(server, &id), server, id };
        eventually("the app is ready", Duration::from_secs(60), || app.ask("/") == "well");
        app
    }

    fn ask(&self, path: &str) -> String {
        self.server.preview(&self.id, 3000, "GET", path, &[], b"").text()
    }

    fn figure(&self, file: &str) -> u64 {
        std::fs::read_to_string(self.cgroup.join(file)).unwrap().trim().parse().unwrap()
    }

    fn pause(&self) {
        let answer = self.server.api("POST", &format!("/v1/sandboxes/{}/pause", self.id), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// How long the first byte takes.
    fn wake(&self) -> Duration {
        let begun = Instant::now();
        assert_eq!(self.ask("/"), "well");
        begun.elapsed()
    }
}

fn cgroup(server: &Server, id: &str) -> PathBuf {
    let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    row["row"]["cgroup_path"].as_str().unwrap().into()
}

fn moved_out(swap: &Swap, name: &str) {
    let server = Server::start(&[]);
    let app = App::start(&server);
    let awake = app.figure("memory.current");
    assert!(awake > 64 * MIB, "{awake}: the app is smaller than it says");
    app.pause();
    let begun = Instant::now();
    eventually("next to nothing is left in memory", Duration::from_secs(60), || {
        app.figure("memory.current") <= LEFT_MAX
    });
    let (took, left, out) =
        (begun.elapsed(), app.figure("memory.current"), app.figure("memory.swap.current"));
    assert!(out >= 60 * MIB, "only {out} bytes are in swap");
    let cost = swap.cost();
    let stats = server.api("GET", &format!("/v1/sandboxes/{}/stats", app.id), Value::Null).json();
    assert!(stats["memory"]["swap"].as_u64() >= Some(60 * MIB), "{stats}");
    // A wake with everything in memory, and one with everything in swap, in the same run.
    let from_swap = app.wake();
    app.pause();
    let from_memory = app.wake();
    let begun = Instant::now();
    assert_eq!(app.ask("/check"), "well", "memory was damaged");
    println!(
        "\n{name}: {} KiB awake; {} KiB left and {} KiB out after {} ms; in compressed memory {cost:?}; first byte \
         {} ms from swap, {} ms from memory; all 64 MiB read and checked after {} ms",
        awake >> 10,
        left >> 10,
        out >> 10,
        took.as_millis(),
        from_swap.as_millis(),
        from_memory.as_millis(),
        begun.elapsed().as_millis()
    );
    // What half of it is made of can be told in a few bytes.
    assert!(cost.is_none_or(|(data, memory)| memory < data * 3 / 4), "{cost:?}");
    assert!(from_swap < Duration::from_secs(5), "{from_swap:?}");
    server.purge(&app.id);
}

fn to_zram() {
    moved_out(&Swap::compressed(512), "zram");
}

fn to_file() {
    moved_out(&Swap::file(192), "swap file");
}

fn woken_meanwhile() {
    let _swap = Swap::compressed(512);
    let server = Server::start(&[]);
    let app = App::start(&server);
    for _ in 0..3 {
        app.pause();
        eventually("it has begun", Duration::from_secs(20), || app.figure("memory.swap.current") > 0);
        app.wake();
        let out = app.figure("memory.swap.current");
        // The step that is under way may end.
        std::thread::sleep(Duration::from_millis(300));
        let later = app.figure("memory.swap.current");
        assert!(later <= out + 8 * MIB, "{out}, then {later}: it goes on although it is awake");
    }
    assert_eq!(app.ask("/check"), "well");
    // One that is purged while its memory is out leaves none of it there.
    app.pause();
    eventually("it is out", Duration::from_secs(60), || app.figure("memory.current") <= LEFT_MAX);
    server.purge(&app.id);
    eventually("swap is free again", Duration::from_secs(20), || {
        let text = std::fs::read_to_string("/proc/swaps").unwrap();
        let used = |line: &str| line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap();
        // Each processor keeps some free slots for itself.
        text.lines().skip(1).map(used).sum::<u64>() < 4096
    });
}
