//! Files through the API, with a tenant who does his worst at the same time.

mod archive;
mod edit;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::Server;

pub(crate) use archive::TESTS as ARCHIVE;
pub(crate) use edit::TESTS as EDIT;

pub(crate) const TESTS: &[Test] = &[
    ("files::are_written_read_and_listed_asleep_or_awake", written_and_read),
    ("files::no_path_leads_out", no_path_leads_out),
    ("files::links_swapped_while_files_are_used_lead_nowhere", race),
];

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

fn race() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let outside = server.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "untouched").unwrap();
    let seconds: u64 =
        std::env::var("SANDBOXD_TEST_RACE_SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    // The tenant's links name the host's path: they would be right if the host followed them.
    let app = server.data().join("workspaces").join(&id).join("workspace/app");
    let swap = format!(
        "mkdir -p app/a; cd app; (while true; do mv a b 2>/dev/null; ln -s {} a 2>/dev/null; rm -f a; mv b a 2>/dev/null; done) >/dev/null 2>&1 & echo",
        outside.display()
    );
    server.sh(&id, &swap);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut served = 0_u32;
    while Instant::now() < end {
        let written = server.put(&id, "a/canary", b"touched").status;
        let read = server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path=a/canary"), Value::Null);
        assert!(matches!(written, 200 | 400 | 404 | 500), "{written}");
        assert_ne!(read.text(), "untouched");
        served += u32::from(written == 200);
    }
    assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "something was written outside");
    assert!(served > 0 && app.parent().is_some(), "the race was never won by the API");
}
