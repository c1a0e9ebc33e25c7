//! The app that is woken, and the request that wakes it: the same for every contender.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Trouble;

/// The port it listens on inside.
pub(crate) const PORT: u16 = 3000;

/// What the app answers; nothing else counts as its answer.
const ANSWER: &str = "the app itself\n";

/// A small server of the standard library, as a tenant would write it.
pub(crate) const SERVER: &str = r#"import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b"the app itself\n")

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
"#;

/// Declares it.
pub(crate) const MANIFEST: &str = "version: 1\nweb:\n  command: exec python3 server.py\n  port: 3000\n";

/// Starts it as its manifest does, asks it at once and again and again, and prints in how many milliseconds its first
/// byte came: what the app itself takes, without anything that wakes a sandbox.
pub(crate) const ALONE: &str = r#"import os, signal, socket, subprocess, time
begun = time.monotonic()
app = subprocess.Popen(["bash", "-lc", "exec python3 server.py"], start_new_session=True)
while True:
    try:
        asking = socket.create_connection(("127.0.0.1", 3000))
        break
    except ConnectionRefusedError:
        time.sleep(0.0005)
asking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
assert asking.recv(1)
print((time.monotonic() - begun) * 1000)
os.killpg(app.pid, signal.SIGKILL)
app.wait()
"#;

/// Asks until the app itself answers; returns when its first byte came, since `started`.
///
/// A server that holds the request needs one; another one is asked again at once, as a patient client would.
pub(crate) fn first_answer(
    address: &str,
    host: &str,
    started: Instant,
    limit: Duration,
) -> Result<Duration, Trouble> {
    let mut last = "nothing".to_owned();
    while started.elapsed() < limit {
        match ask(address, host, limit) {
            Ok((at, text)) if text.ends_with(ANSWER) => return Ok(at.duration_since(started)),
            Ok((_, text)) => last = text.lines().next().unwrap_or("an empty answer").to_owned(),
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Trouble::new(format!("get the app's answer from {host} within {limit:?}; the last was: {last}")))
}

fn ask(address: &str, host: &str, limit: Duration) -> io::Result<(Instant, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut first = [0; 1];
    stream.read_exact(&mut first)?;
    let at = Instant::now();
    let mut text = first.to_vec();
    // Bounded: what is longer is not the app's answer.
    stream.take(65_536).read_to_end(&mut text)?;
    Ok((at, String::from_utf8_lossy(&text).into_owned()))
}
