//! The manifest's validator.

use super::extract::{Body1, Json};
use crate::model::manifest::Manifest;
use crate::wire::{ManifestBody, ManifestReport, V1Error};

#[utoipa::path(post, path = "/v1/runtime/manifest/validate", tag = "apps", request_body = ManifestBody, responses(
    (status = 200, description = "Whether the manifest can be used, and if not, everything that is wrong", body = ManifestReport),
    (status = 400, body = V1Error)))]
pub(super) async fn validate(Body1(body): Body1<ManifestBody>) -> Json<ManifestReport> {
    let errors = Manifest::parse(body.manifest.as_bytes()).err().map(|e| e.0).unwrap_or_default();
    Json(ManifestReport { valid: errors.is_empty(), errors })
}
