//! Figures for Prometheus; names keep to those of the former product where the thing is the same.

use std::time::Duration;

use super::trace::Phase;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// From 0.1 ms to 30 s, in seconds.
const BUCKETS: [f64; 17] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// All figures; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    api_requests: IntCounterVec,
    api_duration: HistogramVec,
    preview_requests: IntCounterVec,
    preview_duration: Histogram,
    sandboxes: IntGaugeVec,
    wakes: IntCounterVec,
    events: IntCounterVec,
    leftovers: IntCounterVec,
    wake_duration: Histogram,
    freeze_duration: Histogram,
    thaw_duration: Histogram,
    create_duration: Histogram,
    stop_duration: Histogram,
    purge_duration: Histogram,
    exec_duration: Histogram,
    phases: HistogramVec,
    pool_claims: IntCounterVec,
    pool_members: IntGaugeVec,
    resident_bytes: IntGauge,
    open_fds: IntGauge,
    threads: IntGauge,
}

impl Metrics {
    /// Registers every figure.
    #[expect(clippy::new_without_default, reason = "made once, by the daemon")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            api_requests: counters(
                r,
                "api_requests_total",
                "Requests to the API.",
                &["endpoint", "method", "code"],
            ),
            api_duration: histograms(
                r,
                "api_request_duration_seconds",
                "How long requests to the API take.",
                &["endpoint"],
            ),
            preview_requests: counters(r, "preview_requests_total", "Requests to previews.", &["code"]),
            preview_duration: histogram(
                r,
                "preview_request_duration_seconds",
                "From a preview's request to the head of its answer.",
            ),
            sandboxes: gauges(r, "sandboxes_total", "Sandboxes by status.", &["status"]),
            wakes: counters(r, "wakes_total", "Starts of sleeping sandboxes.", &["outcome"]),
            events: counters(r, "events_total", "What has happened to sandboxes.", &["event"]),
            leftovers: counters(
                r,
                "leftovers_removed_total",
                "What was on the host and in no record, or had lost what it is reached by.",
                &[],
            ),
            wake_duration: histogram(r, "wake_duration_seconds", "How long such a start takes."),
            freeze_duration: histogram(r, "freeze_duration_seconds", "How long a freeze takes."),
            thaw_duration: histogram(r, "thaw_duration_seconds", "How long a thaw takes."),
            create_duration: histogram(
                r,
                "create_duration_seconds",
                "From a create to a sandbox that takes an exec.",
            ),
            stop_duration: histogram(r, "stop_duration_seconds", "How long a stop takes."),
            purge_duration: histogram(
                r,
                "purge_duration_seconds",
                "How long a purge takes, its files included.",
            ),
            exec_duration: histogram(r, "exec_duration_seconds", "How long commands run."),
            phases: histograms(
                r,
                "phase_duration_seconds",
                "How long the parts of an operation take; parts may run side by side.",
                &["operation", "phase"],
            ),
            pool_claims: counters(
                r,
                "pool_claims_total",
                "Launches by whether one made ahead was there.",
                &["outcome"],
            ),
            pool_members: gauges(r, "pool_members", "What is kept ready for the next launches.", &["kind"]),
            resident_bytes: gauge(r, "process_resident_memory_bytes", "Memory of the daemon."),
            open_fds: gauge(r, "process_open_fds", "Open descriptors of the daemon."),
            threads: gauge(r, "process_threads", "Threads of the daemon."),
            registry,
        }
    }

    /// Counts a request to the API; the endpoint is the route's template, never the client's path.
    pub fn observe_api(&self, endpoint: &str, method: &str, code: u16, took: Duration) {
        self.api_requests.with_label_values(&[endpoint, method, &code.to_string()]).inc();
        self.api_duration.with_label_values(&[endpoint]).observe(took.as_secs_f64());
    }

    pub fn observe_preview(&self, code: u16, took: Duration) {
        self.preview_requests.with_label_values(&[&code.to_string()]).inc();
        self.preview_duration.observe(took.as_secs_f64());
    }

    pub fn count_wake(&self, outcome: &str, took: Duration) {
        self.wakes.with_label_values(&[outcome]).inc();
        self.wake_duration.observe(took.as_secs_f64());
    }

    pub fn count_event(&self, event: &str) {
        self.events.with_label_values(&[event]).inc();
    }

    pub fn count_leftover(&self) {
        self.leftovers.with_label_values::<&str>(&[]).inc();
    }

    pub fn observe_freeze(&self, took: Duration) {
        self.freeze_duration.observe(took.as_secs_f64());
    }

    pub fn observe_thaw(&self, took: Duration) {
        self.thaw_duration.observe(took.as_secs_f64());
    }

    pub fn observe_create(&self, took: Duration) {
        self.create_duration.observe(took.as_secs_f64());
    }

    pub fn observe_stop(&self, took: Duration) {
        self.stop_duration.observe(took.as_secs_f64());
    }

    pub fn observe_purge(&self, took: Duration) {
        self.purge_duration.observe(took.as_secs_f64());
    }

    pub fn observe_exec(&self, took: Duration) {
        self.exec_duration.observe(took.as_secs_f64());
    }

    pub fn observe_phases(&self, operation: &str, phases: &[Phase]) {
        for phase in phases {
            self.phases.with_label_values(&[operation, phase.name]).observe(phase.took.as_secs_f64());
        }
    }

    /// Counts a launch: `hit` if one made ahead was there, `miss` if not, `failed` if it could not be used.
    pub fn count_pool(&self, outcome: &str) {
        self.pool_claims.with_label_values(&[outcome]).inc();
    }

    pub fn set_pool(&self, kind: &str, members: usize) {
        self.pool_members.with_label_values(&[kind]).set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    /// Writes everything in Prometheus' text form; `sandboxes` are the numbers by status.
    pub fn render(&self, sandboxes: &[(&str, u64)]) -> String {
        for (status, number) in sandboxes {
            self.sandboxes.with_label_values(&[status]).set(i64::try_from(*number).unwrap_or(i64::MAX));
        }
        let (resident, threads) = own_status();
        self.resident_bytes.set(resident);
        self.threads.set(threads);
        self.open_fds.set(open_fds());
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _infallible: prometheus::Result<()> =
            TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

/// Resident bytes and threads, from `/proc/self/status` — man 5 proc_pid_status.
fn own_status() -> (i64, i64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> i64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (field("VmRSS:") * 1024, field("Threads:"))
}

/// How many descriptors are open. Since Linux 6.2 the directory's size says so (Documentation/filesystems/proc.rst);
/// before, they have to be counted.
fn open_fds() -> i64 {
    let directory = "/proc/self/fd";
    let told = std::fs::metadata(directory).map_or(0, |found| found.len());
    let number = if told > 0 {
        told
    } else {
        std::fs::read_dir(directory).map_or(0, |entries| entries.map(|_| 1).sum())
    };
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("sandboxd_{name}"), help)
}

fn register<T: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<T>,
) -> T {
    let figure = made.expect("a figure's name and labels are constants that the tests have seen");
    registry
        .register(Box::new(figure.clone()))
        .expect("a figure's name is unique, which the tests have seen");
    figure
}

fn counters(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(r, IntCounterVec::new(opts(name, help), labels))
}

fn gauges(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(r, IntGaugeVec::new(opts(name, help), labels))
}

fn gauge(r: &Registry, name: &str, help: &str) -> IntGauge {
    register(r, IntGauge::with_opts(opts(name, help)))
}

fn histogram(r: &Registry, name: &str, help: &str) -> Histogram {
    register(r, Histogram::with_opts(HistogramOpts::from(opts(name, help)).buckets(BUCKETS.to_vec())))
}

fn histograms(r: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    register(r, HistogramVec::new(HistogramOpts::from(opts(name, help)).buckets(BUCKETS.to_vec()), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_with_their_labels() {
        let metrics = Metrics::new();
        metrics.observe_api("/sandbox", "POST", 201, Duration::from_millis(3));
        metrics.count_wake("ok", Duration::from_millis(20));
        let text = metrics.render(&[("running", 2)]);
        for line in [
            "sandboxd_api_requests_total{code=\"201\",endpoint=\"/sandbox\",method=\"POST\"} 1",
            "sandboxd_sandboxes_total{status=\"running\"} 2",
            "sandboxd_wakes_total{outcome=\"ok\"} 1",
            "sandboxd_api_request_duration_seconds_bucket{endpoint=\"/sandbox\",le=\"0.005\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("process_resident_memory_bytes 0"));
    }
}
