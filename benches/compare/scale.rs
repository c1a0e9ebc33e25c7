//! Thousands of sandboxes on one server: so many records, of which so many are frozen and so many run; what each
//! costs, and whether the server is as quick as with a few.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::load::{Action, CLIENTS, create_exec, many, on_each, processor_seconds};
use super::machine;
use super::memory::{self, Processes};
use super::ours::{LIMIT, Server, connect};
use super::plot;
use super::report;
use super::stats::{Crowd, Load, PerSandbox, Summary};
use super::{Trouble, note};

/// How often each request is timed, and the pause before.
const SAMPLES: usize = 40;
const PAUSE: Duration = Duration::from_millis(60);
/// For how long the server's processor time is looked at.
const IDLE: Duration = Duration::from_secs(10);
/// What a start leaves to be done, and a pool to be filled, is done by then.
const SETTLE: Duration = Duration::from_secs(3);
const KIB: f64 = 1024.0;

/// How many sandboxes there are to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Of all kinds.
    pub(crate) records: u32,
    pub(crate) frozen: u32,
    pub(crate) running: u32,
}

/// What was found out.
#[derive(Debug, Default)]
struct Found {
    crowds: Vec<Crowd>,
    times: Vec<(&'static str, Summary)>,
    figures: Vec<(&'static str, f64, &'static str)>,
    memory: Option<PerSandbox>,
}

struct Scene<'a> {
    server: &'a Server,
    pid: u32,
    runtime: Runtime,
    client: Client,
    plan: Plan,
    /// Everything that was made.
    ids: Vec<String>,
    found: Found,
}

/// Measures one server and writes `scale.json` and `scale.svg`.
pub(crate) fn run(server: &Server, pid: u32, plan: Plan, out: &Path) -> Result<(), Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Trouble::because("start a runtime", &e))?;
    let client = connect(server)?;
    let mut scene = Scene { server, pid, runtime, client, plan, ids: Vec::new(), found: Found::default() };
    let measured = scene.measure();
    let (started, ids) = (Instant::now(), std::mem::take(&mut scene.ids));
    let count = ids.len();
    note(&format!("purging {count}"));
    let purged = scene.runtime.block_on(on_each(server, ids, Action::Purge));
    scene.found.figures.push(("purges", rate(count, started.elapsed()), "per s"));
    measured.and(purged)?;
    publish(&scene.found, plan, out)
}

impl Scene<'_> {
    fn measure(&mut self) -> Result<(), Trouble> {
        let before = Processes::read(&["sandbox"]);
        self.grow()?;
        let started = Instant::now();
        let frozen = self.ids.clone();
        note(&format!("freezing {}", frozen.len()));
        self.runtime.block_on(on_each(self.server, frozen.clone(), Action::Pause))?;
        self.found.figures.push(("freezes", rate(frozen.len(), started.elapsed()), "per s"));
        std::thread::sleep(SETTLE);
        self.found.memory = Processes::read(&["sandbox"]).since(&before, report::OURS, self.plan.frozen);
        self.processor("processor time, frozen ones only");
        self.fill()?;
        std::thread::sleep(SETTLE);
        self.processor("processor time, all");
        self.requests(&frozen)?;
        if let Some(bytes) = memory::resident(self.pid) {
            self.found.figures.push(("RSS of the daemon", kib(bytes) / KIB, "MiB"));
        }
        if let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) {
            let number = u32::try_from(entries.count()).unwrap_or(u32::MAX);
            self.found.figures.push(("descriptors of the daemon", f64::from(number), ""));
        }
        Ok(())
    }

    /// Lets those that will be frozen run, and times creates at several sizes.
    fn grow(&mut self) -> Result<(), Trouble> {
        let frozen = self.plan.frozen;
        for size in [0, frozen / 8, frozen / 4, frozen / 2, frozen] {
            let missing = size.saturating_sub(self.count());
            if missing > 0 {
                let (_, ids) =
                    self.runtime.block_on(many(self.server, CLIENTS, missing.div_ceil(CLIENTS), false))?;
                self.ids.extend(ids);
                std::thread::sleep(SETTLE);
            }
            let samples = self.creates()?;
            let Some(Summary { p50, p95, .. }) = Summary::of(samples) else { continue };
            note(&format!("{p50:.1} ms with {} live sandboxes", self.ids.len()));
            self.found.crowds.push(Crowd { live: self.count(), p50, p95 });
        }
        Ok(())
    }

    /// Makes those that are stopped, then those that run.
    fn fill(&mut self) -> Result<(), Trouble> {
        let stopped = self.plan.records.saturating_sub(self.count() + self.plan.running);
        for (count, stops) in [(stopped, true), (self.plan.running, false)] {
            note(&format!("creating {count}, stopped: {stops}"));
            let started = Instant::now();
            // In pieces: all of them at once would need the memory of as many that run.
            let mut left = count;
            while left > 0 {
                let now = left.min(200);
                left -= now;
                let made = many(self.server, CLIENTS, now.div_ceil(CLIENTS), false);
                let (_, ids) = self.runtime.block_on(made)?;
                self.ids.extend(ids.iter().cloned());
                if stops {
                    self.runtime.block_on(on_each(self.server, ids, Action::Stop))?;
                }
            }
            let what = if stops { "creates with exec and stop" } else { "creates with exec" };
            self.found.figures.push((what, rate(count as usize, started.elapsed()), "per s"));
        }
        self.found.figures.push(("records", f64::from(self.count()), ""));
        Ok(())
    }

    fn requests(&mut self, frozen: &[String]) -> Result<(), Trouble> {
        let samples = self.creates()?;
        self.note_times("create → first exec output", samples);
        let Some(id) = self.ids.last().cloned() else { return Ok(()) };
        let samples = self.timed(SAMPLES, |scene, _| scene.exec(&id))?;
        self.note_times("exec true, in one that runs", samples);
        let samples = self.timed(SAMPLES.min(frozen.len()), |scene, at| scene.exec(&frozen[at]))?;
        self.note_times("exec true, in one that is frozen", samples);
        for (what, path) in [
            ("GET /sandboxes, all", "/sandboxes"),
            ("GET /v1/sandboxes, a page of 50", "/v1/sandboxes?limit=50"),
            ("GET /metrics", "/metrics"),
        ] {
            let samples = self.timed(SAMPLES, |scene, _| get(scene.server, path))?;
            self.note_times(what, samples);
        }
        Ok(())
    }

    /// Times creates with a first command; each is purged again.
    fn creates(&self) -> Result<Vec<f64>, Trouble> {
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            std::thread::sleep(PAUSE);
            let started = Instant::now();
            let id = self.runtime.block_on(create_exec(&self.client))?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
            self.runtime.block_on(on_each(self.server, vec![id], Action::Purge))?;
        }
        Ok(samples)
    }

    fn timed(
        &self,
        count: usize,
        action: impl Fn(&Self, usize) -> Result<(), Trouble>,
    ) -> Result<Vec<f64>, Trouble> {
        let mut samples = Vec::new();
        for at in 0..count {
            std::thread::sleep(PAUSE);
            let started = Instant::now();
            action(self, at)?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(samples)
    }

    fn exec(&self, id: &str) -> Result<(), Trouble> {
        let answer = self.runtime.block_on(self.client.exec(id, &["true".to_owned()], LIMIT));
        answer.map(|_| ()).map_err(|e| Trouble::because("exec", &e))
    }

    fn processor(&mut self, what: &'static str) {
        let before = processor_seconds(self.pid);
        std::thread::sleep(IDLE);
        let used = before.zip(processor_seconds(self.pid)).map(|(a, b)| (b - a) / IDLE.as_secs_f64());
        self.found.figures.extend(used.map(|used| (what, used * 100.0, "%")));
    }

    fn note_times(&mut self, what: &'static str, samples: Vec<f64>) {
        self.found.times.extend(Summary::of(samples).map(|summary| (what, summary)));
    }

    fn count(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }
}

/// A request on a connection of its own, read to its end.
fn get(server: &Server, path: &str) -> Result<(), Trouble> {
    let address = server.url.trim_start_matches("http://").trim_end_matches('/');
    let token = server.token.as_deref().unwrap_or_default();
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().map_err(|e| Trouble::because(format!("get {path}"), &e))?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    Err(Trouble::new(format!("get {path}: {}", String::from_utf8_lossy(&answer[..answer.len().min(200)]))))
}

fn publish(found: &Found, plan: Plan, out: &Path) -> Result<(), Trouble> {
    let mut lines =
        vec![format!("{} records, {} frozen, {} running", plan.records, plan.frozen, plan.running)];
    lines.extend(found.crowds.iter().map(|Crowd { live, p50, p95 }| {
        format!("create → first exec output, {live} live: p50 {p50:.2} ms, p95 {p95:.2} ms")
    }));
    lines.extend(found.times.iter().map(|(what, s)| {
        format!("{what}: p50 {:.2} ms, p95 {:.2}, p99 {:.2}, most {:.2}", s.p50, s.p95, s.p99, s.max)
    }));
    lines.extend(found.figures.iter().map(|(what, value, unit)| format!("{what}: {value:.2} {unit}")));
    lines.extend(found.memory.as_ref().map(|memory| {
        let kernel = memory.kernel.map_or_else(|| "?".to_owned(), |bytes| format!("{:.0}", kib(bytes)));
        let (own, grew) = (kib(memory.process_bytes()), memory.daemons_growth / 1024);
        format!("memory of one that is frozen, KiB: PSS {own:.0}, the daemon grew by {grew}, kernel {kernel}")
    }));
    let load = Load { crowds: found.crowds.clone(), ..Load::new(report::OURS) };
    let files = [
        ("scale.json", format!("{:#}\n", document(found, plan))),
        ("scale.svg", plot::load_svg(std::slice::from_ref(&load))),
    ];
    fs::create_dir_all(out).map_err(|e| Trouble::because("make the directory for results", &e))?;
    for (name, text) in files {
        fs::write(out.join(name), text).map_err(|e| Trouble::because("write results", &e))?;
    }
    lines.push(format!("written: {}/scale.{{json,svg}}\n", out.display()));
    std::io::stdout().write_all(lines.join("\n").as_bytes()).ok();
    Ok(())
}

fn document(found: &Found, plan: Plan) -> Value {
    let times = found.times.iter().map(|(what, s)| {
        json!({ "what": what, "n": s.count, "p50_ms": s.p50, "p95_ms": s.p95, "p99_ms": s.p99, "max_ms": s.max })
    });
    let crowds = found.crowds.iter().map(|c| json!({ "live": c.live, "p50_ms": c.p50, "p95_ms": c.p95 }));
    let figures =
        found.figures.iter().map(|(what, value, unit)| json!({ "what": what, "value": value, "unit": unit }));
    json!({
        "format": 1,
        "machine": machine::describe(),
        "plan": { "records": plan.records, "frozen": plan.frozen, "running": plan.running },
        "create_exec_among": crowds.collect::<Vec<_>>(),
        "times": times.collect::<Vec<_>>(),
        "figures": figures.collect::<Vec<_>>(),
        "memory_of_one": found.memory.as_ref().map(|m| json!({
            "process_bytes": m.process_bytes(), "daemon_growth_bytes": m.daemons_growth, "kernel_bytes": m.kernel,
        })),
    })
}

fn rate(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn kib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX))
}
