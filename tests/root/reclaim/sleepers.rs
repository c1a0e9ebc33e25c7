//! Many frozen apps: what they cost, how fast the next daemon has them, and that each wakes as it was.
//!
//! `SANDBOXD_TEST_SLEEPERS` says how many; `SANDBOXD_TEST_SLEEPERS_SWAP` is `zram`, `zswap` or `file` and pushes
//! their memory out there: by `memory.reclaim`, which is the server's, or where only version 1 is, by the
//! test's own hand. Swap is the whole machine's, so that is for a machine of one's own. `scripts/sleepers` sets both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::swap::Swap;
use super::{LEFT_MAX, MIB, cgroup};
use crate::support::eventually;
use crate::support::server::Server;

/// How many are made and woken at once.
const HANDS: usize = 4;
/// How many of them have every byte checked.
const CHECKED: usize = 8;
/// 64 MiB: a quarter cannot be compressed, and the rest is text, as most of a heap is.
const DATA: &str = r#"DATA = bytearray(os.urandom(1 << 20) * 16) + bytearray(b''.join(b'{"number": %d, "name": "one of many"},' % i for i in range(30000)) * 60)[:48 << 20]
DATA += bytes((64 << 20) - len(DATA))"#;

/// One of the apps.
struct Sleeper {
    id: String,
    /// Where its memory is counted.
    memory: PathBuf,
    awake: u64,
    proportional: u64,
}

impl Sleeper {
    fn make(server: &Server) -> Self {
        let id = server.create(json!({ "ports": [3000] }));
        assert_eq!(server.put(&id, "app.py", super::app_with(DATA).as_bytes()).status, 200);
        assert_eq!(
            server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status,
            200
        );
        eventually("an app is ready", Duration::from_secs(120), || ask(server, &id, "/") == "well");
        let memory = cgroup(server, &id);
        let (awake, proportional) = (used(&memory), proportional(&memory));
        Self { id, memory, awake, proportional }
    }

    fn freeze(&self, server: &Server, pushes_out: bool) {
        let answer = server.api("POST", &format!("/v1/sandboxes/{}/pause", self.id), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
        if !pushes_out {
            return;
        }
        let by_hand = self.memory.join("memory.force_empty");
        if by_hand.exists() {
            std::fs::write(by_hand, "0").unwrap();
        } else {
            eventually("it is out", Duration::from_secs(120), || used(&self.memory) <= LEFT_MAX);
        }
    }
}

fn ask(server: &Server, id: &str, path: &str) -> String {
    server.preview(id, 3000, "GET", path, &[], b"").text()
}

/// What a cgroup holds in memory.
fn used(cgroup: &Path) -> u64 {
    let read = |file: &str| std::fs::read_to_string(cgroup.join(file)).ok()?.trim().parse().ok();
    read("memory.current").or_else(|| read("memory.usage_in_bytes")).unwrap_or(0)
}

/// What its processes hold, with shared pages divided by those who share them: proc_pid_smaps(5).
fn proportional(cgroup: &Path) -> u64 {
    let pids = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    let of = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    pids.lines().filter_map(of).sum()
}

fn available() -> u64 {
    sys::memory::host().unwrap().available_bytes
}

pub(super) fn many() {
    let number: usize = std::env::var("SANDBOXD_TEST_SLEEPERS").map_or(6, |n| n.parse().unwrap());
    let room = 80 * u64::try_from(number).unwrap();
    let kind = std::env::var("SANDBOXD_TEST_SLEEPERS_SWAP").unwrap_or_default();
    let swap = match kind.as_str() {
        "zram" => Some(Swap::compressed(room)),
        "zswap" => Some(Swap::zswap(room)),
        "file" => Some(Swap::file(room)),
        _ => None,
    };
    let mut server = Server::start(&[
        ("SANDBOXD_LOG", "warn"),
        ("SANDBOXD_FREEZE_AFTER_SECONDS", "100000"),
        ("SANDBOXD_IDLE_THRESHOLD_SECONDS", "100000"),
        ("SANDBOXD_MEM_HEADROOM_PCT", "2"),
        ("SANDBOXD_MEM_REFUSE_WAKES_PCT", "2"),
        ("SANDBOXD_MEM_EMERGENCY_PCT", "1"),
    ]);
    let before = available();
    let begun = Instant::now();
    let sleepers = side_by_side(number, |_| {
        let sleeper = Sleeper::make(&server);
        sleeper.freeze(&server, swap.is_some());
        sleeper
    });
    let made = begun.elapsed();
    let frozen: Vec<u64> = sleepers.iter().map(|s| used(&s.memory)).collect();
    let taken = before.saturating_sub(available());
    let (out, compressed) = swap.as_ref().and_then(Swap::cost).unwrap_or_default();
    let adopted_frozen = restart(&mut server);
    let wake = |sleeper: &Sleeper| {
        let begun = Instant::now();
        assert_eq!(ask(&server, &sleeper.id, "/"), "well");
        begun.elapsed()
    };
    // One half one after the other, the other one some at once.
    let (first, second) = sleepers.split_at(number.div_ceil(2));
    let alone = Wakes::of(first.iter().map(wake).collect());
    let together = Wakes::of(side_by_side(second.len(), |index| wake(&second[index])));
    let adopted_running = restart(&mut server);
    let distance = (number / CHECKED).max(1);
    for sleeper in sleepers.iter().step_by(distance) {
        assert_eq!(ask(&server, &sleeper.id, "/check"), "well", "{}", sleeper.id);
    }
    let statuses: BTreeSet<_> = sleepers.iter().map(|s| server.status(&s.id)).collect();
    assert_eq!(statuses, BTreeSet::from(["running".to_owned()]));

    let mean = |values: &mut dyn Iterator<Item = u64>| values.sum::<u64>() / u64::try_from(number).unwrap();
    let kib = |bytes: u64| bytes / 1024;
    let figures = json!({
        "apps": number, "app_mib": 64, "swap": kind, "made_seconds": made.as_secs_f64(),
        "awake_kib_each": kib(mean(&mut sleepers.iter().map(|s| s.awake))),
        "awake_pss_kib_each": kib(mean(&mut sleepers.iter().map(|s| s.proportional))),
        "frozen_kib_each": kib(mean(&mut frozen.iter().copied())),
        "host_kib_each": kib(taken) / u64::try_from(number).unwrap(),
        "out_mib": out / MIB, "compressed_mib": compressed / MIB,
        "adopt_frozen_ms": adopted_frozen.as_millis(), "adopt_running_ms": adopted_running.as_millis(),
        "wake_p50_ms": alone.at(50), "wake_p99_ms": alone.at(99), "wake_max_ms": alone.at(100),
        "wakes_at_once": HANDS, "of_these_p50_ms": together.at(50), "of_these_p99_ms": together.at(99),
        "of_these_max_ms": together.at(100),
    });
    println!("\n{figures}");
    for (name, value) in figures.as_object().unwrap() {
        println!("{name:>20}  {value}");
    }
    // Beside what else goes on where this is run as a test.
    assert!(adopted_frozen.max(adopted_running) < Duration::from_secs(10));
    side_by_side(number, |index| server.purge(&sleepers[index].id));
}

/// The daemon dies, and the next one is ready: how long that takes.
fn restart(server: &mut Server) -> Duration {
    server.kill();
    let begun = Instant::now();
    server.boot();
    begun.elapsed()
}

/// How long wakes took, the shortest first.
struct Wakes(Vec<Duration>);

impl Wakes {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// That which so many per cent do not exceed, in milliseconds.
    fn at(&self, percent: usize) -> f64 {
        let last = self.0.len() - 1;
        (self.0[last * percent / 100].as_secs_f64() * 1e5).round() / 100.0
    }
}

/// Does something so many times, some at once; what comes of it is in no order.
fn side_by_side<T: Send>(number: usize, what: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let hand = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= number {
                    return done;
                }
                done.push(what(index));
            }
        };
        let hands: Vec<_> = (0..HANDS).map(|_| scope.spawn(hand)).collect();
        hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
    })
}
