//! Draws the samples: one panel for each operation, one strip for each contender, time on a logarithmic axis.
//!
//! Every sample is a dot, so that what a percentile hides can be seen; the bar is the median.

use std::fmt::Write as _;

use super::stats::{Operation, Sample, Summary};

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
