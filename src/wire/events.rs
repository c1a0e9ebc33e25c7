//! What has happened to sandboxes.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::MemoryStats;

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Of this sandbox only.
    pub sandbox: Option<String>,
    /// Those after this number, 0 for all that are kept; from now on when left out.
    pub from: Option<u64>,
}

/// What has happened to a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventData {
    pub sandbox_id: String,
    pub at: String,
    /// Why it runs, is paused or stopped: `request`, `use`, `idle`, `memory`, `lost` or `server`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Of `deleted`: whether the workspace is gone too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purged: Option<bool>,
    /// Of `oom`: how many processes the kernel has killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<u64>,
    /// Of `oom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStats>,
    /// Of `error`, and of `stopped` for want of memory: what was so, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
