//! Tests the benchmark's pure parts, which a bench without a harness cannot test itself.

#[path = "../benches/compare/plot.rs"]
mod plot;
#[path = "../benches/compare/report.rs"]
mod report;
#[path = "../benches/compare/stats.rs"]
mod stats;

use plot::{LEFT, RIGHT, load_svg, svg, x};
use report::{ALL_MEASURES, COLD, Measure, OURS, Rate, Results, figure, goals, json, markdown, text};
use stats::{Burst, Crowd, Load, Operation, PerSandbox, Sample, Summary, Throughput};

#[test]
fn the_axis_is_logarithmic_and_bounded() {
    let near = |a: f64, b: f64| (a - b).abs() < 0.001;
    assert!(near(x(0.1), LEFT) && near(x(0.0), LEFT) && near(x(99_999.0), RIGHT));
    assert!(near(x(100.0) - x(10.0), x(10.0) - x(1.0)));
}

#[test]
fn every_sample_is_drawn_once() {
    let sample =
        |contender, milliseconds| Sample { contender, operation: Operation::Exec, round: 0, milliseconds };
    let text = svg(&[sample("a", 1.0), sample("a", 2.0), sample("b", 70.0)], &["a", "b", "c"]);
    assert_eq!(text.matches("<circle").count(), 3);
    assert_eq!(text.matches(Operation::Exec.title()).count(), 1);
    assert!(!text.contains(">c<") && !text.contains(Operation::Stop.title()));
    assert_eq!(text, svg(&[sample("a", 1.0), sample("a", 2.0), sample("b", 70.0)], &["a", "b", "c"]));
}

fn results() -> Results {
    let summary = |p50| Summary { count: 3, p50, p95: 9.0, p99: 9.0, max: 9.0 };
    let sample = |contender, operation, milliseconds| Sample { contender, operation, round: 0, milliseconds };
    Results {
        contenders: vec![OURS, "docker"],
        samples: vec![
            sample(OURS, Operation::Exec, 2.0),
            sample("docker", Operation::Exec, 75.04),
            sample(OURS, Operation::Stop, 51.0),
        ],
        rates: vec![Rate { contender: OURS, clients: 8, per_second: 123.4 }],
        memory: vec![PerSandbox {
            contender: OURS,
            sandboxes: 10,
            processes: [("sandbox-init".to_owned(), 512 * 1024)].into(),
            daemons_growth: -2048,
            kernel: None,
        }],
        loads: vec![Load {
            throughput: vec![
                Throughput { clients: 8, purges: false, per_second: 120.0 },
                Throughput { clients: 8, purges: true, per_second: 59.0 },
            ],
            crowds: vec![Crowd { live: 0, p50: 9.0, p95: 12.0 }, Crowd { live: 500, p50: 10.0, p95: 14.5 }],
            ..Load::new(COLD)
        }],
        isolation: vec![Measure {
            kind: "start, ms",
            name: ALL_MEASURES.to_owned(),
            without: summary(1.0),
            with: summary(2.5),
        }],
        daemon_rss: Some(50 << 20),
        not_measured: vec![("crun".to_owned(), "not installed".to_owned())],
    }
}

#[test]
fn the_table_lines_up_and_names_what_is_missing() {
    let text = text(&results());
    assert!(
        text.contains("exec true, after a pause   sandboxd  1  2.00  2.00  2.00  2.00        1.00\n"),
        "{text}"
    );
    assert!(
        text.contains("                           docker    1  75.0  75.0  75.0  75.0        37.5\n"),
        "{text}"
    );
    assert!(text.contains("not measured: crun: not installed\n"), "{text}");
    assert!(
        text.contains("start, ms  all that sandboxes have  3     1.00  2.50  1.50            2.50\n"),
        "{text}"
    );
}

#[test]
fn goals_are_met_missed_or_not_measured() {
    let verdicts: Vec<_> = goals(&results()).iter().map(|goal| (goal.name, goal.verdict())).collect();
    assert!(verdicts.contains(&("exec true, p50", "met")));
    assert!(verdicts.contains(&("stop, p50", "MISSED")));
    assert!(verdicts.contains(&("isolation at the start, all measures, p50", "met")));
    assert!(verdicts.contains(&("purge, p50", "not measured")));
    assert!(verdicts.contains(&("RSS of the daemon", "MISSED")));
    assert!(verdicts.contains(&("PSS of an idle sandbox", "met")));
    // Of these more is better.
    assert!(verdicts.contains(&("creates with exec, 8 clients, no pool", "met")));
    assert!(verdicts.contains(&("the same, each purged", "MISSED")));
}

#[test]
fn markdown_has_a_rule_under_each_head() {
    let text = markdown(&results());
    assert!(
        text.contains("| clients |  | per second |\n| --- | --- | --- |\n| 8 | sandboxd | 123 |\n"),
        "{text}"
    );
}

#[test]
fn json_keeps_every_row() {
    let json = json(&results());
    assert_eq!(json["rows"].as_array().unwrap().len(), 3);
    assert_eq!(json["rows"][1]["ms"], 75.04);
    assert_eq!(json["not_measured"][0]["contender"], "crun");
}

#[test]
fn load_is_told_drawn_and_kept() {
    let mut results = results();
    results.loads[0].burst = Some(Burst { count: 100, seconds: 0.9 });
    let text = text(&results);
    assert!(text.contains("create, exec, purge: 8 clients  sandboxd, no pool  59.0 per s\n"), "{text}");
    assert!(text.contains("500   sandboxd, no pool  10.0  14.5\n"), "{text}");
    let kept = json(&results);
    assert_eq!(
        (&kept["loads"][0]["burst"]["count"], &kept["loads"][0]["crowds"][1]["p95_ms"]),
        (&100.into(), &14.5.into())
    );
    let drawn = load_svg(&results.loads);
    // Two of throughput, two sizes of crowd twice.
    assert_eq!(drawn.matches("<circle").count(), 6);
    assert!(load_svg(&[]).ends_with("</svg>\n"));
}

#[test]
fn figures_have_three_digits() {
    let check = |value, text: &str| assert_eq!(figure(value), text);
    check(1234.5, "1234");
    check(12.34, "12.3");
    check(0.1, "0.10");
    check(0.0321, "0.032");
    check(-0.5, "-0.50");
}

#[test]
fn percentiles_are_nearest_ranks() {
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    let summary = Summary::of(hundred).unwrap();
    assert_eq!((summary.p50, summary.p95, summary.p99, summary.max), (50.0, 95.0, 99.0, 100.0));
    let three = Summary::of([30.0, 10.0, 20.0]).unwrap();
    assert_eq!((three.count, three.p50, three.p95, three.p99, three.max), (3, 20.0, 30.0, 30.0, 30.0));
    let one = Summary::of([7.0]).unwrap();
    assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    assert_eq!(Summary::of([]), None);
}

#[test]
fn a_summary_is_of_its_own_samples_only() {
    let sample = |contender, operation, milliseconds| Sample { contender, operation, round: 0, milliseconds };
    let samples = [
        sample("a", Operation::Exec, 1.0),
        sample("b", Operation::Exec, 2.0),
        sample("a", Operation::Stop, 3.0),
    ];
    assert_eq!(Summary::select(&samples, "b", Operation::Exec).unwrap().max, 2.0);
    assert_eq!(Summary::select(&samples, "b", Operation::Stop), None);
}
