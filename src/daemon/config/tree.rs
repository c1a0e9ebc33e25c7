//! The settings as one tree.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::{ByteSize, IdBase, Isolation};
use network::{Net, Pool};

/// The name of the key that the server makes itself.
pub const OWN_KEY: &str = "api-key";

/// Everything that can be set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub api_addr: SocketAddr,
    pub preview_addr: SocketAddr,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub database: PathBuf,
    pub backup_interval: Duration,
    pub rootfs: PathBuf,
    pub image: String,
    pub init: PathBuf,
    pub templates_dir: PathBuf,
    pub instance: String,
    pub preview_domain: String,
    pub preview_tls: bool,
    pub public_http_port: u16,
    pub api_tokens: Vec<(String, Secret)>,
    pub require_isolation: bool,
    pub isolation_waivers: Vec<String>,
    pub min_isolation: Isolation,
    /// By the names of keys.
    pub token_min_isolation: Vec<(String, Isolation)>,
    pub nested_namespaces: bool,
    pub api_auth_disabled: bool,
    pub memory_max: ByteSize,
    pub set_memory_high: bool,
    pub sandboxes_max: usize,
    pub freeze_after: Duration,
    pub idle_threshold: Duration,
    pub silent_connection: Duration,
    pub probe_user_agents: Vec<String>,
    pub probe_paths: Vec<String>,
    pub idle_reap_interval: Duration,
    pub keepalive_max: Duration,
    pub sweep_interval: Duration,
    pub pressure_interval: Duration,
    pub headroom_percent: u8,
    pub refuse_wakes_percent: u8,
    pub emergency_percent: u8,
    pub pressure_percent: u8,
    pub wake_cost: ByteSize,
    pub pool_size: usize,
    pub pool_memory: ByteSize,
    pub launch_spares: usize,
    pub ready_timeout: Duration,
    pub wake_timeout: Duration,
    pub stop_grace: Duration,
    pub edge: Edge,
    pub drain: Duration,
    pub files_max: ByteSize,
    pub tree_bytes_max: ByteSize,
    pub tree_entries_max: u64,
    pub processes_max: usize,
    pub process_output: ByteSize,
    pub process_stall: Duration,
    pub process_input: Duration,
    pub terminal_hang_up: Duration,
    pub keep_alive: Duration,
    pub ca_bundle: Option<PathBuf>,
    pub network_pool: Pool,
    pub networks_open: Vec<Net>,
    pub user_namespaces: UserNamespaces,
    pub id_base: IdBase,
    pub runsc: PathBuf,
    pub log_filter: String,
    pub log_json: Option<bool>,
    /// Settings of the former product that mean nothing here.
    pub ignored: Vec<String>,
    /// What the environment has that is no setting, one sentence each.
    pub warnings: Vec<String>,
    /// Every setting with its value as text and where it came from; secrets are not shown.
    pub described: Vec<(&'static str, String, String)>,
}

/// What clients and apps may take up, and how the API may be named.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The most of one address to each listener; `None`: half of what the limit on open files allows a listener.
    pub client_connections: Option<usize>,
    /// The most that are open to the apps of one sandbox.
    pub preview_requests: usize,
    /// How long an app may take to begin its answer.
    pub preview_answer: Duration,
    /// Further names of an API without keys, in lower case.
    pub api_hosts: Vec<String>,
}

/// Whether sandboxes have user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespaces {
    /// Where the host can.
    Auto,
    /// Without them the server does not start.
    Require,
    Off,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Everything that is wrong with the settings, one sentence each; never empty.
#[derive(Debug, thiserror::Error)]
#[error("use the settings:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);
