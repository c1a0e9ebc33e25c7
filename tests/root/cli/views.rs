//! What `sandboxctl` shows: tables for people, JSON for programs, and words for what went wrong.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use super::super::Test;
use super::{command, finish, run};
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("cli::every_command_has_json", every_json),
    ("cli::logs_are_shown_and_followed", logs),
    ("cli::events_are_shown_as_they_happen", events),
    ("cli::failures_say_what_to_do", failures),
];

fn every_json() {
    let server = Server::start(&[]);
    let created = run(&server, &["--json", "create", "--port", "3000"]);
    let id = serde_json::from_slice::<Value>(&created.stdout).unwrap()["id"].as_str().unwrap().to_owned();
    let process = run(&server, &["--json", "exec", "-d", &id, "--", "sleep", "66"]);
    let process =
        serde_json::from_slice::<Value>(&process.stdout).unwrap()["id"].as_str().unwrap().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let to = format!("{id}:");
    for arguments in [
        &["ls"][..],
        &["show", &id],
        &["exec", &id, "--", "true"],
        &["ps", &id],
        &["ps", "--all", &id],
        &["kill", &id, &process],
        &["attach", &id, &process],
        &["logs", &id, &process],
        &["cp", file, &to],
        &["open", &id],
        &["stats"],
        &["stats", &id],
        &["events", "--from", "0", "--limit", "2"],
        &["pause", &id],
        &["resume", &id],
        &["stop", &id],
        &["start", &id],
        &["presets"],
        &["rm", &id],
        &["purge", &id],
    ] {
        let ran = finish(&mut command(&server, &[&["--json"], arguments].concat()), b"");
        let is_expected = ran.code == Some(0) || (arguments[0] == "attach" && ran.code == Some(143));
        assert!(is_expected, "{arguments:?}: {ran:?}");
        // Killing says nothing of its own but what it did.
        assert!(!ran.stdout.is_empty(), "{arguments:?} is silent");
        for line in ran.text().lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {line}"));
        }
        assert_eq!(ran.stderr, "", "{arguments:?}");
    }
}

fn logs() {
    let mut server = Server::start(&[]);
    let id = server.create(Value::Null);
    let ran = run(&server, &["logs", &id]);
    assert!(ran.code == Some(64) && ran.stderr.contains("sandbox.yaml"), "{ran:?}");
    server.put(
        &id,
        "sandbox.yaml",
        b"version: 1\nworkers:\n  - name: clock\n    command: n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.1; done\n",
    );
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    server.api("POST", &format!("/v1/sandboxes/{id}/start"), Value::Null);
    crate::support::eventually("the worker writes", std::time::Duration::from_secs(20), || {
        run(&server, &["logs", &id]).text().contains("tick 2")
    });
    assert_eq!(run(&server, &["logs", "--tail", "1", &id, "clock"]).text().lines().count(), 1);
    let mut child = command(&server, &["logs", "-f", "--tail", "2", &id, "clock"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut numbers: Vec<u32> = Vec::new();
    let mut take = |count| {
        let taken = lines.by_ref().take(count);
        numbers.extend(taken.map(|line| line.strip_prefix("tick ").unwrap().parse::<u32>().unwrap()));
    };
    take(6);
    // The server is killed, while the worker goes on: no line is lost, and none is shown twice.
    server.signal("KILL");
    server.boot();
    take(12);
    assert!(numbers.len() == 18 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    child.kill().unwrap();
    let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(stderr.contains("the connection was lost; connecting again"), "{stderr}");
    let table = run(&server, &["ps", &id]);
    assert!(table.text().contains("clock") && table.text().contains("worker of the app"), "{table:?}");
    let ran = run(&server, &["logs", &id, "nothing"]);
    assert!(ran.code == Some(66) && ran.stderr.contains("clock"), "{ran:?}");
}

fn events() {
    let mut server = Server::start(&[]);
    let id = server.create(Value::Null);
    let mut child = command(&server, &["events", "--from", "0", "--sandbox", id.get(..24).unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut expect = |event: &str| {
        let line = lines.by_ref().find(|line| line.contains(event)).unwrap_or_default();
        assert!(line.contains(&id), "{event}: {line:?}");
    };
    expect("sandbox.created");
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    expect("sandbox.stopped");
    // The server goes and comes back: the next event is not lost.
    server.signal("TERM");
    server.boot();
    server.api("POST", &format!("/v1/sandboxes/{id}/start"), Value::Null);
    expect("sandbox.running");
    child.kill().unwrap();
    let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(stderr.contains("the connection was lost; connecting again"), "{stderr}");
}

fn failures() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    let check = |arguments: &[&str], code: i32, words: &str| {
        let ran = run(&server, arguments);
        assert_eq!((ran.code, ran.text()), (Some(code), ""), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    };
    let mut typo = id.get(..25).unwrap().to_owned();
    typo.push(if id.ends_with('0') { '1' } else { '0' });
    for arguments in [
        &["show"][..],
        &["stop"],
        &["start"],
        &["pause"],
        &["resume"],
        &["ps"],
        &["logs"],
        &["open"],
        &["stats"],
        &["rm"],
        &["shell"],
    ] {
        check(&[arguments, &[typo.as_str()]].concat(), 66, &format!("did you mean {id}?"));
    }
    check(&["exec", &typo, "--", "true"], 66, "did you mean");
    check(
        &["exec", "-w", "no/such", &id, "--", "true"],
        127,
        "directory /home/sandbox/workspace/app/no/such",
    );
    check(&["exec", "-u", "nobody", &id, "--", "true"], 64, "user");
    check(&["exec", "-w", "/no/such", &id, "--", "true"], 127, "working directory /no/such");
    check(&["exec", &id, "--", "no-such-program"], 127, "no-such-program");
    check(&["exec", &id, "--", "/etc/passwd"], 126, "/etc/passwd");
    check(&["kill", &id, "7"], 66, "ps --all");
    check(&["kill", "-s", "NONSENSE", &id, "7"], 66, "ps --all");
    check(&["open", "--port", "4000", &id], 64, "3000");
    check(&["create", "--preset", "no-such"], 64, "no-such");
    let wrong = finish(command(&server, &["ls"]).env("SANDBOXD_TOKEN", "wrong"), b"");
    assert!(wrong.code == Some(77) && wrong.stderr.contains("SANDBOXD_TOKEN"), "{wrong:?}");
    let ran = run(&server, &["--json", "show", &typo]);
    let json: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(json["exit_code"], 66);
}
