//! One file: read whole or in part, and written.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;

use crate::api::app::App;
use crate::api::error::{ApiError, Style};
use crate::api::extract::{Id, Query};
use crate::api::files::terms::{base_of, core};
use crate::api::respond::Json;
use sandbox::Pieces;
use wire::{ContentQuery, V1Error, WrittenFile};

/// How long a client that uploads may send nothing.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Download a file
///
/// One range may be asked for with `Range`, and a known version with `If-None-Match`.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/content", tag = "files", params(("id" = String, Path), ContentQuery), responses(
    (status = 200, description = "The bytes; several ranges at once are answered with the whole file", content_type = "application/octet-stream"),
    (status = 206, description = "One range of them"), (status = 304, description = "It is what `If-None-Match` names"),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 416, body = V1Error)))]
pub(in crate::api) async fn read(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ContentQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let download = app.supervisor.open_file(id, base, &query.path).await.map_err(core)?;
    let (size, tag) = (download.size, format!("\"{}\"", download.version));
    let tag_header = (header::ETAG, tag.clone());
    let given = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    if given(header::IF_NONE_MATCH).is_some_and(|tags| names_tag(tags, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [tag_header]).into_response());
    }
    // A part of another version would not fit what the client has.
    let same = given(header::IF_RANGE).is_none_or(|wanted| wanted == tag);
    let asked = given(header::RANGE).filter(|_| same);
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
    // Not more than was announced, if the tenant makes the file longer meanwhile.
    let pieces = stream::unfold(download.pieces(start, length), |mut pieces: Pieces| async move {
        pieces.next().await.map(|piece| (piece, pieces))
    });
    let mut response = (status, [tag_header], Body::from_stream(pieces)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, attachment(&query.path));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + length.saturating_sub(1));
        headers.extend(HeaderValue::from_str(&range).ok().map(|value| (header::CONTENT_RANGE, value)));
    }
    Ok(response)
}

/// Upload a file
///
/// The body is the content. The file appears whole or not at all; directories above it are made.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), ContentQuery),
    request_body(content = Option<Vec<u8>>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The whole file is in place", body = WrittenFile), (status = 400, body = V1Error), (status = 404, body = V1Error),
    (status = 408, body = V1Error), (status = 413, body = V1Error), (status = 507, body = V1Error)))]
pub(in crate::api) async fn write(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<ContentQuery>,
    request: Request,
) -> Result<Json<WrittenFile>, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let limit = app.config.files_bytes_max;
    let too_large =
        || Style::V1.too_large(format!("a file has at most {limit} bytes; see SANDBOXD_FILES_MAX_BYTES"));
    if announced(&request).is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut upload = app.supervisor.create_file(id, base, &query.path).await.map_err(core)?;
    let (mut body, mut written) = (request.into_body(), 0_u64);
    // A client that breaks off leaves nothing: the upload is dropped.
    while let Some(bytes) = next_piece(&mut body).await? {
        written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if written > limit {
            return Err(too_large());
        }
        upload.write(bytes).await.map_err(core)?;
    }
    let size = upload.commit().await.map_err(core)?;
    Ok(Json(WrittenFile { path: query.path, size }))
}

/// The length of a body, where the client says it.
pub(super) fn announced(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok())
}

/// Returns the next piece of an upload, or `None` at its end.
pub(super) async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        let slow =
            |_elapsed| Style::V1.error(StatusCode::REQUEST_TIMEOUT, "invalid_request", "the body stalled");
        let Some(frame) = tokio::time::timeout(SILENCE_MAX, body.frame()).await.map_err(slow)? else {
            return Ok(None);
        };
        let frame = frame.map_err(|_e| Style::V1.invalid("the body broke off"))?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// Makes a browser save an answer under the last name of a path (RFC 6266), never show it.
pub(super) fn attachment(path: &str) -> HeaderValue {
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("file");
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%' | '/') || c == ' ';
    let ascii: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{ascii}\"");
    if ascii != name {
        text.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                text.push(char::from(byte));
            } else {
                text.extend(format!("%{byte:02X}").chars());
            }
        }
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

/// Says whether a list of entity tags (RFC 9110, 13.1.2) names one.
pub(in crate::api) fn names_tag(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
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

    #[test]
    fn names_cannot_leave_their_header() {
        for (path, expected) in [
            ("a/b.txt", "attachment; filename=\"b.txt\""),
            ("", "attachment; filename=\"file\""),
            (
                "a\r\nSet-Cookie: x",
                "attachment; filename=\"a__Set-Cookie: x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x",
            ),
            ("q\"\\.svg", "attachment; filename=\"q__.svg\"; filename*=UTF-8''q%22%5C.svg"),
            ("ä.html", "attachment; filename=\"_.html\"; filename*=UTF-8''%C3%A4.html"),
        ] {
            assert_eq!(attachment(path).to_str().unwrap(), expected);
        }
    }

    #[test]
    fn tags_are_compared() {
        assert!(names_tag("\"a\", W/\"b\"", "\"b\"") && names_tag("*", "\"b\""));
        assert!(!names_tag("\"bb\"", "\"b\""));
    }
}
