//! Mixed load for as long as wanted: what a server that is used all day must not do is grow.
//!
//! Clients create, run, write, look at previews, freeze, stop, wake and purge; sandboxes, the launcher and, in the
//! first third, the daemon are killed meanwhile. At the end of each interval the clients are held, so that what
//! then is there is what stays: host, record and what clients were told are compared, and everything is
//! measured that could grow. What was measured in one life of the daemon must be flat.
//!
//! `SANDBOXD_TEST_SOAK_SECONDS`, `…_CLIENTS` and `…_PAUSE_MS` (between two requests of a client); `scripts/soak` sets them.

#![expect(clippy::print_stdout, reason = "its table is what it is run for")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::SandboxId;
use serde_json::{Value, json};

use super::chaos::{Ahead, Client, History, compare};
use super::{kill_if_there, launcher_of};
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http;
use crate::support::server::{API, PREVIEWS, Server, preview_host};

/// What is kept ready meanwhile, as in real use.
const AHEAD: Ahead = Ahead { blanks: 1, sites: 1 };
/// How many failures are remembered.
const FAILURES_MAX: usize = 20;
/// An app that keeps what it was told in memory.
const APP: &[u8] = b"import http.server
class H(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Length', '4'); self.end_headers(); self.wfile.write(b'well')
class S(http.server.ThreadingHTTPServer): request_queue_size = 128
S(('127.0.0.1', 3000), H).serve_forever()
";

/// How it is used.
struct Plan {
    interval: Duration,
    intervals: u32,
    clients: usize,
    pause: Duration,
}

/// What all clients and the one who kills know.
#[derive(Default)]
struct Stage {
    history: History,
    key: String,
    ends: AtomicBool,
    held: AtomicBool,
    waiting: AtomicUsize,
    /// Odd while something was killed and is not back yet.
    disturbances: AtomicU64,
    interrupted: AtomicU64,
    /// What was refused for the time being, as without memory, and how often.
    refused: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<Vec<String>>,
    /// How long each kind of request took, in microseconds.
    times: Mutex<BTreeMap<&'static str, Vec<u64>>>,
}

/// What could grow.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    seconds: u64,
    daemon: u64,
    rss_kib: u64,
    descriptors: u64,
    /// Of these, the outputs of processes that ended: a number of each sandbox's is kept.
    outputs: u64,
    threads: u64,
    launcher_rss_kib: u64,
    mounts: u64,
    netns: u64,
    cables: u64,
    cgroups: u64,
    run: u64,
    processes: u64,
    workspaces: u64,
    staged: u64,
    record_kib: u64,
}

/// A thing that could grow: what it is called, how it is read, and by how much it may grow in one life of the
/// daemon.
type Measure = (&'static str, fn(&Sample) -> u64, fn(u64) -> u64);

/// What a library keeps for later (threads that wait, descriptors of a pool) may come and go by so much.
const SLACK: u64 = 3;
const MEASURES: [Measure; 14] = [
    ("rss_kib", |s| s.rss_kib, |first| first / 10 + 6 * 1024),
    ("fds", |s| s.descriptors - s.outputs, |_| SLACK),
    ("outputs", |s| s.outputs, |_| 1000),
    ("threads", |s| s.threads, |_| 16),
    ("launcher", |s| s.launcher_rss_kib, |first| first / 10 + 2 * 1024),
    ("mounts", |s| s.mounts, |_| 0),
    ("netns", |s| s.netns, |_| 0),
    ("cables", |s| s.cables, |_| 0),
    ("cgroups", |s| s.cgroups, |_| 0),
    ("run", |s| s.run, |_| 0),
    ("procs", |s| s.processes, |_| 0),
    ("spaces", |s| s.workspaces, |_| 0),
    ("staged", |s| s.staged, |_| 2),
    ("db_kib", |s| s.record_kib, |first| first / 4 + 4 * 1024),
];

impl Plan {
    fn read() -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(format!("SANDBOXD_TEST_SOAK_{name}"))
                .ok()
                .map_or(default, |text| text.parse().unwrap())
        };
        let length = Duration::from_secs(number("SECONDS", 18));
        let intervals = u32::try_from(length.as_secs() / 60).unwrap().max(9);
        Self {
            interval: length / intervals,
            intervals,
            clients: usize::try_from(number("CLIENTS", 2)).unwrap(),
            pause: Duration::from_millis(number("PAUSE_MS", 0)),
        }
    }
}

impl Stage {
    /// Does one thing as a client, and notes how that went.
    fn act(&self, kind: &'static str, what: impl FnOnce() -> Result<(), String>) {
        let disturbances = self.disturbances.load(Ordering::SeqCst);
        let begun = Instant::now();
        let done = what();
        let is_disturbed =
            !disturbances.is_multiple_of(2) || self.disturbances.load(Ordering::SeqCst) != disturbances;
        match done {
            Ok(()) => {
                let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.times.lock().unwrap().entry(kind).or_default().push(took);
            }
            Err(error) if error.starts_with("503") || error.starts_with("429") => {
                *self.refused.lock().unwrap().entry(format!("{kind}: {error}")).or_default() += 1;
            }
            Err(_) if is_disturbed => {
                self.interrupted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                let mut failures = self.failures.lock().unwrap();
                if failures.len() < FAILURES_MAX {
                    failures.push(format!("{kind}: {error}"));
                }
            }
        }
    }

    /// Kills something and waits until its place is filled again.
    fn disturb(&self, kill: impl FnOnce()) {
        self.disturbances.fetch_add(1, Ordering::SeqCst);
        kill();
        self.disturbances.fetch_add(1, Ordering::SeqCst);
    }

    fn client(&self) -> Client<'_> {
        Client { key: self.key.clone(), history: &self.history }
    }
}

/// One who uses two sandboxes of his own, one that all use, and some that come and go.
struct User<'a> {
    stage: &'a Stage,
    client: Client<'a>,
    app: String,
    plain: String,
    shared: String,
}

impl User<'_> {
    fn work(&self, pause: Duration, number: usize) {
        for turn in number.. {
            if self.stage.held.load(Ordering::SeqCst) {
                self.stage.waiting.fetch_add(1, Ordering::SeqCst);
                while self.stage.held.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                self.stage.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stage.ends.load(Ordering::SeqCst) {
                return;
            }
            self.turn(turn);
            std::thread::sleep(pause);
        }
    }

    fn turn(&self, turn: usize) {
        let stage = self.stage;
        match turn % 12 {
            0 => stage.act("create", || self.come_and_go()),
            1 | 5 | 9 => stage.act("preview", || look(&self.app)),
            2 | 8 => stage.act("shared", || look(&self.shared)),
            3 => stage.act("process", || self.process()),
            4 => stage.act("thaw", || self.sleep("pause")),
            6 => stage.act("files", || self.files()),
            7 => stage.act("list", || self.list()),
            10 if turn % 24 == 10 => stage.act("wake", || self.sleep("stop")),
            _ => stage.act("exec", || match self.client.write(&self.plain) {
                Some((200, body)) if body["exit_code"] == 0 => Ok(()),
                other => Err(told(other)),
            }),
        }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        match self.client.ask(method, path, body) {
            Some((200 | 201 | 204, body)) => Ok(body),
            other => Err(told(other)),
        }
    }

    fn come_and_go(&self) -> Result<(), String> {
        let id = SandboxId::generate().to_string();
        self.stage.history.doomed.lock().unwrap().insert(id.clone());
        let made = self.ask("POST", "/sandbox", &json!({ "id": id }));
        if made.is_ok() {
            self.stage.history.created.lock().unwrap().insert(id.clone());
        }
        let ran = self.ask("POST", &format!("/sandbox/{id}/exec"), &json!({ "cmd": ["touch", "file"] }));
        self.ask("POST", &format!("/sandbox/{id}/purge"), &Value::Null)?;
        self.stage.history.purged.lock().unwrap().insert(id);
        made.and(ran).map(drop)
    }

    fn process(&self) -> Result<(), String> {
        let base = format!("/v1/sandboxes/{}/processes", self.plain);
        let made =
            self.ask("POST", &base, &json!({ "cmd": ["sh", "-c", "seq 200; sleep 0.05; echo end >&2"] }))?;
        let path = format!("{base}/{}/output?from=0", made["id"].as_str().unwrap_or_default());
        let key = format!("Bearer {}", self.stage.key);
        let answer = http::try_request(API, "localhost", "GET", &path, &[("Authorization", &key)], b"");
        let text = answer.map(|a| a.text()).unwrap_or_default();
        if text.contains("exit") { Ok(()) } else { Err(format!("its output ends in {text:?}")) }
    }

    /// Puts the app to sleep and looks at it.
    fn sleep(&self, how: &str) -> Result<(), String> {
        match self.client.ask("POST", &format!("/v1/sandboxes/{}/{how}", self.app), &Value::Null) {
            // It may have been killed since it was used last, and so is stopped already.
            Some((200 | 409, _)) => look(&self.app),
            other => Err(told(other)),
        }
    }

    fn files(&self) -> Result<(), String> {
        let key = format!("Bearer {}", self.stage.key);
        let headers = [("Authorization", key.as_str())];
        let content = vec![b'x'; 100_000];
        let path = format!("/v1/sandboxes/{}/files?path=a/b", self.plain);
        let put = http::try_request(API, "localhost", "PUT", &path, &headers, &content);
        if put.as_ref().map(|a| a.status) != Some(200) {
            return Err(format!("{:?}", put.map(|a| (a.status, a.text()))));
        }
        let path = format!("/v1/sandboxes/{}/files/content?path=a/b", self.plain);
        let got = http::try_request(API, "localhost", "GET", &path, &headers, b"");
        match got {
            Some(answer) if answer.body == content => Ok(()),
            other => Err(format!("{:?}", other.map(|a| (a.status, a.body.len())))),
        }
    }

    fn list(&self) -> Result<(), String> {
        self.ask("GET", "/v1/sandboxes", &Value::Null)?;
        self.ask("GET", &format!("/v1/sandboxes/{}/stats", self.plain), &Value::Null).map(drop)
    }
}

fn told(answer: Option<(u16, Value)>) -> String {
    answer.map_or_else(|| "nobody listens".to_owned(), |(status, body)| format!("{status} {body}"))
}

fn look(id: &str) -> Result<(), String> {
    let answer = http::try_request(PREVIEWS, &preview_host(id, 3000), "GET", "/", &[], b"");
    match answer {
        Some(answer) if answer.status == 200 && answer.body == b"well" => Ok(()),
        Some(answer) => Err(format!("{} {}", answer.status, answer.text())),
        None => Err("nobody listens".to_owned()),
    }
}

pub(super) fn flat() {
    let plan = Plan::read();
    let mut server = Server::start(&[
        ("SANDBOXD_LOG", "warn"),
        ("SANDBOXD_POOL_SIZE", &AHEAD.blanks.to_string()),
        ("SANDBOXD_LAUNCH_SPARES", &AHEAD.sites.to_string()),
        ("SANDBOXD_IDLE_REAP_INTERVAL_SECONDS", "1"),
        ("SANDBOXD_STOP_GRACE_SECONDS", "1"),
    ]);
    let mounts = HostSnapshot::take(&server).mounts;
    let stage = Stage { key: server.key(), ..Stage::default() };
    let app = |body: Value| {
        let id = server.create(body);
        assert_eq!(server.put(&id, "app.py", APP).status, 200);
        assert_eq!(
            server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status,
            200
        );
        eventually("an app is ready", Duration::from_secs(30), || look(&id).is_ok());
        id
    };
    let shared = app(json!({ "ports": [3000], "sleep": { "after": 1, "then_stop_after": null } }));
    let users: Vec<User<'_>> = (0..plan.clients)
        .map(|_| User {
            stage: &stage,
            client: stage.client(),
            app: app(json!({ "ports": [3000] })),
            plain: server.create(Value::Null),
            shared: shared.clone(),
        })
        .collect();
    let ids: Vec<String> =
        users.iter().flat_map(|u| [u.app.clone(), u.plain.clone()]).chain([shared.clone()]).collect();
    stage.history.created.lock().unwrap().extend(ids.iter().cloned());

    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        for (number, user) in users.iter().enumerate() {
            scope.spawn(move || user.work(plan.pause, number * 5));
        }
        // Whatever fails here must not leave the clients at work for ever.
        let ending = Ending(&stage);
        let begun = Instant::now();
        for interval in 0..plan.intervals {
            let end = begun + plan.interval * (interval + 1);
            kill_some(&mut server, &stage, &plan, interval, &ids);
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
            stage.held.store(true, Ordering::SeqCst);
            eventually("every client has its answer", Duration::from_secs(90), || {
                stage.waiting.load(Ordering::SeqCst) == plan.clients
            });
            for id in &ids {
                server.sh(id, "true");
            }
            purge_cut(&server, &ids);
            compare(&server, &stage.history, &format!("interval {interval}"), AHEAD);
            let sample = Sample::take(&server, begun);
            tell(&stage, &sample, interval);
            samples.push(sample);
            stage.held.store(false, Ordering::SeqCst);
        }
        drop(ending);
    });
    report(&stage, &samples);
    for id in &ids {
        server.purge(id);
    }
    server.signal("TERM");
    judge(&stage, &samples, &mounts, &HostSnapshot::take(&server));
}

fn judge(stage: &Stage, samples: &[Sample], mounts: &[String], host: &HostSnapshot) {
    assert!(
        host.mounts == mounts && host.inits == 0 && host.run.is_empty() && host.workspaces.is_empty(),
        "left over: {host:?}"
    );
    let failures = stage.failures.lock().unwrap().clone();
    assert!(failures.is_empty(), "failed while nothing was killed: {failures:#?}");
    let last_life: Vec<_> = samples.iter().filter(|s| s.daemon == samples.last().unwrap().daemon).collect();
    for (name, read, may_grow) in MEASURES {
        assert_flat(name, &last_life.iter().map(|s| read(s)).collect::<Vec<_>>(), may_grow);
    }
}

/// Purges what a client could not, since the server was gone.
fn purge_cut(server: &Server, ids: &[String]) {
    let rows = server.api("GET", "/sandboxes", Value::Null).json();
    for id in rows.as_array().unwrap().iter().filter_map(|row| row["id"].as_str()) {
        if !ids.iter().any(|kept| kept == id) {
            server.purge(id);
        }
    }
}

/// Lets the clients end.
struct Ending<'a>(&'a Stage);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::SeqCst);
        self.0.held.store(false, Ordering::SeqCst);
    }
}

/// A sandbox and the launcher in every interval; the daemon in the first third of them.
fn kill_some(server: &mut Server, stage: &Stage, plan: &Plan, interval: u32, ids: &[String]) {
    let rest = plan.interval / 5;
    std::thread::sleep(rest);
    let victim = &ids[usize::try_from(interval).unwrap() % ids.len()];
    let pid =
        server.api("GET", &format!("/sandbox/{victim}"), Value::Null).json()["live_state"]["pid"].as_u64();
    if let Some(pid) = pid {
        stage.disturb(|| {
            kill_if_there(&pid.to_string());
            // Somebody may have woken it already.
            eventually("its end is noticed", Duration::from_secs(20), || {
                let state = server.api("GET", &format!("/sandbox/{victim}"), Value::Null).json();
                state["live_state"]["pid"].as_u64() != Some(pid)
            });
        });
    }
    std::thread::sleep(rest);
    stage.disturb(|| launcher_of(&server.pid().to_string()).iter().for_each(|pid| kill_if_there(pid)));
    if interval < plan.intervals / 3 {
        std::thread::sleep(rest);
        stage.disturb(|| {
            server.kill();
            server.boot();
        });
    }
}

impl Sample {
    /// Looks for a while, and takes the least: what goes away by itself is no growth.
    fn take(server: &Server, begun: Instant) -> Self {
        let looks = (0..8).map(|look| {
            std::thread::sleep(Duration::from_millis(if look == 0 { 0 } else { 50 }));
            Self::look(server, begun)
        });
        looks
            .reduce(|a, b| Self {
                rss_kib: a.rss_kib.min(b.rss_kib),
                // The two of one look.
                descriptors: a.descriptors.min(b.descriptors - b.outputs + a.outputs),
                threads: a.threads.min(b.threads),
                netns: a.netns.min(b.netns),
                cables: a.cables.min(b.cables),
                staged: a.staged.min(b.staged),
                ..b
            })
            .unwrap()
    }

    fn look(server: &Server, begun: Instant) -> Self {
        let count = |n: usize| u64::try_from(n).unwrap();
        let host = HostSnapshot::take(server);
        let pid = server.pid().to_string();
        let links: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| std::fs::read_link(e.path()).unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        let run = server.directory.path().join("run");
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let sizes = ["", "-wal", "-shm"].map(|suffix| {
            std::fs::metadata(server.data().join(format!("sandboxd.db{suffix}"))).map_or(0, |m| m.len())
        });
        Self {
            seconds: begun.elapsed().as_secs(),
            daemon: server.pid().into(),
            rss_kib: status(&pid, "VmRSS"),
            descriptors: count(links.len()),
            outputs: count(links.iter().filter(|link| Path::new(link).starts_with(&run)).count()),
            threads: status(&pid, "Threads"),
            launcher_rss_kib: launcher_of(&server.pid().to_string()).map_or(0, |pid| status(&pid, "VmRSS")),
            mounts: count(mounts.lines().count()),
            netns: count(links.iter().filter(|link| link.starts_with("net:")).count()),
            cables: count(host.links.len()),
            cgroups: count(host.cgroups.len()),
            run: count(host.run.len()),
            processes: count(host.inits),
            workspaces: count(host.workspaces.len()),
            staged: count(host.staging.len() + host.trash.len()),
            record_kib: sizes.iter().sum::<u64>() / 1024,
        }
    }
}

fn status(pid: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid).join("status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn tell(stage: &Stage, sample: &Sample, interval: u32) {
    if interval.is_multiple_of(20) {
        let names: String = MEASURES.map(|(name, ..)| format!(" {name:>8}")).concat();
        println!("\n{:>6} {:>8} {:>7} {:>6} {:>6}{names}", "s", "done", "refused", "cut", "failed");
    }
    let done: usize = stage.times.lock().unwrap().values().map(Vec::len).sum();
    let values: String = MEASURES.map(|(_, read, _)| format!(" {:>8}", read(sample))).concat();
    println!(
        "{:>6} {done:>8} {:>7} {:>6} {:>6}{values}",
        sample.seconds,
        stage.refused.lock().unwrap().values().sum::<u64>(),
        stage.interrupted.load(Ordering::Relaxed),
        stage.failures.lock().unwrap().len()
    );
}

/// Prints how long things took, and how much an hour adds to what is measured.
fn report(stage: &Stage, samples: &[Sample]) {
    println!("\n{:>8} {:>8} {:>9} {:>9} {:>9}", "request", "number", "p50 ms", "p99 ms", "max ms");
    for (kind, times) in stage.times.lock().unwrap().iter_mut() {
        times.sort_unstable();
        let at = |share: usize| {
            let index = (times.len() - 1) * share / 100;
            format!("{}.{:02}", times[index] / 1000, times[index] % 1000 / 10)
        };
        println!("{kind:>8} {:>8} {:>9} {:>9} {:>9}", times.len(), at(50), at(99), at(100));
    }
    for (what, number) in stage.refused.lock().unwrap().iter() {
        println!("refused {number} times: {what}");
    }
    let last_life = samples.iter().filter(|s| s.daemon == samples.last().unwrap().daemon);
    let (of_daemon, all) = (last_life.copied().collect::<Vec<_>>(), samples.len());
    println!("\nlast life of the daemon: {} of {all} samples", of_daemon.len());
    for (name, read, _) in MEASURES {
        let points: Vec<_> = of_daemon.iter().map(|s| (as_f64(s.seconds), as_f64(read(s)))).collect();
        let (first, last) = (of_daemon.first().map_or(0, read), of_daemon.last().map_or(0, read));
        println!("{name:>8} {first:>8} → {last:>8}   {:+.1} per hour", slope(&points) * 3600.0);
    }
}

fn as_f64(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The line of least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let number = as_f64(u64::try_from(points.len()).unwrap());
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / number, y + p.1 / number));
    let (above, below) = points
        .iter()
        .fold((0.0, 0.0), |(above, below), p| (above + (p.0 - x) * (p.1 - y), below + (p.0 - x).powi(2)));
    if below == 0.0 { 0.0 } else { above / below }
}

/// Compares the median of the last third with that of the first, once it is warm.
fn assert_flat(name: &str, values: &[u64], may_grow: fn(u64) -> u64) {
    // A launcher that was killed is replaced when the next one is needed: none is not a small one.
    let values: Vec<_> = values.iter().copied().filter(|value| *value > 0).collect();
    if values.is_empty() {
        return;
    }
    let third = (values.len() / 3).max(1);
    let median = |values: &[u64]| {
        let mut values = values.to_vec();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let (first, last) = (median(&values[..third]), median(&values[values.len() - third..]));
    assert!(last <= first + may_grow(first), "{name} grows: {first}, then {last}: {values:?}");
}
