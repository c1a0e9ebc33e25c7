//! Sandboxes whose programs may make namespaces of their own, as Chromium's sandbox does.

use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("nested::namespaces_are_made_where_they_are_asked_for_and_bounded", made_and_bounded),
    ("nested::they_last_as_the_sandbox_does", lasting),
    ("nested::they_are_refused_with_a_reason", refused),
];

const NEST: &str = include_str!("nested.py");

fn create(server: &Server, body: Value) -> String {
    let id = server.create(body);
    assert_eq!(server.put(&id, "nested.py", NEST.as_bytes()).status, 200);
    id
}

fn nested(server: &Server) -> String {
    create(server, json!({ "nested_namespaces": true }))
}

fn made_and_bounded() {
    // What the pool holds is of the ordinary kind.
    let server = Server::start(&[("SANDBOXD_POOL_SIZE", "2")]);
    let id = nested(&server);
    let ordinary = create(&server, json!({}));
    assert_eq!(server.sh(&id, "python3 app/nested.py id -u"), "0\n");
    let (_, code) = server.exec(&ordinary, "python3 app/nested.py id -u");
    assert_eq!(code, 1, "an ordinary sandbox has made a user namespace");
    for (path, id, asked) in [("/sandbox", &id, true), ("/v1/sandboxes", &ordinary, false)] {
        let shown = server.api("GET", &format!("{path}/{id}"), Value::Null).json();
        assert_eq!(shown.get("row").unwrap_or(&shown)["nested_namespaces"], asked, "{shown}");
    }
    // The bound is that of the sandbox, whoever of its 65,536 users makes them.
    for user in ["sandbox", "root"] {
        for (kinds, most) in [("user", 32), ("user net", 16)] {
            let body = json!({ "cmd": ["bash", "-c", format!("python3 app/nested.py --count {kinds}")], "user": user });
            // Those of the last one end in the kernel's own time.
            eventually("so many can be made and no more", Duration::from_secs(30), || {
                let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body.clone()).json();
                answer["stdout"] == format!("{most} No space left on device\n")
            });
        }
    }
}

fn lasting() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let id = nested(&server);
    let inside = "python3 app/nested.py bash -c 'sleep 1000 & echo up; wait'";
    let process = server.start_process(&id, json!({ "cmd": ["bash", "-c", inside], "detach": true }));
    let sleepers = |server: &Server| server.exec(&id, "pgrep -xc sleep").0.trim().to_owned();
    eventually("it runs", Duration::from_secs(10), || sleepers(&server) == "1");
    server.kill();
    server.boot();
    assert_eq!(sleepers(&server), "1");
    // What has become root of its own namespace is killed like everything else.
    let signal = json!({ "signal": "KILL", "target": "tree" });
    let path = format!("/v1/sandboxes/{id}/processes/{process}/signal");
    assert_eq!(server.api("POST", &path, signal).status, 204);
    eventually("it is killed", Duration::from_secs(10), || sleepers(&server) == "0");
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    assert_eq!(server.sh(&id, "python3 app/nested.py id -u"), "0\n", "it wakes as it was");
    server.purge(&id);
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}

fn refused() {
    let mut server = Server::start(&[]);
    let id = nested(&server);
    server.sh(&id, "echo kept > file");
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    let restarted = |server: &mut Server, name: &str, value: &str| {
        server.signal("TERM");
        server.set(name, value);
        server.boot();
    };
    restarted(&mut server, "SANDBOXD_NESTED_NAMESPACES", "false");
    let ask = |server: &Server, body: Value| server.api("POST", "/sandbox", body);
    let wake = |server: &Server| server.api("POST", &format!("/v1/sandboxes/{id}/start"), Value::Null);
    for answer in [ask(&server, json!({ "nested_namespaces": true })), wake(&server)] {
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(answer.text().contains("forbidden by this server"), "{}", answer.text());
    }
    // With gVisor nothing of the host's kernel is opened by it.
    let in_gvisor = ask(&server, json!({ "nested_namespaces": true, "isolation": "gvisor" }));
    assert_eq!(in_gvisor.status, 201, "{}", in_gvisor.text());
    restarted(&mut server, "SANDBOXD_NESTED_NAMESPACES", "true");
    assert_eq!(server.sh(&id, "cat file; python3 app/nested.py id -u"), "kept\n0\n");
    restarted(&mut server, "SANDBOXD_USER_NAMESPACES", "off");
    let answer = ask(&server, json!({ "nested_namespaces": true }));
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("user namespaces of their own"), "{}", answer.text());
    assert_eq!(ask(&server, json!({ "nested_namespaces": "yes" })).status, 400);
}
