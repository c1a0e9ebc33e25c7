//! Trees as archives, both ways.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use super::content::{announced, attachment, next_piece};
use crate::api::app::App;
use crate::api::error::{ApiError, Style};
use crate::api::extract::{Id, Query};
use crate::api::files::terms::{base_of, core};
use crate::api::respond::Json;
use model::{ArchiveFormat, FileBase, SandboxId};
use wire::{ArchiveQuery, ExportQuery, Unpacked, V1Error};

/// Download a directory as an archive
///
/// As `tar`, `tar.gz` or `zip`, made while it is sent.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/archive", tag = "files", params(("id" = String, Path), ArchiveQuery), responses(
    (status = 200, description = "Everything in the directory, with names relative to it; an answer that breaks off is not whole",
        content((Vec<u8> = "application/x-tar"), (Vec<u8> = "application/gzip"), (Vec<u8> = "application/zip"))),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 413, body = V1Error), (status = 429, body = V1Error)))]
pub(in crate::api) async fn download(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ArchiveQuery>,
) -> Result<Response, ApiError> {
    let (base, format) = (base_of(query.base.as_deref())?, format_of(query.format.as_deref())?);
    let name = query.path.rsplit('/').find(|part| !matches!(*part, "" | ".")).unwrap_or("files");
    let name = format!("{name}.{}", format.extension());
    send(&app, id, base, &query.path, format, true, &name).await
}

/// Download the app directory as a zip archive
///
/// Without `node_modules`, `.git`, `dist` and `.vite`, unless `all` is given.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/export", tag = "files", params(("id" = String, Path), ExportQuery), responses(
    (status = 200, description = "The app directory, as listings show it or whole", content_type = "application/zip"),
    (status = 404, body = V1Error), (status = 413, body = V1Error), (status = 429, body = V1Error)))]
pub(in crate::api) async fn export(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ExportQuery>,
) -> Result<Response, ApiError> {
    let name = format!("{}.zip", id.to_string().to_ascii_lowercase());
    send(&app, id, FileBase::App, "", ArchiveFormat::Zip, query.all, &name).await
}

/// Unpack an archive into a directory
///
/// The body is checked before anything is changed.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/archive", tag = "files", params(("id" = String, Path), ArchiveQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"), responses(
    (status = 200, description = "The whole archive is unpacked; files that were there are replaced, others stay", body = Unpacked),
    (status = 400, description = "It is refused, and nothing is changed", body = V1Error), (status = 404, body = V1Error),
    (status = 408, body = V1Error), (status = 409, description = "A directory stands where it has a file, or the other way round", body = V1Error),
    (status = 413, body = V1Error), (status = 429, body = V1Error), (status = 507, body = V1Error)))]
pub(in crate::api) async fn upload(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ArchiveQuery>,
    request: Request,
) -> Result<Json<Unpacked>, ApiError> {
    let (base, format) = (base_of(query.base.as_deref())?, format_of(query.format.as_deref())?);
    if announced(&request) == Some(0) {
        return Err(Style::V1.invalid("the body is the archive, and it is empty"));
    }
    let unpacking = app.supervisor.unpack(id, base, &query.path, format).await.map_err(core)?;
    let mut body = request.into_body();
    // A client that breaks off leaves nothing: the queue closes without its end.
    while let Some(piece) = next_piece(&mut body).await? {
        if !unpacking.write(piece).await {
            break;
        }
    }
    let (entries, bytes) = unpacking.finish().await.map_err(core)?;
    Ok(Json(Unpacked { path: query.path, entries, bytes }))
}

async fn send(
    app: &App,
    id: SandboxId,
    base: FileBase,
    path: &str,
    format: ArchiveFormat,
    all: bool,
    name: &str,
) -> Result<Response, ApiError> {
    let packed = app.supervisor.pack(id, base, path, format, all).await.map_err(core)?;
    let pieces =
        stream::unfold(packed, |mut packed| async move { packed.next().await.map(|piece| (piece, packed)) });
    let mut response = (StatusCode::OK, Body::from_stream(pieces)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CONTENT_DISPOSITION, attachment(name));
    Ok(response)
}

fn format_of(text: Option<&str>) -> Result<ArchiveFormat, ApiError> {
    text.unwrap_or("tar").parse().map_err(|unknown| Style::V1.invalid(format!("format {unknown}")))
}
