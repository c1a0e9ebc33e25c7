//! Runs the `sandboxctl` binary against a small server: exit codes, streams, pipes, the key.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
#![expect(clippy::disallowed_methods, reason = "the program under test is started as a user's shell would")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
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
    let (status, answer) =
        if is_known { reply(route) } else { (401, br#"{"error":"unauthorized"}"#.to_vec()) };
    bodies.lock().unwrap().push(body);
    let head =
        format!("HTTP/1.1 {status} X\r\nx-request-id: 01REQ\r\ncontent-length: {}\r\n\r\n", answer.len());
    stream.write_all(&[head.as_bytes(), &answer].concat()).is_ok()
}

fn reply(route: &str) -> (u16, Vec<u8>) {
    let (status, text) = match route.split_once(' ').unwrap() {
        ("GET", path) if path.contains("/files/archive?") => return (200, hostile(path)),
        ("GET", path) if path.contains("/files/stat?") => (200, r#"{"path":"x","type":"dir"}"#.to_owned()),
        other => reply_of_sandboxes(other),
    };
    (status, text.into_bytes())
}

/// What a tenant or a server that wants to write elsewhere would send, by the path that is asked for.
fn hostile(path: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, target: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    };
    use tar::EntryType::{Link, Regular, Symlink};
    match path.split_once("path=").unwrap().1.split_once('&').unwrap().0 {
        "up" => add(Regular, "../canary", "", b"dead"),
        "absolute" => add(Regular, "/tmp/sandboxctl-canary", "", b"dead"),
        "through" => {
            add(Symlink, "d", "..", b"");
            add(Regular, "d/canary", "", b"dead");
        }
        _ => {
            add(Symlink, "link", "../canary", b"");
            add(Link, "hard", "../canary", b"");
            add(Regular, "hard", "", b"mine");
            add(Regular, "link", "", b"mine");
        }
    }
    builder.into_inner().unwrap()
}

fn reply_of_sandboxes(route: (&str, &str)) -> (u16, String) {
    let row = format!(r#"{{"id":"{ID}","status":"running","ports":[3000],"new":1}}"#);
    let known = format!("/sandbox/{ID}");
    match route {
        ("GET", "/sandboxes") => (200, format!("[{row}]\n")),
        ("POST", "/sandbox") => (201, row),
        ("DELETE", path) if path == known => (204, String::new()),
        _ => (404, r#"{"error":"sandbox not found"}"#.to_owned()),
    }
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
fn a_result_that_cannot_be_written_is_a_failure() {
    let server = Server::start();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = server.command(&["ls"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
}

#[test]
fn a_copy_writes_nothing_beyond_its_destination() {
    let server = Server::start();
    let check = |path: &str, arguments: &[&str], code: i32, words: &str| {
        let directory = tempfile::tempdir().unwrap();
        let canary = directory.path().join("canary");
        std::fs::write(&canary, "alive").unwrap();
        let to = directory.path().join("to");
        std::fs::create_dir(&to).unwrap();
        let mut command = server.command(&["cp"]);
        command.args(arguments).arg(format!("{ID}:{path}/.")).arg(&to);
        let (status, _, stderr) = read(&command.output().unwrap());
        assert_eq!(status, Some(code), "{path}: {stderr}");
        assert!(stderr.contains(words), "{path}: {stderr}");
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive", "{path}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "{path}");
        assert!(!Path::new("/tmp/sandboxctl-canary").exists());
    };
    check("up", &[], 76, "leads out of the destination");
    check("absolute", &[], 76, "leads out of the destination");
    check("through", &[], 65, "left out: d, a link that leads out");
    check("through", &["--keep-links"], 76, "goes through a link");
    check("over", &[], 65, "2 entries were not copied");
    check("over", &["--keep-links"], 65, "left out: hard");
}

#[test]
fn completions_are_what_their_shells_can_read() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = server.run(&["completions", shell]);
        assert_eq!(code, Some(0));
        assert!(script.contains("completions") && script.contains("attach"), "{shell}");
        let path = directory.path().join(shell);
        std::fs::write(&path, script).unwrap();
        let flag = if shell == "fish" { "--no-execute" } else { "-n" };
        let parsed = Command::new(shell).arg(flag).arg(&path).output().unwrap();
        assert!(parsed.status.success(), "{shell}: {}", String::from_utf8_lossy(&parsed.stderr));
    }
    // bash offers what there is.
    let script = format!(
        "source {}; COMP_WORDS=(sandboxctl pur); COMP_CWORD=1; _sandboxctl sandboxctl pur sandboxctl; echo ${{COMPREPLY[*]}}",
        directory.path().join("bash").display()
    );
    let offered = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout), "purge\n");
}
