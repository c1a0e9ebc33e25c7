//! Finds the sandbox for a request, wakes it, dials into its network, forwards.
//!
//! ```text
//! listener ─► exactly one valid host? ─no─► 400
//!                │ a preview's                      │ other
//!                ▼                                  ▼
//!             connect (wakes, holds) ─► forward   the API, or 404
//! ```
//!
//! The body of a request is not read before the app is connected, so a request that is held costs
//! nothing but its head. Each request has a connection of its own to the app: nothing that one
//! client left on a connection can ever reach another.

mod error;
mod forward;
mod frames;
mod headers;
mod listener;
mod meter;
mod pages;
mod probes;
mod route;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::sandbox::Supervisor;
use crate::telemetry::Metrics;

pub use listener::serve;
pub use probes::Probes;
pub use route::{Host, Route};

/// How many requests may be held at once for sandboxes that are being woken.
const HELD_MAX: usize = 4096;
/// After this a browser is shown that something is happening.
const BROWSER_BUDGET: Duration = Duration::from_millis(1500);

/// How previews are served.
#[derive(Debug, Clone)]
pub struct Config {
    domain: String,
    /// What the client used to reach whatever ends TLS in front of us.
    scheme: &'static str,
    probes: Probes,
}

/// The previews of all sandboxes.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    supervisor: Supervisor,
    metrics: Metrics,
    held: Arc<Semaphore>,
    /// Connections to apps, and tunnels.
    tasks: TaskTracker,
}

impl Config {
    pub fn new(domain: String, tls: bool, probes: Probes) -> Self {
        Self { domain, scheme: if tls { "https" } else { "http" }, probes }
    }
}

impl Proxy {
    pub fn new(config: Config, supervisor: Supervisor, metrics: Metrics) -> Self {
        Self {
            config,
            supervisor,
            metrics,
            held: Arc::new(Semaphore::new(HELD_MAX)),
            tasks: TaskTracker::new(),
        }
    }
}
