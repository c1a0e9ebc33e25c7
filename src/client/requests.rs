//! One method per route.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::request_id;
use super::{
    ClientError, CreateSandbox, Endpoint, EndpointError, Exchange, ExecOutput, ExecStream, Purged, Refusal,
    Row, SandboxV1, SandboxView, Timeouts, Transport,
};

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
struct Call<'a> {
    method: Method,
    path: String,
    body: Bytes,
    content_type: Option<&'a str>,
    deadline: Duration,
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

    /// `GET /sandboxes`: every sandbox, newest first.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every method.
    pub async fn list(&self) -> Result<Answer<Vec<Row>>, ClientError> {
        self.json(self.call(Method::GET, "/sandboxes".to_owned())).await
    }

    /// `GET /sandbox/{id}`
    pub async fn show(&self, id: &str) -> Result<Answer<SandboxView>, ClientError> {
        self.json(self.call(Method::GET, format!("/sandbox/{}", segment(id)))).await
    }

    /// `GET /v1/sandboxes/{id}`: with the preview's address and state.
    pub async fn show_v1(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::GET, format!("/v1/sandboxes/{}", segment(id)))).await
    }

    /// `POST /sandbox`: returns when the sandbox takes commands.
    pub async fn create(&self, create: &CreateSandbox) -> Result<Answer<Row>, ClientError> {
        let call = self.call(Method::POST, "/sandbox".to_owned()).with_json(create)?;
        self.json(call).await
    }

    /// `POST /v1/sandboxes/{id}/stop`: returns when it sleeps.
    pub async fn stop(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/stop", segment(id)))).await
    }

    /// `POST /v1/sandboxes/{id}/pause`: returns when it is frozen.
    pub async fn pause(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/pause", segment(id)))).await
    }

    /// `POST /v1/sandboxes/{id}/start`
    pub async fn start(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/start", segment(id)))).await
    }

    /// `DELETE /sandbox/{id}`: the workspace is kept.
    pub async fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.bytes(self.call(Method::DELETE, format!("/sandbox/{}", segment(id)))).await.map(|_body| ())
    }

    /// `POST /sandbox/{id}/purge`: the workspace is deleted too; an id that is unknown is no error.
    pub async fn purge(&self, id: &str) -> Result<Answer<Purged>, ClientError> {
        self.json(self.call(Method::POST, format!("/sandbox/{}/purge", segment(id)))).await
    }

    /// `PUT /v1/sandboxes/{id}/files?path=`: `path` is relative to the app directory.
    pub async fn put_file(&self, id: &str, path: &str, content: Bytes) -> Result<(), ClientError> {
        let path = format!("/v1/sandboxes/{}/files?path={}", segment(id), segment(path));
        let mut call = self.call(Method::PUT, path);
        call.body = content;
        call.content_type = Some("application/octet-stream");
        self.bytes(call).await.map(|_body| ())
    }

    /// `POST /sandbox/{id}/exec`: returns both outputs when the command has ended, at the latest after `deadline`.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        deadline: Duration,
    ) -> Result<Answer<ExecOutput>, ClientError> {
        self.json(self.exec_call(id, command, false, deadline)?).await
    }

    /// The same as a stream: output as it comes. `deadline` is for the head of the answer, which a server
    /// may send only with the command's first output.
    pub async fn exec_stream(
        &self,
        id: &str,
        command: &[String],
        deadline: Duration,
    ) -> Result<ExecStream<'_>, ClientError> {
        let exchange = self.exchange(self.exec_call(id, command, true, deadline)?).await?;
        Ok(ExecStream::new(exchange))
    }

    fn exec_call(
        &self,
        id: &str,
        command: &[String],
        stream: bool,
        deadline: Duration,
    ) -> Result<Call<'static>, ClientError> {
        #[derive(Serialize)]
        struct Exec<'a> {
            cmd: &'a [String],
            stream: bool,
        }
        let mut call = self
            .call(Method::POST, format!("/sandbox/{}/exec", segment(id)))
            .with_json(&Exec { cmd: command, stream })?;
        call.deadline = deadline;
        Ok(call)
    }

    fn call(&self, method: Method, path: String) -> Call<'static> {
        let deadline = self.transport.timeouts().answer;
        Call { method, path, body: Bytes::new(), content_type: None, deadline }
    }

    async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<Answer<T>, ClientError> {
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

    async fn bytes(&self, call: Call<'_>) -> Result<(Bytes, Option<String>), ClientError> {
        let deadline = call.deadline;
        let exchange = self.exchange(call).await?;
        let request_id = request_id(exchange.headers());
        Ok((exchange.collect(ANSWER_BYTES_MAX, deadline).await?, request_id))
    }

    /// Sends and returns the answer if it is a success.
    async fn exchange(&self, call: Call<'_>) -> Result<Exchange<'_>, ClientError> {
        let (method, path, deadline) = (method_name(&call.method), call.path.clone(), call.deadline);
        let exchange = self.transport.send(self.request(call), deadline).await?;
        if exchange.status().is_success() {
            return Ok(exchange);
        }
        let (status, headers) = (exchange.status(), exchange.headers().clone());
        let body = exchange.collect(ANSWER_BYTES_MAX, deadline).await?;
        let refusal = Box::new(Refusal::read(status, &headers, &body));
        Err(ClientError::Refused { method, path, refusal })
    }

    fn request(&self, call: Call<'_>) -> Request<Full<Bytes>> {
        let endpoint = self.endpoint();
        let mut builder = Request::builder()
            .method(call.method)
            .uri(endpoint.path(&call.path))
            .header("host", endpoint.authority())
            .header("accept", "application/json, text/plain")
            .header("user-agent", concat!("sandboxctl/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            builder = builder.header("authorization", authorization);
        }
        if let Some(content_type) = call.content_type {
            builder = builder.header("content-type", content_type);
        }
        builder
            .body(Full::new(call.body))
            .expect("the parts of a request are made of checked or escaped text")
    }
}

impl Call<'_> {
    fn with_json(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        let json = serde_json::to_vec(body).map_err(|source| ClientError::Encode {
            method: method_name(&self.method),
            path: self.path.clone(),
            source,
        })?;
        self.body = json.into();
        self.content_type = Some("application/json");
        Ok(self)
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// Escapes a text as one segment of a path or one value of a query (RFC 3986, section 2.3).
fn segment(text: &str) -> String {
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
