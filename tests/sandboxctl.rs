//! Runs the `sandboxctl` binary against a small server: exit codes, streams, pipes, the key.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
#![expect(clippy::disallowed_methods, reason = "the program under test is started as a user's shell would")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const KEY: &str = "the-key";

/// Answers every request by its method and path; keeps the bodies.
struct Server {
    url: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        let serve = move || {
            for stream in listener.incoming() {
                let (mut stream, kept) = (stream.unwrap(), Arc::clone(&kept));
                let connection = move || while answer(&mut stream, &kept) {};
                std::thread::Builder::new().name("connection".to_owned()).spawn(connection).unwrap();
            }
        };
        std::thread::Builder::new().name("server".to_owned()).spawn(serve).unwrap();
        Self { url, bodies }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandboxctl"));
        command.env_clear().env("SANDBOXD_URL", &self.url).env("SANDBOXD_TOKEN", KEY).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        read(&self.command(arguments).output().unwrap())
    }
}

fn read(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Returns whether there may be another request.
fn answer(stream: &mut TcpStream, bodies: &Mutex<Vec<String>>) -> bool {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length, mut is_known) = (String::new(), 0, false);
    if reader.read_line(&mut request).unwrap_or(0) == 0 {
        return false;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        is_known |= line == format!("authorization: Bearer {KEY}");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    let route = request.strip_suffix(" HTTP/1.1\r\n").unwrap();
    if is_known && route.ends_with("/exec") && body.contains("\"endless\"") {
        return endless(stream);
    }
    let (status, text) =
        if is_known { reply(route, &body) } else { (401, r#"{"error":"unauthorized"}"#.to_owned()) };
    bodies.lock().unwrap().push(body);
    let head =
        format!("HTTP/1.1 {status} X\r\nx-request-id: 01REQ\r\ncontent-length: {}\r\n\r\n", text.len());
    stream.write_all((head + &text).as_bytes()).is_ok()
}

fn reply(route: &str, body: &str) -> (u16, String) {
    let row = format!(r#"{{"id":"{ID}","status":"running","ports":[3000],"new":1}}"#);
    let known = format!("/sandbox/{ID}");
    match route.split_once(' ').unwrap() {
        ("GET", "/sandboxes") => (200, format!("[{row}]\n")),
        ("POST", "/sandbox") => (201, row),
        ("POST", path) if path == format!("{known}/exec") && body.contains("\"stream\":true") => {
            (200, "out\n---stderr---\nerr\nexit_code: 42\n".to_owned())
        }
        ("POST", path) if path == format!("{known}/exec") => {
            (200, r#"{"stdout":"out\n","stderr":"err\n","exit_code":42}"#.to_owned())
        }
        ("DELETE", path) if path == known => (204, String::new()),
        _ => (404, r#"{"error":"sandbox not found"}"#.to_owned()),
    }
}

/// Writes output until the client goes.
fn endless(stream: &mut TcpStream) -> bool {
    let chunk = format!("1000\r\n{}\r\n", "y\n".repeat(2048));
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    while stream.write_all(chunk.as_bytes()).is_ok() {}
    false
}

#[test]
fn exec_keeps_streams_apart_and_passes_the_exit_code_on() {
    let server = Server::start();
    let result = server.run(&["exec", "-e", "A=1", "01arz", "--", "true", "--json"]);
    assert_eq!(result, (Some(42), "out\n".to_owned(), "err\n".to_owned()));
    let body = server.bodies.lock().unwrap().pop().unwrap();
    assert_eq!(body, r#"{"cmd":["env","--","A=1","true","--json"],"stream":true}"#);
    let result = server.run(&["--json", "exec", ID, "--", "true"]);
    let json = r#"{"stdout":"out\n","stderr":"err\n","exit_code":42}"#;
    assert_eq!(result, (Some(42), format!("{json}\n"), String::new()));
}

#[test]
fn json_is_the_servers_own() {
    let (code, stdout, _) = Server::start().run(&["ls", "--json"]);
    assert_eq!((code, stdout.contains(r#""new":1"#), stdout.lines().count()), (Some(0), true, 1));
}

#[test]
fn create_prints_the_id_alone() {
    let server = Server::start();
    let result = server.run(&["create", "--port", "3000", "--always-on"]);
    assert_eq!(result, (Some(0), format!("{ID}\n"), String::new()));
    assert_eq!(server.bodies.lock().unwrap()[0], r#"{"ports":[3000],"idle_policy":"always_on"}"#);
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_a_remedy() {
    let server = Server::start();
    let check = |arguments: &[&str], code: i32, words: &str| {
        let (status, stdout, stderr) = server.run(arguments);
        assert_eq!((status, stdout.as_str()), (Some(code), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    };
    check(&["stop", "01ARZ3NDEKTSV4RRFFQ69G5FAW"], 66, &format!("did you mean {ID}?"));
    check(&["stop", "7"], 66, "`sandboxctl ls` shows what there is");
    check(&["stop", "../x"], 64, "letters and digits");
    check(&["frobnicate"], 64, "unrecognized subcommand");
    check(&["--url", "https://x", "ls"], 64, "plain HTTP");
    check(&["--url", "http://127.0.0.1:1", "ls"], 69, "sandboxd serve");
    check(&["--json", "stop", "7"], 66, "\"exit_code\":66");
    let output = server.command(&["ls"]).env("SANDBOXD_TOKEN", "wrong").output().unwrap();
    let (code, _, stderr) = read(&output);
    assert_eq!(code, Some(77));
    assert!(stderr.contains("SANDBOXD_TOKEN") && stderr.contains("request id 01REQ"), "{stderr}");
}

#[test]
fn the_key_is_found_in_the_data_directory() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let run = |directory: &Path| {
        let mut command = server.command(&["ls", "-q"]);
        command.env_remove("SANDBOXD_TOKEN").env("SANDBOXD_DATA_DIR", directory);
        read(&command.output().unwrap())
    };
    let (code, _, stderr) = run(directory.path());
    assert_eq!((code, stderr.contains("there is none at")), (Some(77), true), "{stderr}");
    std::fs::write(directory.path().join("api-key"), format!("{KEY}\n")).unwrap();
    assert_eq!(run(directory.path()), (Some(0), format!("{ID}\n"), String::new()));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let server = Server::start();
    let mut child = server
        .command(&["exec", ID, "--", "endless"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 2]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(read(&output), (Some(141), String::new(), String::new()));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = server.command(&["ls"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
}
