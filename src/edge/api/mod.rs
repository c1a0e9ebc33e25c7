//! HTTP in, requests to the core out.
//!
//! Handlers check, convert and pass on; one table (in [`error`]) says which status and body an error
//! has. Everything that a client sends is hostile: sizes are bounded before anything is read, and
//! everything is checked before anything is made.

mod app;
mod apps;
mod auth;
mod convert;
mod error;
mod events;
mod exec;
mod extract;
mod files;
mod hosts;
mod ignored;
mod large;
mod layers;
mod openapi;
mod process_events;
mod process_socket;
mod processes;
mod quoted;
mod respond;
mod sandboxes;
mod system;
mod unknown;
mod v1;

use app::App;
pub use app::Config;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use sandbox::Supervisor;
use telemetry::Metrics;

pub use auth::{Auth, Pass, new_key};
pub use hosts::Hosts;
pub use openapi::document as openapi_document;

/// The most bytes of a JSON body.
const JSON_BYTES_MAX: usize = 1024 * 1024;

/// Builds the service of the whole API.
pub fn router(config: Config, supervisor: Supervisor, metrics: Metrics) -> Router {
    let event_readers = std::sync::Arc::new(tokio::sync::Semaphore::new(events::READERS_MAX));
    let app = App { config: std::sync::Arc::new(config), supervisor, metrics, event_readers };
    Router::new()
        .route("/sandbox", post(sandboxes::create))
        .route("/sandboxes", get(sandboxes::list))
        .route("/sandbox/{id}", get(sandboxes::show).delete(sandboxes::delete))
        .route("/sandbox/{id}/purge", post(sandboxes::purge))
        .route("/sandbox/{id}/exec", post(exec::exec))
        .route("/sandbox/{id}/keepalive", post(sandboxes::keepalive))
        .route("/sandbox/{id}/claim", post(sandboxes::claim))
        .route("/wake/{id}", post(sandboxes::wake))
        .route("/external-users/{user}/purge", post(sandboxes::purge_user))
        .route("/external-projects/{project}/purge", post(sandboxes::purge_project))
        .route("/v1/sandboxes", get(v1::list).post(v1::create))
        .route("/v1/sandboxes/{id}", get(v1::show).patch(v1::update).delete(v1::delete))
        .route("/v1/sandboxes/{id}/start", post(v1::start))
        .route("/v1/sandboxes/{id}/stop", post(v1::stop))
        .route("/v1/sandboxes/{id}/pause", post(v1::pause))
        .route("/v1/sandboxes/{id}/resume", post(v1::resume))
        .route("/v1/sandboxes/{id}/stats", get(v1::stats))
        .merge(files::routes())
        .route("/v1/sandboxes/{id}/processes/{name}/logs", get(apps::logs))
        .route("/v1/sandboxes/{id}/processes", get(processes::list).post(processes::start))
        .route("/v1/sandboxes/{id}/processes/{pid}", get(processes::show).delete(processes::delete))
        .route("/v1/sandboxes/{id}/processes/{pid}/output", get(processes::output))
        .route("/v1/sandboxes/{id}/processes/{pid}/stdin", post(processes::stdin))
        .route("/v1/sandboxes/{id}/processes/{pid}/signal", post(processes::signal))
        .route("/v1/sandboxes/{id}/processes/{pid}/resize", post(processes::resize))
        .route("/v1/sandboxes/{id}/terminal", get(processes::terminal))
        .route("/v1/presets", get(apps::presets))
        .route("/v1/runtime/manifest/validate", post(apps::validate))
        .route("/v1/events", get(events::follow))
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/metrics", get(system::metrics))
        .route("/openapi.json", get(openapi::serve))
        .fallback(system::not_found)
        .method_not_allowed_fallback(system::method_not_allowed)
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .layer(from_fn_with_state(app.clone(), layers::guard))
        .layer(from_fn_with_state(app.clone(), layers::observe))
        .with_state(app)
}
