//! Files through the API, with a tenant who does his worst at the same time.

mod archive;
mod edit;
pub(crate) mod watch;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http::Answer;
use crate::support::server::{API, Server};

pub(crate) use archive::TESTS as ARCHIVE;
pub(crate) use edit::TESTS as EDIT;

pub(crate) const TESTS: &[Test] = &[
    ("files::are_written_read_and_listed_asleep_or_awake", written_and_read),
    ("files::no_path_leads_out", no_path_leads_out),
    ("files::links_swapped_while_files_are_used_lead_nowhere", race),
    ("files::one_that_changes_its_length_under_a_download_is_not_lied_about", changing),
    ("files::changes_are_told_whether_it_runs_or_sleeps", watch::told),
    ("files::what_is_missed_is_said_and_a_watch_leads_nowhere", watch::missed),
    ("files::each_sandbox_that_is_watched_has_a_queue_of_its_own", watch::apart),
];

/// The length that was announced is kept while the file grows; when it shrinks the answer breaks off.
fn changing() {
    const LENGTH: usize = 30_000_000;
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    server.sh(&id, &format!("head -c {LENGTH} /dev/zero > app/big"));
    server.sh(&id, "nohup sh -c 'while [ -e app/big ]; do printf grown >> app/big; done' >/dev/null 2>&1 &");
    eventually("it grows", Duration::from_secs(20), || {
        server.exec(&id, &format!("[ $(stat -c %s app/big) -gt {LENGTH} ]")).1 == 0
    });
    let mut last = 0;
    for _download in 0..5 {
        let answer = server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path=big"), Value::Null);
        let announced: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, announced));
        assert!(announced >= last, "{announced} after {last}");
        last = announced;
    }
    assert!(last > LENGTH, "it did not grow meanwhile");
    server.sh(&id, &format!("rm app/big; head -c {LENGTH} /dev/zero > app/other"));
    let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
    let head = format!(
        "GET /v1/sandboxes/{id}/files/content?path=other HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        server.key()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    server.sh(&id, "truncate -s 20000000 app/other");
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It ends, and not by a time-out: nothing else may be taken for the rest.
    let ended = stream.read_to_end(&mut rest);
    assert!(!ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "it hangs");
    assert!(
        rest.len() < LENGTH - 1_000_000 && rest.iter().rev().take(1000).all(|b| *b == 0),
        "{}",
        rest.len()
    );
}

fn written_and_read() {
    let server = Server::start(&[("SANDBOXD_FILES_MAX_BYTES", "1M")]);
    let id = server.create(Value::Null);
    let written = server.put(&id, "src/deep/a.txt", b"0123456789");
    assert_eq!((written.status, written.json()), (200, json!({ "path": "src/deep/a.txt", "size": 10 })));
    assert_eq!(
        server.sh(&id, "stat -c '%U %a' app/src/deep/a.txt; cat app/src/deep/a.txt"),
        "sandbox 644\n0123456789"
    );
    server.sh(&id, "chmod 755 app/src/deep/a.txt; mkdir -p app/node_modules/x; touch app/node_modules/x/y");
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    assert_eq!(server.put(&id, "src/deep/a.txt", b"abcdefghij").status, 200);
    let content = |range: &[(&str, &str)]| {
        let key = format!("Bearer {}", server.key());
        let headers: Vec<_> =
            [("Authorization", key.as_str())].into_iter().chain(range.iter().copied()).collect();
        let path = format!("/v1/sandboxes/{id}/files/content?path=src/deep/a.txt");
        crate::support::http::request(crate::support::server::API, "localhost", "GET", &path, &headers, b"")
    };
    assert_eq!(content(&[]).text(), "abcdefghij");
    let part = content(&[("Range", "bytes=2-4")]);
    assert_eq!(
        (part.status, part.text().as_str(), part.header("content-range").as_deref()),
        (206, "cde", Some("bytes 2-4/10"))
    );
    assert_eq!(content(&[("Range", "bytes=99-")]).status, 416);
    let list = server.api("GET", &format!("/v1/sandboxes/{id}/files?recursive=true"), Value::Null).json();
    let paths: Vec<_> =
        list["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["src", "src/deep", "src/deep/a.txt"]);
    assert_eq!(server.status(&id), "stopped", "using files has woken it");
    assert_eq!(server.put(&id, "big", &vec![0; 1_100_000]).status, 413);
    assert_eq!(
        server.sh(&id, "stat -c %a app/src/deep/a.txt; ls -A app | grep -c upload || true"),
        "755\n0\n"
    );
}

fn no_path_leads_out() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    std::fs::write(server.data().join("secret"), "host").unwrap();
    server.sh(&id, "cd app; ln -s /etc/passwd abs; ln -s ../../../../../secret rel; ln -s / root; mkfifo pipe; ln -s target inside; echo x > target; mkdir dir");
    let get = |path: &str| {
        server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path={path}"), Value::Null).status
    };
    for path in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "..",
        "%2e%2e/x",
        "a%00b",
        "abs",
        "rel",
        "root/etc/passwd",
        "dir",
        "pipe",
        "",
    ] {
        assert_eq!(get(path), 400, "{path}");
    }
    assert_eq!((get("inside"), get("nothing")), (200, 404));
    for path in ["/tmp/x", "../x", "root/tmp/x", "dir", "a%00b"] {
        assert_eq!(server.put(&id, path, b"x").status, 400, "{path}");
    }
    // A link is replaced, never written through.
    assert_eq!(server.put(&id, "rel", b"mine").status, 200);
    assert_eq!(std::fs::read_to_string(server.data().join("secret")).unwrap(), "host");
    // The app directory itself may be swapped for a link.
    server.sh(&id, "mv app gone; ln -s /etc app");
    for path in ["passwd", "x"] {
        assert_ne!(get(path), 200);
        assert_ne!(server.put(&id, path, b"x").status, 200);
    }
}

/// How long the race goes on; `SANDBOXD_TEST_QUICK` is for whoever waits for it again and again.
fn race_duration() -> Duration {
    let quick = std::env::var_os("SANDBOXD_TEST_QUICK").is_some();
    Duration::from_secs(if quick { 20 } else { 60 })
}

/// One entry of a tar archive, and its end.
fn archive() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("a/canary").unwrap();
    header.set_mode(0o644);
    header.set_size(7);
    header.set_cksum();
    [header.as_bytes().as_slice(), b"touched", &[0; 505 + 1024]].concat()
}

fn race() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let outside = server.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "untouched").unwrap();
    let before = HostSnapshot::take(&server);
    // Two links: by the host's path of what is outside, and by where the sandbox itself would be led. The
    // first would be right if the host followed it.
    let swap = format!(
        "mkdir -p app/a/sub; cd app; (while true; do mv -T a b; ln -s {0} a; rm -f a; mv -T b a || rm -rf b; \
         mkdir -p a/sub; mv -T a/sub a/was; ln -s ../../../../../outside a/sub; rm -f a/sub; mv -T a/was a/sub || rm -rf a/was; done) \
         >/dev/null 2>&1 & \
         (while true; do ln -s {0}/canary f; rm -rf f; ln -s / f; rm -rf f; mkdir f; rm -rf f; done) >/dev/null 2>&1 & echo",
        outside.display()
    );
    server.sh(&id, &swap);
    let path = |rest: &str| format!("/v1/sandboxes/{id}/files{rest}");
    let post = |what: &str, body: Value| server.api("POST", &path(what), body);
    let archive = archive();
    let steps: [(&str, &dyn Fn() -> Answer); 12] = [
        ("write", &|| server.put(&id, "a/canary", b"touched")),
        ("write deep", &|| server.put(&id, "a/sub/x/y", b"touched")),
        ("read", &|| server.api("GET", &path("/content?path=a/canary"), Value::Null)),
        ("stat", &|| server.api("GET", &path("/stat?path=a/canary"), Value::Null)),
        ("list", &|| server.api("GET", &path("?recursive=true"), Value::Null)),
        ("copy", &|| post("/copy", json!({ "from": "a", "to": "f/copy", "overwrite": true }))),
        ("copy in", &|| {
            post("/copy", json!({ "from": "a/canary", "to": "a/sub/canary", "overwrite": true }))
        }),
        ("move", &|| post("/move", json!({ "from": "a/canary", "to": "a/sub/canary", "overwrite": true }))),
        ("chmod", &|| post("/chmod", json!({ "path": "a/canary", "mode": "0777" }))),
        ("unpack", &|| server.api_bytes("PUT", &path("/archive?path=f&format=tar"), &archive)),
        ("unpack in", &|| server.api_bytes("PUT", &path("/archive?path=&format=tar"), &archive)),
        ("pack", &|| server.api("GET", &path("/archive?path=&format=tar"), Value::Null)),
    ];
    let end = Instant::now() + race_duration();
    let mut won = std::collections::BTreeMap::<&str, u32>::new();
    while Instant::now() < end {
        for (what, step) in &steps {
            let answer = step();
            // It may find a link, a directory gone, or another thing in its way: nothing else.
            assert!(matches!(answer.status, 200 | 204 | 400 | 404 | 409), "{what}: {}", answer.text());
            assert!(!answer.text().contains("untouched"), "{what} has read what is outside");
            *won.entry(what).or_default() += u32::from(answer.status == 200);
        }
        for query in ["?path=a/sub&recursive=true", "?path=a/canary", "?path=f&recursive=true"] {
            server.api("DELETE", &path(query), Value::Null);
        }
    }
    for (what, _) in steps {
        assert!(won[what] > 0, "{what} was never done: the race was not run ({won:?})");
    }
    assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "untouched");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&outside.join("canary").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644, "the permissions of what is outside were changed");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "something was written outside");
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    eventually("nothing is left over", Duration::from_secs(20), || {
        let after = HostSnapshot::take(&server);
        (after.staging, after.trash) == (before.staging.clone(), before.trash.clone())
    });
}
