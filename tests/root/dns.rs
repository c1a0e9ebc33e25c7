//! Names: what of a sandbox's questions reaches the host's servers, and whose are answered.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::Test;
use crate::support::server::Server;
use crate::support::world::run;

pub(crate) const TESTS: &[Test] = &[
    ("dns::only_questions_of_sandboxes_are_passed_on", questions),
    ("dns::a_flood_of_questions_leaves_neighbours_their_answers", flood),
];

/// Asks for a name's address; prints `yes` for each answer that came in time.
const ASK: &str = r#"
import socket, struct, sys
def name(text): return b''.join(bytes([len(p)]) + p.encode() for p in text.split('.')) + b'\0'
def query(text, kind=1, flags=0x100, counts=(1, 0, 0, 0)): return struct.pack('>6H', 7, flags, *counts) + name(text) + struct.pack('>2H', kind, 1)
def udp(message, wait=1.0):
  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(wait); s.connect(('10.97.0.1', 53))
  s.send(message)
  try: return s.recv(4096)
  except OSError: return None
def tcp(message, wait=3.0):
  try:
    s = socket.create_connection(('10.97.0.1', 53), wait); s.sendall(struct.pack('>H', len(message)) + message)
    length = s.recv(2)
    return s.recv(struct.unpack('>H', length)[0]) if len(length) == 2 else None
  except OSError: return None
def code(answer): return None if answer is None else answer[3] & 15
"#;

/// The host's name server of a test: it notes what it is asked, gives every name one address, and leaves those that
/// begin with `slow` without an answer.
struct Upstream {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    _file: tempfile::NamedTempFile,
}

impl Upstream {
    /// Listens on an address that a sandbox cannot reach, and is named by the host's `resolv.conf` until it goes.
    fn start() -> Self {
        run(&["ip", "address", "replace", "10.66.0.53/32", "dev", "lo"]);
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let udp = UdpSocket::bind("10.66.0.53:53").unwrap();
        let tcp = TcpListener::bind("10.66.0.53:53").unwrap();
        let noted = Arc::clone(&heard);
        // Both end with the process, like the address: the next test has them from here.
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).unwrap();
        };
        spawn(
            "upstream-udp",
            Box::new(move || {
                udp.set_read_timeout(Some(LIFETIME)).unwrap();
                let mut buffer = [0; 4096];
                loop {
                    let (length, client) = match udp.recv_from(&mut buffer) {
                        Ok(received) => received,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                        Err(_) => return,
                    };
                    if buffer[..length] == *END {
                        return;
                    }
                    if let Some(answer) = Self::answer(&noted, &buffer[..length]) {
                        udp.send_to(&answer, client).unwrap();
                    }
                }
            }),
        );
        let noted = Arc::clone(&heard);
        spawn(
            "upstream-tcp",
            Box::new(move || {
                for stream in tcp.incoming() {
                    let mut stream = stream.unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                    let (mut length, mut message) = ([0; 2], Vec::new());
                    if stream.read_exact(&mut length).is_ok() {
                        message.resize(u16::from_be_bytes(length).into(), 0);
                        let _short: std::io::Result<()> = stream.read_exact(&mut message);
                    }
                    if message == *END {
                        return;
                    }
                    if let Some(answer) = Self::answer(&noted, &message) {
                        let length = u16::try_from(answer.len()).unwrap();
                        let _gone: std::io::Result<()> =
                            stream.write_all(&[&length.to_be_bytes()[..], &answer].concat());
                    }
                }
            }),
        );
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"nameserver 10.66.0.53\n").unwrap();
        run(&["mount", "--bind", file.path().to_str().unwrap(), "/etc/resolv.conf"]);
        Self { heard, _file: file }
    }

    fn answer(heard: &Mutex<Vec<Vec<u8>>>, message: &[u8]) -> Option<Vec<u8>> {
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_vec());
        let end = 12 + message.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
        if message.get(13..17)? == b"slow" {
            return None;
        }
        let mut answer = message.get(..end)?.to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        // The question's name, an address, for a minute.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 55]);
        Some(answer)
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long a name server waits for another question; no test takes so long.
const LIFETIME: Duration = Duration::from_secs(120);
/// Ends a name server.
const END: &[u8] = b"end of the test";

impl Drop for Upstream {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("/etc/resolv.conf").status();
        let length = u16::try_from(END.len()).unwrap_or_default().to_be_bytes();
        let tell = || -> std::io::Result<()> {
            UdpSocket::bind("10.66.0.53:0")?.send_to(END, "10.66.0.53:53")?;
            TcpStream::connect("10.66.0.53:53")?.write_all(&[&length[..], END].concat())
        };
        let _ended: std::io::Result<()> = tell();
    }
}

fn ask(server: &Server, id: &str, script: &str) -> String {
    server.sh(id, &format!("python3 - <<'E'\n{ASK}\n{script}\nE"))
}

fn questions() {
    let upstream = Upstream::start();
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    assert_eq!(server.sh(&id, "getent ahostsv4 good.test | head -1").split(' ').next(), Some("192.0.2.55"));
    let answered = "print(code(udp(query('good.test'))), code(tcp(query('good.test'))))";
    assert_eq!(ask(&server, &id, answered), "0 0\n");
    let passed = upstream.heard().len();
    // Zone transfers, other opcodes than QUERY (UPDATE, NOTIFY), two questions, records besides, bytes.
    let refused = "
bad = [query('bad.test', kind=252), query('bad.test', kind=251), query('bad.test', flags=0x2800), query('bad.test', flags=0x2000),
  query('bad.test', counts=(2, 0, 0, 0)), query('bad.test', counts=(1, 1, 0, 0)), query('bad.test', counts=(1, 0, 1, 0)),
  query('bad.test') + b'bad.test', query('bad.test')[:-3], b'GET /bad.test HTTP/1.1']
print([code(udp(m)) for m in bad])
print([code(tcp(m)) for m in bad])
s = socket.create_connection(('10.97.0.1', 53), 2); s.sendall(b'POST /bad.test HTTP/1.1'); s.settimeout(1)
try: print(s.recv(99))
except OSError: print('silent')
";
    let answers = ask(&server, &id, refused);
    let of_each = "[5, 5, 4, 4, 1, 1, 1, 1, 1, ";
    assert!(answers.lines().take(2).all(|line| line.starts_with(of_each)), "{answers}");
    let heard = upstream.heard();
    assert_eq!(heard.len(), passed, "{heard:?}");
    // Of options only the size and the wish for signatures are passed on, under another id.
    let secret = "print(code(udp(query('good.test', counts=(1, 0, 0, 1)) + bytes.fromhex('000029100000000000') + b'\\0\\x0c\\0\\x0a\\0\\x08mysecret')))";
    assert_eq!(ask(&server, &id, secret), "0\n");
    let last = upstream.heard().pop().unwrap();
    assert!(!last.windows(8).any(|part| part == b"mysecret") && last.len() == 12 + 11 + 4 + 11, "{last:?}");
    // Nobody but sandboxes is answered: not the host either.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send_to(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04good\x04test\0\0\x01\0\x01", "10.97.0.1:53").unwrap();
    assert!(socket.recv(&mut [0; 512]).is_err(), "the host is answered");
}

fn flood() {
    let _upstream = Upstream::start();
    let server = Server::start(&[]);
    let (flooder, neighbour) = (server.create(json!({})), server.create(json!({})));
    // Questions that no server answers, as fast as they can be sent, and connections that ask nothing.
    let script = format!(
        "{ASK}
import threading, time
def hold():
  held = []
  while True:
    try:
      held.append(socket.create_connection(('10.97.0.1', 53), 1)); held = held[-80:]
    except OSError: pass
    time.sleep(0.02)
threading.Thread(target=hold, daemon=True).start()
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
for s in sockets: s.connect(('10.97.0.1', 53)); s.setblocking(False)
message = query('slow.test')
while True:
  for s in sockets:
    try: s.send(message)
    except OSError: pass
"
    );
    let body = json!({ "cmd": ["python3", "-c", script], "detach": true });
    let answer = server.api("POST", &format!("/v1/sandboxes/{flooder}/processes"), body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    std::thread::sleep(Duration::from_secs(2));
    let asked = "print(sum(code(udp(query('good%d.test' % n))) == 0 for n in range(20)), sum(code(tcp(query('good.test'))) == 0 for n in range(5)))";
    assert_eq!(ask(&server, &neighbour, asked), "20 5\n");
}
