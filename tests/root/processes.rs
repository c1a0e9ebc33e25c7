//! Processes that outlive their clients, and their output, of which nothing is lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::process::Output;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("processes::a_process_is_followed_to_its_end", followed),
    ("processes::bad_requests_are_refused", bad_requests),
    ("processes::a_client_that_vanishes_changes_nothing", vanishing),
    ("processes::what_nobody_reads_is_dropped_and_counted", dropped),
    ("processes::a_slow_client_slows_the_process_and_loses_nothing", slow_client),
    ("processes::a_client_that_reads_nothing_is_let_go", stalled_client),
    ("processes::input_and_its_end", input),
    ("processes::signals_reach_process_group_and_tree", signals),
    ("processes::a_kill_takes_daemonised_children_too", tree),
    ("processes::a_killed_daemon_loses_no_byte", killed_daemon),
    ("processes::what_ends_while_no_daemon_lives_is_known_to_the_next", ended_meanwhile),
    ("processes::hundreds_at_once", many),
    ("processes::a_fork_bomb_harms_only_its_own_sandbox", fork_bomb),
    ("processes::limits_hold", limits),
    ("processes::a_running_process_keeps_its_sandbox_awake", awake),
];

fn shell(command: &str) -> Value {
    json!({ "cmd": ["bash", "-c", command] })
}

pub(super) fn followed() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let id = server.create(Value::Null);
    let process = server.start_process(
        &id,
        json!({ "cmd": ["bash", "-c", "echo $A; pwd; sleep 0.1; echo err >&2; sleep 0.1; printf 'ü\\xff'; exit 3"],
            "env": { "A": "bee" }, "cwd": "/tmp", "user": "sandbox" }),
    );
    let output = server.output(&id, &process, 0);
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (b"bee\n/tmp\n\xc3\xbc\xff".as_slice(), b"err\n".as_slice())
    );
    assert_eq!((output.exit, output.end), (Some(json!({ "exit_code": 3 })), 16));
    let shown = server.process(&id, &process);
    assert_eq!(
        (&shown["status"], &shown["exit_code"], &shown["tty"]),
        (&json!("exited"), &json!(3), &json!(false))
    );
    assert_eq!(shown["output"], json!({ "start": 0, "end": 16, "dropped_bytes": 0 }));
    assert_eq!(
        (&shown["user"], &shown["cwd"], &shown["cmd"][0]),
        (&json!("sandbox"), &json!("/tmp"), &json!("bash"))
    );
    // The same by WebSocket, from an offset in the middle.
    let mut socket = server.follow(&id, &process, 4);
    let mut frames = Vec::new();
    let exit = loop {
        match socket.read().unwrap() {
            Message::Binary(bytes) => frames.push(bytes.to_vec()),
            Message::Text(text) => break text.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let expected = [
        b"\x01\0\0\0\0\0\0\0\x04/tmp\n".to_vec(),
        b"\x02\0\0\0\0\0\0\0\x09err\n".to_vec(),
        b"\x01\0\0\0\0\0\0\0\x0d\xc3\xbc\xff".to_vec(),
    ];
    assert_eq!((frames.as_slice(), exit.as_str()), (expected.as_slice(), r#"{"exit":{"exit_code":3}}"#));
    assert!(matches!(socket.read().unwrap(), Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
    let second = server.start_process(&id, shell("sleep 100"));
    let list = server.api("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).json();
    let ids: Vec<_> =
        list["processes"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [second.clone(), process.clone()]);
    // Without following, what is there is all.
    assert!(server.events(&id, &second, "?follow=false").next().is_none());
    assert_eq!(
        server.api("DELETE", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null).status,
        204
    );
    assert_eq!(
        server.api("GET", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null).status,
        404
    );
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    let ended = server.process(&id, &second);
    assert!(["lost", "exited"].contains(&ended["status"].as_str().unwrap()), "{ended}");
    server.purge(&id);
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}

fn bad_requests() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let path = format!("/v1/sandboxes/{id}/processes");
    for bad in [
        json!({}),
        json!({ "cmd": [] }),
        json!({ "cmd": "ls" }),
        json!({ "cmd": ["ls"], "unknown": 1 }),
        json!({ "cmd": ["ls"], "user": "nobody" }),
        json!({ "cmd": ["ls"], "cwd": "tmp" }),
        json!({ "cmd": ["ls"], "cwd": "/no/such/directory" }),
        json!({ "cmd": ["ls"], "env": { "A=B": "c" } }),
        json!({ "cmd": ["ls"], "timeout_s": 0 }),
        json!({ "cmd": ["ls"], "tty": { "cols": 0, "rows": 24 } }),
        json!({ "cmd": ["/etc/passwd"] }),
        json!({ "cmd": ["no-such-program"] }),
    ] {
        let answer = server.api("POST", &path, bad.clone());
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &json!("invalid_request")),
            "{bad}"
        );
    }
    for (bad, exit_code, words) in [
        (
            json!({ "cmd": ["ls"], "cwd": "/no/such/directory" }),
            127,
            "the working directory /no/such/directory: ",
        ),
        (json!({ "cmd": ["ls"], "cwd": "/etc/passwd" }), 126, "the working directory /etc/passwd: "),
        (json!({ "cmd": ["ls"], "cwd": "/root" }), 126, "the working directory /root: "),
        (json!({ "cmd": ["no-such-program"], "cwd": "/root", "user": "root" }), 127, "no-such-program: "),
        (json!({ "cmd": ["no-such-program"] }), 127, "no-such-program: "),
        (json!({ "cmd": ["/etc/passwd"], "cwd": "/tmp" }), 126, "/etc/passwd: "),
    ] {
        let error = server.api("POST", &path, bad.clone()).json()["error"].clone();
        assert_eq!(error["exit_code"], exit_code, "{bad}: {error}");
        assert!(error["message"].as_str().unwrap().starts_with(words), "{bad}: {error}");
    }
    // What is not a WebSocket is told so in the form of every other error.
    let answer = server.api("GET", &format!("/v1/sandboxes/{id}/terminal"), Value::Null);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("invalid_request")));
    assert_eq!(server.api("GET", &path, Value::Null).json(), json!({ "processes": [] }));
    let process = server.start_process(&id, shell("exec sleep 100"));
    let ask =
        |method: &str, rest: &str, body: Value| server.api(method, &format!("{path}/{rest}"), body).status;
    assert_eq!(ask("GET", "01ARZ3NDEKTSV4RRFFQ69G5FAV", Value::Null), 404);
    assert_eq!(ask("GET", "../../x", Value::Null), 404);
    assert_eq!(ask("GET", &format!("{process}/output?from=1"), Value::Null), 400);
    assert_eq!(ask("POST", &format!("{process}/signal"), json!({ "signal": "NOPE" })), 400);
    assert_eq!(ask("POST", &format!("{process}/signal"), json!({ "signal": "TERM", "target": "all" })), 400);
    assert_eq!(ask("POST", &format!("{process}/resize"), json!({ "cols": 10, "rows": 10 })), 409);
    assert_eq!(ask("POST", &format!("{process}/stdin"), json!("text")), 409);
    assert_eq!(ask("PUT", &process, Value::Null), 405);
}

fn vanishing() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let process =
        server.start_process(&id, shell("for i in $(seq 1 400); do echo line $i; sleep 0.005; done"));
    let mut output = Output::default();
    // Each client reads a little and is gone without a word.
    while output.exit.is_none() {
        let mut events = server.events(&id, &process, &format!("?from={}", output.end));
        for _ in 0..20 {
            let Some(event) = events.next() else { break };
            output.add(&event);
        }
    }
    let expected: String = (1..=400).map(|i| format!("line {i}\n")).collect();
    assert_eq!((output.text(), output.dropped.len()), (expected, 0));
    // So it is for a compatible exec: it goes on, and can be found.
    let body =
        json!({ "cmd": ["bash", "-c", "echo begun; sleep 0.5; echo done > finished"], "stream": true })
            .to_string();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", crate::support::server::API)).unwrap();
    let head = format!(
        "POST /sandbox/{id}/exec HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        server.key(),
        body.len()
    );
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let mut first = [0; 512];
    assert!(std::io::Read::read(&mut stream, &mut first).unwrap() > 0);
    drop(stream);
    eventually("it has finished", Duration::from_secs(20), || server.exec(&id, "cat finished").0 == "done\n");
    let list = server.api("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).json();
    let left = list["processes"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.output(&id, &left, 0).text(), "begun\n");
}

fn dropped() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let body =
        json!({ "cmd": ["bash", "-c", "seq 1 200000; sleep 0.3; echo end >&2"], "output_bytes": 65536 });
    let process = server.start_process(&id, body);
    eventually("it has ended", Duration::from_secs(60), || {
        server.process(&id, &process)["status"] == "exited"
    });
    let whole: String = (1..=200_000).map(|i| format!("{i}\n")).collect();
    let end = whole.len() as u64 + 4;
    let shown = server.process(&id, &process)["output"].clone();
    assert_eq!(shown, json!({ "start": end - 65536, "end": end, "dropped_bytes": end - 65536 }));
    let output = server.output(&id, &process, 10);
    assert_eq!(output.dropped, [(10, end - 65536)]);
    assert_eq!(
        (output.text().as_str(), output.stderr.as_slice()),
        (whole.get(whole.len() - 65532..).unwrap(), b"end\n".as_slice())
    );
}

/// The daemon's resident memory.
fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn slow_client() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    // Held until the client is there, so that all of it is promised.
    let body = json!({ "cmd": ["bash", "-c", "read go; head -c 100000000 /dev/zero; echo over >&2"], "stdin": true });
    let process = server.start_process(&id, body);
    let mut socket = server.follow(&id, &process, 0);
    socket.send(Message::binary(b"go\n".to_vec())).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let held = server.process(&id, &process);
    // Sockets and ring hold a few megabytes; the rest has not been written yet.
    assert!(held["status"] == "running" && held["output"]["end"].as_u64().unwrap() < 20_000_000, "{held}");
    let before = resident_kib(&server);
    let (mut next, mut errors) = (0, Vec::new());
    loop {
        match socket.read().unwrap() {
            Message::Binary(frame) => {
                assert_eq!(u64::from_be_bytes(frame[1..9].try_into().unwrap()), next);
                next += frame.len() as u64 - 9;
                if frame[0] == 2 {
                    errors.extend_from_slice(&frame[9..]);
                } else {
                    assert!(frame[9..].iter().all(|b| *b == 0));
                }
            }
            Message::Text(text) => break assert_eq!(text.as_str(), r#"{"exit":{"exit_code":0}}"#),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, errors.as_slice()), (100_000_005, b"over\n".as_slice()));
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 16 * 1024, "the daemon has grown by {grown} KiB");
}

fn stalled_client() {
    let server = Server::start(&[("SANDBOXD_PROCESS_STALL_SECONDS", "1")]);
    let id = server.create(Value::Null);
    let body =
        json!({ "cmd": ["bash", "-c", "read go; head -c 50000000 /dev/zero; echo over"], "stdin": true });
    let process = server.start_process(&id, body);
    let mut socket = server.follow(&id, &process, 0);
    socket.send(Message::binary(b"go\n".to_vec())).unwrap();
    eventually("the process is not held for ever", Duration::from_secs(20), || {
        server.process(&id, &process)["status"] == "exited"
    });
    // It reads what is still on its way, and is told; what is left it can have again.
    let mut next = 0;
    let reason = loop {
        match socket.read() {
            Ok(Message::Binary(frame)) => next += frame.len() as u64 - 9,
            Ok(Message::Close(frame)) => break frame.map(|f| f.code),
            Ok(_) => {}
            Err(_) => break None,
        }
    };
    assert!(next < 50_000_000 && reason.is_none_or(|code| code == CloseCode::Again), "{next} {reason:?}");
    let rest = server.output(&id, &process, next);
    assert!(rest.stdout.ends_with(b"over\n") && rest.exit.is_some() && rest.dropped.len() == 1);
}

pub(super) fn input() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let process = server.start_process(&id, json!({ "cmd": ["cat"], "stdin": true }));
    let path = format!("/v1/sandboxes/{id}/processes/{process}");
    assert_eq!(server.api_bytes("POST", &format!("{path}/stdin"), b"one\n").status, 204);
    let mut socket = server.follow(&id, &process, 0);
    socket.send(Message::binary(b"two\n".to_vec())).unwrap();
    // More than all buffers between hold, while nobody reads the output but this.
    let big = vec![b'x'; 3_000_000];
    let gone_around = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // After "two" has gone around, so that the order is known.
            gone_around.wait();
            assert_eq!(server.api_bytes("POST", &format!("{path}/stdin?eof=true"), &big).status, 204);
        });
        let mut seen = Vec::new();
        let exit = loop {
            match socket.read().unwrap() {
                Message::Binary(frame) => seen.extend_from_slice(&frame[9..]),
                Message::Text(text) => break text.to_string(),
                other => panic!("{other:?}"),
            }
            if seen == b"one\ntwo\n" {
                gone_around.wait();
            }
        };
        assert_eq!((seen.len(), exit.as_str()), (3_000_008, r#"{"exit":{"exit_code":0}}"#));
    });
    assert_eq!(server.api_bytes("POST", &format!("{path}/stdin"), b"late").status, 409);
    // By a text frame, and without any input.
    let process = server.start_process(&id, json!({ "cmd": ["cat"], "stdin": true }));
    let mut socket = server.follow(&id, &process, 0);
    socket.send(Message::text(r#"{"eof":true}"#)).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(r#"{"exit":{"exit_code":0}}"#));
    let process = server.start_process(&id, json!({ "cmd": ["cat"] }));
    assert_eq!(server.output(&id, &process, 0).exit, Some(json!({ "exit_code": 0 })));
}

pub(super) fn signals() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let send = |process: &str, signal: &str, target: &str| {
        let body = json!({ "signal": signal, "target": target });
        server.api("POST", &format!("/v1/sandboxes/{id}/processes/{process}/signal"), body).status
    };
    let process = server.start_process(&id, shell("exec sleep 100"));
    assert_eq!(send(&process, "TERM", "process"), 204);
    assert_eq!(server.output(&id, &process, 0).exit, Some(json!({ "exit_code": 143, "signal": "TERM" })));
    assert_eq!(server.process(&id, &process)["signal"], "TERM");
    assert_eq!(send(&process, "TERM", "group"), 409);
    // A shell that waits for its child ignores INT by itself; the group gets it whole.
    let process =
        server.start_process(&id, shell("trap 'echo caught' USR1; echo ready; while :; do sleep 0.05; done"));
    let mut socket = server.follow(&id, &process, 0);
    assert!(socket.read().unwrap().into_data().ends_with(b"ready\n"));
    assert_eq!(send(&process, "USR1", "process"), 204);
    assert!(socket.read().unwrap().into_data().ends_with(b"caught\n"));
    socket.send(Message::text(r#"{"signal":"KILL"}"#)).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(r#"{"exit":{"exit_code":137,"signal":"KILL"}}"#));
    // Its time is over: the whole tree goes.
    let begun = Instant::now();
    let body = json!({ "cmd": ["bash", "-c", "setsid sleep 4321 & sleep 4321"], "timeout_s": 1 });
    let process = server.start_process(&id, body);
    let exit = server.output(&id, &process, 0).exit;
    assert_eq!(exit, Some(json!({ "exit_code": 137, "signal": "KILL", "timed_out": true })));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(server.process(&id, &process)["timed_out"], true);
    assert_eq!(server.exec(&id, "pgrep -f '[s]leep 4321'").1, 1);
}

pub(super) fn tree() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    // A child in a session of its own, a daemon without a parent, one that ignores everything it may,
    // and one that another process has started, which stays.
    let bystander = server.start_process(&id, shell("setsid sleep 5432 & exec sleep 5432"));
    let process = server.start_process(
        &id,
        shell(
            "setsid sleep 6543 & (setsid nohup sleep 6543 >/dev/null 2>&1 &) ; (trap '' TERM HUP INT; sleep 6543) & \
             python3 -c 'import os\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  os.execvp(\"sleep\",[\"sleep\",\"6543\"])\n os._exit(0)' ; \
             echo up; exec sleep 6543",
        ),
    );
    eventually("all five run", Duration::from_secs(20), || {
        server.exec(&id, "pgrep -cf '^sleep 6543'").0 == "5\n"
    });
    let path = format!("/v1/sandboxes/{id}/processes/{process}");
    assert_eq!(
        server
            .api("POST", &format!("{path}/signal"), json!({ "signal": "TERM", "target": "process" }))
            .status,
        204
    );
    eventually("the process has ended", Duration::from_secs(20), || {
        server.process(&id, &process)["status"] == "exited"
    });
    // What it has left is still its own.
    assert_eq!(server.exec(&id, "pgrep -cf '^sleep 6543'").0, "4\n");
    assert_eq!(server.api("DELETE", &path, Value::Null).status, 204);
    eventually("nothing of the tree is left", Duration::from_secs(20), || {
        server.exec(&id, "pgrep -cf '^sleep 6543'").0 == "0\n"
    });
    assert_eq!(server.exec(&id, "pgrep -cf '^sleep 5432'").0, "2\n");
    // A tree that forks as fast as it can.
    let process = server.start_process(
        &id,
        shell("f() { setsid sleep 0.01 & f2 & }; f2() { while :; do setsid sleep 7654 & done; }; f2 & f2"),
    );
    eventually("it grows", Duration::from_secs(20), || {
        server.api("GET", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null).status == 200
            && std::fs::read_to_string("/proc/loadavg").is_ok()
            && server.exec(&id, "pgrep -cf 'sleep 7654'").0.trim().parse::<u32>().unwrap_or(999) > 100
    });
    assert_eq!(
        server.api("DELETE", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null).status,
        204
    );
    eventually("the bomb is out", Duration::from_secs(20), || {
        let answer = server.api(
            "POST",
            &format!("/sandbox/{id}/exec"),
            json!({ "cmd": ["pgrep", "-cf", "sleep 7654"] }),
        );
        answer.status == 200 && answer.json()["stdout"] == "0\n"
    });
    assert_eq!(server.process(&id, &bystander)["status"], "running");
    // Nobody is left unreaped either.
    assert_eq!(server.exec(&id, "ps -eo stat= | grep -c '^Z'").0, "0\n");
}

pub(super) fn killed_daemon() {
    let mut server = Server::start(&[]);
    let id = server.create(Value::Null);
    // About 4 MB, in pieces of all sizes, through a ring of 1 MB that nobody reads in between.
    let script = "import os,time\nn=0\nfor i in range(3000):\n  s=b''.join(b'%d\\n'%j for j in range(n,n+(i*7)%400)); n+=(i*7)%400\n  os.write(1,s) if s else None\n  os.write(2,b'.')\n  time.sleep(0.001)\nos._exit(7)";
    let body = json!({ "cmd": ["python3", "-c", script], "stdin": true });
    let process = server.start_process(&id, body);
    let tty = server.start_process(&id, json!({ "cmd": ["bash"], "tty": { "cols": 80, "rows": 24 } }));
    let silent = server.start_process(&id, json!({ "cmd": ["cat"], "stdin": true }));
    let (mut output, mut kills) = (Output::default(), 0);
    while output.exit.is_none() {
        let mut events = server.events(&id, &process, &format!("?from={}", output.end));
        let until = Instant::now() + Duration::from_millis(150 + 40 * kills);
        while let Some(event) = events.next() {
            output.add(&event);
            if kills < 6 && Instant::now() > until {
                break;
            }
        }
        if output.exit.is_none() && kills < 6 {
            kills += 1;
            server.kill();
            server.boot();
            assert_eq!(server.process(&id, &silent)["status"], "running");
        }
    }
    assert_eq!(kills, 6, "it ended too early to show anything");
    let count: u64 = (0..3000_u64).map(|i| (i * 7) % 400).sum();
    let expected: String = (0..count).map(|n| format!("{n}\n")).collect();
    assert!(output.text() == expected, "{} of {} bytes", output.stdout.len(), expected.len());
    assert_eq!(
        (output.stderr.len(), output.dropped.len(), output.exit),
        (3000, 0, Some(json!({ "exit_code": 7 })))
    );
    // Input and terminals go on too.
    let path = format!("/v1/sandboxes/{id}/processes");
    assert_eq!(
        server.api_bytes("POST", &format!("{path}/{silent}/stdin?eof=true"), b"still here").status,
        204
    );
    assert_eq!(server.output(&id, &silent, 0).text(), "still here");
    assert_eq!(
        server.api("POST", &format!("{path}/{tty}/resize"), json!({ "cols": 99, "rows": 33 })).status,
        204
    );
    assert_eq!(server.api_bytes("POST", &format!("{path}/{tty}/stdin"), b"stty size; exit 4\n").status, 204);
    let output = server.output(&id, &tty, 0);
    assert!(output.text().contains("33 99") && output.exit == Some(json!({ "exit_code": 4 })), "{output:?}");
}

pub(super) fn ended_meanwhile() {
    let mut server = Server::start(&[]);
    let id = server.create(Value::Null);
    let process = server.start_process(&id, shell("echo begun; sleep 1; seq 1 10000; kill -TERM $$"));
    let late = server.start_process(
        &id,
        json!({ "cmd": ["bash", "-c", "setsid sleep 8765 & sleep 8765"], "timeout_s": 2 }),
    );
    let done = server.start_process(&id, shell("echo done; exit 5"));
    assert_eq!(server.output(&id, &done, 0).exit, Some(json!({ "exit_code": 5 })));
    server.kill();
    // Longer than the process needs: it must neither be killed by its pipes nor wait for anybody.
    std::thread::sleep(Duration::from_millis(2500));
    server.boot();
    let output = server.output(&id, &process, 0);
    let expected: String = "begun\n".to_owned() + &(1..=10_000).map(|i| format!("{i}\n")).collect::<String>();
    assert_eq!((output.text(), output.exit), (expected, Some(json!({ "exit_code": 143, "signal": "TERM" }))));
    assert_eq!(server.process(&id, &done)["exit_code"], 5);
    assert_eq!(server.output(&id, &done, 0).text(), "done\n");
    assert_eq!(
        server.output(&id, &late, 0).exit,
        Some(json!({ "exit_code": 137, "signal": "KILL", "timed_out": true }))
    );
    assert_eq!(server.exec(&id, "pgrep -cf '^sleep 8765'").0, "0\n");
}

fn many() {
    let server = Server::start(&[]);
    let ids: Vec<String> = (0..10).map(|_| server.create(Value::Null)).collect();
    let run = |id: &str, number: usize| {
        let answer =
            server.api("POST", &format!("/sandbox/{id}/exec"), shell(&format!("sleep 0.5; echo {number}")));
        assert_eq!(
            (answer.status, answer.json()["stdout"].as_str().unwrap()),
            (200, format!("{number}\n").as_str())
        );
    };
    for (sandboxes, each) in [(1, 200), (10, 100)] {
        std::thread::scope(|scope| {
            for (number, id) in (0..each).flat_map(|n| ids.iter().take(sandboxes).map(move |id| (n, id))) {
                scope.spawn(move || run(id, number));
            }
        });
    }
    for id in &ids {
        assert_eq!(server.exec(id, "ps -eo stat= | grep -c '^Z'").0, "0\n");
        let list = server.api("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).json();
        assert_eq!(list, json!({ "processes": [] }));
    }
    // Orphans by the thousand are reaped too.
    server.sh(&ids[0], "for i in $(seq 1 2000); do (exec true &) ; done");
    eventually("none is left", Duration::from_secs(20), || {
        server.exec(&ids[0], "ps -eo stat= | grep -c '^Z'").0 == "0\n"
    });
}

fn fork_bomb() {
    let server = Server::start(&[]);
    let (bad, good) = (server.create(Value::Null), server.create(Value::Null));
    let latency = || {
        let mut took: Vec<_> = (0..60)
            .map(|_| {
                let begun = Instant::now();
                assert_eq!(server.exec(&good, ":").1, 0);
                begun.elapsed()
            })
            .collect();
        took.sort();
        took[30]
    };
    let quiet = latency();
    let bomb = server.start_process(&bad, shell("b() { sleep 300 & b & b & }; ulimit -u unlimited; b; wait"));
    let full = |server: &Server| {
        let answer =
            server.api("POST", &format!("/v1/sandboxes/{bad}/processes"), json!({ "cmd": ["true"] }));
        (answer.status, answer.json()["error"]["code"].clone())
    };
    eventually("its sandbox is full, and says so", Duration::from_secs(20), || {
        full(&server) == (429, json!("rate_limited"))
    });
    let loud = latency();
    // Two cores, and a bomb that has filled its limit: generous, but nothing like waiting for it.
    assert!(loud < quiet * 20 + Duration::from_millis(50), "{quiet:?} and {loud:?}");
    assert_eq!(
        server.api("DELETE", &format!("/v1/sandboxes/{bad}/processes/{bomb}"), Value::Null).status,
        204
    );
    eventually("it is as before", Duration::from_secs(20), || {
        let answer = server.api("POST", &format!("/sandbox/{bad}/exec"), json!({ "cmd": ["echo", "free"] }));
        answer.status == 200 && answer.json()["stdout"] == "free\n"
    });
    server.purge(&bad);
}

fn limits() {
    let server = Server::start(&[("SANDBOXD_PROCESSES_MAX", "3")]);
    let id = server.create(Value::Null);
    let running: Vec<_> = (0..3).map(|_| server.start_process(&id, shell("exec sleep 100"))).collect();
    let path = format!("/v1/sandboxes/{id}/processes");
    let refused = server.api("POST", &path, shell("true"));
    assert_eq!((refused.status, &refused.json()["error"]["retryable"]), (429, &json!(true)));
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    let refused = server.api("POST", &format!("/sandbox/{id}/exec"), shell("true"));
    assert_eq!(refused.status, 429);
    assert_eq!(server.api("DELETE", &format!("{path}/{}", running[0]), Value::Null).status, 204);
    // Ended ones are kept, but not without end.
    for _ in 0..70 {
        let process = server.start_process(&id, json!({ "cmd": ["true"] }));
        server.output(&id, &process, 0);
    }
    let count = || server.api("GET", &path, Value::Null).json()["processes"].as_array().unwrap().len();
    eventually("the oldest are forgotten", Duration::from_secs(20), || count() == 2 + 64);
    let runs = std::fs::read_dir(server.directory.path().join("run")).unwrap().flatten();
    let rings = runs.flat_map(|run| std::fs::read_dir(run.path().join("processes")).into_iter().flatten());
    assert_eq!(rings.count(), 2 + 64);
}

fn awake() {
    let server = Server::start(&[
        ("SANDBOXD_IDLE_THRESHOLD_SECONDS", "1"),
        ("SANDBOXD_IDLE_REAP_INTERVAL_SECONDS", "1"),
    ]);
    let (busy, idle) = (server.create(Value::Null), server.create(Value::Null));
    let process = server.start_process(&busy, shell("exec sleep 100"));
    let body = json!({ "cmd": ["sleep", "100"], "detach": true });
    let detached = server.start_process(&idle, body);
    eventually("the detached one does not keep its sandbox awake", Duration::from_secs(20), || {
        server.status(&idle) == "stopped"
    });
    let shown = server.process(&idle, &detached);
    assert!(shown["status"] != "running" && shown["exit_code"].as_i64().unwrap() >= 137, "{shown}");
    assert_eq!(
        (server.status(&busy).as_str(), server.process(&busy, &process)["status"].as_str()),
        ("running", Some("running"))
    );
    assert_eq!(
        server.api("DELETE", &format!("/v1/sandboxes/{busy}/processes/{process}"), Value::Null).status,
        204
    );
    eventually("without it the sandbox sleeps", Duration::from_secs(20), || {
        server.status(&busy) == "stopped"
    });
    // A start wakes it.
    let process = server.start_process(&busy, shell("echo awake"));
    assert_eq!(server.output(&busy, &process, 0).text(), "awake\n");
}
