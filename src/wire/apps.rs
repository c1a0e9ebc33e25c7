//! Bodies about what runs in a sandbox by itself.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How much of a log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// How many of the last lines, 0 to 10000; 200 when left out.
    #[param(minimum = 0, maximum = 10000)]
    pub tail: Option<usize>,
    /// Go on with what is printed from now on.
    #[serde(default)]
    pub follow: bool,
}

/// `POST /v1/runtime/manifest/validate`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestBody {
    /// The text of a `sandbox.yaml`.
    pub manifest: String,
}

/// What a new app can begin as.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preset {
    pub name: String,
    pub description: String,
    pub template: String,
    /// What is exposed when the client names no ports.
    pub ports: Vec<u16>,
    /// What runs by itself.
    pub process_names: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PresetList {
    pub presets: Vec<Preset>,
}

/// The end of a log.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLines {
    /// A line of more than 16 KiB is cut.
    pub lines: Vec<String>,
    pub process: String,
}

/// One line of a log that is followed.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLine {
    pub line: String,
}

/// What is wrong with a manifest.
#[derive(Debug, Serialize, ToSchema)]
pub struct ManifestReport {
    pub valid: bool,
    pub errors: Vec<String>,
}
