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

mod body;
mod error;
mod forward;
mod frames;
mod headers;
mod heads;
mod listener;
mod meter;
mod paced;
mod pages;
mod probes;
mod requests;
mod room;
mod route;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::room::{Apps, Parts, Quota, Room};
use sandbox::Supervisor;
use telemetry::Metrics;

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
    bounds: Bounds,
}

/// What clients and apps may take up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The process's limit on open files, of which connections have a part.
    pub open_files: u64,
    /// The most connections of one client address to one listener; `None`: half of what that can have.
    pub client_connections: Option<usize>,
    /// The most requests and tunnels that are open to the apps of one sandbox.
    pub sandbox_requests: usize,
    /// How long an app may take to begin its answer since it was last sent something.
    pub answer: Duration,
}

/// The previews of all sandboxes.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    supervisor: Supervisor,
    metrics: Metrics,
    held: Arc<Semaphore>,
    api_room: Arc<Room>,
    preview_room: Arc<Room>,
    /// Requests for previews on the API's listener.
    api_previews: Arc<Quota>,
    apps: Arc<Apps>,
    /// Connections to apps, and tunnels.
    tasks: TaskTracker,
}

impl Config {
    pub fn new(domain: String, tls: bool, probes: Probes, bounds: Bounds) -> Self {
        Self { domain, scheme: if tls { "https" } else { "http" }, probes, bounds }
    }
}

impl Proxy {
    pub fn new(config: Config, supervisor: Supervisor, metrics: Metrics) -> Self {
        let Parts { api, previews, apps } = Parts::of(config.bounds.open_files);
        let room = |max: usize| Room::new(max, config.bounds.client_connections.unwrap_or(max / 2));
        Self {
            api_room: room(api),
            preview_room: room(previews),
            api_previews: Quota::new(api / 2),
            apps: Apps::new(apps, config.bounds.sandbox_requests),
            config,
            supervisor,
            metrics,
            held: Arc::new(Semaphore::new(HELD_MAX)),
            tasks: TaskTracker::new(),
        }
    }

    /// How many connections of clients have gone since there were most of them, if they are at least `least`; then
    /// they are counted anew.
    pub fn gone(&self, least: usize) -> Option<usize> {
        let rooms = [&self.api_room, &self.preview_room];
        let gone = rooms.map(|room| room.gone(|gone| gone >= least));
        gone.into_iter().filter(|gone| *gone >= least).reduce(|a, b| a + b)
    }
}
