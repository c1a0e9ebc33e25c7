//! The proxy's own table: which status and body a failure has, and whose fault it is.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::listener::Body;
use super::pages;
use crate::sandbox::ConnectError;

/// When a client should come back to an app that was not up in time.
const RETRY_SECS: u32 = 5;

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
        Self::new(
            StatusCode::BAD_GATEWAY,
            "app_error",
            "The app in the sandbox closed the connection or did not answer in HTTP.",
        )
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
        let (kind, text) = if for_browser {
            ("text/html; charset=utf-8", pages::problem("This preview is not available", &self.text))
        } else {
            let mut body = serde_json::json!({ "error": self.reason, "message": self.text });
            if let (Some(percent), Some(object)) = (self.mem_available_percent, body.as_object_mut()) {
                object.insert("mem_available_percent".to_owned(), percent.into());
            }
            ("application/json", format!("{body}\n"))
        };
        let mut response = own_page(self.status, kind, text);
        if let Some(seconds) = self.retry_after_secs {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
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
