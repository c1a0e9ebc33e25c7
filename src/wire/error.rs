//! Error bodies.

use serde::Serialize;
use utoipa::ToSchema;

/// The error of `/sandbox*`, `/sandboxes` and `/wake`.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompatError {
    pub error: String,
    /// With `low_memory` and `wakes_refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_available_percent: Option<f64>,
}

/// The error of `/v1/*`.
#[derive(Debug, Serialize, ToSchema)]
pub struct V1Error {
    pub error: V1ErrorBody,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct V1ErrorBody {
    #[schema(example = "invalid_request")]
    pub code: &'static str,
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Where a command could not be started: what a shell would end with, 127 or 126.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}
