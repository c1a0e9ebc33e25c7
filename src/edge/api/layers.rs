//! What happens around every request: its id, its log line, its figures, its key, its headers.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;

use super::error::{ApiError, Style};
use super::hosts;
use crate::api::app::App;
use crate::api::respond::Json;
use telemetry::Trace;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// With it the answer says in [`SERVER_TIMING`] where its time went.
const TRACE: HeaderName = HeaderName::from_static("x-sandboxd-trace");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// After so long the log says too where a request's time went.
const SLOW: Duration = Duration::from_secs(1);
/// Answers are data: no browser may make a page of one, or keep it.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
];

/// Gives the request an id and logs and counts its answer.
pub(super) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = ulid::Ulid::new().to_string();
    let method = request.method().clone();
    // The route's template: a path from a client would make a label of its own.
    let endpoint =
        request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request_id = %id);
    let is_told = request.headers().contains_key(TRACE);
    let trace = Trace::new();
    let mut response = trace.scope(next.run(request).instrument(span.clone())).await;
    let headers = response.headers_mut();
    if is_told && let Ok(value) = HeaderValue::from_str(&trace.server_timing()) {
        headers.insert(SERVER_TIMING, value);
    }
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let (code, took) = (response.status().as_u16(), begun.elapsed());
    app.metrics.observe_api(&endpoint, known_method(&method), code, took);
    let phases = (took >= SLOW).then(|| trace.told(0));
    span.in_scope(|| tracing::info!(%method, endpoint, code, micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), phases, "api"));
    response
}

/// Lets only those pass who have a key and do not come from a page of somebody else's.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let Some(pass) = app.config.auth.admits(request.uri().path(), request.headers()) else {
        let body = Json(serde_json::json!({ "error": "unauthorized" }));
        let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
        return (StatusCode::UNAUTHORIZED, challenge, body).into_response();
    };
    request.extensions_mut().insert(pass);
    if let Some(refusal) = foreign(&app, &request) {
        return refusal.into_response();
    }
    next.run(request).await
}

/// Refuses what a page of another origin sends: previews are such pages.
fn foreign(app: &App, request: &Request) -> Option<ApiError> {
    let (headers, path) = (request.headers(), request.uri().path());
    let style = Style::of(path);
    let admits_anybody = app.config.auth.admits_anybody(path, headers);
    if admits_anybody && !app.config.hosts.knows(headers) {
        let text = "without a key the API is not reached by this host name, which any page can have (DNS rebinding): use \
                    an address, send a key, or name the host in SANDBOXD_API_HOSTS (api_hosts)";
        return Some(style.error(StatusCode::MISDIRECTED_REQUEST, "unknown_host", text));
    }
    // A WebSocket begins as a GET, and no browser keeps a page from opening one.
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let is_harmless = is_reading && !admits_anybody && !headers.contains_key(header::UPGRADE);
    if is_harmless || hosts::has_own_origin(headers) {
        return None;
    }
    Some(style.error(StatusCode::FORBIDDEN, "forbidden", "requests from pages of other origins are refused"))
}

/// Methods that are counted under their names; others have one together.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "OTHER",
    }
}
