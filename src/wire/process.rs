//! Processes that clients run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// `POST /v1/sandboxes/{id}/processes`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessBody {
    #[schema(value_type = super::request::Command, example = json!(["bash", "-lc", "npm test"]))]
    pub cmd: Vec<String>,
    /// Added to the sandbox's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute; `/home/sandbox/workspace` when left out.
    #[schema(pattern = r"^/[^\x00]*$", max_length = 1024)]
    pub cwd: Option<String>,
    /// `sandbox`, which is also the default, or `root`: of the sandbox's user namespace, nobody outside.
    #[schema(pattern = "^(sandbox|root)$")]
    pub user: Option<String>,
    /// Gives it a terminal of this size, which is then its input and all of its output.
    pub tty: Option<SizeBody>,
    /// Whether it has an input; otherwise it reads `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// After so many seconds it is killed with everything that it has started.
    #[schema(minimum = 1, maximum = 604800)]
    pub timeout_s: Option<u64>,
    /// Lets the sandbox fall asleep under it.
    #[serde(default)]
    pub detach: bool,
    /// How much of its output is kept; at most, and when left out, what the server is set to.
    pub output_bytes: Option<u64>,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeBody {
    #[schema(minimum = 1, maximum = 1000)]
    pub cols: u16,
    #[schema(minimum = 1, maximum = 1000)]
    pub rows: u16,
}

/// `POST …/signal`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    #[schema(example = "TERM")]
    pub signal: String,
    /// `process`, `group` (default), or `tree`: everything that it has ever started.
    #[schema(pattern = "^(process|group|tree)$")]
    pub target: Option<String>,
}

/// `GET …/output`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OutputQuery {
    /// The offset to begin at; `Last-Event-ID` goes before it.
    #[serde(default)]
    pub from: u64,
    /// Whether to wait for more; true when left out.
    pub follow: Option<bool>,
}

/// `POST …/stdin`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StdinQuery {
    /// Whether the input ends after these bytes.
    #[serde(default)]
    pub eof: bool,
}

/// `GET …/terminal`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TerminalQuery {
    #[param(minimum = 1, maximum = 1000)]
    pub cols: Option<u16>,
    #[param(minimum = 1, maximum = 1000)]
    pub rows: Option<u16>,
    /// `sandbox`, which is also the default, or `root`.
    #[param(pattern = "^(sandbox|root)$")]
    pub user: Option<String>,
}

/// A process that a client has started.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunningProcess {
    pub id: String,
    /// `running`, `exited`, or `lost`: the sandbox ended under it.
    pub status: &'static str,
    /// Inside the sandbox.
    pub pid: i32,
    pub cmd: Vec<String>,
    pub cwd: String,
    pub user: &'static str,
    pub tty: bool,
    pub started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exited_at: Option<String>,
    /// 128 + n after signal n.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The name of the signal, without `SIG`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<bool>,
    pub output: ProcessOutput,
}

/// What there is of a process's output.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProcessOutput {
    /// The first offset that can be read.
    pub start: u64,
    /// The offset after the last byte.
    pub end: u64,
    pub dropped_bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ProcessList {
    pub processes: Vec<RunningProcess>,
}
