//! What every handler is given.

use crate::api::auth::Auth;
use crate::api::hosts::Hosts;
use sandbox::Supervisor;
use telemetry::Metrics;

/// How the API is served.
#[derive(Debug)]
pub struct Config {
    pub auth: Auth,
    /// By which names the API may be reached without a key, where none is needed.
    pub hosts: Hosts,
    /// The largest file that can be uploaded.
    pub files_bytes_max: u64,
    /// How often something is sent on a stream on which nothing happens.
    pub keep_alive: std::time::Duration,
    /// The name of the root file system that rows show.
    pub image: String,
    pub preview_domain: String,
    /// Whether preview URLs begin with `https`.
    pub preview_tls: bool,
    /// The port in preview URLs; left out when it is the scheme's own.
    pub public_port: u16,
    pub version: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) config: std::sync::Arc<Config>,
    pub(crate) supervisor: Supervisor,
    pub(crate) metrics: Metrics,
    pub(crate) event_readers: std::sync::Arc<tokio::sync::Semaphore>,
}
