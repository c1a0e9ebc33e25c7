//! Routes about the server itself.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::error::Style;
use crate::api::app::App;
use crate::api::respond::Json;
use wire::CompatError;

/// Ask whether the server lives
///
/// Needs no key.
#[utoipa::path(get, path = "/healthz", tag = "system", security(()), responses((status = 200, description = "The server lives", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Ask whether sandboxes can be created
///
/// Needs no key.
#[utoipa::path(get, path = "/readyz", tag = "system", security(()), responses(
    (status = 200, description = "Sandboxes can be created", body = String),
    (status = 503, description = "They cannot, and why", body = CompatError)))]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    match app.supervisor.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(problem) => {
            tracing::error!(problem, "not ready");
            let body = CompatError {
                error: "not ready; the server's log says why".to_owned(),
                mem_available_percent: None,
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// Read the server's figures
///
/// In the text form of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, description = "Figures in Prometheus' text form", body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let counts = app.supervisor.counts();
    let numbers = [
        ("creating", counts.creating),
        ("running", counts.running),
        ("paused", counts.paused),
        ("stopped", counts.stopped),
        ("error", counts.error),
    ];
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics.render(&numbers)).into_response()
}

pub(super) async fn not_found(request: Request) -> Response {
    Style::of(request.uri().path()).not_found("no such route; see /openapi.json").into_response()
}

pub(super) async fn method_not_allowed(request: Request) -> Response {
    let style = Style::of(request.uri().path());
    style.error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "method not allowed").into_response()
}
