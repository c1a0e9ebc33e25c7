//! The routes of `/v1/sandboxes`.

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::auth::Pass;
use super::error::{ApiError, Style};
use crate::api::app::App;
use crate::api::extract::{Body1, Id, Query};
use crate::api::respond::Json;
use crate::api::{convert, large};
use model::SandboxId;
use sandbox::{Created, Error};
use wire::{CreateV1Body, ListV1Query, PatchBody, Sandbox, SandboxList, Stats, V1Error};

const PAGE: usize = 100;
const PAGE_MAX: usize = 500;

/// Create the sandbox of a project
///
/// A project has one sandbox: where it exists already, it is answered with 200.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "v1", request_body = CreateV1Body, responses(
    (status = 201, description = "Made", body = Sandbox), (status = 200, description = "The project has one already", body = Sandbox),
    (status = 400, body = V1Error), (status = 403, description = "The key demands a stronger isolation", body = V1Error),
    (status = 409, description = "This server cannot give such an isolation; it says what is missing", body = V1Error),
    (status = 503, body = V1Error), (status = 507, body = V1Error)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(pass): Extension<Pass>,
    Body1(body): Body1<CreateV1Body>,
) -> Result<Response, ApiError> {
    let mut request = convert::create_v1_request(body)?;
    request.isolation = pass.isolation(Style::V1, request.isolation).map(Some)?;
    let (status, snapshot) = match app.supervisor.create(request).await.map_err(core)? {
        Created::New(snapshot) => (StatusCode::CREATED, snapshot),
        Created::Existing(snapshot) => {
            // It may be older than the demand, or another key's.
            let _as_strong = pass.isolation(Style::V1, Some(snapshot.record.spec.isolation))?;
            (StatusCode::OK, snapshot)
        }
    };
    Ok((status, Json(convert::sandbox(&app, &snapshot))).into_response())
}

/// List sandboxes by page
///
/// By id, the newest first. `next_cursor` of a page is the `cursor` of the next one.
#[utoipa::path(get, path = "/v1/sandboxes", tag = "v1", params(ListV1Query), responses(
    (status = 200, description = "By id, the newest first", body = SandboxList), (status = 400, body = V1Error)))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<ListV1Query>,
) -> Result<Response, ApiError> {
    let status = query
        .status
        .map(|s| s.parse().map_err(|()| Style::V1.invalid(format!("status: there is no {s:?}"))))
        .transpose()?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Style::V1.invalid(format!("limit is from 1 to {PAGE_MAX}")));
    }
    let cursor: Option<SandboxId> = query
        .cursor
        .map(|c| c.parse().map_err(|_e| Style::V1.invalid("cursor is not one of ours")))
        .transpose()?;
    // By id alone, so that a page is the same wherever the one before ended.
    let (page, last) = app.supervisor.page(status, cursor, limit);
    let behind = last.map_or_else(|| "]}\n".to_owned(), |id| format!("],\"next_cursor\":\"{id}\"}}\n"));
    Ok(large::list("{\"sandboxes\":[", page.map(move |s| convert::sandbox(&app, &s)), behind))
}

/// Show a sandbox with its app
///
/// Answers its state, limits, and the preview and processes of its app.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "v1", params(("id" = String, Path)), responses(
    (status = 200, body = Sandbox), (status = 404, body = V1Error)))]
pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Json<Sandbox>, ApiError> {
    let snapshot = app.supervisor.snapshot(id).map_err(core)?;
    Ok(Json(convert::sandbox(&app, &snapshot)))
}

/// Start a sandbox
///
/// Answers when it takes commands. A sandbox that runs already is answered at once.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/start", tag = "v1", params(("id" = String, Path)), responses(
    (status = 200, body = Sandbox), (status = 404, body = V1Error), (status = 409, body = V1Error), (status = 503, body = V1Error)))]
pub(super) async fn start(State(app): State<App>, Id(id): Id) -> Result<Json<Sandbox>, ApiError> {
    let started = app.supervisor.start_sandbox(id).await.map_err(core)?;
    Ok(Json(convert::sandbox(&app, &started.snapshot)))
}

/// Stop a sandbox
///
/// Ends its processes and keeps its files. The next use starts it again.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/stop", tag = "v1", params(("id" = String, Path)), responses(
    (status = 200, body = Sandbox), (status = 404, body = V1Error), (status = 409, body = V1Error)))]
pub(super) async fn stop(State(app): State<App>, Id(id): Id) -> Result<Json<Sandbox>, ApiError> {
    let snapshot = app.supervisor.stop(id).await.map_err(core)?;
    Ok(Json(convert::sandbox(&app, &snapshot)))
}

/// Freeze a sandbox
///
/// It uses no processor time and keeps its memory; every use thaws it.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", tag = "v1", params(("id" = String, Path)), responses(
    (status = 200, description = "Frozen: memory, sockets and timers are kept; every use thaws it", body = Sandbox),
    (status = 404, body = V1Error), (status = 409, body = V1Error)))]
pub(super) async fn pause(State(app): State<App>, Id(id): Id) -> Result<Json<Sandbox>, ApiError> {
    let snapshot = app.supervisor.pause(id).await.map_err(core)?;
    Ok(Json(convert::sandbox(&app, &snapshot)))
}

/// Thaw a sandbox
///
/// A running sandbox is answered as it is; a stopped one is refused, since only a start brings it back.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", tag = "v1", params(("id" = String, Path)), responses(
    (status = 200, body = Sandbox), (status = 404, body = V1Error), (status = 409, body = V1Error), (status = 503, body = V1Error)))]
pub(super) async fn resume(State(app): State<App>, Id(id): Id) -> Result<Json<Sandbox>, ApiError> {
    let snapshot = app.supervisor.resume(id).await.map_err(core)?;
    Ok(Json(convert::sandbox(&app, &snapshot)))
}

/// Change a sandbox's limits and sleep
///
/// What is left out stays as it is. Limits are in force at once, but `nofile`: from the next start.
#[utoipa::path(patch, path = "/v1/sandboxes/{id}", tag = "v1", params(("id" = String, Path)), request_body = PatchBody, responses(
    (status = 200, description = "In force at once", body = Sandbox), (status = 400, body = V1Error), (status = 404, body = V1Error)))]
pub(super) async fn update(
    State(app): State<App>,
    Id(id): Id,
    Body1(body): Body1<PatchBody>,
) -> Result<Json<Sandbox>, ApiError> {
    let request = convert::update_request(body)?;
    let snapshot = app.supervisor.update(id, request).await.map_err(core)?;
    Ok(Json(convert::sandbox(&app, &snapshot)))
}

/// Show what a sandbox uses
///
/// Memory, processors, processes, disk and pressure, as the kernel counts them.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/stats", tag = "v1", params(("id" = String, Path)), responses(
    (status = 200, body = Stats), (status = 404, body = V1Error)))]
pub(super) async fn stats(State(app): State<App>, Id(id): Id) -> Result<Json<Stats>, ApiError> {
    let stats = app.supervisor.stats(id).await.map_err(core)?;
    Ok(Json(convert::stats(&stats)))
}

/// Delete a sandbox and its workspace
///
/// Ends its processes and frees its disk space.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", tag = "v1", params(("id" = String, Path)), responses(
    (status = 204, description = "The sandbox and its workspace are gone"), (status = 404, body = V1Error)))]
pub(super) async fn delete(State(app): State<App>, Id(id): Id) -> Result<StatusCode, ApiError> {
    app.supervisor.snapshot(id).map_err(core)?;
    app.supervisor.purge(id).await.map_err(core)?;
    Ok(StatusCode::NO_CONTENT)
}

fn core(error: Error) -> ApiError {
    Style::V1.of_core(&error)
}
