//! The threads that wait for disks: what one tenant's files take of them, others do not miss.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::{API, Server};
use crate::support::{eventually, http};

pub(crate) const TESTS: &[Test] = &[
    ("threads::a_file_that_is_leased_takes_none", leased),
    ("threads::a_disk_that_hangs_takes_those_of_its_sandbox_alone", hanging),
    ("threads::what_nobody_waits_for_is_not_done", given_up),
];

/// More than there are threads.
const CLIENTS: usize = 140;

/// Sends a request and leaves its connection open.
fn ask(key: &str, method: &str, path: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    stream
}

/// A neighbour's files, commands and names, and its whole life, go on.
fn goes_on(server: &Server, id: &str) {
    let begun = Instant::now();
    let step = |what: &str| {
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "{what} after {took:?}");
    };
    assert_eq!(server.sh(id, "cat app/mine"), "content");
    step("exec");
    assert_eq!(server.put(id, "other", b"more").status, 200);
    let content = format!("/v1/sandboxes/{id}/files/content?path=other");
    assert_eq!(server.api("GET", &content, Value::Null).text(), "more");
    let listing = server.api("GET", &format!("/v1/sandboxes/{id}/files"), Value::Null);
    assert_eq!(listing.json()["entries"].as_array().unwrap().len(), 2);
    step("files");
    // Nobody answers questions here; that is said at once, and not after the clients have had theirs.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let question = b"\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
    let ask = "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(7);s.sendto(bytes.fromhex(sys.argv[1]),('10.97.0.1',53));print(len(s.recv(512)))";
    let hex = question.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(server.sh(id, &format!("python3 -c \"{ask}\" {hex}")), "29\n");
    step("a name");
    let v1 = |action: &str| server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).status;
    assert_eq!(v1("stop"), 200);
    step("stop");
    assert_eq!(v1("start"), 200);
    assert_eq!(server.api("GET", "/v1/presets", Value::Null).status, 200);
    assert_eq!(server.api("GET", "/readyz", Value::Null).status, 200);
    let new = server.create(json!({}));
    step("a create");
    server.purge(&new);
    step("purge");
}

fn with_file(server: &Server) -> (String, PathBuf) {
    let id = server.create(json!({}));
    assert_eq!(server.put(&id, "mine", b"content").status, 200);
    let app = server.data().join("workspaces").join(&id).join("workspace/app");
    (id, app)
}

/// Holds a lease on a file, and takes it again whenever the kernel has broken it.
struct Lease(Child);

impl Lease {
    fn on(path: &Path) -> Self {
        let hold = "import fcntl,signal,sys,time\nsignal.signal(signal.SIGIO,signal.SIG_IGN)\nf=open(sys.argv[1],'r+')\nfcntl.fcntl(f,fcntl.F_SETLEASE,fcntl.F_WRLCK)\nprint('held',flush=True)\nwhile True:\n  time.sleep(0.05)\n  try: fcntl.fcntl(f,fcntl.F_SETLEASE,fcntl.F_WRLCK)\n  except OSError: pass\n";
        let mut command = Command::new("python3");
        command.args(["-c", hold]).arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        Self(child)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn leased() {
    let server = Server::start(&[]);
    let ((hostile, app), (neighbour, _)) = (with_file(&server), with_file(&server));
    std::fs::write(app.join("sandbox.yaml"), "version: 1\n").unwrap();
    let leases = ["mine", "sandbox.yaml"].map(|name| Lease::on(&app.join(name)));
    let (key, path) = (server.key(), format!("/v1/sandboxes/{hostile}/files/content?path=mine"));
    // A client that stays is told to come again; those that go leave nothing behind.
    let begun = Instant::now();
    let answer = server.api("GET", &path, Value::Null);
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let gone: Vec<_> = (0..CLIENTS).map(|_| ask(&key, "GET", &path, b"")).collect();
    std::thread::sleep(Duration::from_millis(200));
    drop(gone);
    goes_on(&server, &neighbour);
    // Its own manifest is read again and again by the daemon, and by nobody for ever.
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
        // The state is no number: utime and stime are the 11th and 12th of those that are.
        fields[10] + fields[11]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert!(ticks() - before < 50, "{} hundredths of a second in one", ticks() - before);
    drop(leases);
    eventually("it can be read again", Duration::from_secs(5), || {
        server.api("GET", &path, Value::Null).text() == "content"
    });
}

/// A file system within a workspace that takes no writes for as long as this lives, and lets who writes wait.
struct Hanging(PathBuf);

impl Hanging {
    fn at(server: &Server, directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let image = server.directory.path().join("hanging.ext4");
        let make = format!(
            "truncate -s 32M {0} && mkfs.ext4 -q {0} && mount -o loop {0} {1} && chmod 777 {1} && head -c 1M /dev/zero > {1}/old && fsfreeze -f {1}",
            image.display(),
            directory.display()
        );
        assert!(Command::new("sh").args(["-c", &make]).status().unwrap().success());
        Self(directory)
    }

    fn thaw(&self) {
        let _thawed = Command::new("fsfreeze").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.thaw();
        let _gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn hanging() {
    let server = Server::start(&[]);
    let ((hostile, app), (neighbour, _)) = (with_file(&server), with_file(&server));
    let disk = Hanging::at(&server, app.join("slow"));
    let key = server.key();
    let mut gone = Vec::new();
    for number in 0..CLIENTS / 2 {
        gone.push(ask(&key, "PUT", &format!("/v1/sandboxes/{hostile}/files?path=slow/{number}"), b"content"));
        let body = json!({ "path": format!("slow/d{number}") }).to_string();
        gone.push(ask(&key, "POST", &format!("/v1/sandboxes/{hostile}/files/mkdir"), body.as_bytes()));
    }
    std::thread::sleep(Duration::from_millis(300));
    // Whoever stays is told, while the threads of the sandbox wait.
    let waits = std::thread::scope(|scope| {
        let key = &key;
        let path = format!("/v1/sandboxes/{hostile}/files/stat?path=mine");
        let patient = scope.spawn(move || {
            let head = [("Authorization", format!("Bearer {key}"))];
            let head = head.each_ref().map(|(name, value)| (*name, value.as_str()));
            http::request(API, "localhost", "GET", &path, &head, b"")
        });
        drop(gone);
        goes_on(&server, &neighbour);
        patient.join().unwrap()
    });
    assert_eq!((waits.status, waits.header("retry-after").is_some()), (429, true), "{}", waits.text());
    disk.thaw();
    let path = format!("/v1/sandboxes/{hostile}/files/content?path=mine");
    eventually("its files are there again", Duration::from_secs(20), || {
        server.api("GET", &path, Value::Null).text() == "content"
    });
}

/// A tree that takes a while to copy, by clients that go: what was not begun is not, and what was ends.
fn given_up() {
    let server = Server::start(&[]);
    let (id, _) = with_file(&server);
    server.sh(&id, "cd app && mkdir big && cd big && for d in $(seq 40); do mkdir $d; seq -f \"$d/%g\" 1000 | xargs touch; done");
    let (key, body) =
        (server.key(), |n: usize| json!({ "from": "big", "to": format!("copy{n}") }).to_string());
    let copies = format!("/v1/sandboxes/{id}/files/copy");
    let gone: Vec<_> = (0..24).map(|n| ask(&key, "POST", &copies, body(n).as_bytes())).collect();
    std::thread::sleep(Duration::from_millis(100));
    drop(gone);
    let begun = Instant::now();
    assert_eq!(
        server.api("GET", &format!("/v1/sandboxes/{id}/files/stat?path=mine"), Value::Null).status,
        200
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let staging = || std::fs::read_dir(server.data().join("staging")).unwrap().count();
    eventually("what was begun is taken back", Duration::from_secs(10), || staging() == 0);
    assert_eq!(server.sh(&id, "ls -d app/copy* 2>/dev/null | wc -l"), "0\n");
}
