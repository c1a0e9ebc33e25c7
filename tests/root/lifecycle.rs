//! Create, run, sleep, wake, delete, purge.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http;
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("lifecycle::a_sandbox_comes_and_goes_without_a_trace", without_a_trace),
    ("lifecycle::exec_reports_what_happened", exec_reports),
    ("lifecycle::a_workspace_is_kept_for_its_owner", kept_for_its_owner),
    ("lifecycle::one_sandbox_per_project", one_per_project),
    ("lifecycle::an_idle_sandbox_sleeps_and_a_busy_one_does_not", idle),
    ("lifecycle::bad_requests_make_nothing", bad_requests),
    ("lifecycle::unknown_fields_are_named_and_other_names_refused", unknown_fields),
    ("lifecycle::the_api_needs_a_key", needs_a_key),
    ("lifecycle::many_at_once", many_at_once),
    ("lifecycle::a_manifest_is_kept_running", manifest),
    ("lifecycle::memory_refuses_creates_and_wakes", memory_refuses),
    ("lifecycle::what_is_ended_has_left_the_host_within_a_second", gone_in_time),
];

fn without_a_trace() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let id = server.create(json!({ "ports": [3000], "env": { "COLOUR": "blue" } }));
    assert_eq!(
        server.sh(&id, "echo $COLOUR; pwd; id -un; hostname"),
        format!("blue\n/home/sandbox/workspace\nsandbox\ns-{}\n", id.to_lowercase())
    );
    server.sh(&id, "echo kept > file");
    assert_eq!(
        server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).json()["status"],
        "stopped"
    );
    // The answer does not wait for it, but it is gone soon.
    eventually("nothing runs", Duration::from_secs(20), || {
        let asleep = HostSnapshot::take(&server);
        (asleep.inits, asleep.cgroups.len(), asleep.run.len()) == (before.inits, before.cgroups.len(), 0)
    });
    // Exec wakes it, and the files are there.
    assert_eq!(server.sh(&id, "cat file"), "kept\n");
    let freed = server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null).json();
    assert!(freed["purged"] == true && freed["freed_bytes"].as_u64().unwrap() > 0, "{freed}");
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
    assert_eq!(server.api("GET", &format!("/sandbox/{id}"), Value::Null).status, 404);
    assert_eq!(server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null).json()["purged"], true);
}

fn exec_reports() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    assert_eq!(server.exec(&id, "echo out; echo err >&2; exit 7"), ("out\nerr\n".to_owned(), 7));
    assert_eq!(server.exec(&id, "kill -9 $$").1, 137);
    let missing =
        server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["no-such-program"] })).json();
    assert_eq!(missing["exit_code"], 127);
    assert!(missing["stderr"].as_str().unwrap().contains("no-such-program"));
    let streamed = server.api(
        "POST",
        &format!("/sandbox/{id}/exec"),
        json!({ "cmd": ["bash", "-c", "echo a; echo b >&2; exit 3"], "stream": true }),
    );
    assert_eq!(streamed.text(), "a\n---stderr---\nb\nexit_code: 3\n");
    // What a command leaves in the background neither holds up its answer nor is ended by it.
    let begun = std::time::Instant::now();
    server.sh(&id, "(while true; do echo tick; sleep 0.1; done) & echo $! > pid");
    assert!(begun.elapsed() < Duration::from_secs(5));
    std::thread::sleep(Duration::from_millis(500));
    server.sh(&id, "kill -0 $(cat pid)");
    // A tenant who removes the directory in which commands begin is told so, and finds it again at the next start.
    server.sh(&id, "rm -rf ~/workspace");
    let ls =
        || server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["ls", "-d", "app"] })).json();
    assert!(ls()["stderr"].as_str().unwrap().starts_with("the working directory /home/sandbox/workspace: "));
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    assert_eq!(ls()["stdout"], "app\n");
    assert_eq!(server.put(&id, "again", b"x").status, 200);
    // 20 MB go through whole.
    let large = server.api(
        "POST",
        &format!("/sandbox/{id}/exec"),
        json!({ "cmd": ["head", "-c", "20000000", "/dev/zero"], "stream": true }),
    );
    assert_eq!(large.body.len(), 20_000_000 + "exit_code: 0\n".len());
}

fn kept_for_its_owner() {
    let mut server = Server::start(&[]);
    let owner = json!({ "user_id": "ann", "project_id": "p" });
    let id = server.create(json!({ "external": owner }));
    server.sh(&id, "echo mine > file");
    assert_eq!(server.api("POST", "/sandbox", json!({ "id": id })).status, 409);
    assert_eq!(server.api("DELETE", &format!("/sandbox/{id}"), Value::Null).status, 204);
    // Whose it is outlives the server.
    server.signal("TERM");
    server.boot();
    for other in
        [json!({ "id": id }), json!({ "id": id, "external": { "user_id": "bob", "project_id": "p" } })]
    {
        assert_eq!(server.api("POST", "/sandbox", other).status, 409);
    }
    assert_eq!(server.create(json!({ "id": id, "external": owner })), id);
    assert_eq!(server.sh(&id, "cat file"), "mine\n");
    let purged = server.api("POST", "/external-users/ann/purge", Value::Null).json();
    assert_eq!(purged["purged_count"], 1);
}

fn one_per_project() {
    let server = Server::start(&[]);
    let body = json!({ "project": { "id": "shop", "user_id": "ann" } });
    let first = server.api("POST", "/v1/sandboxes", body.clone());
    let second = server.api("POST", "/v1/sandboxes", body);
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json()["id"], second.json()["id"]);
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let list = server.api("GET", "/sandboxes?external_project_id=shop", Value::Null).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(server.api("GET", "/sandboxes?external_user_id=bob", Value::Null).json(), json!([]));
    let claim = |user: &str| {
        server.api("POST", &format!("/sandbox/{id}/claim"), json!({ "external_user_id": user })).status
    };
    assert_eq!((claim("bob"), claim("ann")), (409, 200));
    assert_eq!(server.api("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).status, 204);
}

fn idle() {
    let server = Server::start(&[
        ("SANDBOXD_IDLE_THRESHOLD_SECONDS", "2"),
        ("SANDBOXD_IDLE_REAP_INTERVAL_SECONDS", "1"),
    ]);
    let lazy = server.create(json!({ "ports": [3000] }));
    let always = server.create(json!({ "idle_policy": "always_on" }));
    let kept = server.create(Value::Null);
    let until = server
        .api("POST", &format!("/sandbox/{kept}/keepalive"), json!({ "until": 4_102_444_800_i64 }))
        .json();
    assert!(until["keepalive_until"].as_i64().unwrap() < 4_102_444_800, "not capped: {until}");
    assert_eq!(server.api("POST", &format!("/sandbox/{kept}/keepalive"), json!({ "until": 5 })).status, 400);
    let busy = server.create(Value::Null);
    let (running, server_ref) = (busy.clone(), &server);
    std::thread::scope(|scope| {
        let command = scope.spawn(move || server_ref.sh(&running, "sleep 6; echo done"));
        eventually("the lazy one sleeps", Duration::from_secs(20), || server.status(&lazy) == "stopped");
        assert_eq!(server.status(&always), "running");
        assert_eq!(server.status(&kept), "running");
        assert_eq!(server.status(&busy), "running");
        assert_eq!(command.join().unwrap(), "done\n");
    });
    // Looking at it is no use of it.
    eventually("the busy one sleeps too", Duration::from_secs(20), || server.status(&busy) == "stopped");
}

fn bad_requests() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    for (body, status) in [
        (&b"{"[..], 400),
        (b"{\"ports\":\"3000\"}", 400),
        (b"{\"ports\":[0]}", 400),
        (b"[null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null]", 400),
        (b"{\"id\":\"../../../../etc/passwd\"}", 400),
        (b"{\"env\":{\"A\":\"\\u0000\"}}", 400),
        (b"{\"template\":\"no-such-template\"}", 400),
        (b"{\"memory_high\":\"1\"}", 400),
        (b"{\"git\":{\"repo_url\":\"--upload-pack=x\"}}", 400),
    ] {
        let answer = server.api_bytes("POST", "/sandbox", body);
        assert_eq!(answer.status, status, "{}: {}", String::from_utf8_lossy(body), answer.text());
        assert!(answer.json()["error"].is_string());
        assert_eq!(answer.header("x-request-id").unwrap().len(), 26);
    }
    assert_eq!(server.api_bytes("POST", "/sandbox", &vec![b' '; 1_100_000]).status, 413);
    for id in ["x", "..", "%2e%2e", "01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        assert_eq!(server.api("GET", &format!("/sandbox/{id}"), Value::Null).status, 404, "{id}");
    }
    let id = server.create(Value::Null);
    let taken = server.api("POST", "/sandbox", json!({ "id": id }));
    assert_eq!(
        (taken.status, taken.json()["error"].as_str().unwrap()),
        (409, format!("sandbox {id} exists already").as_str())
    );
    assert_eq!(server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null).status, 200);
    let wrong = server.api("PATCH", "/sandboxes", Value::Null);
    assert_eq!(
        (wrong.status, wrong.header("allow").is_some_and(|a| a.contains("GET"))),
        (405, true),
        "{}",
        wrong.head
    );
    assert_eq!(server.api("GET", "/v1/nothing", Value::Null).json()["error"]["code"], "not_found");
    let unknown =
        server.api("POST", "/v1/sandboxes", json!({ "project": { "id": "a", "user_id": "b" }, "colour": 1 }));
    assert_eq!(unknown.status, 400, "{}", unknown.text());
    eventually("nothing is left", Duration::from_secs(5), || HostSnapshot::take(&server) == before);
    assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]));
}

fn unknown_fields() {
    let server = Server::start(&[]);
    let ask = |path: &str, body: Value| server.api("POST", path, body);
    for (body, words) in [
        (json!({ "preset": "node-http" }), "preset: this field is called runtime_preset here"),
        (json!({ "memory": "64M" }), "memory: this field is called limits.memory_max here"),
        (json!({ "colour": 1, "project": "p" }), "project: this field is called external.project_id here"),
    ] {
        let refused = ask("/sandbox", body.clone());
        assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some(words)), "{body}");
    }
    assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]));

    let body = json!({ "colour": "blue", "ports": [3000.0], "external": { "user_id": "u", "name": "n" } });
    let made = ask("/sandbox", body);
    let named = json!(["colour: unknown field, ignored", "external.name: unknown field, ignored"]);
    assert_eq!((made.status, &made.json()["warnings"]), (201, &named));
    assert_eq!((&made.json()["ports"], &made.json()["external_user_id"]), (&json!([3000]), &json!("u")));
    let path = format!("/sandbox/{}", made.json()["id"].as_str().unwrap());

    let exec = format!("{path}/exec");
    let refused = ask(&exec, json!({ "command": ["true"] }));
    let words = "command: this field is called cmd here";
    assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some(words)));
    let answer = ask(&exec, json!({ "cmd": ["echo", "hi"], "cwd": "/\"" })).json();
    let whole = json!({ "stdout": "hi\n", "stderr": "", "exit_code": 0, "warnings": ["cwd: unknown field, ignored"] });
    assert_eq!(answer, whole);
    let kept = ask(&format!("{path}/keepalive"), json!({ "for": 60 })).json();
    assert_eq!(kept["warnings"], json!(["for: unknown field, ignored"]));
    let claimed = ask(&format!("{path}/claim"), json!({ "external_user_id": "u", "colour": 1 })).json();
    assert_eq!(claimed["warnings"], json!(["colour: unknown field, ignored"]));

    // Nothing to say is nothing said.
    let shown = server.api("GET", &path, Value::Null).json();
    assert!(shown["row"].get("warnings").is_none(), "{shown}");
    assert!(ask(&exec, json!({ "cmd": ["true"] })).json().get("warnings").is_none());
}

fn needs_a_key() {
    let server = Server::start(&[("SANDBOXD_API_TOKENS", "ci=0123456789abcdef,dev:fedcba9876543210")]);
    let ask =
        |headers: &[(&str, &str)], path: &str| http::request(API, "localhost", "GET", path, headers, b"");
    for headers in [&[][..], &[("Authorization", "Bearer wrong")], &[("Authorization", "Basic x")]] {
        for path in ["/sandboxes", "/v1/sandboxes", "/metrics", "/no-such-route"] {
            let answer = ask(headers, path);
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (401, "{\"error\":\"unauthorized\"}\n"),
                "{path}"
            );
            assert_eq!(answer.header("www-authenticate").as_deref(), Some("Bearer"));
        }
    }
    for key in ["0123456789abcdef", "fedcba9876543210", &server.key()] {
        assert_eq!(ask(&[("Authorization", &format!("Bearer {key}"))], "/sandboxes").status, 200);
    }
    assert_eq!(ask(&[], "/healthz").text(), "ok\n");
    assert_eq!(ask(&[], "/openapi.json").json()["openapi"].as_str().unwrap().chars().next(), Some('3'));
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(server.data().join("api-key")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    // A page of another origin may not use a browser's way to the API.
    let key = format!("Bearer {}", server.key());
    let headers = [("Authorization", key.as_str()), ("Origin", "http://s-x-3000.preview.localhost")];
    assert_eq!(http::request(API, "localhost", "POST", "/sandbox", &headers, b"").status, 403);
    assert_eq!(server.log_text().matches(&server.key()).count(), 1, "the key is shown once, when it is made");
}

fn many_at_once() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let ids: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| server.create(Value::Null))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let same = &ids[0];
    std::thread::scope(|scope| {
        for n in 0..40 {
            let server = &server;
            scope.spawn(move || assert_eq!(server.sh(same, &format!("echo {n}")), format!("{n}\n")));
        }
    });
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| server.purge(id));
        }
    });
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}

fn manifest() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    let app = b"version: 1\nweb:\n  command: python3 -m http.server 3000 --bind 127.0.0.1\nworkers:\n- name: ticker\n  command: 'while true; do date >> ticks; sleep 0.2; done'\n";
    assert_eq!(server.put(&id, "index.html", b"hello").status, 200);
    assert_eq!(server.put(&id, "sandbox.yaml", app).status, 200);
    let view = || server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json();
    eventually("the app is ready", Duration::from_secs(20), || view()["preview"]["status"] == "ready");
    assert_eq!(server.preview(&id, 3000, "GET", "/index.html", &[], b"").text(), "hello");
    assert_eq!(view()["processes"].as_array().unwrap().len(), 2);
    // A process that dies is started again.
    server.sh(&id, "pkill -f http.server");
    eventually("the app was started again", Duration::from_secs(20), || {
        view()["processes"][0]["restarts"] == 1 && view()["preview"]["status"] == "ready"
    });
    // A manifest that is wrong is reported, and stops what it no longer declares.
    assert_eq!(server.put(&id, "sandbox.yaml", b"version: 9\n").status, 200);
    eventually("the mistake is shown", Duration::from_secs(20), || {
        let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["row"].clone();
        row["error_message"].as_str().is_some_and(|m| m.contains("version"))
    });
    let report = server
        .api("POST", "/v1/runtime/manifest/validate", json!({ "manifest": "version: 9\nweb: {}\n" }))
        .json();
    assert_eq!((report["valid"].clone(), report["errors"].as_array().unwrap().len()), (json!(false), 2));
    // A build runs first, and its failure is told.
    let build = b"version: 1\nbuild:\n  command: 'echo broken pieces; exit 3'\nweb:\n  command: 'false'\n";
    assert_eq!(server.put(&id, "sandbox.yaml", build).status, 200);
    eventually("the failed build is shown", Duration::from_secs(20), || {
        view()["preview"]["build_error_message"].as_str().is_some_and(|m| m.contains("broken pieces"))
    });
}

fn memory_refuses() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    server.signal("TERM");
    for name in ["SANDBOXD_MEM_HEADROOM_PCT", "SANDBOXD_MEM_REFUSE_WAKES_PCT"] {
        server.set(name, "100");
    }
    server.boot();
    let refused = server.api("POST", "/sandbox", Value::Null);
    assert_eq!((refused.status, refused.json()["error"].clone()), (503, json!("low_memory")));
    assert_eq!(refused.header("retry-after").as_deref(), Some("30"));
    assert!(refused.json()["mem_available_percent"].as_f64().unwrap() > 0.0);
    assert_eq!(server.api("POST", &format!("/wake/{id}"), Value::Null).json()["error"], "wakes_refused");
    let preview = server.preview(&id, 3000, "GET", "/", &[], b"");
    assert_eq!((preview.status, preview.header("retry-after").as_deref()), (503, Some("30")));
}

/// A purge and a stop answer when the processes have ended; what they leave goes behind the answer.
fn gone_in_time() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    for action in ["purge", "stop"] {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                let id = server.create(json!({}));
                server.sh(&id, "sleep 1000 >/dev/null 2>&1 & echo kept > file");
                let path = match action {
                    "purge" => format!("/sandbox/{id}/purge"),
                    _ => format!("/v1/sandboxes/{id}/stop"),
                };
                assert_eq!(server.api("POST", &path, Value::Null).status, 200);
                let answered = Instant::now();
                eventually(&format!("{action}: all is gone"), Duration::from_secs(20), || {
                    let mut now = HostSnapshot::take(&server);
                    if action == "stop" {
                        now.workspaces.remove(&id);
                    }
                    now == before
                });
                let took = answered.elapsed();
                if action == "stop" {
                    server.purge(&id);
                }
                took
            })
            .collect();
        times.sort();
        // The one in the middle: the kernel takes a network away in its own time, and other programs run beside this.
        assert!(times[2] <= Duration::from_secs(1), "{action}: {times:?}");
    }
}
