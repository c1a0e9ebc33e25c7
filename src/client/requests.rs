//! What every request shares: how it is made, sent, and its answer read.
//!
//! The routes themselves are in `sandboxes`, `processes`, `files` and `streams`.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::request_id;
use super::transport::full;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::{ClientError, Refusal};
use crate::transport::{Exchange, RequestBody, Timeouts, Transport};

/// The most bytes of an answer that is decoded; 100,000 sandboxes take about this much.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The API of one server.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
    /// `Bearer …`
    authorization: Option<String>,
}

/// An answer, decoded and as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    pub value: T,
    /// The server's own JSON, with what this client does not know.
    pub json: Bytes,
}

/// What a request is made of.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: RequestBody,
    /// Beyond those that every request has.
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) deadline: Duration,
}

impl Client {
    /// Makes a client of the server at `url`; nothing is sent yet.
    ///
    /// `token` must be visible ASCII; a token that is not is left out, and the server will answer 401.
    ///
    /// # Errors
    /// `url` is not `http://host[:port][/prefix]`.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, EndpointError> {
        Ok(Self::with_timeouts(url.parse()?, token, Timeouts::default()))
    }

    /// Makes a client with times of one's own.
    pub fn with_timeouts(endpoint: Endpoint, token: Option<&str>, timeouts: Timeouts) -> Self {
        let token = token.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic()));
        Self {
            transport: Transport::new(endpoint, timeouts),
            authorization: token.map(|token| format!("Bearer {token}")),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        self.transport.endpoint()
    }

    pub(super) fn call(&self, method: Method, path: String) -> Call {
        let deadline = self.transport.timeouts().answer;
        Call { method, path, body: full(""), headers: Vec::new(), deadline }
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<Answer<T>, ClientError> {
        let (method, path) = (method_name(&call.method), call.path.clone());
        let (json, request_id) = self.bytes(call).await?;
        let value = serde_json::from_slice(&json).map_err(|source| ClientError::Decode {
            method,
            path,
            request_id,
            source,
        })?;
        Ok(Answer { value, json })
    }

    pub(super) async fn bytes(&self, call: Call) -> Result<(Bytes, Option<String>), ClientError> {
        let deadline = call.deadline;
        let exchange = self.exchange(call).await?;
        let request_id = request_id(exchange.headers());
        Ok((exchange.collect(ANSWER_BYTES_MAX, deadline).await?, request_id))
    }

    /// Sends and returns the answer if it is a success.
    pub(super) async fn exchange(&self, call: Call) -> Result<Exchange<'_>, ClientError> {
        let (method, path, deadline) = (method_name(&call.method), call.path.clone(), call.deadline);
        let exchange = self.transport.send(self.request(call), deadline).await?;
        if exchange.status().is_success() || exchange.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(exchange);
        }
        let (status, headers) = (exchange.status(), exchange.headers().clone());
        let body = exchange.collect(ANSWER_BYTES_MAX, deadline).await?;
        let refusal = Box::new(Refusal::read(status, &headers, &body));
        Err(ClientError::Refused { method, path, refusal })
    }

    fn request(&self, call: Call) -> Request<RequestBody> {
        let endpoint = self.endpoint();
        let mut builder = Request::builder()
            .method(call.method)
            .uri(endpoint.path(&call.path))
            .header("host", endpoint.authority())
            .header("user-agent", concat!("sandboxctl/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            builder = builder.header("authorization", authorization);
        }
        if call.headers.iter().all(|(name, _)| name != ACCEPT) {
            builder = builder.header(ACCEPT, "application/json, text/plain");
        }
        for (name, value) in call.headers {
            builder = builder.header(name, value);
        }
        builder.body(call.body).expect("the parts of a request are made of checked or escaped text")
    }
}

impl Call {
    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn with_json(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        let json = serde_json::to_vec(body).map_err(|source| ClientError::Encode {
            method: method_name(&self.method),
            path: self.path.clone(),
            source,
        })?;
        self.body = full(json);
        Ok(self.with(CONTENT_TYPE, "application/json"))
    }
}

pub(super) fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "GET",
    }
}

/// Escapes a text as one segment of a path or one value of a query (RFC 3986, section 2.3).
pub(super) fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes every write");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_would_change_a_path() {
        let check = |text: &str, escaped: &str| assert_eq!(segment(text), escaped);
        check("01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        check("src/a b.py", "src%2Fa%20b.py");
        check("../x?y#z&\r\n", "..%2Fx%3Fy%23z%26%0D%0A");
        check("\u{e4}", "%C3%A4");
    }
}
