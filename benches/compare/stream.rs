//! Streamed processes, by a client that speaks to the socket itself.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Trouble;

/// How much one stream carries.
pub(crate) const STREAM_BYTES: u64 = 256 * 1024 * 1024;
/// In front of each piece: stream and offset.
const HEADROOM: u64 = 9;
/// What is silent for so long has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// A server and the key to it.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// `host:port`.
    address: String,
    token: String,
}

impl Api {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { address, token: token.unwrap_or_default().to_owned() }
    }

    /// Starts `echo` and follows it; returns the time from the request to the first byte of its output.
    pub(crate) fn first_byte(&self, sandbox: &str) -> Result<Duration, Trouble> {
        let failed = |e: io::Error| Trouble::because("follow a process", &e);
        let mut stream = self.connect().map_err(failed)?;
        let started = Instant::now();
        let id = self.start(&mut stream, sandbox, &json!({ "cmd": ["echo", "first"] }))?;
        let path = format!("/v1/sandboxes/{sandbox}/processes/{id}/output");
        self.send(&mut stream, "GET", &path, "").map_err(failed)?;
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(5).any(|w| w == b"first") {
            let count = stream.read(&mut buffer).map_err(failed)?;
            if count == 0 || seen.len() > 65_536 {
                return Err(Trouble::new(format!("follow {id}: {}", String::from_utf8_lossy(&seen))));
            }
            seen.extend_from_slice(&buffer[..count]);
        }
        Ok(started.elapsed())
    }

    /// Follows a process that writes [`STREAM_BYTES`] by WebSocket; returns how long that takes.
    pub(crate) fn stream(&self, sandbox: &str) -> Result<Duration, Trouble> {
        let failed = |e: io::Error| Trouble::because("follow a process", &e);
        let broken = |e: tungstenite::Error| Trouble::because("follow a process by WebSocket", &e);
        let command = format!("read go; exec head -c {STREAM_BYTES} /dev/zero");
        let body = json!({ "cmd": ["bash", "-c", command], "stdin": true });
        let id = self.start(&mut self.connect().map_err(failed)?, sandbox, &body)?;
        let url = format!("ws://{}/v1/sandboxes/{sandbox}/processes/{id}/output", self.address);
        let mut request = url.into_client_request().map_err(broken)?;
        let key = format!("Bearer {}", self.token).parse();
        request.headers_mut().insert("Authorization", key.map_err(|e| Trouble::because("send the key", &e))?);
        let connected = tungstenite::client(request, self.connect().map_err(failed)?);
        let (mut socket, _) = connected.map_err(|e| Trouble::new(format!("open a WebSocket: {e}")))?;
        let started = Instant::now();
        socket.send(Message::binary(b"go\n".to_vec())).map_err(broken)?;
        let mut received = 0;
        loop {
            match socket.read().map_err(broken)? {
                Message::Binary(frame) => received += frame.len() as u64 - HEADROOM,
                Message::Text(text) if received == STREAM_BYTES && text.contains("exit") => break,
                Message::Ping(_) | Message::Pong(_) => {}
                other => return Err(Trouble::new(format!("follow {id}: {other} after {received} bytes"))),
            }
        }
        Ok(started.elapsed())
    }

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    fn send(&self, stream: &mut TcpStream, method: &str, path: &str, body: &str) -> io::Result<()> {
        self.send_head(stream, method, path, body.len() as u64)?;
        stream.write_all(body.as_bytes())
    }

    /// Sends what comes before a body of the given length.
    pub(crate) fn send_head(
        &self,
        stream: &mut TcpStream,
        method: &str,
        path: &str,
        length: u64,
    ) -> io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
            self.address, self.token,
        );
        stream.write_all(head.as_bytes())
    }

    /// Starts a process; returns its id.
    fn start(&self, stream: &mut TcpStream, sandbox: &str, body: &Value) -> Result<String, Trouble> {
        let failed = |e: io::Error| Trouble::because("start a process", &e);
        let path = format!("/v1/sandboxes/{sandbox}/processes");
        self.send(stream, "POST", &path, &body.to_string()).map_err(failed)?;
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).map_err(failed)?;
            seen.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&seen);
            // The body is one line.
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && body.ends_with('\n')
                && head.contains(" 201 ")
            {
                let value: Value =
                    serde_json::from_str(body).map_err(|e| Trouble::because("read an answer", &e))?;
                return Ok(value["id"].as_str().unwrap_or_default().to_owned());
            }
            if count == 0 || text.contains("\"error\"") {
                return Err(Trouble::new(format!("start a process: {text}")));
            }
        }
    }
}
