//! Files of a workspace, whether the sandbox runs or sleeps.

mod archive;
mod content;
mod terms;
mod watch;

use std::io::Write as _;
use terms::{base_of, core, mode_of, shown, shown_entry};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};

use super::error::ApiError;
use super::large;
use crate::api::app::App;
use crate::api::extract::{Body1, Id, Query};
use crate::api::respond::Json;
use sandbox::{Listing, Spool};
use wire::{BaseQuery, ChmodBody, EntryQuery, FileList, FileQuery, FileStat, MkdirBody, MoveBody, V1Error};

pub(super) use archive::{__path_download, __path_export, __path_upload, download, export, upload};
pub(super) use content::{__path_read, __path_write, names_tag, read, write};
pub(super) use watch::{__path_watch, watch};

/// The routes of this module.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/sandboxes/{id}/files", get(list).put(write).delete(delete))
        .route("/v1/sandboxes/{id}/files/content", get(read))
        .route("/v1/sandboxes/{id}/files/archive", get(download).put(upload))
        .route("/v1/sandboxes/{id}/export", get(export))
        .route("/v1/sandboxes/{id}/files/watch", get(watch))
        .route("/v1/sandboxes/{id}/files/stat", get(stat))
        .route("/v1/sandboxes/{id}/files/mkdir", post(mkdir))
        .route("/v1/sandboxes/{id}/files/move", post(rename))
        .route("/v1/sandboxes/{id}/files/copy", post(copy))
        .route("/v1/sandboxes/{id}/files/chmod", post(chmod))
}

/// List a directory
///
/// Names are relative to the base. A listing that would be too large is refused with 413.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), FileQuery), responses(
    (status = 200, description = "Without node_modules, .git, dist and .vite", body = FileList),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 413, body = V1Error)))]
pub(super) async fn list(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
) -> Result<Response, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let (path, recursive) = (query.path.clone(), query.recursive);
    let write = move |found: &Listing, into: &mut Spool| {
        into.write_all(b"{\"entries\":")?;
        large::write_list(into, found.entries().map(shown_entry))?;
        let path = serde_json::to_string(&path)?;
        into.write_all(format!(",\"path\":{path},\"recursive\":{recursive}}}\n").as_bytes())
    };
    let kept = app.supervisor.list_files(id, base, &query.path, query.recursive, write).await;
    Ok(large::kept(kept.map_err(core)?))
}

/// Show one file or directory
///
/// A link is shown itself; it is not followed.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stat", tag = "files", params(("id" = String, Path), FileQuery), responses(
    (status = 200, description = "A link is not followed", body = FileStat), (status = 400, body = V1Error), (status = 404, body = V1Error)))]
pub(super) async fn stat(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
) -> Result<Json<FileStat>, ApiError> {
    let base = base_of(query.base.as_deref())?;
    Ok(shown(app.supervisor.stat_file(id, base, &query.path).await.map_err(core)?))
}

/// Make a directory
///
/// With those above it; a directory that exists already is answered.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/mkdir", tag = "files", params(("id" = String, Path), BaseQuery), request_body = MkdirBody, responses(
    (status = 200, description = "The directory and those above it are there", body = FileStat),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 507, body = V1Error)))]
pub(super) async fn mkdir(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<BaseQuery>,
    Body1(body): Body1<MkdirBody>,
) -> Result<Json<FileStat>, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let mode = body.mode.as_deref().map(mode_of).transpose()?;
    Ok(shown(app.supervisor.make_directory(id, base, &body.path, mode).await.map_err(core)?))
}

/// Move a file or directory
///
/// In one step; `overwrite` replaces what stands at the new place.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/move", tag = "files", params(("id" = String, Path), BaseQuery), request_body = MoveBody, responses(
    (status = 200, description = "The new place", body = FileStat), (status = 400, body = V1Error), (status = 404, body = V1Error),
    (status = 409, description = "The new place is taken", body = V1Error)))]
pub(super) async fn rename(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<BaseQuery>,
    Body1(body): Body1<MoveBody>,
) -> Result<Json<FileStat>, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let moved = app.supervisor.move_file(id, base, &body.from, &body.to, body.overwrite).await;
    Ok(shown(moved.map_err(core)?))
}

/// Copy a file or directory
///
/// The copy appears whole or not at all.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/copy", tag = "files", params(("id" = String, Path), BaseQuery), request_body = MoveBody, responses(
    (status = 200, description = "The copy, which is there whole or not at all", body = FileStat), (status = 400, body = V1Error),
    (status = 404, body = V1Error), (status = 409, description = "The new place is taken", body = V1Error),
    (status = 413, body = V1Error), (status = 507, body = V1Error)))]
pub(super) async fn copy(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<BaseQuery>,
    Body1(body): Body1<MoveBody>,
) -> Result<Json<FileStat>, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let copied = app.supervisor.copy_file(id, base, &body.from, &body.to, body.overwrite).await;
    Ok(shown(copied.map_err(core)?))
}

/// Change the mode of a file or directory
///
/// At most `0777`: the other bits of a mode are refused.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/chmod", tag = "files", params(("id" = String, Path), BaseQuery), request_body = ChmodBody, responses(
    (status = 200, body = FileStat), (status = 400, body = V1Error), (status = 404, body = V1Error)))]
pub(super) async fn chmod(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<BaseQuery>,
    Body1(body): Body1<ChmodBody>,
) -> Result<Json<FileStat>, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let mode = mode_of(&body.mode)?;
    Ok(shown(app.supervisor.chmod_file(id, base, &body.path, mode).await.map_err(core)?))
}

/// Delete a file or directory
///
/// A directory with something in it is deleted only with `recursive`.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), EntryQuery), responses(
    (status = 204, description = "It is gone; a directory that is not empty only with `recursive`"), (status = 400, body = V1Error),
    (status = 404, body = V1Error), (status = 409, description = "The directory is not empty", body = V1Error)))]
pub(super) async fn delete(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<EntryQuery>,
) -> Result<StatusCode, ApiError> {
    let base = base_of(query.base.as_deref())?;
    app.supervisor.delete_file(id, base, &query.path, query.recursive).await.map_err(core)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("0755", 0o755), ("644", 0o644), ("0", 0), ("7777", 0o7777)] {
            assert_eq!(mode_of(text).unwrap(), mode);
        }
        for text in ["", "0o755", "789", "+755", "rwx", "00755", "-1"] {
            assert!(mode_of(text).is_err(), "{text}");
        }
    }
}
