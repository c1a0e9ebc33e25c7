//! The one table from errors to statuses and bodies.

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::respond::Json;
use sandbox::Kind;
use wire::{CompatError, V1Error, V1ErrorBody};

/// When a client that was refused for lack of memory should come back, in seconds.
const MEMORY_RETRY_SECS: &str = "30";
/// When a client should try again what is not reachable just now.
const UNAVAILABLE_RETRY_SECS: &str = "1";

/// In which form errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Compat,
    V1,
}

/// The most bytes of a message: it quotes what a client has sent.
const MESSAGE_BYTES_MAX: usize = 2048;

/// An error that is ready to be sent.
#[derive(Debug)]
pub(super) struct ApiError {
    style: Style,
    status: StatusCode,
    code: &'static str,
    message: String,
    mem_available_percent: Option<f64>,
    exit_code: Option<i32>,
    retry_after: Option<&'static str>,
}

impl Style {
    /// The style of a path.
    pub(super) fn of(path: &str) -> Self {
        if path.starts_with("/v1/") || path == "/v1" { Self::V1 } else { Self::Compat }
    }

    pub(super) fn error(
        self,
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError {
            style: self,
            status,
            code,
            message: bounded(message.into()),
            mem_available_percent: None,
            exit_code: None,
            retry_after: None,
        }
    }

    pub(super) fn invalid(self, message: impl Into<String>) -> ApiError {
        self.error(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(super) fn too_large(self, message: impl Into<String>) -> ApiError {
        self.error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(super) fn not_found(self, message: impl Into<String>) -> ApiError {
        self.error(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// What a client sent instead of the beginning of a WebSocket.
    pub(super) fn no_socket(self, rejection: &WebSocketUpgradeRejection) -> ApiError {
        self.error(
            rejection.status(),
            "invalid_request",
            format!("this is a WebSocket: {}", rejection.body_text()),
        )
    }

    /// An error of the core; one that is our fault is logged here, once, with its causes.
    pub(super) fn of_core(self, error: &sandbox::Error) -> ApiError {
        let message = error.message();
        let mut answer = match error.kind() {
            Kind::Invalid => self.invalid(message),
            Kind::NotFound => self.not_found(message),
            Kind::Conflict => self.error(StatusCode::CONFLICT, "conflict", message),
            Kind::TooLarge => self.too_large(message),
            Kind::TooMany => {
                let mut busy = self.error(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message);
                busy.retry_after = Some(UNAVAILABLE_RETRY_SECS);
                busy
            }
            Kind::Short => {
                let mut short = self.error(StatusCode::SERVICE_UNAVAILABLE, "sandbox_capacity", message);
                short.retry_after = Some(UNAVAILABLE_RETRY_SECS);
                short
            }
            Kind::Exhausted => self.error(StatusCode::INSUFFICIENT_STORAGE, "quota_exceeded", message),
            Kind::Refused { reason, mem_available_percent } => {
                let text = if self == Self::Compat { reason.as_str().to_owned() } else { message };
                let mut refused = self.error(StatusCode::SERVICE_UNAVAILABLE, "sandbox_capacity", text);
                refused.mem_available_percent = Some(mem_available_percent);
                refused.retry_after = Some(MEMORY_RETRY_SECS);
                refused
            }
            Kind::Busy => {
                let mut busy = self.error(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message);
                busy.retry_after = Some(UNAVAILABLE_RETRY_SECS);
                busy
            }
            Kind::Unavailable => {
                let mut unavailable =
                    self.error(StatusCode::SERVICE_UNAVAILABLE, "sandbox_unavailable", message);
                unavailable.retry_after = Some(UNAVAILABLE_RETRY_SECS);
                unavailable
            }
            Kind::Internal => self.error(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
        };
        answer.exit_code = error.exit_code();
        // The contract gives this code the status of a bad gateway.
        if answer.code == "sandbox_unavailable" && self == Self::V1 {
            answer.status = StatusCode::BAD_GATEWAY;
        }
        if matches!(error.kind(), Kind::Internal | Kind::Unavailable | Kind::Short) {
            tracing::error!(error = %sandbox::chain(error), "a request failed");
        }
        answer
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

#[cfg(test)]
impl ApiError {
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = match self.style {
            Style::Compat => {
                Json(CompatError { error: self.message, mem_available_percent: self.mem_available_percent })
                    .into_response()
            }
            Style::V1 => {
                let retryable = self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS;
                let Self { code, message, exit_code, .. } = self;
                Json(V1Error { error: V1ErrorBody { code, message, retryable, exit_code } }).into_response()
            }
        };
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}
