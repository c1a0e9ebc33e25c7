//! Commands by `sandboxctl exec`: bytes, exit codes, signals, and connections that break.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::super::Test;
use super::{command, command_at, finish, run, run_with};
use crate::support::eventually;
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("cli::exec_passes_bytes_and_exit_codes", bytes_and_codes),
    ("cli::commands_begin_where_files_are_copied_to", directories),
    ("cli::a_shell_without_a_terminal_ends_with_its_input", piped_shell),
    ("cli::exec_forwards_signals", signals),
    ("cli::a_process_is_left_found_and_ended", left_and_found),
    ("cli::nothing_is_dropped_before_the_first_reader", first_reader),
    ("cli::a_lost_connection_loses_no_output", lost_connection),
];

fn directories() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("notes");
    std::fs::write(&file, "copied").unwrap();
    let there = format!("{id}:");
    assert_eq!(run(&server, &["cp", file.to_str().unwrap(), &there]).code, Some(0));
    assert_eq!(run(&server, &["exec", &id, "cat", "notes"]).text(), "copied");
    server.sh(&id, "mkdir -p app/deep ~/other");
    for (option, directory) in [
        ("deep", "/home/sandbox/workspace/app/deep"),
        ("~/other", "/home/sandbox/other"),
        ("~", "/home/sandbox"),
        ("/tmp", "/tmp"),
    ] {
        let ran = run(&server, &["exec", "-w", option, &id, "pwd"]);
        assert_eq!((ran.code, ran.text().trim()), (Some(0), directory), "{option}: {ran:?}");
    }
}

fn piped_shell() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let ran = run_with(&server, &["shell", &id], b"pwd\nexit_with() { return 3; }\nexit_with\n");
    assert_eq!((ran.code, ran.text()), (Some(3), "/home/sandbox/workspace/app\n"), "{}", ran.stderr);
}

fn bytes_and_codes() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let sh = |script: &str| run(&server, &["exec", &id, "--", "bash", "-c", script]);
    let ran = sh("echo out; echo err >&2; exit 3");
    assert_eq!((ran.code, ran.text(), ran.stderr.as_str()), (Some(3), "out\n", "err\n"));
    assert_eq!(sh("kill -9 $$").code, Some(137));
    assert_eq!(sh("exit 255").code, Some(255));
    let ran = run(&server, &["exec", "-e", "A=b=c", "-w", "/tmp", &id, "--", "bash", "-c", "echo $A; pwd"]);
    assert_eq!((ran.code, ran.text()), (Some(0), "b=c\n/tmp\n"));
    assert_eq!(run(&server, &["exec", "--timeout", "1", &id, "--", "sleep", "30"]).code, Some(124));
    let ran = run(&server, &["exec", &id, "--", "no-such-program"]);
    assert!(ran.code != Some(0) && ran.stderr.contains("no-such-program"), "{ran:?}");
    // Input that nobody gives ends at once, and what is not asked for is not read.
    assert_eq!(run(&server, &["exec", &id, "--", "cat"]).code, Some(0));
    let ran = run_with(&server, &["exec", "-n", &id, "--", "cat"], b"not for you");
    assert_eq!((ran.code, ran.text()), (Some(0), ""));
    // Every byte, both ways, and more than all buffers on the way hold.
    let bytes: Vec<u8> =
        (0..8_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let ran = run_with(&server, &["exec", &id, "--", "cat"], &bytes);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.stdout == bytes, "{} of {} bytes came back, or others", ran.stdout.len(), bytes.len());
    let ran = sh("head -c 50000000 /dev/zero; echo end >&2");
    assert_eq!((ran.code, ran.stdout.len(), ran.stderr.as_str()), (Some(0), 50_000_000, "end\n"));
    // A process that does not read what it is sent.
    assert_eq!(run_with(&server, &["exec", &id, "--", "true"], &bytes).code, Some(0));
    let ran = run_with(
        &server,
        &["--json", "exec", &id, "--", "bash", "-c", "cat; echo -n e >&2; exit 4"],
        b"\xff",
    );
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(ran.code, Some(4));
    assert_eq!((json["stdout_base64"].as_str(), json["stderr"].as_str()), (Some("/w=="), Some("e")));
    assert_eq!(json["exit_code"], 4);
}

fn spawn(server: &Server, id: &str, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = command(server, &["exec", id, "--", "bash", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn line(out: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line
}

fn send(child: &Child, signal: &str) {
    let status = std::process::Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

/// How many processes of a sandbox run that were started.
fn running(server: &Server, id: &str) -> usize {
    run(server, &["ps", "-q", id]).text().lines().count()
}

fn signals() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let (mut child, mut out) =
        spawn(&server, &id, "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done");
    assert_eq!(line(&mut out), "ready\n");
    send(&child, "-INT");
    assert_eq!(line(&mut out), "caught\n");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    // By default they end it, as they would here.
    let (mut child, mut out) = spawn(&server, &id, "echo ready; sleep 60");
    line(&mut out);
    send(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // A process that wants none of it is killed by the third.
    let (mut child, mut out) =
        spawn(&server, &id, "trap 'echo no' INT; echo ready; setsid sleep 61 & while :; do sleep 0.05; done");
    line(&mut out);
    for _ in 0..2 {
        send(&child, "-INT");
        assert_eq!(line(&mut out), "no\n");
    }
    send(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(137));
    eventually("the background of a killed process has ended", Duration::from_secs(20), || {
        server.exec(&id, "pgrep -f 'sleep 61' | grep -v $$").1 != 0
    });
    // A reader that goes away ends it too.
    let (mut child, mut out) = spawn(&server, &id, "exec yes");
    line(&mut out);
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    eventually("a process without a reader ends", Duration::from_secs(20), || running(&server, &id) == 0);
}

fn left_and_found() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let script = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 5";
    let process = run(&server, &["exec", "-d", &id, "--", "bash", "-c", script]).text().trim().to_owned();
    assert_eq!(process.len(), 26, "{process}");
    let table = run(&server, &["ps", &id]);
    assert!(table.text().contains(&process) && table.text().contains("running"), "{table:?}");
    // Whoever follows it and goes changes nothing.
    let mut child = command(&server, &["attach", &id, &process]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(line(&mut BufReader::new(child.stdout.take().unwrap())), "one\n");
    send(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(running(&server, &id), 1);
    server.sh(&id, "touch app/go");
    let ran = run(&server, &["attach", id.get(..20).unwrap(), process.get(..22).unwrap()]);
    assert_eq!((ran.code, ran.text()), (Some(5), "one\ntwo\n"));
    assert_eq!(run(&server, &["attach", "--from", "4", &id, &process]).text(), "two\n");
    assert_eq!(run(&server, &["logs", &id, &process]).text(), "one\ntwo\n");
    assert_eq!(running(&server, &id), 0);
    let table = run(&server, &["ps", "--all", &id]);
    assert!(table.text().contains("exited"), "{table:?}");
    let process = run(&server, &["exec", "-d", &id, "--", "sleep", "62"]).text().trim().to_owned();
    assert_eq!(run(&server, &["kill", "-s", "sigint", &id, &process]).code, Some(0));
    assert_eq!(run(&server, &["attach", &id, &process]).code, Some(130));
    let ran = run(&server, &["attach", &id, "01ARZ3NDEKTSV4RRFFQ69G5FAV"]);
    assert!(ran.code == Some(66) && ran.stderr.contains("ps --all"), "{ran:?}");
}

fn first_reader() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let body = serde_json::json!({ "cmd": ["bash", "-c", "head -c 50000000 /dev/zero; echo end"] });
    let started = server.api("POST", &format!("/v1/sandboxes/{id}/processes"), body);
    let process = started.json()["id"].as_str().unwrap().to_owned();
    // Far longer than it would take to write it all.
    std::thread::sleep(Duration::from_millis(800));
    let ran = run(&server, &["attach", &id, &process]);
    assert_eq!((ran.code, ran.stdout.len(), ran.stderr.as_str()), (Some(0), 50_000_004, ""));
    // What is not kept for ever is told to whoever comes late.
    let ran = run(&server, &["attach", &id, &process]);
    assert!(ran.stdout.len() < 50_000_004 && ran.stdout.ends_with(b"end\n"), "{}", ran.stdout.len());
    assert!(ran.stderr.contains("bytes 0 to") && ran.stderr.contains("no longer kept"), "{}", ran.stderr);
    // A process that is to be left is not held up by a reader who never comes.
    let script = "head -c 50000000 /dev/zero; touch done";
    run(&server, &["exec", "-d", &id, "--", "bash", "-c", script]);
    eventually("it has written everything", Duration::from_secs(20), || {
        server.exec(&id, "ls app/done").1 == 0
    });
}

/// Passes connections on until they are cut.
struct Wire {
    url: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
    is_down: Arc<AtomicBool>,
}

impl Wire {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (open, is_down) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, down) = (Arc::clone(&open), Arc::clone(&is_down));
        let serve = move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if down.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(("127.0.0.1", API)).unwrap();
                kept.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                pass(near.try_clone().unwrap(), far.try_clone().unwrap());
                pass(far, near);
            }
        };
        std::thread::Builder::new().name("wire".to_owned()).spawn(serve).unwrap();
        Self { url, open, is_down }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let copy = move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    };
    std::thread::Builder::new().name("wire-half".to_owned()).spawn(copy).unwrap();
}

fn lost_connection() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let wire = Wire::new();
    // Numbered lines, some before, some while, and some after the connection is down.
    let script = "for n in $(seq 1 300); do echo $n; sleep 0.01; done; exit 9";
    let mut command = command_at(&server, &wire.url, &["exec", &id, "--", "bash", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut seen = line(&mut out);
    for _ in 0..2 {
        wire.is_down.store(true, Ordering::SeqCst);
        wire.cut();
        std::thread::sleep(Duration::from_millis(300));
        wire.is_down.store(false, Ordering::SeqCst);
        (0..20).for_each(|_| seen.push_str(&line(&mut out)));
    }
    out.read_to_string(&mut seen).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(9), "{stderr}");
    let expected: String = (1..=300).map(|n| format!("{n}\n")).collect();
    assert_eq!(seen, expected);
    assert_eq!(stderr.matches("the connection was lost after byte").count(), 2, "{stderr}");
    assert_eq!(stderr.matches("attached again at byte").count(), 2, "{stderr}");
    // Input that was on its way is not sent twice, nor is a hole passed over.
    let mut command = command_at(&server, &wire.url, &["exec", &id, "--", "sleep", "63"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::Builder::new().spawn(move || stdin.write_all(&vec![b'x'; 64_000_000]));
    eventually("it runs", Duration::from_secs(20), || running(&server, &id) == 1);
    std::thread::sleep(Duration::from_millis(300));
    wire.cut();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("its input may have a hole") && stderr.contains("sandboxctl kill"), "{stderr}");
    drop(feeding.unwrap().join());
    // A server that does not come back: the command ends and says where to go on.
    let ran = finish(&mut command_at(&server, "http://127.0.0.1:1", &["exec", &id, "--", "true"]), b"");
    assert_eq!(ran.code, Some(69));
}
