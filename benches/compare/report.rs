//! The results as a table for people, as markdown, and as JSON; and what of the goals is met.

use serde_json::{Value, json};

use super::stats::{Load, Operation, PerSandbox, Sample, Summary};

/// What all ratios are to.
pub(crate) const OURS: &str = "sandboxd";
/// The same without anything made ahead.
pub(crate) const COLD: &str = "sandboxd, no pool";
/// The measure of isolation at the start that is all of them.
pub(crate) const ALL_MEASURES: &str = "all that sandboxes have";
const MIB: f64 = 1024.0 * 1024.0;

/// Everything one run found out.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) contenders: Vec<&'static str>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) rates: Vec<Rate>,
    pub(crate) memory: Vec<PerSandbox>,
    pub(crate) loads: Vec<Load>,
    pub(crate) isolation: Vec<Measure>,
    /// RSS of the server's process, in bytes.
    pub(crate) daemon_rss: Option<u64>,
    /// What was not measured, and why.
    pub(crate) not_measured: Vec<(String, String)>,
}

/// How many sandboxes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) contender: &'static str,
    pub(crate) clients: u32,
    pub(crate) per_second: f64,
}

/// A measure of isolation, or a system call under one: the same without it and with it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measure {
    /// Of what, and in which unit.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) without: Summary,
    pub(crate) with: Summary,
}

impl Measure {
    /// What it costs, by the medians.
    fn cost(&self) -> f64 {
        self.with.p50 - self.without.p50
    }
}

/// A figure to reach.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) limit: f64,
    pub(crate) unit: &'static str,
    pub(crate) seen: Option<f64>,
    /// More is better.
    pub(crate) is_least: bool,
}

impl Goal {
    /// Whether it is reached; a figure that was not seen is not.
    pub(crate) fn is_met(&self) -> bool {
        self.seen.is_some_and(|seen| if self.is_least { seen >= self.limit } else { seen <= self.limit })
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match (self.seen, self.is_met()) {
            (None, _) => "not measured",
            (_, true) => "met",
            (_, false) => "MISSED",
        }
    }
}

/// Compares with what is promised.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let most = |name, limit, unit, seen| Goal { name, limit, unit, seen, is_least: false };
    let least = |name, limit, unit, seen| Goal { name, limit, unit, seen, is_least: true };
    let of = |contender, operation, pick: fn(Summary) -> f64| {
        Summary::select(&results.samples, contender, operation).map(pick)
    };
    let time =
        |name, operation, limit, pick: fn(Summary) -> f64| most(name, limit, "ms", of(OURS, operation, pick));
    let idle = results.memory.iter().find(|m| m.contender == COLD || m.contender == OURS);
    let size = |name, limit, bytes: Option<u64>| most(name, limit, "MiB", bytes.map(mib));
    let load = |contender| results.loads.iter().find(|l| l.contender == contender);
    let cold = |operation, pick: fn(Summary) -> f64| of(COLD, operation, pick);
    let burst = load(OURS).and_then(|l| l.burst).map(|b| b.seconds);
    let times = |name, operation, rival, limit| {
        let p50 = |contender| of(contender, operation, |s| s.p50);
        most(name, limit, "×", p50(OURS).zip(p50(rival)).map(|(ours, theirs)| ours / theirs))
    };
    let p50_of = |operation| of(OURS, operation, |s| s.p50);
    vec![
        time("create → first exec output, p50", Operation::CreateExec, 3.0, |s| s.p50),
        time("create → first exec output, p99", Operation::CreateExec, 10.0, |s| s.p99),
        most("the same without a pool, p50", 10.0, "ms", cold(Operation::CreateExec, |s| s.p50)),
        most("the same without a pool, p99", 30.0, "ms", cold(Operation::CreateExec, |s| s.p99)),
        least(
            "creates with exec, 8 clients, no pool",
            100.0,
            "per s",
            load(COLD).and_then(|l| l.per_second(8, false)),
        ),
        least("the same, each purged", 60.0, "per s", load(COLD).and_then(|l| l.per_second(8, true))),
        most("a burst of 100, each with exec", 1.0, "s", burst),
        time("exec true, p50", Operation::Exec, 3.0, |s| s.p50),
        time("exec true with 50 idle sandboxes, p50", Operation::ExecAmid, 1.5, |s| s.p50),
        time("exec true with 50 idle sandboxes, p99", Operation::ExecAmid, 5.0, |s| s.p99),
        time("process → first byte, p50", Operation::FirstByte, 2.0, |s| s.p50),
        // 500 MB/s.
        time("256 MiB by one stream, p50", Operation::Stream, 537.0, |s| s.p50),
        time("stop, p50", Operation::Stop, 5.0, |s| s.p50),
        time("purge, p50", Operation::Purge, 5.0, |s| s.p50),
        time("wake → first byte, p50", Operation::Wake, 300.0, |s| s.p50),
        most(
            "wake − the app's own start, p50",
            15.0,
            "ms",
            p50_of(Operation::Wake).zip(p50_of(Operation::AppStart)).map(|(wake, alone)| wake - alone),
        ),
        time("freeze, p50", Operation::Freeze, 10.0, |s| s.p50),
        time("thaw → first byte, p50", Operation::Thaw, 2.0, |s| s.p50),
        // 60 % of the speed.
        times("upload ÷ cp + sync, p50", Operation::Upload, "cp + sync", 1.67),
        times("download ÷ cp, p50", Operation::Download, "cp, tar x", 1.67),
        times("10,000 small files in ÷ tar x, p50", Operation::TreeIn, "cp, tar x", 2.0),
        most(
            "isolation at the start, all measures, p50",
            2.0,
            "ms",
            results.isolation.iter().find(|m| m.name == ALL_MEASURES).map(Measure::cost),
        ),
        size("RSS of the daemon", 40.0, results.daemon_rss),
        size("PSS of an idle sandbox", 1.0, idle.map(PerSandbox::process_bytes)),
        size("kernel memory of an idle sandbox", 2.0, idle.and_then(|m| m.kernel)),
        most(
            "processor time of the daemon, crowd idle",
            1.0,
            "%",
            results.loads.iter().rev().find_map(|l| l.idle_percent),
        ),
    ]
}

/// Writes everything as aligned text.
pub(crate) fn text(results: &Results) -> String {
    sections(results).iter().map(|(title, rows)| format!("{title}\n{}\n", aligned(rows))).collect::<String>()
        + &missing(results)
}

/// Writes everything as markdown, to paste into a document.
pub(crate) fn markdown(results: &Results) -> String {
    let sections = sections(results);
    let line = |cells: &Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = String::new();
    for (title, rows) in sections {
        text.extend([format!("**{title}**\n\n")]);
        for (number, row) in rows.iter().enumerate() {
            text.push_str(&line(row));
            if number == 0 {
                text.push_str(&line(&row.iter().map(|_| "---".to_owned()).collect()));
            }
        }
        text.push('\n');
    }
    text + &missing(results)
}

/// Gives everything as JSON, each sample in a row of its own.
pub(crate) fn json(results: &Results) -> Value {
    let samples = results.samples.iter().map(|s| {
        json!({"contender": s.contender, "operation": s.operation.key(), "round": s.round, "ms": s.milliseconds})
    });
    let memory = results.memory.iter().map(|m| {
        json!({
            "contender": m.contender, "sandboxes": m.sandboxes, "pss_bytes": m.processes,
            "daemons_growth_bytes": m.daemons_growth, "kernel_bytes": m.kernel,
        })
    });
    let rates = results
        .rates
        .iter()
        .map(|r| json!({"contender": r.contender, "clients": r.clients, "per_second": r.per_second}));
    let goals = goals(results).into_iter().map(|goal| {
        json!({"name": goal.name, "limit": goal.limit, "unit": goal.unit, "seen": goal.seen, "met": goal.is_met()})
    });
    let loads = results.loads.iter().map(|l| {
        json!({
            "contender": l.contender,
            "throughput": l.throughput.iter().map(|t| json!({"clients": t.clients, "purged": t.purges, "per_second": t.per_second})).collect::<Vec<_>>(),
            "burst": l.burst.map(|b| json!({"count": b.count, "seconds": b.seconds})),
            "crowds": l.crowds.iter().map(|c| json!({"live": c.live, "p50_ms": c.p50, "p95_ms": c.p95})).collect::<Vec<_>>(),
            "idle_percent": l.idle_percent,
        })
    });
    let isolation = results.isolation.iter().map(|m| {
        let of = |s: Summary| json!({"p50": s.p50, "p95": s.p95, "max": s.max});
        json!({"of": m.kind, "measure": m.name, "n": m.without.count, "without": of(m.without), "with": of(m.with)})
    });
    let not_measured =
        results.not_measured.iter().map(|(what, why)| json!({"contender": what, "reason": why}));
    json!({
        "rows": samples.collect::<Vec<_>>(),
        "rates": rates.collect::<Vec<_>>(),
        "loads": loads.collect::<Vec<_>>(),
        "isolation": isolation.collect::<Vec<_>>(),
        "memory_per_idle_sandbox": memory.collect::<Vec<_>>(),
        "daemon_rss_bytes": results.daemon_rss,
        "goals": goals.collect::<Vec<_>>(),
        "not_measured": not_measured.collect::<Vec<_>>(),
    })
}

/// A title and rows; the first row is the head.
type Section = (&'static str, Vec<Vec<String>>);

fn sections(results: &Results) -> Vec<Section> {
    let mut sections = Vec::new();
    if !results.samples.is_empty() {
        sections.push(("Times in milliseconds", times(results)));
    }
    if !results.rates.is_empty() {
        sections.push(("Creates per second", rates(results)));
    }
    if !results.loads.is_empty() {
        sections.push(("Under load", loads(results)));
        sections.push(("Create → first exec output among live sandboxes, in milliseconds", crowds(results)));
    }
    if !results.memory.is_empty() {
        sections.push(("Memory of one idle sandbox, in MiB", memory(results)));
    }
    if !results.isolation.is_empty() {
        sections.push(("What isolation costs, p50", isolation(results)));
    }
    if !results.samples.is_empty() {
        sections.push(("Goals", goal_rows(results)));
    }
    sections
}

fn isolation(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["of", "measure", "n", "without", "with", "cost", "with ÷ without"])];
    let mut last = "";
    for measure in &results.isolation {
        let kind = if measure.kind == last { "" } else { measure.kind };
        last = measure.kind;
        let Summary { p50: without, count, .. } = measure.without;
        let with = measure.with.p50;
        let [before, after, cost, ratio] = [without, with, measure.cost(), with / without].map(figure);
        rows.push(row(&[kind, &measure.name, &count.to_string(), &before, &after, &cost, &ratio]));
    }
    rows
}

fn times(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["operation", "", "n", "p50", "p95", "p99", "max", "p50 ÷ ours"])];
    for operation in Operation::ALL {
        let ours = Summary::select(&results.samples, OURS, operation);
        let mut title = operation.title();
        for contender in &results.contenders {
            let Some(s) = Summary::select(&results.samples, contender, operation) else { continue };
            let ratio =
                ours.filter(|ours| ours.p50 > 0.0).map_or_else(String::new, |o| figure(s.p50 / o.p50));
            let [p50, p95, p99, max] = [s.p50, s.p95, s.p99, s.max].map(figure);
            rows.push(row(&[title, contender, &s.count.to_string(), &p50, &p95, &p99, &max, &ratio]));
            title = "";
        }
    }
    rows
}

fn rates(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["clients", "", "per second"])];
    for rate in &results.rates {
        rows.push(row(&[&rate.clients.to_string(), rate.contender, &figure(rate.per_second)]));
    }
    rows
}

fn loads(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["what", "", "seen"])];
    for load in &results.loads {
        for t in &load.throughput {
            let what = if t.purges { "create, exec, purge" } else { "create, exec" };
            let title = format!("{what}: {} clients", t.clients);
            rows.push(row(&[&title, load.contender, &format!("{} per s", figure(t.per_second))]));
        }
        if let Some(b) = load.burst {
            let title = format!("{} at once, each with exec", b.count);
            rows.push(row(&[&title, load.contender, &format!("{} s", figure(b.seconds))]));
        }
        if let Some(percent) = load.idle_percent {
            let live = load.crowds.last().map_or(0, |c| c.live);
            let title = format!("processor time with {live} idle");
            rows.push(row(&[&title, load.contender, &format!("{} %", figure(percent))]));
        }
    }
    rows
}

fn crowds(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["live", "", "p50", "p95"])];
    for load in &results.loads {
        for c in &load.crowds {
            rows.push(row(&[&c.live.to_string(), load.contender, &figure(c.p50), &figure(c.p95)]));
        }
    }
    rows
}

fn memory(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["", "PSS", "of which", "daemons grew", "kernel"])];
    for m in &results.memory {
        let parts: Vec<String> =
            m.processes.iter().map(|(name, bytes)| format!("{name} {}", figure(mib(*bytes)))).collect();
        let grew = i32::try_from(m.daemons_growth / 1024).map_or(f64::NAN, |kib| f64::from(kib) / 1024.0);
        let kernel = m.kernel.map_or_else(|| "not readable".to_owned(), |bytes| figure(mib(bytes)));
        rows.push(row(&[
            m.contender,
            &figure(mib(m.process_bytes())),
            &parts.join(", "),
            &figure(grew),
            &kernel,
        ]));
    }
    rows
}

fn goal_rows(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["goal", "limit", "seen", ""])];
    for goal in goals(results) {
        let word = if goal.is_least { "at least" } else { "at most" };
        let limit = format!("{word} {} {}", goal.limit, goal.unit);
        let seen = goal.seen.map_or_else(|| "-".to_owned(), |seen| format!("{} {}", figure(seen), goal.unit));
        rows.push(row(&[goal.name, &limit, &seen, goal.verdict()]));
    }
    rows
}

fn missing(results: &Results) -> String {
    results.not_measured.iter().map(|(what, why)| format!("not measured: {what}: {why}\n")).collect()
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Writes three significant digits, as far as measurements of this kind carry them.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn mib(bytes: u64) -> f64 {
    // KiB fit into 32 bits up to 4 TiB, and f64 holds those exactly.
    u32::try_from(bytes / 1024).map_or(f64::INFINITY, |kib| f64::from(kib) * 1024.0 / MIB)
}

/// Aligns columns: texts to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
