//! What can go wrong between a client and a server, and what the server said about it.

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Error as SocketError;

use crate::transport::TransportError;

/// The most characters of a server's message that are kept.
const MESSAGE_CHARACTERS_MAX: usize = 2_000;
/// The most bytes of one event: what is longer is no event of this API.
pub(crate) const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server answered, and the answer is no.
    #[error("{method} {path}: the server answered {}: {}", refusal.status.as_u16(), refusal.message)]
    Refused { method: &'static str, path: String, refusal: Box<Refusal> },
    #[error("understand the answer to {method} {path}")]
    Decode {
        method: &'static str,
        path: String,
        request_id: Option<String>,
        #[source]
        source: serde_json::Error,
    },
    #[error("write the body of {method} {path}")]
    Encode {
        method: &'static str,
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Event(#[from] EventError),
}

/// The server's reason, in the one form behind the API's two.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub status: StatusCode,
    /// The `code` of `/v1` errors; elsewhere the whole message where it is one word (`low_memory`).
    pub code: Option<String>,
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// What a shell would end with, where a command could not be started.
    pub exit_code: Option<u8>,
    /// The `Retry-After` header, in seconds.
    pub retry_after_seconds: Option<u64>,
    pub request_id: Option<String>,
}

impl Refusal {
    /// Reads an answer that is not a success; a body that is not the API's is quoted.
    pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let retry_after_seconds = header("retry-after").and_then(|v| v.parse().ok());
        let mut refusal = Self {
            status,
            code: None,
            message: String::new(),
            retryable: retry_after_seconds.is_some() || matches!(status.as_u16(), 429 | 502..=504),
            exit_code: None,
            retry_after_seconds,
            request_id: request_id(headers),
        };
        match serde_json::from_slice::<Value>(body).ok().and_then(|v| v.get("error").cloned()) {
            Some(Value::String(message)) => {
                refusal.code = message.bytes().all(is_code_byte).then(|| message.clone());
                refusal.message = message;
            }
            Some(Value::Object(fields)) => {
                let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
                refusal.code = text("code");
                refusal.message = text("message").unwrap_or_default();
                let exit_code = fields.get("exit_code").and_then(Value::as_u64);
                refusal.exit_code = exit_code.and_then(|code| code.try_into().ok());
                if let Some(retryable) = fields.get("retryable").and_then(Value::as_bool) {
                    refusal.retryable = retryable;
                }
            }
            _ => refusal.message = String::from_utf8_lossy(body).trim().to_owned(),
        }
        if refusal.message.is_empty() {
            refusal.message = status.canonical_reason().unwrap_or("no reason given").to_lowercase();
        }
        refusal.message = refusal.message.chars().take(MESSAGE_CHARACTERS_MAX).collect();
        refusal
    }
}

impl ClientError {
    /// Returns the server's reason if it gave one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::Transport(_)
            | Self::Decode { .. }
            | Self::Encode { .. }
            | Self::Output(_)
            | Self::Event(_) => None,
        }
    }

    /// Returns the id under which the server's log tells more.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Refused { refusal, .. } => refusal.request_id.as_deref(),
            Self::Decode { request_id, .. } => request_id.as_deref(),
            Self::Transport(_) | Self::Encode { .. } | Self::Output(_) | Self::Event(_) => None,
        }
    }
}

/// Returns the `X-Request-Id` of an answer.
pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    headers.get("x-request-id").and_then(|v| v.to_str().ok()).map(|v| v.chars().take(64).collect())
}

fn is_code_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte == b'_'
}

/// Why a stream of events cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("read an event of more than {EVENT_BYTES_MAX} bytes")]
    TooLarge,
}

/// Why a process can no longer be followed on this connection.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("follow the process: the server closed the connection before the process ended")]
    Closed,
    #[error("follow the process over a WebSocket")]
    Socket(#[source] Box<SocketError>),
    #[error("understand what the server says of the process: {0}")]
    Form(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Refusal {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>();
        Refusal::read(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn reads_the_compatible_form() {
        let refusal = read(
            503,
            &[("retry-after", "30"), ("x-request-id", "01J")],
            r#"{"error":"low_memory","mem_available_percent":4.2}"#,
        );
        assert_eq!((refusal.code.as_deref(), refusal.message.as_str()), (Some("low_memory"), "low_memory"));
        assert_eq!((refusal.retryable, refusal.retry_after_seconds), (true, Some(30)));
        assert_eq!(refusal.request_id.as_deref(), Some("01J"));
        assert_eq!(read(404, &[], r#"{"error":"sandbox not found"}"#).code, None);
    }

    #[test]
    fn reads_the_v1_form() {
        let body = r#"{"error":{"code":"task_in_progress","message":"a task runs","retryable":true}}"#;
        let refusal = read(409, &[], body);
        assert_eq!(
            (refusal.code.as_deref(), refusal.message.as_str()),
            (Some("task_in_progress"), "a task runs")
        );
        assert!(refusal.retryable);
    }

    #[test]
    fn quotes_what_is_not_the_api() {
        let check = |status, body: &str, message: &str| assert_eq!(read(status, &[], body).message, message);
        check(502, "<h1>Bad Gateway</h1>\n", "<h1>Bad Gateway</h1>");
        check(500, "", "internal server error");
        check(500, r#"{"error":{}}"#, "internal server error");
        check(500, r#"{"error":null}"#, r#"{"error":null}"#);
        assert_eq!(read(500, &[], &"x".repeat(9_000)).message.len(), MESSAGE_CHARACTERS_MAX);
    }
}
