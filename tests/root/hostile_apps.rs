//! Apps that answer as no app should: they harm their own clients at most, who are told so.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::{API, PREVIEWS, Server, preview_host};
use crate::support::{eventually, eventually_seen, http, tell};

pub(crate) const TESTS: &[Test] = &[
    ("hostile_apps::interim_answers_without_end_hold_up_nobody", interim),
    ("hostile_apps::an_answer_that_can_be_read_in_two_ways_is_a_502", framed),
    ("hostile_apps::an_app_that_never_answers_is_given_up", silent),
    ("hostile_apps::a_request_ends_with_its_client_whatever_that_left_unread", ends),
    ("hostile_apps::requests_that_are_never_answered_leave_descriptors_for_all", unanswered),
];

/// Answers by path, byte for byte.
const APP: &str = r#"
import socket, threading, time
def answer(c, path):
    if path == b'/100' or path == b'/103':
        one = b'HTTP/1.1 100 Continue\r\n\r\n' if path == b'/100' else b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
        while True: c.sendall(one * 4000)
    if path == b'/chunks':
        c.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        while True: c.sendall(b'1\r\nx\r\n' * 10000)
    if path == b'/frames':
        c.sendall(b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
        while True: c.sendall(b'\x89\x00\x81\x00' * 20000)
    if path == b'/never': time.sleep(3600)
    if path == b'/wait':
        while c.recv(1): pass
        open('left', 'a').write('x')
    bodies = {
        b'/few': b'HTTP/1.1 100 Continue\r\n\r\n' + b'HTTP/1.1 103 Early Hints\r\n\r\n' * 3 + b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
        b'/both': b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
        b'/both2': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
        b'/coded': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello',
        b'/chunk': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n',
        b'/nothing': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
        b'/short': b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n',
        b'/lengths': b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!',
        b'/flags': b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nClear-Site-Data: "*"\r\nNEL: {}\r\nReport-To: {}\r\nX-Accel-Redirect: /x\r\nX-Sendfile: /x\r\nX-Kept: 1\r\n\r\nok',
    }
    # With the end of the connection in the same packet, however long this process is kept waiting in between.
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    c.sendall(bodies.get(path, b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'))
def serve(c):
    try:
        head = b''
        while b'\r\n\r\n' not in head:
            data = c.recv(65536)
            if not data: return
            head += data
        answer(c, head.split(b' ')[1])
    except OSError: pass
    finally: c.close()
s = socket.create_server(('127.0.0.1', 3000), backlog=1024)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

/// Creates a sandbox with the app running.
fn app(server: &Server) -> String {
    let id = server.create(json!({ "ports": [3000] }));
    assert_eq!(server.put(&id, "app.py", APP.as_bytes()).status, 200);
    server.sh(&id, "cd app; nohup python3 app.py >/dev/null 2>&1 &");
    eventually("the app is up", Duration::from_secs(20), || {
        server.preview(&id, 3000, "GET", "/", &[], b"").status == 200
    });
    id
}

/// Sends a request and reads for at most a time; what came.
fn ask_for(id: &str, path: &str, time: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let connection = if path == "/frames" { "Upgrade\r\nUpgrade: websocket" } else { "close" };
    let host = preview_host(id, 3000);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n").unwrap();
    let (end, mut got, mut buffer) = (Instant::now() + time, Vec::new(), [0; 65536]);
    while Instant::now() < end {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_reset) => break,
        }
    }
    got
}

/// The processor time that the daemon has used, in hundredths of a second.
fn ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The longest that the API and a neighbour's exec take during a time.
pub(super) fn longest(server: &Server, neighbour: &str, time: Duration) -> (Duration, Duration) {
    let (end, mut health, mut exec) = (Instant::now() + time, Duration::ZERO, Duration::ZERO);
    while Instant::now() < end {
        let begun = Instant::now();
        assert_eq!(http::request(API, "localhost", "GET", "/healthz", &[], b"").status, 200);
        health = health.max(begun.elapsed());
        let begun = Instant::now();
        assert_eq!(server.sh(neighbour, "echo x"), "x\n");
        exec = exec.max(begun.elapsed());
    }
    (health, exec)
}

fn interim() {
    let server = Server::start(&[]);
    let neighbour = server.create(json!({}));
    let mut apps = Vec::new();
    for (count, path) in [(2, "/100"), (8, "/103"), (8, "/chunks"), (8, "/frames")] {
        while apps.len() < count {
            apps.push(app(&server));
        }
        let (done, wrong) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let (health, exec) = std::thread::scope(|scope| {
            for id in &apps {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let got = ask_for(id, path, Duration::from_millis(500));
                        let is_right = match path {
                            "/chunks" => b"HTTP/1.1 200",
                            "/frames" => b"HTTP/1.1 101",
                            _ => b"HTTP/1.1 502",
                        };
                        if !got.starts_with(is_right) {
                            wrong
                                .lock()
                                .unwrap()
                                .push(String::from_utf8_lossy(&got).chars().take(200).collect::<String>());
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(200));
            let longest = longest(&server, &neighbour, Duration::from_secs(2));
            done.store(true, Ordering::Relaxed);
            longest
        });
        tell(&format!("{count} apps, {path}: {health:?} at most for the API, {exec:?} for an exec"));
        // Beside eight that compute, on two cores and without optimization.
        assert!(health < Duration::from_millis(700), "{path}: {health:?} for the API");
        assert!(exec < Duration::from_secs(2), "{path}: {exec:?} for an exec");
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{path}: {wrong:?}");
        eventually_seen("the daemon rests once the clients have left", Duration::from_secs(10), || {
            let before = ticks(&server);
            std::thread::sleep(Duration::from_secs(1));
            let used = ticks(&server) - before;
            if used <= 20 { Ok(()) } else { Err(format!("{used} hundredths of a second")) }
        });
    }
    // A few are as they should be.
    assert!(ask_for(&apps[0], "/few", Duration::from_secs(5)).ends_with(b"\r\n\r\nok"));
}

fn framed() {
    let server = Server::start(&[]);
    let id = app(&server);
    for path in ["/both", "/both2", "/coded", "/chunk", "/nothing", "/short", "/lengths"] {
        let answer = server.preview(&id, 3000, "GET", path, &[], b"");
        assert_eq!((answer.status, answer.json()["error"].clone()), (502, json!("app_error")), "{path}");
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 26), "{path}: {}", answer.head);
    }
    let answer = server.preview(&id, 3000, "GET", "/flags", &[], b"");
    assert_eq!((answer.status, answer.text(), answer.header("x-kept")), (200, "ok".into(), Some("1".into())));
    for name in ["clear-site-data", "nel", "report-to", "x-accel-redirect", "x-sendfile"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

fn silent() {
    let server = Server::start(&[("SANDBOXD_PREVIEW_ANSWER_SECONDS", "1")]);
    let id = app(&server);
    let begun = Instant::now();
    let answer = server.preview(&id, 3000, "GET", "/never", &[], b"");
    assert_eq!((answer.status, answer.json()["error"].clone()), (504, json!("app_silent")));
    assert!((1..5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // Interim answers do not put it off: they are not the answer, and a few are all there may be.
    assert_eq!(server.preview(&id, 3000, "GET", "/103", &[], b"").status, 502);
}

/// The beginning of another request, and a body that nobody takes, hide the end of a connection from hyper.
fn ends() {
    let server = Server::start(&[]);
    let id = app(&server);
    let host = preview_host(&id, 3000);
    for (count, request) in [
        format!("GET /wait HTTP/1.1\r\nHost: {host}\r\n\r\nGET / HT"),
        format!("GET /wait HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("POST /wait HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nxxx"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        drop(stream);
        eventually(request.lines().next().unwrap(), Duration::from_secs(8), || {
            server.exec(&id, "cat app/left").0 == "x".repeat(count + 1)
        });
    }
}

/// With 1,024 descriptors, 700 requests to one app that never answers: two descriptors each would be more.
fn unanswered() {
    let mut server = Server::prepare(&[("SANDBOXD_CLIENT_CONNECTIONS_MAX", "0")]);
    server.boot_under(&["prlimit", "--nofile=1024:1024"]);
    let (hostile, neighbour) = (app(&server), app(&server));
    let open: Vec<TcpStream> = (0..700)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).unwrap();
            let head = format!("GET /never HTTP/1.1\r\nHost: {}\r\n\r\n", preview_host(&hostile, 3000));
            // One that is refused or makes room may be gone.
            let _gone = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    let exec = || server.sh(&neighbour, "echo x");
    assert_eq!(exec(), "x\n");
    let created = server.create(json!({}));
    assert_eq!(server.sh(&created, "echo y"), "y\n");
    for port in [PREVIEWS, API] {
        let host = preview_host(&neighbour, 3000);
        let answer = http::request(port, &host, "GET", "/", &[], b"");
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()), "{port}");
    }
    // Whoever comes too much is told so, at once.
    let begun = Instant::now();
    let answer = server.preview(&hostile, 3000, "GET", "/never", &[], b"");
    assert_eq!((answer.status, answer.json()["error"].clone()), (503, json!("too_many_open")));
    assert!(answer.header("retry-after").is_some() && begun.elapsed() < Duration::from_secs(2));
    drop(open);
    eventually("its share is free again", Duration::from_secs(10), || {
        server.preview(&hostile, 3000, "GET", "/", &[], b"").status == 200
    });
    assert_eq!(server.api("GET", "/readyz", Value::Null).status, 200);
    let log = server.log_text();
    assert!(!log.contains("Too many open files"), "{log}");
}
