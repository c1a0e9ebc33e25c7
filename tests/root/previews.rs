//! Previews: found, held, forwarded unharmed, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::http;
use crate::support::server::{API, PREVIEWS, Server, preview_host};

pub(crate) const TESTS: &[Test] = &[
    ("previews::a_sleeping_app_is_woken_and_gets_the_request_whole", held_and_forwarded),
    ("previews::an_app_can_be_shown_localhost", shown_as_localhost),
    ("previews::hosts_that_are_not_exactly_one_are_refused", hosts),
    ("previews::ambiguous_requests_never_reach_an_app", ambiguous),
    ("previews::a_body_that_no_app_reads_harms_no_other_request", unread_body),
    ("previews::upgrades_and_streams_pass", upgrades),
    ("previews::failures_say_whose_they_are", failures),
];

/// An app that answers with what it was sent, and knows a few special paths.
const APP: &str = r#"
import hashlib, http.server, socketserver, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def do_GET(self):
        if self.path == '/sse':
            self.send_response(200); self.send_header('Content-Type', 'text/event-stream'); self.end_headers()
            for i in range(3):
                self.wfile.write(f'data: {i}\n\n'.encode()); self.wfile.flush(); time.sleep(0.2)
            self.close_connection = True; return
        if self.headers.get('Upgrade') and self.path == '/echo':
            self.send_response(101); self.send_header('Connection', 'Upgrade'); self.send_header('Upgrade', 'echo'); self.end_headers(); self.wfile.flush()
            while True:
                data = self.connection.recv(4096)
                if not data: break
                self.connection.sendall(data)
            self.close_connection = True; return
        if self.path == '/garbage':
            self.wfile.write(b'this is not http\r\n\r\n'); self.close_connection = True; return
        body = str(self.headers).encode()
        self.send_response(200); self.send_header('Set-Cookie', 'a=b; Domain=.preview.localhost'); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        if self.path == '/early':
            self.send_response(200); self.send_header('Content-Length', '5'); self.end_headers(); self.wfile.write(b'early'); return
        left = int(self.headers['Content-Length']); h = hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 65536)); left -= len(data); h.update(data)
        open('requests', 'a').write('POST\n')
        body = h.hexdigest().encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
class S(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True; request_queue_size = 128
S(('127.0.0.1', 3000), H).serve_forever()
"#;

fn with_app(settings: &[(&str, &str)]) -> (Server, String) {
    let server = Server::start(settings);
    let id = server.create(json!({ "ports": [3000] }));
    assert_eq!(server.put(&id, "app.py", APP.as_bytes()).status, 200);
    assert_eq!(server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status, 200);
    eventually("the app is ready", Duration::from_secs(20), || {
        server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json()["preview"]["status"] == "ready"
    });
    (server, id)
}

fn held_and_forwarded() {
    let (server, id) = with_app(&[]);
    let stop =
        || assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    stop();
    let body = vec![7_u8; 20_000_000];
    let answer = server.preview(&id, 3000, "POST", "/", &[], &body);
    // sha256 of 20,000,000 bytes of 7, by sha256sum.
    let digest = String::from_utf8(
        std::process::Command::new("sh")
            .args(["-c", "head -c 20000000 /dev/zero | tr '\\0' '\\7' | sha256sum | cut -c1-64"])
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    assert_eq!((answer.status, answer.text()), (200, digest.trim().to_owned()));
    assert_eq!(server.sh(&id, "cat app/requests"), "POST\n", "the app saw it more or less than once");
    // A hundred at once wake it once, and all are answered.
    stop();
    let before = wakes(&server);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert_eq!(server.preview(&id, 3000, "GET", "/", &[], b"").status, 200));
        }
    });
    assert_eq!(wakes(&server) - before, 1.0);
    // Both forms of the name, on both ports.
    let other = format!("3000-{}.localhost", id.to_lowercase());
    for (port, host) in [
        (PREVIEWS, other.as_str()),
        (API, &preview_host(&id, 3000)),
        (API, &preview_host(&id, 3000).to_uppercase()),
    ] {
        assert_eq!(http::request(port, host, "GET", "/", &[], b"").status, 200, "{host}");
    }
    // What a client claims is replaced; what it may keep is kept.
    let headers = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("Forwarded", "for=1.2.3.4"),
        ("Connection", "x-gone"),
        ("X-Gone", "1"),
        ("X-Kept", "1"),
    ];
    let seen = server.preview(&id, 3000, "GET", "/", &headers, b"");
    let text = seen.text().to_lowercase();
    assert!(text.contains("x-forwarded-for: 127.0.0.1") && text.contains("x-kept: 1"), "{text}");
    assert!(!text.contains("1.2.3.4") && !text.contains("x-gone"), "{text}");
    assert_eq!(seen.header("set-cookie").as_deref(), Some("a=b"));
    assert!(text.contains(&format!("host: {}", preview_host(&id, 3000))), "{text}");
}

/// For development servers that refuse names that they do not know.
fn shown_as_localhost() {
    let server = Server::start(&[]);
    let body = json!({ "ports": [3000], "preview": { "host_header": "upstream" } });
    let id = server.create(body);
    server.put(&id, "app.py", APP.as_bytes());
    server.sh(&id, "cd app; nohup python3 app.py >/dev/null 2>&1 &");
    let mut seen = server.preview(&id, 3000, "GET", "/", &[], b"");
    eventually("the app answers", Duration::from_secs(20), || {
        seen = server.preview(&id, 3000, "GET", "/", &[], b"");
        seen.status == 200
    });
    let text = seen.text().to_lowercase();
    let forwarded = format!("x-forwarded-host: {}", preview_host(&id, 3000));
    assert!(text.contains("\nhost: localhost:3000") || text.starts_with("host: localhost:3000"), "{text}");
    assert!(text.contains(&forwarded), "{text}");
    let wrong = json!({ "preview": { "host_header": "mine" } });
    assert_eq!(server.api("POST", "/sandbox", wrong).status, 400);
}

fn wakes(server: &Server) -> f64 {
    let text = server.api("GET", "/metrics", Value::Null).text();
    let line = text.lines().find_map(|l| l.strip_prefix("sandboxd_wakes_total{outcome=\"ok\"} "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

fn hosts() {
    let (_server, id) = with_app(&[]);
    let host = preview_host(&id, 3000);
    for head in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {host},localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a@{host}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {host}/x\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: \r\n\r\n".to_owned(),
        format!("GET http://localhost/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ] {
        for port in [PREVIEWS, API] {
            assert_eq!(http::raw(port, head.as_bytes()).status, 400, "{head}");
        }
    }
    let unknown = preview_host("01ARZ3NDEKTSV4RRFFQ69G5FAV", 3000);
    for host in [unknown.as_str(), &preview_host(&id, 3001), "preview.localhost", "localhost"] {
        assert_eq!(http::request(PREVIEWS, host, "GET", "/", &[], b"").status, 404, "{host}");
    }
}

fn ambiguous() {
    let (server, id) = with_app(&[]);
    let host = preview_host(&id, 3000);
    // A length beside chunks is refused (RFC 9112, 6.3), and what follows the chunks is no request to the app.
    let both =
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n";
    let answer = http::raw(PREVIEWS, format!("GET / HTTP/1.1\r\nHost: {host}\r\n{both}").as_bytes());
    let text = answer.text().to_lowercase();
    assert!(answer.status == 400 && !text.contains("x-forwarded-for"), "{}: {text}", answer.status);
    for tail in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 5 \r\nTransfer-Encoding : chunked\r\n\r\nhello",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "X: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "Bad Header: x\r\n\r\n",
        "X: a\0b\r\n\r\n",
    ] {
        let answer = http::raw(
            PREVIEWS,
            format!("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{tail}").as_bytes(),
        );
        assert!(answer.status == 400 || answer.status == 0, "{tail:?}: {} {}", answer.status, answer.text());
    }
    assert_eq!(server.exec(&id, "cat app/requests").1, 1, "one of them reached the app");
}

/// The app answers before it reads, and goes on to take the body for its next request: on a connection
/// that is used again somebody else would get the answer to that (CVE-2025-4366).
fn unread_body() {
    let (_server, id) = with_app(&[]);
    let host = preview_host(&id, 3000);
    let smuggled = "GET /sse HTTP/1.1\r\nHost: x\r\nX-Tag: smuggled\r\n\r\n";
    std::thread::scope(|scope| {
        for client in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for round in 0..50 {
                    let tag = format!("{client}-{round}");
                    let early = format!(
                        "POST /early HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{smuggled}",
                        smuggled.len()
                    );
                    let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    write!(
                        stream,
                        "{early}GET / HTTP/1.1\r\nHost: {host}\r\nX-Tag: {tag}\r\nConnection: close\r\n\r\n"
                    )
                    .unwrap();
                    let mut text = String::new();
                    // A connection whose request was not read may be closed, but not swapped.
                    let _reset = stream.read_to_string(&mut text);
                    assert!(!text.contains("smuggled"), "{text}");
                    assert_eq!(text.matches("early").count(), 1, "{text}");
                    assert!(text.matches("HTTP/1.1 200").count() == 1 || text.contains(&tag), "{text}");
                }
            });
        }
    });
}

pub(super) fn upgrades() {
    let (server, id) = with_app(&[]);
    let host = preview_host(&id, 3000);
    // Server-sent events come as they are sent.
    let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
    write!(stream, "GET /sse HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let begun = std::time::Instant::now();
    let mut text = String::new();
    let mut first = None;
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        text += &String::from_utf8_lossy(&buffer[..length]);
        if first.is_none() && text.contains("data: 0") {
            first = Some(begun.elapsed());
            assert!(!text.contains("data: 2"), "the events were collected");
        }
    }
    assert!(text.contains("data: 2"), "{text}");
    // A tunnel is made for 101, and carries what follows both ways.
    let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET /echo HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    for message in [&b"ping"[..], b"\0\xff\r\n\r\n", &[9; 3000]] {
        stream.write_all(message).unwrap();
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, message);
    }
    // An app that answers 200 gets nothing of what the client sent behind its request.
    let pipelined = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nPOST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    );
    let answer = http::raw(PREVIEWS, pipelined.as_bytes());
    assert_eq!(answer.status, 200);
    // It was read as the client's next request, on a connection of its own to the app, or not at all.
    let seen = server.exec(&id, "cat app/requests 2>/dev/null | wc -l").0;
    assert!(seen == "0\n" || answer.text().contains("HTTP/1.1 200"), "{seen}");
}

fn failures() {
    let (server, id) =
        with_app(&[("SANDBOXD_WAKE_TCP_READY_TIMEOUT_SECONDS", "1"), ("SANDBOXD_WAKE_TIMEOUT_SECONDS", "2")]);
    let answer = server.preview(&id, 3000, "GET", "/garbage", &[], b"");
    assert_eq!((answer.status, answer.json()["error"].clone()), (502, json!("app_error")));
    let page = server.preview(&id, 3000, "GET", "/garbage", &[("Accept", "text/html")], b"");
    assert!(page.text().contains("<h1>"), "{}", page.text());
    // Nothing listens, and nothing is on its way.
    let bare = server.create(json!({ "ports": [3000] }));
    std::thread::sleep(Duration::from_millis(1100));
    let answer = server.preview(&bare, 3000, "GET", "/", &[], b"");
    assert_eq!((answer.status, answer.json()["error"].clone()), (502, json!("nothing_listens")));
    // An app that never comes up: a browser is shown a page at once, everybody else waits and is told.
    server.put(&bare, "sandbox.yaml", b"version: 1\nweb: {command: sleep 1000}\n");
    server.api("POST", &format!("/v1/sandboxes/{bare}/stop"), Value::Null);
    let page = server.preview(&bare, 3000, "GET", "/", &[("Accept", "text/html")], b"");
    assert!(page.status == 503 && page.text().contains("waking up"), "{}", page.text());
    let answer = server.preview(&bare, 3000, "GET", "/", &[], b"");
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (504, true), "{}", answer.text());
    let private = server.create(json!({ "ports": [3000], "visibility": "private" }));
    assert_eq!(server.preview(&private, 3000, "GET", "/", &[], b"").status, 403);
}
