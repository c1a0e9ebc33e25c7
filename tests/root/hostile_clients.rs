//! Clients that send what no client should, more of it than there is room for, or from a page of somebody else's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::http::{self, Answer};
use crate::support::server::{API, PREVIEWS, Server, preview_host};
use crate::support::{eventually, eventually_seen, tell};

pub(crate) const TESTS: &[Test] = &[
    ("hostile_clients::improper_requests_are_refused_before_an_app_is_woken", improper),
    ("hostile_clients::a_body_with_bad_chunks_is_the_clients_fault", chunks),
    ("hostile_clients::floods_of_the_smallest_pieces_hold_up_nobody", floods),
    ("hostile_clients::without_a_key_a_page_cannot_lend_the_api_its_name", rebinding),
    ("hostile_clients::connections_at_rest_make_room", at_rest),
    ("hostile_clients::the_memory_of_many_connections_is_given_back", given_back),
];

const SINK: &str = r#"
import http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def do_GET(self):
        open('requests', 'a').write(self.command + '\n')
        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def do_POST(self):
        while True:
            size = int(self.rfile.readline().strip() or b'0', 16)
            self.rfile.read(size + 2)
            if size == 0: break
        self.do_GET()
http.server.ThreadingHTTPServer(('127.0.0.1', 3000), H).serve_forever()
"#;

fn with_sink() -> (Server, String) {
    let server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    assert_eq!(server.put(&id, "app.py", SINK.as_bytes()).status, 200);
    assert_eq!(server.put(&id, "sandbox.yaml", b"version: 1\nweb: {command: python3 app.py}\n").status, 200);
    eventually("the app is up", Duration::from_secs(20), || {
        server.preview(&id, 3000, "GET", "/", &[], b"").status == 200
    });
    (server, id)
}

/// Every refusal says why, and has an id.
fn assert_told(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert!(answer.body.len() > 20, "{what}: {}", answer.text());
    assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 26), "{what}: {}", answer.head);
}

fn improper() {
    let (server, id) = with_sink();
    let host = preview_host(&id, 3000);
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    server.put(&id, "requests", b"");
    let chunks = "0\r\n\r\n";
    for (head, status) in [
        (format!("GET * HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400),
        (format!("GET {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            ),
            400,
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{chunks}"
            ),
            400,
        ),
        (format!("TRACE / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 405),
        (format!("CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n"), 405),
    ] {
        for port in [PREVIEWS, API] {
            let answer = http::raw(port, head.as_bytes());
            assert_told(&answer, status, &head);
            assert_eq!(answer.header("connection").as_deref(), Some("close"), "{head}");
            assert_eq!(answer.header("allow").is_some(), status == 405, "{head}");
        }
    }
    // What hyper refuses by itself says why too.
    let many = "X: y\r\n".repeat(200);
    for (head, status) in [
        (format!("GET / HTTP/1.1\r\nHost: {host}\r\nBad Header: x\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n"), 400),
        (format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: +5\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\nHost: {host}\r\n{many}\r\n"), 431),
        (format!("G\0T / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400),
    ] {
        for port in [PREVIEWS, API] {
            assert_told(&http::raw(port, head.as_bytes()), status, head.lines().nth(2).unwrap());
        }
    }
    // The second on a connection, too, behind a body that looks like anything; and nothing behind it is answered.
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let first = "POST /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n\r\n\r\n";
    let text = format!(
        "{first}POST / HTTP/1.1\r\nHost: {host}\r\n{both}GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
    let answer = http::raw(API, text.as_bytes());
    let all = format!("{}{}", answer.head, answer.text());
    assert!(all.contains("HTTP/1.1 400") && !all.contains("ok\n"), "{all}");
    assert_eq!(server.status(&id), "stopped", "one of them woke it");
    assert_eq!(server.sh(&id, "cat app/requests"), "", "one of them reached the app");
}

fn chunks() {
    let (server, id) = with_sink();
    let (host, key) = (preview_host(&id, 3000), server.key());
    for bad in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nx",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{bad}");
        assert_told(&http::raw(PREVIEWS, head.as_bytes()), 400, bad);
        for (method, path) in [
            ("POST", "/sandbox".to_owned()),
            ("POST", "/v1/sandboxes".to_owned()),
            ("PUT", format!("/v1/sandboxes/{id}/files?path=x")),
        ] {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\n\r\n{bad}"
            );
            assert_told(&http::raw(API, head.as_bytes()), 400, &format!("{path} {bad}"));
        }
    }
    assert_eq!(server.exec(&id, "cat app/x").1, 1, "a part of a bad body was kept");
    let good = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"
    );
    assert_eq!(http::raw(PREVIEWS, good.as_bytes()).status, 200);
}

/// Chunks of one byte to an app that takes them, and requests that nobody wants the answers of.
fn floods() {
    let (server, id) = with_sink();
    let host = preview_host(&id, 3000);
    let chunks = format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (port, head, piece) in [
        (PREVIEWS, chunks.as_str(), "1\r\nx\r\n"),
        (API, "", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        (PREVIEWS, "", "\r\n"),
    ] {
        let done = std::sync::atomic::AtomicBool::new(false);
        let (health, exec) = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                    let _gone = stream.write_all(head.as_bytes());
                    let pieces = piece.repeat(10_000);
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        // It waits where nobody takes them; half of one is no matter.
                        let _full = stream.write(pieces.as_bytes());
                    }
                });
            }
            let longest = super::hostile_apps::longest(&server, &id, Duration::from_secs(2));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            longest
        });
        tell(&format!("{piece:?}: {health:?} at most for the API, {exec:?} for an exec"));
        assert!(health < Duration::from_millis(700) && exec < Duration::from_secs(2), "{health:?} {exec:?}");
    }
}

fn rebinding() {
    let server =
        Server::start(&[("SANDBOXD_API_AUTH_DISABLED", "true"), ("SANDBOXD_API_HOSTS", "api.example.org")]);
    let id = server.create(json!({}));
    let ask = |method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &str| {
        http::request(API, host, method, path, headers, body.as_bytes())
    };
    let own = [("Origin", "http://evil.example:9090")];
    let exec = format!("/sandbox/{id}/exec");
    let terminal = format!("/v1/sandboxes/{id}/terminal");
    for (method, path, body) in [
        ("GET", "/sandboxes", ""),
        ("POST", "/sandbox", "{}"),
        ("POST", exec.as_str(), "{\"cmd\":[\"true\"]}"),
        ("GET", terminal.as_str(), ""),
        ("GET", "/v1/events", ""),
    ] {
        for headers in [&own[..], &[]] {
            let answer = ask(method, path, "evil.example:9090", headers, body);
            assert_told(&answer, 421, path);
            assert!(answer.text().contains("api_hosts"), "{}", answer.text());
        }
    }
    for host in ["127.0.0.1:9090", "[::1]", "localhost", "sandboxd", "x.localhost:1", "API.example.org"] {
        assert_eq!(ask("GET", "/sandboxes", host, &[], "").status, 200, "{host}");
        let origin = format!("http://{host}");
        assert_eq!(
            ask("POST", &exec, host, &[("Origin", &origin)], "{\"cmd\":[\"true\"]}").status,
            200,
            "{host}"
        );
    }
    // A page of another name is refused whatever it asks for: a reading one too, since it needs no key.
    assert_told(&ask("GET", "/sandboxes", "localhost", &own, ""), 403, "another origin");
    assert_told(&ask("GET", "/sandboxes", "localhost", &[("Origin", "null")], ""), 403, "no origin");
    // What brings a key is no page of somebody else's, and what is open to all is no secret.
    let bearer = format!("Bearer {}", server.key());
    assert_eq!(ask("GET", "/sandboxes", "evil.example", &[("Authorization", &bearer)], "").status, 200);
    assert_eq!(ask("GET", "/sandboxes", "evil.example", &[("Authorization", "Bearer x")], "").status, 421);
    assert_eq!(ask("GET", "/healthz", "evil.example", &[], "").status, 200);
}

/// Opens connections that each have had an answer, or have sent nothing, or the beginning of a request.
fn open(port: u16, count: usize) -> Vec<TcpStream> {
    let one = |number: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // Where there is no room nobody answers; all are open before the first is too old.
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        if number % 3 != 1 {
            let end = if number.is_multiple_of(3) { "\r\n" } else { "" };
            let _gone =
                stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{end}").as_bytes());
        }
        if number.is_multiple_of(3) {
            let _answer = stream.read(&mut [0; 1024]);
        }
        stream
    };
    (0..count).map(one).collect()
}

/// With 256 descriptors, 260 connections at rest to each listener.
fn at_rest() {
    let mut server = Server::prepare(&[]);
    server.boot_under(&["prlimit", "--nofile=256:256"]);
    let id = server.create(json!({}));
    let held = [open(API, 260), open(PREVIEWS, 260)];
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(server.api("GET", "/sandboxes", Value::Null).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let answer = http::request(PREVIEWS, "localhost", "GET", "/", &[], b"");
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
    assert_eq!(server.sh(&id, "echo x"), "x\n");
    server.create(json!({}));
    let log = server.log_text();
    assert!(!log.contains("failed to accept"), "{log}");
    drop(held);
}

/// The memory of the daemon in KiB.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn given_back() {
    // For this process: every connection has two ends.
    let before = soft_limit("16384");
    let mut server = Server::prepare(&[("SANDBOXD_CLIENT_CONNECTIONS_MAX", "0"), ("SANDBOXD_LOG", "info")]);
    server.boot_under(&["prlimit", "--nofile=20000:20000"]);
    let mut idle = 0;
    for round in 0..2 {
        let mut streams = Vec::new();
        for _ in 0..3500 {
            let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
            write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            streams.push(stream);
        }
        let held = resident(&server);
        drop(streams);
        // The first round is what the server grows to once; by the second it must have come back to that.
        eventually_seen("the memory is given back", Duration::from_secs(12), || {
            let after = resident(&server);
            let is_back = if round == 0 { after + 20_000 < held } else { after < idle + 6_000 };
            if is_back { Ok(()) } else { Err(format!("{after} KiB of {held} KiB, {idle} KiB before")) }
        });
        idle = resident(&server);
        tell(&format!("3,500 connections: {held} KiB, {idle} KiB afterwards"));
    }
    soft_limit(&before);
}

/// Sets how many descriptors this process may have, and returns how many that was.
fn soft_limit(files: &str) -> String {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let before = line.split_whitespace().next().unwrap().to_owned();
    let (limit, own) = (format!("--nofile={files}:"), std::process::id().to_string());
    assert!(std::process::Command::new("prlimit").args([&limit, "--pid", &own]).status().unwrap().success());
    before
}
