//! Processes of a sandbox, followed by events and by WebSocket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Message, WebSocket, handshake::client::Response};

use super::server::{API, Server};

/// One server-sent event.
#[derive(Debug)]
pub(crate) struct Event {
    pub id: u64,
    pub name: String,
    pub data: Value,
}

/// A stream of events.
pub(crate) struct Events(BufReader<TcpStream>);

/// Everything that a follower has got.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The ranges that were dropped.
    pub dropped: Vec<(u64, u64)>,
    pub exit: Option<Value>,
    /// The offset after the last piece.
    pub end: u64,
}

impl Server {
    /// Starts a process and returns its id.
    pub(crate) fn start_process(&self, id: &str, body: Value) -> String {
        let answer = self.api("POST", &format!("/v1/sandboxes/{id}/processes"), body);
        assert_eq!(answer.status, 201, "{}\n{}", answer.text(), self.log_text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// A process as the API shows it.
    pub(crate) fn process(&self, id: &str, process: &str) -> Value {
        let answer = self.api("GET", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Follows a process by events.
    pub(crate) fn events(&self, id: &str, process: &str, query: &str) -> Events {
        let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let key = self.key();
        let head = format!(
            "GET /v1/sandboxes/{id}/processes/{process}/output{query} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status).unwrap();
        assert!(status.contains(" 200 "), "{status}");
        let mut line = status;
        while !line.trim().is_empty() {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        Events(reader)
    }

    /// Reads a process's output from an offset to its end.
    pub(crate) fn output(&self, id: &str, process: &str, from: u64) -> Output {
        let mut output = Output::default();
        let mut events = self.events(id, process, &format!("?from={from}"));
        while let Some(event) = events.next() {
            output.add(&event);
        }
        output
    }

    /// Opens a WebSocket; further headers replace what is sent otherwise.
    pub(crate) fn socket(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(WebSocket<TcpStream>, Response), Box<tokio_tungstenite::tungstenite::Error>> {
        let mut request = format!("ws://localhost:{API}{path}").into_client_request().unwrap();
        request.headers_mut().insert("Authorization", format!("Bearer {}", self.key()).parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().remove(*name);
            if !value.is_empty() {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
        }
        let stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        match tokio_tungstenite::tungstenite::client(request, stream) {
            Ok(pair) => Ok(pair),
            Err(tokio_tungstenite::tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Follows a process by WebSocket.
    pub(crate) fn follow(&self, id: &str, process: &str, from: u64) -> WebSocket<TcpStream> {
        let path = format!("/v1/sandboxes/{id}/processes/{process}/output?from={from}");
        self.socket(&path, &[]).unwrap().0
    }
}

impl Events {
    /// The next event; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: 0, name: String::new(), data: Value::Null };
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", id)) => event.id = id.parse().unwrap(),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                Some(("", _)) => {}
                Some(_) => panic!("{line}"),
                None if event.name.is_empty() => {}
                None => return Some(event),
            }
        }
    }
}

impl Output {
    /// Adds a piece and checks that it follows the one before.
    pub(crate) fn add(&mut self, event: &Event) {
        match event.name.as_str() {
            "exit" => self.exit = Some(event.data.clone()),
            "dropped" => {
                self.dropped.push((event.data["from"].as_u64().unwrap(), event.data["to"].as_u64().unwrap()));
            }
            name => {
                let bytes = match event.data["text"].as_str() {
                    Some(text) => text.as_bytes().to_vec(),
                    None => base64::engine::general_purpose::STANDARD
                        .decode(event.data["base64"].as_str().unwrap())
                        .unwrap(),
                };
                let offset = event.data["offset"].as_u64().unwrap();
                assert_eq!(event.id, offset + bytes.len() as u64);
                assert!(self.end == 0 || self.end == offset || !self.dropped.is_empty(), "{event:?}");
                if name == "stderr" { &mut self.stderr } else { &mut self.stdout }.extend_from_slice(&bytes);
            }
        }
        self.end = event.id;
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Reads binary frames until what they hold together has a text; returns it all.
pub(crate) fn read_until(socket: &mut WebSocket<TcpStream>, wanted: &str) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        assert!(Instant::now() < end, "no {wanted:?} in {:?}", String::from_utf8_lossy(&seen));
        match socket.read().unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&seen))) {
            Message::Binary(bytes) => seen.extend_from_slice(&bytes),
            Message::Close(_) => panic!("closed: {:?}", String::from_utf8_lossy(&seen)),
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}
