//! Draws the samples: one panel for each operation, one strip for each contender, time on a logarithmic axis.
//!
//! Every sample is a dot, so that what a percentile hides can be seen; the bar is the median.

use std::fmt::Write as _;

use super::stats::{Load, Operation, Sample, Summary};

const WIDTH: f64 = 900.0;
/// Where the axis begins and ends; names are to the left of it.
pub(crate) const LEFT: f64 = 150.0;
pub(crate) const RIGHT: f64 = 860.0;
const STRIP: f64 = 26.0;
const HEAD: f64 = 34.0;
const GAP: f64 = 30.0;
/// The decades of the axis: 0.1 ms to 10 s.
const DECADES: [(f64, &str); 6] =
    [(0.1, "0.1 ms"), (1.0, "1"), (10.0, "10"), (100.0, "100"), (1_000.0, "1 s"), (10_000.0, "10 s")];
const COLOURS: [&str; 6] = ["#0b7285", "#c2255c", "#e67700", "#5f3dc4", "#2b8a3e", "#495057"];

/// Returns an SVG document of the samples.
pub(crate) fn svg(samples: &[Sample], contenders: &[&'static str]) -> String {
    let mut body = String::new();
    let mut y = 20.0;
    for operation in Operation::ALL {
        let present: Vec<&str> = contenders
            .iter()
            .copied()
            .filter(|name| Summary::select(samples, name, operation).is_some())
            .collect();
        if !present.is_empty() {
            y = panel(&mut body, y, operation, &present, samples, contenders) + GAP;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#212529\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Returns an SVG document of what servers do under load: sandboxes per second against clients, and
/// milliseconds against live sandboxes.
pub(crate) fn load_svg(loads: &[Load]) -> String {
    let mut body = String::new();
    let mut throughput = Vec::new();
    let mut crowds = Vec::new();
    for load in loads {
        for (purges, what) in [(false, "create, exec"), (true, "create, exec, purge")] {
            let points = load.throughput.iter().filter(|t| t.purges == purges);
            let points: Vec<_> = points.map(|t| (f64::from(t.clients), t.per_second)).collect();
            throughput.push((format!("{}: {what}", load.contender), points));
        }
        for (name, pick) in [("p50", 0), ("p95", 1)] {
            let of = |c: &super::stats::Crowd| (f64::from(c.live), if pick == 0 { c.p50 } else { c.p95 });
            crowds.push((format!("{}: {name}", load.contender), load.crowds.iter().map(of).collect()));
        }
    }
    let mut next = 20.0;
    if throughput.iter().any(|(_, points)| !points.is_empty()) {
        next = chart(&mut body, next, "sandboxes per second against clients", &throughput);
    }
    let y = chart(&mut body, next, "create → first exec output, ms, against live sandboxes", &crowds);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#212529\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Draws lines over linear axes from 0 to the largest value; returns where the chart ends.
fn chart(body: &mut String, top: f64, title: &str, lines: &[(String, Vec<(f64, f64)>)]) -> f64 {
    let (left, right, height) = (60.0, 600.0, 240.0);
    let (head, bottom) = (top + 24.0, top + 24.0 + height);
    let largest = |pick: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|(_, points)| points).map(pick).fold(f64::MIN_POSITIVE, f64::max)
    };
    let (across, up) = (largest(|p| p.0), largest(|p| p.1));
    element(body, format_args!("<text x=\"{left}\" y=\"{top}\" font-weight=\"bold\">{title}</text>"));
    element(
        body,
        format_args!("<path d=\"M{left} {head}V{bottom}H{right}\" stroke=\"#868e96\" fill=\"none\"/>"),
    );
    for part in [0.5, 1.0] {
        let (x, y) = (left + (right - left) * part, bottom - height * part);
        let (below, beside, across, up) = (bottom + 16.0, left - 6.0, across * part, up * part);
        element(
            body,
            format_args!("<text x=\"{x}\" y=\"{below}\" text-anchor=\"middle\">{across:.0}</text>"),
        );
        element(body, format_args!("<text x=\"{beside}\" y=\"{y}\" text-anchor=\"end\">{up:.1}</text>"));
    }
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let place = |p: &(f64, f64)| (left + (right - left) * p.0 / across, bottom - height * p.1 / up);
        let mut path = String::new();
        for (at, point) in points.iter().enumerate() {
            let (x, y) = place(point);
            write!(path, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" }).ok();
            element(body, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
        }
        element(body, format_args!("<path d=\"{path}\" stroke=\"{colour}\" fill=\"none\"/>"));
        let (x, y) = (right + 20.0, head + 18.0 * f64::from(u8::try_from(number).unwrap_or(u8::MAX)));
        element(body, format_args!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>"));
    }
    bottom + GAP + 30.0
}

/// Draws one panel from `top` down and returns where it ends.
fn panel(
    body: &mut String,
    top: f64,
    operation: Operation,
    present: &[&str],
    samples: &[Sample],
    contenders: &[&'static str],
) -> f64 {
    let mut bottom = top + HEAD;
    let mut strips = String::new();
    for name in present {
        let colour = contenders.iter().position(|c| c == name).map_or(0, |at| at % COLOURS.len());
        strip(&mut strips, bottom + STRIP / 2.0, name, COLOURS[colour], operation, samples);
        bottom += STRIP;
    }
    element(
        body,
        format_args!("<text x=\"{LEFT}\" y=\"{top}\" font-weight=\"bold\">{}</text>", operation.title()),
    );
    for (value, label) in DECADES {
        let at = x(value);
        let from = top + HEAD - 6.0;
        element(body, format_args!("<path d=\"M{at:.1} {from}V{bottom}\" stroke=\"#dee2e6\"/>"));
        let y = top + HEAD - 12.0;
        element(
            body,
            format_args!(
                "<text x=\"{at:.1}\" y=\"{y}\" font-size=\"10\" fill=\"#868e96\" text-anchor=\"middle\">{label}</text>"
            ),
        );
    }
    body.push_str(&strips);
    bottom
}

fn strip(body: &mut String, y: f64, name: &str, colour: &str, operation: Operation, samples: &[Sample]) {
    let chosen = samples.iter().filter(|s| s.contender == name && s.operation == operation);
    for (number, sample) in chosen.enumerate() {
        // Spread over the strip's height in a fixed order, so that the same results give the same file.
        let offset = [0.0, 5.0, -5.0, 2.5, -2.5, 7.0, -7.0][number % 7];
        let (at, y) = (x(sample.milliseconds), y + offset);
        element(
            body,
            format_args!(
                "<circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{colour}\" fill-opacity=\".45\"/>"
            ),
        );
    }
    if let Some(summary) = Summary::select(samples, name, operation) {
        let (at, from, to, text) = (x(summary.p50), y - 10.0, y + 10.0, y + 4.0);
        element(
            body,
            format_args!("<path d=\"M{at:.1} {from:.1}V{to:.1}\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"),
        );
        let left = LEFT - 60.0;
        element(
            body,
            format_args!(
                "<text x=\"{left}\" y=\"{text:.1}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>"
            ),
        );
        let left = LEFT - 8.0;
        let p50 = summary.p50;
        element(body, format_args!("<text x=\"{left}\" y=\"{text:.1}\" text-anchor=\"end\">{p50:.1}</text>"));
    }
}

/// Returns the place of a time on the axis; what is outside is drawn at its end.
pub(crate) fn x(milliseconds: f64) -> f64 {
    let (first, last) = (DECADES[0].0.log10(), DECADES[DECADES.len() - 1].0.log10());
    let share = (milliseconds.max(f64::MIN_POSITIVE).log10() - first) / (last - first);
    LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
}

fn element(body: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(body, "{element}").expect("a String takes every write");
}
