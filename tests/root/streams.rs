//! What is open when a sandbox is frozen is open when it is thawed: an event stream, a WebSocket, the app's own
//! sockets and timers; nothing comes twice and nothing is missing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::Test;
use crate::support::eventually;
use crate::support::server::{PREVIEWS, Server, preview_host};

pub(crate) const TESTS: &[Test] = &[("streams::open_ones_outlast_a_freeze_and_new_ones_wake", outlast)];

/// Tells numbers as events, echoes a WebSocket, and has two threads that pass a number to and fro by TCP.
const APP: &str = r#"
import base64, hashlib, http.server, json, socket, socketserver, threading, time
state = {"passed": 0, "broken": 0, "fired": 0}
def player(s, begins):
    try:
        if begins: s.sendall(b"x")
        while True:
            if s.recv(1) != b"x": raise OSError("ended")
            state["passed"] += 1; time.sleep(0.02); s.sendall(b"x")
    except OSError: state["broken"] += 1
listener = socket.create_server(("127.0.0.1", 0)); a = socket.create_connection(listener.getsockname()); b, _ = listener.accept()
for s, begins in ((a, True), (b, False)): threading.Thread(target=player, args=(s, begins), daemon=True).start()
def fire(): state["fired"] += 1
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def say(self, body):
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        if self.path == "/events":
            self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.send_header("Connection", "close"); self.end_headers()
            n = 0
            while True:
                n += 1; self.wfile.write(b"id: %d\ndata: x\n\n" % n); self.wfile.flush(); time.sleep(0.03)
        elif self.path == "/socket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101); self.send_header("Connection", "Upgrade"); self.send_header("Upgrade", "websocket")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()); self.end_headers(); self.wfile.flush()
            while True:
                head = self.rfile.read(2)
                if len(head) < 2 or head[0] & 15 == 8: break
                mask = self.rfile.read(4); data = self.rfile.read(head[1] & 127)
                data = bytes(c ^ mask[i % 4] for i, c in enumerate(data))
                self.wfile.write(bytes([0x81, len(data)]) + data); self.wfile.flush()
            self.close_connection = True
        elif self.path == "/timer": threading.Timer(1, fire).start(); self.say(b"set")
        else: self.say(json.dumps(state).encode())
class S(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
S(("127.0.0.1", 3000), H).serve_forever()
"#;

/// A stream of numbered events through a preview.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(id: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
        let head = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", preview_host(id, 3000));
        stream.write_all(head.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next number; `None` if none comes within a time.
    fn next(&mut self, within: Duration) -> Option<u64> {
        self.0.get_ref().set_read_timeout(Some(within)).unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            // Of an event that has begun the rest is there.
            match self.0.read_line(&mut line) {
                Ok(0) => panic!("the stream has ended"),
                Ok(_) => {}
                Err(_timeout) => return None,
            }
            if let Some(number) = line.strip_prefix("id: ") {
                return Some(number.trim().parse().unwrap());
            }
        }
    }

    /// Reads until nothing comes any more; the last number.
    fn drain(&mut self, mut last: u64) -> u64 {
        let end = Instant::now() + Duration::from_secs(5);
        while let Some(number) = self.next(Duration::from_millis(500)) {
            assert_eq!(number, last + 1);
            assert!(Instant::now() < end, "it does not end");
            last = number;
        }
        last
    }

    /// Reads some more, which follow on a number; the last one.
    fn follow(&mut self, last: u64) -> u64 {
        for number in last + 1..=last + 10 {
            assert_eq!(self.next(Duration::from_secs(10)), Some(number));
        }
        last + 10
    }
}

fn socket(id: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!("ws://{}/socket", preview_host(id, 3000)).into_client_request().unwrap();
    tungstenite::client(request, stream).unwrap().0
}

fn echo(socket: &mut WebSocket<TcpStream>, text: &str) {
    socket.send(Message::text(text)).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(text));
}

fn outlast() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    assert_eq!(server.put(&id, "app.py", APP.as_bytes()).status, 200);
    assert_eq!(server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status, 200);
    let act = |action: &str| {
        let answer = server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let ask = |path: &str| server.preview(&id, 3000, "GET", path, &[], b"");
    eventually("the app is up", Duration::from_secs(20), || ask("/state").status == 200);
    let (mut stream, mut socket) = (Stream::open(&id), socket(&id));
    let mut last = stream.follow(0);
    echo(&mut socket, "before");
    // Thawed by request, by a message on the socket, and by another request.
    for (round, how) in ["resume", "message", "request"].into_iter().enumerate() {
        assert_eq!(ask("/timer").text(), "set");
        act("pause");
        last = stream.drain(last);
        // Longer than the timer.
        assert_eq!(stream.next(Duration::from_millis(1200)), None, "{how}");
        assert_eq!(server.status(&id), "paused", "{how}");
        match how {
            "resume" => act("resume"),
            "message" => echo(&mut socket, "wake up"),
            _ => assert_eq!(ask("/state").status, 200),
        }
        last = stream.follow(last);
        echo(&mut socket, how);
        let state = || ask("/state").json();
        let passed = state()["passed"].as_u64().unwrap();
        eventually("its own sockets and timers go on", Duration::from_secs(20), || {
            let state = state();
            state["passed"].as_u64().unwrap() > passed + 5 && state["fired"] == round as u64 + 1
        });
        assert_eq!(state()["broken"], 0, "{how}");
    }
    drop((stream, socket));
    // What opens one wakes the app, stopped or frozen, and is held for it.
    for action in ["stop", "pause"] {
        act(action);
        assert_eq!(Stream::open(&id).next(Duration::from_secs(30)), Some(1), "{action}");
        act(action);
        echo(&mut self::socket(&id), action);
    }
}
