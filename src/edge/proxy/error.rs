//! The proxy's own table: which status and body a failure has, and whose fault it is.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::body::Body;
use super::pages;
use super::room::Short;
use sandbox::ConnectError;

/// When a client should come back to an app that was not up in time.
const RETRY_SECS: u32 = 5;

/// Names the refusal for whoever asks the operator about it; the log has it too.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What is said to a client for whose connection there is no room.
const NO_ROOM: &str = "The server has as many connections as it may have. Try again in a moment.";
/// The methods that are passed on, for a 405 (RFC 9110, 15.5.6).
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A failure that is ready to be told.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// For programs.
    reason: &'static str,
    /// For people.
    text: String,
    retry_after_secs: Option<u32>,
    mem_available_percent: Option<f64>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, reason: &'static str, text: impl Into<String>) -> Self {
        Self { status, reason, text: text.into(), retry_after_secs: None, mem_available_percent: None }
    }

    /// The app was reached, and did not speak as it should.
    pub(super) fn broken_app() -> Self {
        Self::app("The app in the sandbox closed the connection or did not answer in HTTP.")
    }

    /// The same, with what was wrong.
    pub(super) fn app(text: &str) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "app_error", text)
    }

    /// The app has the whole request and says nothing.
    pub(super) fn silent_app(longest: Duration) -> Self {
        let text = format!("The app in the sandbox did not begin to answer within {} s.", longest.as_secs());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "app_silent", text)
    }

    /// The client's body was cut off or is not chunked as it should be.
    pub(super) fn bad_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "The request's body is malformed or was cut off.")
    }

    pub(super) fn no_such_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not supported.")
    }

    pub(super) fn overloaded() -> Self {
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", NO_ROOM);
        failure.retry_after_secs = Some(RETRY_SECS);
        failure
    }

    pub(super) fn no_share(short: Short) -> Self {
        match short {
            Short::All => Self::overloaded(),
            Short::Sandbox => {
                let text = "This sandbox has as many open requests as it may have. Try again in a moment.";
                let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_open", text);
                failure.retry_after_secs = Some(RETRY_SECS);
                failure
            }
        }
    }

    pub(super) fn too_many_held() -> Self {
        let mut failure = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_waiting",
            "Too many requests wait for sandboxes to wake up. Try again in a moment.",
        );
        failure.retry_after_secs = Some(RETRY_SECS);
        failure
    }

    pub(super) fn of_connect(error: &ConnectError) -> Self {
        let later = |failure: Self| Self { retry_after_secs: Some(RETRY_SECS), ..failure };
        let own = |status, reason| Self::new(status, reason, capitalised(&error.to_string()));
        match error {
            ConnectError::UnknownSandbox => own(StatusCode::NOT_FOUND, "sandbox_not_found"),
            ConnectError::PortNotExposed(_) => own(StatusCode::NOT_FOUND, "port_not_exposed"),
            ConnectError::Private => own(StatusCode::FORBIDDEN, "private"),
            ConnectError::NothingListens(_) => own(StatusCode::BAD_GATEWAY, "nothing_listens"),
            ConnectError::NotStarted { .. } => later(own(StatusCode::SERVICE_UNAVAILABLE, "not_started")),
            ConnectError::Asleep => later(own(StatusCode::SERVICE_UNAVAILABLE, "asleep")),
            ConnectError::TooManyHeld => later(own(StatusCode::SERVICE_UNAVAILABLE, "too_many_waiting")),
            ConnectError::Overloaded => later(own(StatusCode::SERVICE_UNAVAILABLE, "overloaded")),
            ConnectError::TimedOut { .. } => later(own(StatusCode::GATEWAY_TIMEOUT, "app_not_ready")),
            ConnectError::Refused { reason, mem_available_percent, retry_after_secs } => {
                let mut failure = own(StatusCode::SERVICE_UNAVAILABLE, reason.as_str());
                failure.mem_available_percent = Some(*mem_available_percent);
                failure.retry_after_secs = Some(*retry_after_secs);
                failure
            }
        }
    }

    /// HTML for browsers, JSON for everything else.
    pub(super) fn response(self, for_browser: bool) -> Response<Body> {
        let request_id = ulid::Ulid::new().to_string();
        tracing::debug!(request_id, code = self.status.as_u16(), reason = self.reason, "refused a request");
        let (kind, text) = if for_browser {
            ("text/html; charset=utf-8", pages::problem("This preview is not available", &self.text))
        } else {
            let mut body =
                serde_json::json!({ "error": self.reason, "message": self.text, "request_id": request_id });
            if let (Some(percent), Some(object)) = (self.mem_available_percent, body.as_object_mut()) {
                object.insert("mem_available_percent".to_owned(), percent.into());
            }
            ("application/json", format!("{body}\n"))
        };
        let mut response = own_page(self.status, kind, text);
        if let Some(seconds) = self.retry_after_secs {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
        }
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }
}

/// The whole answer to a client for whose connection there is no room: nothing of its request is parsed.
pub(super) fn no_room() -> Vec<u8> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    whole(status, "overloaded", NO_ROOM, &format!("Retry-After: {RETRY_SECS}\r\n"))
}

/// The whole answer in the place of one of hyper's, which has neither a body nor an id. `None`: it is not hyper's.
pub(super) fn instead_of(head: &str) -> Option<Vec<u8>> {
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if !head.ends_with("\r\n\r\n") || !head.contains("content-length: 0\r\n") {
        return None;
    }
    let (reason, text) = match status {
        StatusCode::BAD_REQUEST => ("bad_request", "The request's head is malformed."),
        StatusCode::URI_TOO_LONG => ("too_large", "The request's target is too long."),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("too_large", "The request's head has too many headers or bytes.")
        }
        _ => return None,
    };
    Some(whole(status, reason, text, ""))
}

/// An answer as it is sent, which ends its connection.
fn whole(status: StatusCode, reason: &str, text: &str, further: &str) -> Vec<u8> {
    let request_id = ulid::Ulid::new().to_string();
    tracing::debug!(request_id, code = status.as_u16(), reason, "refused a connection");
    let body = serde_json::json!({ "error": reason, "message": text, "request_id": request_id });
    let body = format!("{body}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\n{REQUEST_ID}: {request_id}\r\n{further}Connection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// Shown to a browser while the sandbox wakes. The status tells programs that it is not the app's answer.
pub(super) fn warming() -> Response<Body> {
    let mut response =
        own_page(StatusCode::SERVICE_UNAVAILABLE, "text/html; charset=utf-8", pages::WARMING.to_owned());
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Says whether a page is wanted rather than data: a navigation of a browser.
pub(super) fn is_browser(method: &Method, headers: &HeaderMap) -> bool {
    let accepts = |v: &HeaderValue| v.to_str().is_ok_and(|t| t.contains("text/html"));
    *method == Method::GET && headers.get_all(header::ACCEPT).iter().any(accepts)
}

fn own_page(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors *";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}
