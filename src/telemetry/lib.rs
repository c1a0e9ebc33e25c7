//! Sets up logs, metrics and the timing of requests; no policy.

mod logs;
mod metrics;
mod trace;

pub use logs::{LogError, init};
pub use metrics::Metrics;
pub use trace::{Phase, Trace, phase};
