//! Connections on which nothing happens, and clients that have gone without saying so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::Test;
use super::sleep::with_app;
use crate::support::eventually;
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("idle::streams_are_kept_alive_and_silent_clients_let_go", kept_alive),
    ("idle::a_terminal_that_was_cut_off_is_hung_up_unless_somebody_comes_back", hung_up),
    ("idle::input_that_is_not_read_is_refused_after_a_while", unread),
];

/// Begins a request and returns what comes back.
fn ask(server: &Server, method: &str, path: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (key, length) = (server.key(), body.len());
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

fn kept_alive() {
    let server = Server::start(&[("SANDBOXD_KEEP_ALIVE_SECONDS", "1")]);
    let id = with_app(&server);
    let process = server.start_process(&id, json!({ "cmd": ["sleep", "1000"] }));
    std::thread::scope(|scope| {
        for path in [
            "/v1/events".to_owned(),
            format!("/v1/sandboxes/{id}/files/watch?path="),
            format!("/v1/sandboxes/{id}/processes/web/logs?follow=true"),
            format!("/v1/sandboxes/{id}/processes/{process}/output"),
        ] {
            let server = &server;
            scope.spawn(move || {
                let begun = Instant::now();
                let mut lines = BufReader::new(ask(server, "GET", &path, b"")).lines();
                let mut next = || lines.next().unwrap_or_else(|| panic!("{path} has ended")).unwrap();
                assert!(next().contains(" 200 "), "{path}");
                for _frame in 0..3 {
                    while !next().starts_with(':') {}
                }
                assert!(begun.elapsed() > Duration::from_secs(2), "{path}: {:?}", begun.elapsed());
            });
        }
        // One that answers is kept for longer than one that does not would be.
        scope.spawn(|| {
            let mut socket = server.follow(&id, &process, 0);
            for _ping in 0..7 {
                assert!(matches!(socket.read().unwrap(), Message::Ping(_)));
            }
        });
        scope.spawn(|| {
            let mut socket = server.follow(&id, &process, 0);
            let mut unanswered = Vec::new();
            let begun = Instant::now();
            // Beneath the protocol, so that no ping is answered.
            let _cut = socket.get_mut().read_to_end(&mut unanswered);
            let took = begun.elapsed();
            assert!(
                took > Duration::from_secs(3) && took < Duration::from_secs(19),
                "a silent client was let go after {took:?}"
            );
        });
    });
}

fn hung_up() {
    let server =
        Server::start(&[("SANDBOXD_TERMINAL_HANG_UP_SECONDS", "2"), ("SANDBOXD_KEEP_ALIVE_SECONDS", "1")]);
    let id = server.create(Value::Null);
    let open = |name: &str| {
        let (mut socket, response) = server.socket(&format!("/v1/sandboxes/{id}/terminal"), &[]).unwrap();
        let line = format!("trap 'touch ~/hung-up-{name}; exit' HUP; touch ~/open-{name}\n");
        socket.send(Message::binary(line.into_bytes())).unwrap();
        eventually("the shell has taken it", Duration::from_secs(20), || {
            server.exec(&id, &format!("test -e ~/open-{name}")).1 == 0
        });
        (socket, response.headers()["x-process-id"].to_str().unwrap().to_owned())
    };
    let (left, _) = open("left");
    let (cut, process) = open("cut");
    let begun = Instant::now();
    // No farewell: the connection is just gone.
    drop((left, cut));
    let mut again = server.follow(&id, &process, 0);
    eventually("the one that was left is hung up", Duration::from_secs(20), || {
        server.exec(&id, "test -e ~/hung-up-left").1 == 0
    });
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    // Somebody came back to the other, and stays for longer than that takes.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert!(!matches!(again.read().unwrap(), Message::Close(_)));
    }
    assert_eq!(server.process(&id, &process)["status"], "running");
    assert_eq!(server.exec(&id, "test -e ~/hung-up-cut").1, 1);
}

fn unread() {
    let server = Server::start(&[("SANDBOXD_PROCESS_INPUT_SECONDS", "2")]);
    let id = server.create(Value::Null);
    let process = server.start_process(&id, json!({ "cmd": ["sleep", "1000"], "stdin": true }));
    let begun = Instant::now();
    // More than a pipe holds.
    let path = format!("/v1/sandboxes/{id}/processes/{process}/stdin");
    let mut answer = String::new();
    ask(&server, "POST", &path, &vec![b'x'; 1 << 20]).read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 409 ") && answer.contains("has not read its input for 2 s"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(server.process(&id, &process)["status"], "running");
}
