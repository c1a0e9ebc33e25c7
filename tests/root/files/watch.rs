//! Changes told as they happen, of a sandbox that runs and of one that sleeps.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::server::{API, Server};

/// One who watches.
struct Reader(BufReader<TcpStream>);

impl Reader {
    fn open(server: &Server, id: &str, query: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "GET /v1/sandboxes/{id}/files/watch?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            server.key()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = Self(BufReader::new(stream));
        let status = reader.line();
        assert!(status.contains(" 200 "), "{status}");
        while !reader.line().is_empty() {}
        reader
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the watch has ended");
        line.trim_end().to_owned()
    }

    /// Returns the next event and its data.
    fn next(&mut self) -> (String, Value) {
        loop {
            let line = self.line();
            if let Some(event) = line.strip_prefix("event: ") {
                let data = self.line();
                return (
                    event.to_owned(),
                    serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
                );
            }
        }
    }

    fn expect(&mut self, kind: &str, path: &str) {
        let (event, data) = self.next();
        assert_eq!(
            (event.as_str(), &data["kind"], &data["path"]),
            ("change", &json!(kind), &json!(path)),
            "{data}"
        );
    }
}

pub(crate) fn told() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    server.sh(&id, "mkdir -p app/src/deep app/node_modules");
    let mut flat = Reader::open(&server, &id, "path=");
    let mut deep = Reader::open(&server, &id, "path=src&recursive=true");
    server.sh(&id, "cd app; echo x > node_modules/x; echo x > top; echo x > src/deep/a");
    flat.expect("created", "top");
    flat.expect("modified", "top");
    deep.expect("created", "src/deep/a");
    deep.expect("modified", "src/deep/a");
    server.sh(&id, "cd app; mv src/deep/a src/b; rm src/b");
    let (_, moved) = deep.next();
    assert_eq!(moved, json!({ "path": "src/b", "kind": "moved", "from": "src/deep/a" }));
    deep.expect("deleted", "src/b");
    // A directory that is new is watched with what was in it before that could be.
    server.sh(&id, "cd app; mkdir -p src/new/er");
    for path in ["src/new", "src/new/er"] {
        deep.expect("created", path);
    }
    // Of the app directory, src, deep, new and er.
    let all_five = || watched(&server) == 5;
    eventually("the new directories are watched", Duration::from_secs(10), all_five);
    server.sh(&id, "echo x > app/src/new/er/c");
    deep.expect("created", "src/new/er/c");
    deep.expect("modified", "src/new/er/c");
    // One that was moved tells by its new name.
    server.sh(&id, "cd app; mv src/new src/old");
    assert_eq!(deep.next().1, json!({ "path": "src/old", "kind": "moved", "from": "src/new" }));
    eventually("they are watched by their new names", Duration::from_secs(10), all_five);
    server.sh(&id, "rm app/src/old/er/c");
    deep.expect("deleted", "src/old/er/c");
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    assert_eq!(server.put(&id, "src/by-the-api", b"x").status, 200);
    deep.expect("created", "src/by-the-api");
    assert_eq!(server.status(&id), "stopped", "watching has woken it");
    // The end of the directory is the end of the watch.
    let query = format!("/v1/sandboxes/{id}/files?path=src&recursive=true");
    assert_eq!(server.api("DELETE", &query, Value::Null).status, 204);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut deep.0, &mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the watch has not ended: {rest}");
}

pub(crate) fn missed() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    server.sh(&id, "cd app; ln -s /etc out; echo x > file; mkdir dir many; cd many; seq 2500 | xargs mkdir");
    for (query, status) in [("path=out", 400), ("path=file", 400), ("path=none", 404), ("path=..", 400)] {
        let answer = server.api("GET", &format!("/v1/sandboxes/{id}/files/watch?{query}"), Value::Null);
        assert_eq!(answer.status, status, "{query}");
    }
    let many =
        server.api("GET", &format!("/v1/sandboxes/{id}/files/watch?path=many&recursive=true"), Value::Null);
    assert_eq!(many.status, 413, "{}", many.text());
    // Nobody reads while far more happens than is kept.
    let mut slow = Reader::open(&server, &id, "path=dir");
    server.sh(&id, "cd app/dir; for i in 1 2 3 4 5; do seq 3000 | xargs touch; done");
    let mut lost = false;
    for _ in 0..200_000 {
        lost = slow.next().0 == "overflow";
        if lost {
            break;
        }
    }
    assert!(lost, "nothing was missed");
    // Those who have gone hold nothing: the number of watches in the daemon goes back to that of the last one.
    drop(slow);
    eventually("no directory is watched", Duration::from_secs(20), || {
        // A connection that is closed is noticed when something is sent.
        server.sh(&id, "touch app/dir/x; rm -f app/dir/x");
        watched(&server) == 0
    });
}

pub(crate) fn apart() {
    let server = Server::start(&[]);
    let (one, other) = (server.create(Value::Null), server.create(Value::Null));
    let mut readers = [&one, &one, &other].map(|id| Reader::open(&server, id, "path="));
    // One queue for both who watch the first sandbox, and one for the second.
    assert_eq!(queues(&server), 2);
    for id in [&one, &other] {
        assert_eq!(server.put(id, id, b"x").status, 200);
    }
    for (reader, id) in readers.iter_mut().zip([&one, &one, &other]) {
        reader.expect("created", id);
    }
    drop(readers);
    eventually("nothing is kept for those who have gone", Duration::from_secs(20), || {
        for id in [&one, &other] {
            server.sh(id, "touch app/x; rm -f app/x");
        }
        queues(&server) == 0
    });
}

/// How many directories the server watches.
fn watched(server: &Server) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fdinfo", server.pid())).unwrap();
    let texts = descriptors.filter_map(|d| std::fs::read_to_string(d.ok()?.path()).ok());
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    // An instance has two descriptors that tell the same.
    let told = texts.flat_map(lines).filter(|line| line.starts_with("inotify "));
    told.collect::<std::collections::BTreeSet<_>>().len()
}

/// How many inotify instances the server has: each has a descriptor to read from and one that wakes.
fn queues(server: &Server) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let names = descriptors.filter_map(|d| std::fs::read_link(d.ok()?.path()).ok());
    names.filter(|name| name.ends_with("anon_inode:inotify")).count() / 2
}
