//! The compatible routes of sandboxes.

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::auth::Pass;
use super::error::{ApiError, Style};
use crate::api::app::App;
use crate::api::extract::{Id, Query};
use crate::api::ignored::Tolerant;
use crate::api::respond::Json;
use crate::api::{convert, large};
use model::External;
use sandbox::{Created, Error, Filter};
use wire::{
    ClaimBody, Claimed, CompatError, CreateBody, KeepaliveBody, KeptAlive, ListQuery, Purged, PurgedMany,
    Row, SandboxDetail, Woken,
};

/// Create a sandbox
///
/// Answers when the sandbox takes commands; its app may still be starting. Every field, and the body
/// itself, may be left out. Unknown fields are ignored and named in `warnings`.
#[utoipa::path(post, path = "/sandbox", tag = "sandboxes", request_body = Option<CreateBody>, responses(
    (status = 201, description = "The sandbox can take an exec", body = Row),
    (status = 400, body = CompatError), (status = 403, description = "The key demands a stronger isolation", body = CompatError), (status = 409, body = CompatError), (status = 413, body = CompatError),
    (status = 503, description = "Memory is short; see Retry-After", body = CompatError), (status = 507, body = CompatError)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(pass): Extension<Pass>,
    Tolerant { body, warnings }: Tolerant<CreateBody>,
) -> Result<Response, ApiError> {
    let mut request = convert::create_request(body)?;
    request.isolation = pass.isolation(Style::Compat, request.isolation).map(Some)?;
    let (Created::New(snapshot) | Created::Existing(snapshot)) =
        app.supervisor.create(request).await.map_err(core)?;
    let row = Row { warnings, ..convert::row(&app, &snapshot) };
    Ok((StatusCode::CREATED, Json(row)).into_response())
}

/// List sandboxes
///
/// Answers all sandboxes, the newest first; the query narrows them by owner.
#[utoipa::path(get, path = "/sandboxes", tag = "sandboxes", params(ListQuery), responses((status = 200, description = "The newest first", body = [Row])))]
pub(super) async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Response {
    let filter = Filter {
        external_user_id: query.external_user_id.filter(|t| !t.is_empty()),
        external_project_id: query.external_project_id.filter(|t| !t.is_empty()),
    };
    let found = app.supervisor.list(&filter);
    large::list("[", found.map(move |s| convert::row(&app, &s)), "]\n".to_owned())
}

/// Show a sandbox
///
/// Answers its row, what runs of it now, and the state of its app.
#[utoipa::path(get, path = "/sandbox/{id}", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 200, body = SandboxDetail), (status = 404, body = CompatError)))]
pub(super) async fn show(State(app): State<App>, Id(id): Id) -> Result<Json<SandboxDetail>, ApiError> {
    let snapshot = app.supervisor.snapshot(id).map_err(core)?;
    Ok(Json(convert::detail(&app, &snapshot)))
}

/// Delete a sandbox and keep its workspace
///
/// Ends its processes. A later create with the same id attaches the workspace again.
#[utoipa::path(delete, path = "/sandbox/{id}", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 204, description = "The sandbox is gone, its workspace is kept"), (status = 404, body = CompatError)))]
pub(super) async fn delete(State(app): State<App>, Id(id): Id) -> Result<StatusCode, ApiError> {
    app.supervisor.delete(id).await.map_err(core)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a sandbox and its workspace
///
/// Ends its processes and frees its disk space. An unknown id is answered the same way.
#[utoipa::path(post, path = "/sandbox/{id}/purge", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 200, description = "The sandbox and its workspace are gone; also for an id that is unknown", body = Purged)))]
pub(super) async fn purge(State(app): State<App>, Id(id): Id) -> Result<Json<Purged>, ApiError> {
    let freed_bytes = app.supervisor.purge(id).await.map_err(core)?;
    Ok(Json(Purged { purged: true, freed_bytes }))
}

/// Keep a sandbox awake
///
/// Until `until` idleness neither freezes nor stops it; without a body, for the idle time from now.
#[utoipa::path(post, path = "/sandbox/{id}/keepalive", tag = "sandboxes", params(("id" = String, Path)), request_body = Option<KeepaliveBody>, responses(
    (status = 200, body = KeptAlive), (status = 400, body = CompatError), (status = 404, body = CompatError)))]
pub(super) async fn keepalive(
    State(app): State<App>,
    Id(id): Id,
    Tolerant { body, warnings }: Tolerant<KeepaliveBody>,
) -> Result<Json<KeptAlive>, ApiError> {
    let keepalive_until = app.supervisor.keepalive(id, body.until).await.map_err(core)?;
    Ok(Json(KeptAlive { id: id.to_string(), keepalive_until, warnings }))
}

/// Give a sandbox an owner
///
/// Sets the owner of a sandbox without one; another owner than its own is refused with 409.
#[utoipa::path(post, path = "/sandbox/{id}/claim", tag = "sandboxes", params(("id" = String, Path)), request_body = ClaimBody, responses(
    (status = 200, body = Claimed), (status = 400, body = CompatError), (status = 404, body = CompatError), (status = 409, body = CompatError)))]
pub(super) async fn claim(
    State(app): State<App>,
    Id(id): Id,
    Tolerant { body, warnings }: Tolerant<ClaimBody>,
) -> Result<Json<Claimed>, ApiError> {
    if body.external_user_id.is_empty() {
        return Err(Style::Compat.invalid("external_user_id is empty"));
    }
    let external_user_id = body.external_user_id.clone();
    let owner =
        External::new(Some(body.external_user_id), body.external_project_id, body.external_workspace_id)
            .map_err(|e| Style::Compat.invalid(e.to_string()))?;
    app.supervisor.claim(id, owner).await.map_err(core)?;
    Ok(Json(Claimed { id: id.to_string(), external_user_id, claimed: true, warnings }))
}

/// Start a stopped sandbox
///
/// Answers when it takes commands. A sandbox that runs already is answered at once.
#[utoipa::path(post, path = "/wake/{id}", tag = "sandboxes", params(("id" = String, Path)), responses(
    (status = 200, body = Woken), (status = 404, body = CompatError), (status = 503, body = CompatError)))]
pub(super) async fn wake(State(app): State<App>, Id(id): Id) -> Result<Json<Woken>, ApiError> {
    let started = app.supervisor.start_sandbox(id).await.map_err(core)?;
    let wake_duration_ms = u64::try_from(started.took.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(Woken { id: id.to_string(), status: started.snapshot.record.status.as_str(), wake_duration_ms }))
}

/// Purge all sandboxes of a user
///
/// Deletes the sandboxes and workspaces of one `external_user_id`.
#[utoipa::path(post, path = "/external-users/{user}/purge", tag = "sandboxes", params(("user" = String, Path)), responses((status = 200, body = PurgedMany)))]
pub(super) async fn purge_user(
    State(app): State<App>,
    Path(user): Path<String>,
) -> Result<Json<PurgedMany>, ApiError> {
    let (purged_count, freed_bytes) = app.supervisor.purge_of_user(&user).await.map_err(core)?;
    Ok(Json(PurgedMany { purged_count, freed_bytes }))
}

/// Purge all sandboxes of a project
///
/// Deletes the sandboxes and workspaces of one `external_project_id`.
#[utoipa::path(post, path = "/external-projects/{project}/purge", tag = "sandboxes", params(("project" = String, Path)), responses((status = 200, body = PurgedMany)))]
pub(super) async fn purge_project(
    State(app): State<App>,
    Path(project): Path<String>,
) -> Result<Json<PurgedMany>, ApiError> {
    let (purged_count, freed_bytes) = app.supervisor.purge_of_project(&project).await.map_err(core)?;
    Ok(Json(PurgedMany { purged_count, freed_bytes }))
}

fn core(error: Error) -> ApiError {
    Style::Compat.of_core(&error)
}
