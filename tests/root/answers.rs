//! Answers whose size a tenant or a client decides: whole where they may be, refused or marked where not, and never in
//! the daemon's memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::http::{self, Answer};
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("answers::large_ones_are_whole", whole),
    ("answers::what_is_larger_than_may_be_is_refused_or_marked", bounded),
    ("answers::none_of_them_takes_the_daemons_memory", memory),
    ("answers::the_description_is_made_once", description),
];

/// Every byte that a string of JSON says otherwise, bytes that are not UTF-8, and characters that a piece may cut.
const ODD: &str = "import os,sys\nodd=(bytes(range(256))+'ä€😀'.encode())*8000\n";

fn lossy(times: usize) -> String {
    let once: Vec<u8> = (0..=255).chain("ä€😀".bytes()).collect();
    String::from_utf8_lossy(&once.repeat(times)).into_owned()
}

fn exec(server: &Server, id: &str, python: &str) -> Value {
    let body = json!({ "cmd": ["python3", "-c", format!("{ODD}{python}")] });
    let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn whole() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let both = exec(
        &server,
        &id,
        "os.write(1,odd[:100])\nsys.stderr.buffer.write(odd)\nsys.stdout.buffer.write(odd)",
    );
    assert!(
        both["stderr"] == lossy(8000).as_str() && both.get("truncated").is_none() && both["exit_code"] == 0
    );
    let stdout = both["stdout"].as_str().unwrap();
    assert!(stdout.ends_with(&lossy(8000)) && stdout.len() > lossy(8000).len());
    let small = exec(&server, &id, "print('x')\nsys.exit(7)");
    assert_eq!(small, json!({ "stdout": "x\n", "stderr": "", "exit_code": 7 }));

    // 9,000 files: the names of one directory are more than are sorted at once.
    let make = "mkdir -p app/d/e && cd app && seq -f 'd/a-file-with-a-long-name-%05g' 9000 | xargs touch && touch d/e/x d.x 'd/\"'";
    server.sh(&id, make);
    let listed = server.api("GET", &format!("/v1/sandboxes/{id}/files?recursive=true"), Value::Null);
    assert_eq!(listed.header("content-length"), Some(listed.body.len().to_string()));
    let listing = listed.json();
    assert_eq!((&listing["path"], &listing["recursive"]), (&json!(""), &json!(true)));
    let entries = listing["entries"].as_array().unwrap();
    let paths: Vec<&str> = entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert!(paths.len() == 9005 && paths.is_sorted() && paths.contains(&"d/e/x") && paths.contains(&"d/\""));
    assert_eq!(entries[0], json!({ "path": "d", "type": "dir" }));
    assert_eq!(entries[1], json!({ "path": "d.x", "type": "file", "size": 0 }));

    // Its directory of contents is longer than what stays in memory.
    let zip = server.api("GET", &format!("/v1/sandboxes/{id}/export"), Value::Null);
    assert_eq!(server.put(&id, "all.zip", &zip.body).status, 200);
    let check = "import zipfile; z=zipfile.ZipFile('app/all.zip'); print(z.testzip(), len(z.namelist()), 'd/e/x' in z.namelist())";
    assert_eq!(server.sh(&id, &format!("python3 -c \"{check}\"")), "None 9005 True\n");

    let lines = "mkdir -p ~/.runtimed && seq -f 'a line of a worker with \"quotes\" %06g' 20000 > ~/.runtimed/web.log";
    server.sh(&id, lines);
    let log =
        server.api("GET", &format!("/v1/sandboxes/{id}/processes/web/logs?tail=10000"), Value::Null).json();
    let lines = log["lines"].as_array().unwrap();
    assert_eq!((lines.len(), &log["process"]), (10_000, &json!("web")));
    assert_eq!(lines[9_999], "a line of a worker with \"quotes\" 020000");
    let others: Vec<String> = (0..3).map(|_| server.create(json!({}))).collect();
    let rows = server.api("GET", "/sandboxes", Value::Null);
    let ids: Vec<Value> = rows.json().as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert!(
        ids.len() == 4 && others.iter().all(|id| ids.contains(&json!(id))) && rows.text().ends_with("]\n")
    );
    let page = server.api("GET", "/v1/sandboxes?limit=3", Value::Null).json();
    assert_eq!(page["sandboxes"].as_array().unwrap().len(), 3);
    let rest = format!("/v1/sandboxes?cursor={}", page["next_cursor"].as_str().unwrap());
    let rest = server.api("GET", &rest, Value::Null).json();
    assert!(rest["sandboxes"].as_array().unwrap().len() == 1 && rest.get("next_cursor").is_none());
}

fn bounded() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    // 16 MiB as they are sent: of NULs, six bytes each, a sixth.
    for (byte, sent) in [("b'x'", 1), ("b'\\0'", 6), ("b'\\\\'", 2)] {
        let flood = format!("for _ in range(20): sys.stdout.buffer.write({byte}*(1<<20))");
        let answer = exec(&server, &id, &flood);
        let kept = answer["stdout"].as_str().unwrap().len();
        assert_eq!((kept, &answer["truncated"]), ((16 << 20) / sent, &json!(true)), "{byte}");
    }
    deep(&server, &id, 6000);
    let listing = server.api("GET", &format!("/v1/sandboxes/{id}/files?recursive=true"), Value::Null);
    assert_eq!(listing.status, 413, "{} bytes", listing.body.len());
    assert_eq!(listing.json()["error"]["code"], "too_large");
    // What quotes a request quotes some of it.
    let key = "k".repeat(900_000);
    let answer = server.api("PATCH", &format!("/v1/sandboxes/{id}"), json!({ key: 1 }));
    assert!(answer.status == 400 && answer.body.len() < 10_000, "{} bytes", answer.body.len());
    let answer = server.api(
        "POST",
        "/v1/runtime/manifest/validate",
        json!({ "manifest": "\u{1}x: 1\n".repeat(60_000) }),
    );
    assert!(answer.status == 200 && answer.body.len() < 10_000, "{} bytes", answer.body.len());
}

/// Files whose paths are as long as may be, of characters that JSON writes with six.
fn deep(server: &Server, id: &str, count: u32) {
    let make = format!(
        "import os\nos.chdir('/home/sandbox/workspace/app')\nfor i in range(16):\n  n='\\x01'*240\n  os.mkdir(n); os.chdir(n)\nfor i in range({count}): open('\\x02'*200+str(i),'w').close()"
    );
    let answer =
        server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["python3", "-c", make] }));
    assert_eq!(answer.json()["exit_code"], 0, "{}", answer.text());
}

/// What the daemon has in memory, in KiB.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A client that asks and reads nothing for a while, then everything.
fn slowly(key: &str, method: &str, path: &str, body: &[u8], pause: Duration) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server may have refused the head already.
    let _refused = stream.write_all(body);
    std::thread::sleep(pause);
    let (mut buffer, mut all) = ([0; 65536], 0);
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        all += count as u64;
    }
    all
}

/// Every answer that can be large, several at once, to clients that let the server wait.
fn memory() {
    let server = Server::start(&[]);
    let (deep_one, wide) = (server.create(json!({})), server.create(json!({})));
    deep(&server, &deep_one, 10_000);
    server.sh(&wide, "cd app && mkdir d && seq -f 'd/a-name-of-a-file-that-is-not-so-short-%06g' 20000 | xargs touch && head -c 30M /dev/zero > zeros");
    server.sh(&wide, "mkdir -p ~/.runtimed && yes '' | head -c 1M > ~/.runtimed/web.log; yes $'\\x01\\x01\\x01' | head -c 1M > ~/.runtimed/job.log");
    server.sh(&wide, "cd /tmp && head -c 2M /dev/zero > x");
    // Every part of it has been used once, as it is when it idles.
    for path in ["/sandboxes".to_owned(), "/v1/sandboxes".to_owned(), format!("/v1/sandboxes/{wide}/files")] {
        assert_eq!(server.api("GET", &path, Value::Null).status, 200);
    }
    let idle = resident(&server);
    let nuls = json!({ "cmd": ["head", "-c", "40M", "/dev/zero"] }).to_string();
    let errors = json!({ "cmd": ["sh", "-c", "head -c 40M /dev/zero >&2"] }).to_string();
    let long = json!({ "cmd": ["true", "x".repeat(900_000)] }).to_string();
    let mut requests = Vec::new();
    for id in [&deep_one, &wide] {
        requests.push(("GET", format!("/v1/sandboxes/{id}/files?recursive=true"), String::new()));
        requests.push(("GET", format!("/v1/sandboxes/{id}/export"), String::new()));
        requests.push(("GET", format!("/v1/sandboxes/{id}/files/archive"), String::new()));
        requests.push(("POST", format!("/sandbox/{id}/exec"), nuls.clone()));
        requests.push(("POST", format!("/sandbox/{id}/exec"), errors.clone()));
        requests.push(("POST", format!("/sandbox/{id}/exec"), long.clone()));
    }
    for path in [
        "files/content?path=zeros",
        "processes/web/logs?tail=10000",
        "processes/job/logs?tail=10000",
        "processes",
    ] {
        requests.push(("GET", format!("/v1/sandboxes/{wide}/{path}"), String::new()));
    }
    requests.push(("GET", "/sandboxes".to_owned(), String::new()));
    let (peak, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let (done, key) = (AtomicBool::new(false), server.key());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident(&server), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let clients: Vec<_> = (0..3)
            .flat_map(|_| &requests)
            .map(|(method, path, body)| {
                let (key, sent) = (&key, &sent);
                scope.spawn(move || {
                    let bytes = slowly(key, method, path, body.as_bytes(), Duration::from_secs(2));
                    sent.fetch_add(bytes, Ordering::Relaxed);
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let (peak, sent) = (peak.into_inner(), sent.into_inner() >> 20);
    crate::support::tell(&format!("  idle {idle} KiB, at most {peak} KiB while {sent} MiB were sent"));
    assert!(sent > 300, "{sent} MiB");
    assert!(peak < 2 * idle, "idle {idle} KiB, then {peak} KiB");
    // Answers that nobody has taken leave nothing.
    assert_eq!(std::fs::read_dir(server.data().join("staging")).unwrap().count(), 0);
    assert_eq!(server.sh(&wide, "echo well"), "well\n");
}

fn description() {
    let _server = Server::start(&[]);
    let ask =
        |headers: &[(&str, &str)]| http::request(API, "localhost", "GET", "/openapi.json", headers, b"");
    let first = ask(&[]);
    assert_eq!((first.status, &first.json()["info"]["title"]), (200, &json!("sandboxd")));
    let tag = first.header("etag").expect("it has an entity tag");
    let known = ask(&[("If-None-Match", &tag)]);
    assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag)));
    assert_eq!(ask(&[("If-None-Match", "\"other\"")]).body, first.body);
    // No dearer than an answer of two letters, but for its length.
    let cost = |path: &str| {
        let many = |_| -> Answer { http::request(API, "localhost", "GET", path, &[], b"") };
        let batches = (0..5).map(|_| {
            let begun = Instant::now();
            assert!((0..40).map(many).all(|answer| answer.status == 200));
            begun.elapsed()
        });
        batches.min().unwrap()
    };
    let (plain, described) = (cost("/healthz"), cost("/openapi.json"));
    assert!(described < plain * 4 + Duration::from_millis(40), "40 of each: {plain:?}, {described:?}");
}
