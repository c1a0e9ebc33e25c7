//! Files of the app directory, whether the sandbox runs or sleeps.

use std::io::SeekFrom;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::App;
use super::error::{ApiError, Style};
use super::extract::{Id, Json, Query};
use crate::sandbox::Error;
use crate::wire::{FileEntry, FileList, FileQuery, V1Error, WrittenFile};

/// How much of a file is read at once.
const CHUNK_BYTES: usize = 128 * 1024;

#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), FileQuery), responses(
    (status = 200, description = "Without node_modules, .git, dist and .vite", body = FileList),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 413, body = V1Error)))]
pub(super) async fn list(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
) -> Result<Json<FileList>, ApiError> {
    let found = app.supervisor.list_files(id, &query.path, query.recursive).await.map_err(core)?;
    let entry = |entry: crate::sandbox::FileEntry| FileEntry {
        r#type: if entry.directory { "dir" } else { "file" },
        path: entry.path,
        size: entry.size,
    };
    Ok(Json(FileList {
        entries: found.into_iter().map(entry).collect(),
        path: query.path,
        recursive: query.recursive,
    }))
}

#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/content", tag = "files", params(("id" = String, Path), FileQuery), responses(
    (status = 200, description = "The bytes", content_type = "application/octet-stream"), (status = 206, description = "One range of them"),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 416, body = V1Error)))]
pub(super) async fn read(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut download = app.supervisor.open_file(id, &query.path).await.map_err(core)?;
    let size = download.size;
    let asked = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let (status, start, length) = match asked.map_or(Range::Whole, |text| parse_range(text, size)) {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Range::Unsatisfiable => {
            let error = Style::V1.error(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "invalid_request",
                "the range is beyond the end",
            );
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{size}"))], error).into_response());
        }
    };
    if start > 0 {
        let sought = download.file.seek(SeekFrom::Start(start)).await;
        sought.map_err(|_e| {
            Style::V1.error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the file cannot be read")
        })?;
    }
    // Not more than was announced, if the tenant makes the file longer meanwhile.
    let stream = ReaderStream::with_capacity(download.file.take(length), CHUNK_BYTES);
    let mut response = (status, Body::from_stream(stream)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + length.saturating_sub(1));
        headers.extend(HeaderValue::from_str(&range).ok().map(|value| (header::CONTENT_RANGE, value)));
    }
    Ok(response)
}

#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), FileQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The whole file is in place", body = WrittenFile),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 413, body = V1Error), (status = 507, body = V1Error)))]
pub(super) async fn write(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
    request: Request,
) -> Result<Json<WrittenFile>, ApiError> {
    let limit = app.config.files_bytes_max;
    let too_large =
        || Style::V1.too_large(format!("a file has at most {limit} bytes; see SANDBOXD_FILES_MAX_BYTES"));
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut upload = app.supervisor.create_file(id, &query.path).await.map_err(core)?;
    let (mut body, mut written) = (request.into_body(), 0_u64);
    while let Some(frame) = body.frame().await {
        // A client that breaks off leaves nothing: the upload is dropped.
        let frame = frame.map_err(|_e| Style::V1.invalid("the body broke off"))?;
        let Ok(bytes) = frame.into_data() else { continue };
        written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if written > limit {
            return Err(too_large());
        }
        upload.write(bytes).await.map_err(core)?;
    }
    let size = upload.commit().await.map_err(core)?;
    Ok(Json(WrittenFile { path: query.path, size }))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// Reads one byte range (RFC 9110, 14.1.2); what is malformed, or several ranges, mean the whole file.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Range::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.saturating_add(1).min(size)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return Range::Whole,
    };
    if start >= end { Range::Unsatisfiable } else { Range::Part { start, length: end - start } }
}

fn core(error: Error) -> ApiError {
    Style::V1.of_core(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_bounded() {
        let part = |start, length| Range::Part { start, length };
        for (text, expected) in [
            ("bytes=0-3", part(0, 4)),
            ("bytes=5-", part(5, 5)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=8-99", part(8, 2)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=3-1", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=0-18446744073709551615", part(0, 10)),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }
}
