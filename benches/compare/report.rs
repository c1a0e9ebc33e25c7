//! The results as a table for people, as markdown, and as JSON; and what of the goals is met.

use serde_json::{Value, json};

use super::stats::{Operation, PerSandbox, Sample, Summary};

/// What all ratios are to.
pub(crate) const OURS: &str = "sandboxd";
const MIB: f64 = 1024.0 * 1024.0;

/// Everything one run found out.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) contenders: Vec<&'static str>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) rates: Vec<Rate>,
    pub(crate) memory: Vec<PerSandbox>,
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

/// A figure to reach.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) limit: f64,
    pub(crate) unit: &'static str,
    pub(crate) seen: Option<f64>,
}

impl Goal {
    /// Whether it is reached; a figure that was not seen is not.
    pub(crate) fn is_met(&self) -> bool {
        self.seen.is_some_and(|seen| seen <= self.limit)
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
    let time = |name, operation, limit, pick: fn(Summary) -> f64| Goal {
        name,
        limit,
        unit: "ms",
        seen: Summary::select(&results.samples, OURS, operation).map(pick),
    };
    let idle = results.memory.iter().find(|m| m.contender == OURS);
    let size = |name, limit, bytes: Option<u64>| Goal { name, limit, unit: "MiB", seen: bytes.map(mib) };
    vec![
        time("create → first exec output, p50", Operation::CreateExec, 40.0, |s| s.p50),
        time("create → first exec output, p99", Operation::CreateExec, 120.0, |s| s.p99),
        time("exec true, p50", Operation::Exec, 3.0, |s| s.p50),
        time("exec true with 50 idle sandboxes, p50", Operation::ExecAmid, 1.5, |s| s.p50),
        time("exec true with 50 idle sandboxes, p99", Operation::ExecAmid, 5.0, |s| s.p99),
        time("process → first byte, p50", Operation::FirstByte, 2.0, |s| s.p50),
        // 500 MB/s.
        time("256 MiB by one stream, p50", Operation::Stream, 537.0, |s| s.p50),
        time("stop, p50", Operation::Stop, 50.0, |s| s.p50),
        time("purge, p50", Operation::Purge, 50.0, |s| s.p50),
        time("wake → first byte, p50", Operation::Wake, 300.0, |s| s.p50),
        time("freeze, p50", Operation::Freeze, 10.0, |s| s.p50),
        time("thaw → first byte, p50", Operation::Thaw, 2.0, |s| s.p50),
        size("RSS of the daemon", 40.0, results.daemon_rss),
        size("PSS of an idle sandbox", 1.0, idle.map(PerSandbox::process_bytes)),
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
    let not_measured =
        results.not_measured.iter().map(|(what, why)| json!({"contender": what, "reason": why}));
    json!({
        "rows": samples.collect::<Vec<_>>(),
        "rates": rates.collect::<Vec<_>>(),
        "memory_per_idle_sandbox": memory.collect::<Vec<_>>(),
        "daemon_rss_bytes": results.daemon_rss,
        "goals": goals.collect::<Vec<_>>(),
        "not_measured": not_measured.collect::<Vec<_>>(),
    })
}

/// A title and rows; the first row is the head.
type Section = (&'static str, Vec<Vec<String>>);

fn sections(results: &Results) -> Vec<Section> {
    let mut sections = vec![("Times in milliseconds", times(results))];
    if !results.rates.is_empty() {
        sections.push(("Creates per second", rates(results)));
    }
    if !results.memory.is_empty() {
        sections.push(("Memory of one idle sandbox, in MiB", memory(results)));
    }
    sections.push(("Goals", goal_rows(results)));
    sections
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
    let mut rows = vec![row(&["goal", "at most", "seen", ""])];
    for goal in goals(results) {
        let limit = format!("{} {}", goal.limit, goal.unit);
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
