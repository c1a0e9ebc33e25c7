//! What is told of sandboxes: in order, once, from where a reader left off, and across restarts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::Test;
use crate::support::eventually;
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("events::they_tell_a_life_in_order_and_resume", a_life),
    ("events::an_oom_is_told_and_the_app_comes_back", oom),
];

/// A reader of `/v1/events`.
pub(crate) struct Reader(BufReader<TcpStream>);

/// One event: number, name, data.
pub(crate) type Event = (u64, String, Value);

impl Reader {
    pub(crate) fn open(server: &Server, query: &str, last: Option<u64>) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /v1/events{query} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{last}\r\n",
            server.key()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains("200"), "{line}");
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        Self(reader)
    }

    pub(crate) fn next(&mut self) -> Event {
        let (mut id, mut name, mut data) = (0, String::new(), Value::Null);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream has ended");
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().unwrap();
            } else if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text).unwrap();
            } else if line.is_empty() && !name.is_empty() {
                return (id, name, data);
            }
        }
    }

    pub(crate) fn until(&mut self, name: &str) -> Vec<Event> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(_, n, _): &Event| n != name) {
            seen.push(self.next());
        }
        seen
    }
}

fn a_life() {
    let mut server = Server::start(&[]);
    let mut all = Reader::open(&server, "", None);
    let id = server.create(Value::Null);
    let act = |server: &Server, action: &str| {
        assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).status, 200);
    };
    act(&server, "pause");
    server.sh(&id, "true");
    act(&server, "stop");
    act(&server, "start");
    let other = server.create(Value::Null);
    server.purge(&id);
    let seen = all.until("sandbox.deleted");
    let story: Vec<String> = seen
        .iter()
        .filter(|(_, _, data)| data["sandbox_id"] == id.as_str())
        .map(|(_, name, data)| {
            format!("{}:{}", name.trim_start_matches("sandbox."), data["reason"].as_str().unwrap_or(""))
        })
        .collect();
    let expected = [
        "created:",
        "running:request",
        "paused:request",
        "running:use",
        "stopped:request",
        "running:request",
        "stopped:request",
        "deleted:",
    ];
    assert_eq!(story, expected);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    assert_eq!(seen.last().unwrap().2["purged"], true);
    // From a number on, of one sandbox; a reader that comes back gets what it has not seen.
    let mut of_other = Reader::open(&server, &format!("?sandbox={other}&from=0"), None);
    assert_eq!(
        (of_other.next().1, of_other.next().1),
        ("sandbox.created".to_owned(), "sandbox.running".to_owned())
    );
    let middle = seen[3].0;
    let again = Reader::open(&server, "?from=0", Some(middle)).until("sandbox.deleted");
    assert_eq!(again.first().unwrap().0, middle + 1);
    assert_eq!(again.len(), seen.len() - 4);
    // After a crash the numbers go on, and a reader is told what is not kept.
    let last = seen.last().unwrap().0;
    server.kill();
    server.boot();
    let mut resumed = Reader::open(&server, "", Some(middle));
    let mut live = Reader::open(&server, "", None);
    server.purge(&other);
    let (to, name, data) = resumed.next();
    assert_eq!(
        (name.as_str(), data["from"].as_u64(), data["to"].as_u64()),
        ("missed", Some(middle + 1), Some(to))
    );
    let (first, name, _) = resumed.next();
    assert!(first > last && name == "sandbox.stopped", "{first} {name}");
    assert_eq!(live.next().0, first);
    for bad in ["?sandbox=x", "?from=x", "?colour=red"] {
        assert_eq!(server.api("GET", &format!("/v1/events{bad}"), Value::Null).status, 400, "{bad}");
    }
    // Open streams do not hold up the end.
    let begun = std::time::Instant::now();
    assert!(server.signal("TERM").success());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

fn oom() {
    let server = Server::start(&[("SANDBOXD_MEMORY_MAX", "64M")]);
    let neighbour = server.create(Value::Null);
    server.sh(&neighbour, "sleep 1000 >/dev/null 2>&1 & echo $! > pid");
    let id = server.create(Value::Null);
    // It takes too much once, and behaves afterwards.
    let app = b"version: 1\nworkers:\n- name: glutton\n  command: '[ -e fed ] || { touch fed; python3 -c \"b = bytearray(200_000_000); b[::4096] = b[::4096]\"; exit 1; }; touch well; sleep 1000'\n";
    let mut events = Reader::open(&server, "?from=0", None);
    assert_eq!(server.put(&id, "sandbox.yaml", app).status, 200);
    let seen = events.until("sandbox.oom");
    let data = &seen.last().unwrap().2;
    assert!(data["sandbox_id"] == id.as_str() && data["killed"].as_u64().unwrap() >= 1, "{data}");
    let memory = &data["memory"];
    assert_eq!(memory["max"], 64 << 20, "{memory}");
    assert!(
        memory["peak"].as_u64().unwrap() > 60 << 20 && memory["events"]["oom_kill"].as_u64().unwrap() >= 1,
        "{memory}"
    );
    let view = || server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json();
    eventually("the app is started again", Duration::from_secs(20), || {
        let view = view();
        view["status"] == "running"
            && view["processes"][0]["running"] == true
            && view["processes"][0]["restarts"] == 1
    });
    eventually("it goes on where it should", Duration::from_secs(20), || {
        server.exec(&id, "test -e app/well").1 == 0
    });
    server.sh(&neighbour, "kill -0 $(cat pid)");
}
