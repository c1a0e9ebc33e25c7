//! Measures sandboxd against what people would use instead, in turn in one run.
//!
//! It drives a real server over loopback HTTP, and the rivals by their own command lines, round by round in
//! a changing order, with a pause before each measurement, so that the machine is as idle as in real use.
//! `scripts/bench` makes everything it needs and calls it.
//!
//! What is compared is what a user of each would wait for: for sandboxd a request over HTTP, for the others
//! the start of their command-line program and what it does; files are compared with cp(1) and tar(1). A rival that cannot be measured is named with
//! the reason.

mod bubblewrap;
mod docker;
mod files;
mod isolation;
mod landlock;
mod load;
mod machine;
mod memory;
mod oci;
mod ours;
mod plot;
mod report;
mod scale;
mod spawn;
mod stats;
mod stream;
mod web;

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde_json::{Value, json};

use memory::Processes;
use ours::{Ours, Server};
use report::{Rate, Results};
use stats::{Operation, Sample};

/// A rival that fails so often is left out of the rest of the run.
const FAILURES_MAX: u32 = 3;
/// sysexits(3): a rival is missing, and the caller said that none may be.
const EX_UNAVAILABLE: u8 = 69;

/// Measures sandboxd against docker, runc, crun and bubblewrap.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each measures every contender once
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Pause before each measurement, in milliseconds
    #[arg(long, default_value_t = 150)]
    pause: u64,
    /// A few rounds with short pauses: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// The server
    #[arg(long, env = "SANDBOXD_URL", default_value = "http://127.0.0.1:9090")]
    url: String,
    /// Another server that speaks the same API, instead
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// host:port of the server's previews
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    preview: String,
    /// The domain of its preview names
    #[arg(long, env = "PREVIEW_DOMAIN", default_value = "localhost")]
    preview_domain: String,
    #[arg(long, env = "SANDBOXD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The server's process, for its memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// The same server again, without anything made ahead
    #[arg(long, value_name = "URL", requires = "cold_preview")]
    cold_url: Option<String>,
    /// host:port of its previews
    #[arg(long, value_name = "ADDRESS")]
    cold_preview: Option<String>,
    #[arg(long, env = "BENCH_COLD_TOKEN", hide_env_values = true)]
    cold_token: Option<String>,
    /// Its process
    #[arg(long, value_name = "PID")]
    cold_pid: Option<u32>,
    /// The same as the latter, without user namespaces
    #[arg(long, value_name = "URL", requires = "cold_url")]
    plain_url: Option<String>,
    #[arg(long, env = "BENCH_PLAIN_TOKEN", hide_env_values = true)]
    plain_token: Option<String>,
    /// Measures what isolation costs, and nothing else
    #[arg(long)]
    isolation: bool,
    /// What becomes the first process of a sandbox, for that
    #[arg(long, env = "SANDBOXD_INIT", value_name = "FILE")]
    init: Option<PathBuf>,
    /// The most live sandboxes among which a create is timed; 0 leaves out everything under load
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=4_000))]
    crowd: u32,
    /// Measures thousands of sandboxes instead, of this server alone: records in all, frozen, running
    #[arg(
        long,
        value_name = "RECORDS,FROZEN,RUNNING",
        num_args = 1,
        value_delimiter = ',',
        requires = "server_pid"
    )]
    scale: Option<Vec<u32>>,
    /// The server's data, on this machine: files are moved on the file system that it lies on
    #[arg(long, env = "SANDBOXD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The root file system that the rivals run too
    #[arg(long, env = "SANDBOXD_ROOTFS", value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// The seccomp profile that runc and crun load too
    #[arg(long, value_name = "FILE", default_value = "oci/seccomp.json")]
    seccomp: PathBuf,
    /// Fail if a rival cannot be measured
    #[arg(long)]
    require_rivals: bool,
    /// Leave a rival out
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Where results.json, results.svg and results.md go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Set by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Something of one kind that can be measured.
trait Contender {
    fn name(&self) -> &'static str;

    /// Makes what the rounds need, and warms every cache they use.
    fn set_up(&mut self) -> Result<(), Trouble>;

    /// Measures every operation once.
    fn round(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Trouble>;

    /// Creates `each` with each of `clients` at once; `None` if that says nothing about it.
    fn creates_per_second(&mut self, _clients: u32, _each: u32) -> Option<Result<f64, Trouble>> {
        None
    }

    /// Starts sandboxes that do nothing; `None` if it has no such thing.
    fn start_idle(&mut self, _count: u32) -> Option<Result<(), Trouble>> {
        None
    }

    fn stop_idle(&mut self) {}

    /// Measures what is measured beside idle sandboxes.
    fn amid_idle(&mut self, _recorder: &mut Recorder<'_>, _times: u32) -> Result<(), Trouble> {
        Ok(())
    }

    /// Returns how the names of its processes begin.
    fn process_names(&self) -> &[&'static str] {
        &[]
    }

    fn tear_down(&mut self) {}
}

/// Takes down what a contender measures.
struct Recorder<'a> {
    samples: &'a mut Vec<Sample>,
    contender: &'static str,
    round: u32,
    pause: Duration,
}

/// Why something could not be measured.
#[derive(Debug)]
pub(crate) struct Trouble(String);

impl Trouble {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Says what was attempted and, as a chain, why it failed.
    pub(crate) fn because(text: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut text = format!("{}: {error}", text.into());
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        Self(text)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

impl Recorder<'_> {
    /// Lets the machine become idle.
    fn pause(&self) {
        std::thread::sleep(self.pause);
    }

    fn add(&mut self, operation: Operation, took: Duration) {
        let milliseconds = took.as_secs_f64() * 1e3;
        self.samples.push(Sample { contender: self.contender, operation, round: self.round, milliseconds });
    }

    /// Pauses, then times.
    fn time<T>(
        &mut self,
        operation: Operation,
        action: impl FnOnce() -> Result<T, Trouble>,
    ) -> Result<(), Trouble> {
        self.pause();
        let started = Instant::now();
        action()?;
        self.add(operation, started.elapsed());
        Ok(())
    }

    /// Times the same a few times without a pause; the first one, which warms up, does not count.
    fn time_hot(
        &mut self,
        operation: Operation,
        action: impl Fn() -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        action()?;
        for _ in 0..3 {
            let started = Instant::now();
            action()?;
            self.add(operation, started.elapsed());
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    if std::env::args_os().len() == 1 {
        // `cargo test --all-targets` starts benches without an argument, `cargo bench` with one.
        note("bench: nothing was measured; scripts/bench starts a server and measures it");
        return ExitCode::SUCCESS;
    }
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.pause) = (options.rounds.min(3), options.pause.min(20));
    }
    match compare(&options) {
        Ok(code) => code,
        Err(trouble) => {
            note(&format!("bench: failed to {trouble}"));
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<ExitCode, Trouble> {
    if let (Some(sizes), Some(pid)) = (&options.scale, options.server_pid) {
        let &[records, frozen, running] = sizes.as_slice() else {
            return Err(Trouble::new("read --scale: it is RECORDS,FROZEN,RUNNING"));
        };
        let server = servers(options).swap_remove(0).1;
        scale::run(&server, pid, scale::Plan { records, frozen, running }, &options.out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let scratch = Scratch::make()?;
    let mut results = Results::default();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    isolation_costs(options, &scratch, &mut results)?;
    if options.isolation {
        publish(options, started, &results)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut contenders = contenders(options, &scratch, &mut results)?;
    let measured = measure(options, &mut contenders, &mut results);
    let loaded = measured.and_then(|()| loads(options, &mut results));
    for contender in &mut contenders {
        contender.tear_down();
    }
    loaded?;
    results.daemon_rss = options.server_pid.and_then(memory::resident);
    if results.daemon_rss.is_none() {
        results.not_measured.push(("RSS of the daemon".to_owned(), "needs --server-pid".to_owned()));
    }
    publish(options, started, &results)?;
    if options.require_rivals && !results.not_measured.is_empty() {
        note("bench: --require-rivals, and not everything was measured");
        return Ok(EX_UNAVAILABLE.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures what each measure costs that keeps sandboxes apart.
fn isolation_costs(options: &Options, scratch: &Scratch, results: &mut Results) -> Result<(), Trouble> {
    let (Some(init), Some(rootfs)) = (&options.init, &options.rootfs) else {
        let needs = "needs --init and --rootfs, on this machine".to_owned();
        results.not_measured.push(("what isolation costs".to_owned(), needs));
        return Ok(());
    };
    // They are short, and differ by little.
    let rounds = if options.quick { 5 } else { options.rounds.max(200) };
    let workspace = options.data_dir.as_ref().unwrap_or(&scratch.workspace);
    let missing = &mut results.not_measured;
    results.isolation = isolation::measure(rounds, (init, rootfs, workspace), missing)?;
    if let (Some(url), Some((_, with, _))) = (&options.plain_url, servers(options).pop()) {
        let (url, token) = (url.clone(), options.plain_token.clone());
        let without = Server { url, token, ..with.clone() };
        results.isolation.extend(isolation::creates(rounds.min(100), [&without, &with])?);
    }
    Ok(())
}

/// The servers that are measured, with their processes.
fn servers(options: &Options) -> Vec<(&'static str, Server, Option<u32>)> {
    let ours = Server {
        url: options.against.clone().unwrap_or_else(|| options.url.clone()),
        token: options.token.clone(),
        preview: options.preview.clone(),
        preview_domain: options.preview_domain.clone(),
    };
    let mut all = vec![(report::OURS, ours, options.server_pid)];
    if let (Some(url), Some(preview)) = (&options.cold_url, &options.cold_preview) {
        let (url, token, preview) = (url.clone(), options.cold_token.clone(), preview.clone());
        let cold = Server { url, token, preview, preview_domain: options.preview_domain.clone() };
        all.push((report::COLD, cold, options.cold_pid));
    }
    all
}

/// Measures the servers under load, one after the other.
fn loads(options: &Options, results: &mut Results) -> Result<(), Trouble> {
    if options.crowd == 0 {
        return Ok(());
    }
    let crowd = options.crowd;
    let plan = if options.quick {
        let idle = Duration::from_millis(500);
        load::Plan { clients: vec![1, 8], creates: 8, burst: 10, crowds: vec![0, 8], idle }
    } else {
        let crowds = vec![0, crowd / 8, crowd / 4, crowd / 2, crowd];
        load::Plan {
            clients: vec![1, 2, 4, 8, 16],
            creates: 160,
            burst: 100,
            crowds,
            idle: Duration::from_secs(10),
        }
    };
    for (name, server, pid) in servers(options) {
        note(&format!("{name} under load"));
        results.loads.push(load::measure(&server, name, pid, &plan)?);
    }
    Ok(())
}

/// Sets up every contender that can be; the others are written down with the reason.
fn contenders(
    options: &Options,
    scratch: &Scratch,
    results: &mut Results,
) -> Result<Vec<Box<dyn Contender>>, Trouble> {
    let seccomp = seccomp(&options.seccomp, results);
    let (rootfs, workspace) = (options.rootfs.as_deref(), scratch.workspace.as_path());
    let oci = |program| {
        let oci = oci::Oci::new(program, rootfs, workspace, seccomp.as_ref(), &scratch.directory);
        oci.map(|oci| Box::new(oci) as Box<dyn Contender>)
    };
    let rivals = [
        (
            "docker",
            docker::Docker::new(options.rootfs.clone(), workspace.to_owned()).map(|d| Box::new(d) as _),
        ),
        ("runc", oci("runc")),
        ("crun", oci("crun")),
        (
            "bubblewrap",
            bubblewrap::Bubblewrap::new(options.rootfs.clone(), workspace).map(|b| Box::new(b) as _),
        ),
    ];
    let files = match &options.data_dir {
        Some(data_dir) => Some(Rc::new(files::Yard::make(data_dir)?)),
        None => {
            results.not_measured.push(("files".to_owned(), "needs --data-dir, on this machine".to_owned()));
            None
        }
    };
    let mut ready: Vec<Box<dyn Contender>> = Vec::new();
    for (name, server, _) in servers(options) {
        let mut ours = Ours::new(name, server, files.clone().filter(|_| name == report::OURS))?;
        note(&format!("setting up {name}"));
        if let Err(trouble) = ours.set_up() {
            ours.tear_down();
            return Err(Trouble::because(format!("set up {name}"), &trouble));
        }
        ready.push(Box::new(ours));
    }
    for (name, rival) in rivals {
        if options.without.iter().any(|without| without == name) {
            results.not_measured.push((name.to_owned(), "left out by --without".to_owned()));
            continue;
        }
        note(&format!("setting up {name}"));
        match rival.and_then(warm_up) {
            Ok(rival) => ready.push(rival),
            Err(trouble) => {
                note(&format!("  not measured: {trouble}"));
                results.not_measured.push((name.to_owned(), trouble.to_string()));
            }
        }
    }
    for syncs in [false, true] {
        ready.extend(files.iter().map(|yard| Box::new(files::Host::new(Rc::clone(yard), syncs)) as _));
    }
    results.contenders = ready.iter().map(|contender| contender.name()).collect();
    Ok(ready)
}

/// Sets up a rival; one that cannot be leaves nothing behind.
fn warm_up(mut rival: Box<dyn Contender>) -> Result<Box<dyn Contender>, Trouble> {
    match rival.set_up() {
        Ok(()) => Ok(rival),
        Err(trouble) => {
            rival.tear_down();
            Err(trouble)
        }
    }
}

fn measure(
    options: &Options,
    contenders: &mut [Box<dyn Contender>],
    results: &mut Results,
) -> Result<(), Trouble> {
    let mut failures = vec![0_u32; contenders.len()];
    for round in 0..options.rounds {
        if round % 10 == 0 {
            note(&format!("round {} of {}", round + 1, options.rounds));
        }
        for turn in 0..contenders.len() {
            // Each begins a round in its turn: none always follows the same other one.
            let at = (turn + round as usize) % contenders.len();
            if failures[at] >= FAILURES_MAX {
                continue;
            }
            let contender = &mut contenders[at];
            let name = contender.name();
            let pause = Duration::from_millis(options.pause);
            let mut recorder = Recorder { samples: &mut results.samples, contender: name, round, pause };
            if let Err(trouble) = contender.round(&mut recorder) {
                if name == report::OURS || name == report::COLD {
                    return Err(trouble);
                }
                failures[at] += 1;
                results.not_measured.push((format!("{name}, round {}", round + 1), trouble.to_string()));
            }
        }
    }
    for contender in contenders {
        rates(options, contender.as_mut(), results);
        idle_memory(options, contender.as_mut(), results);
        amid_idle(options, contender.as_mut(), results);
    }
    Ok(())
}

fn rates(options: &Options, contender: &mut dyn Contender, results: &mut Results) {
    let name = contender.name();
    for clients in [1, 8] {
        let each = if options.quick { 2 } else { 40 / clients };
        match contender.creates_per_second(clients, each) {
            None => return,
            Some(Ok(per_second)) => {
                note(&format!("{name}: {per_second:.1} creates per second with {clients} clients"));
                results.rates.push(Rate { contender: name, clients, per_second });
            }
            Some(Err(trouble)) => {
                results.not_measured.push((format!("{name}, creates per second"), trouble.to_string()));
            }
        }
    }
}

fn idle_memory(options: &Options, contender: &mut dyn Contender, results: &mut Results) {
    let name = contender.name();
    if name == report::OURS && options.cold_url.is_some() {
        // It has a pool, whose members cannot be told from what is started here; the other one says it.
        return;
    }
    if name == report::OURS && options.server_pid.is_none() {
        results
            .not_measured
            .push((format!("{name}, memory"), "needs --server-pid, on this machine".to_owned()));
        return;
    }
    let count = if options.quick { 3 } else { 20 };
    let before = Processes::read(contender.process_names());
    match contender.start_idle(count) {
        None => return,
        Some(Ok(())) => {
            // What a start leaves to be done afterwards is done by then.
            std::thread::sleep(Duration::from_secs(1));
            let after = Processes::read(contender.process_names());
            match after.since(&before, name, count) {
                Some(memory) => results.memory.push(memory),
                None => results.not_measured.push((
                    format!("{name}, memory"),
                    format!("no new process is called {}…", contender.process_names().join("… or ")),
                )),
            }
        }
        Some(Err(trouble)) => {
            results.not_measured.push((format!("{name}, memory"), trouble.to_string()));
        }
    }
    contender.stop_idle();
}

/// How much a crowd of sandboxes that do nothing costs one that works.
fn amid_idle(options: &Options, contender: &mut dyn Contender, results: &mut Results) {
    let name = contender.name();
    if name != report::OURS {
        return;
    }
    let (count, times) = if options.quick { (5, 10) } else { (50, 500) };
    let pause = Duration::from_millis(options.pause);
    let measured = contender.start_idle(count).unwrap_or(Ok(())).and_then(|()| {
        let mut recorder = Recorder { samples: &mut results.samples, contender: name, round: 0, pause };
        contender.amid_idle(&mut recorder, times)
    });
    if let Err(trouble) = measured {
        results.not_measured.push((format!("{name}, amid idle sandboxes"), trouble.to_string()));
    }
    contender.stop_idle();
}

fn publish(options: &Options, started: u64, results: &Results) -> Result<(), Trouble> {
    let mut document = json!({
        "format": 1,
        "started_at_unix": started,
        "machine": machine::describe(),
        "versions": versions(),
        "settings": {
            "rounds": options.rounds, "pause_ms": options.pause, "quick": options.quick,
            "another_server": options.against.is_some(),
        },
    });
    if let (Value::Object(document), Value::Object(found)) = (&mut document, report::json(results)) {
        document.extend(found);
    }
    let (document, tables) = (format!("{document:#}\n"), report::markdown(results));
    let files = if options.isolation {
        vec![("isolation.json", document), ("isolation.md", tables)]
    } else {
        vec![
            ("results.json", document),
            ("results.svg", plot::svg(&results.samples, &results.contenders)),
            ("load.svg", plot::load_svg(&results.loads)),
            ("results.md", tables),
        ]
    };
    fs::create_dir_all(&options.out).map_err(|e| Trouble::because("make the directory for results", &e))?;
    for (name, text) in files {
        fs::write(options.out.join(name), text).map_err(|e| Trouble::because("write results", &e))?;
    }
    let written =
        if options.isolation { "isolation.{json,md}" } else { "results.{json,svg,md} and load.svg" };
    let text = format!("{}\nwritten: {}/{written}\n", report::text(results), options.out.display());
    // A reader that went away has what it wanted; the files are there.
    io::stdout().write_all(text.as_bytes()).ok();
    Ok(())
}

fn versions() -> Value {
    let first = |arguments: &[&str]| {
        spawn::output(arguments).ok().and_then(|text| text.lines().next().map(str::to_owned))
    };
    json!({
        "sandboxd": env!("CARGO_PKG_VERSION"),
        "commit": first(&["git", "rev-parse", "--short", "HEAD"]),
        "docker": first(&["docker", "version", "--format", "{{.Server.Version}}"]),
        "runc": first(&["runc", "--version"]),
        "crun": first(&["crun", "--version"]),
        "bubblewrap": first(&["bwrap", "--version"]),
    })
}

fn seccomp(path: &Path, results: &mut Results) -> Option<Value> {
    let profile = fs::read(path)
        .map_err(|e| Trouble::because(format!("read {}", path.display()), &e))
        .and_then(|text| serde_json::from_slice(&text).map_err(|e| Trouble::because("read the profile", &e)));
    profile
        .map_err(|t| results.not_measured.push(("seccomp in runc and crun".to_owned(), t.to_string())))
        .ok()
}

/// A directory that goes with the run.
struct Scratch {
    directory: PathBuf,
    /// Belongs to the user that runs in the sandboxes.
    workspace: PathBuf,
}

impl Scratch {
    fn make() -> Result<Self, Trouble> {
        let directory = std::env::temp_dir().join(format!("sandboxd-bench-{}", std::process::id()));
        let workspace = directory.join("workspace");
        fs::create_dir_all(&workspace)
            .and_then(|()| chown(&workspace, Some(1000), Some(1000)))
            .map_err(|e| Trouble::because("make a directory of user 1000 (the bench runs as root)", &e))?;
        Ok(Self { directory, workspace })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn note(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
