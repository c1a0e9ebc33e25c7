//! Sets up logs and metrics; no policy.

mod logs;
mod metrics;

pub use logs::{LogError, init};
pub use metrics::Metrics;
