//! Everything hostile at once, beside a victim that goes on as if it were alone.
//!
//! Each part is a function that starts one kind of abuse in a sandbox of its own, with nothing but the limits that every
//! sandbox has, or as a client. `SANDBOXD_TEST_HOSTILE_SECONDS` says for how long they go on (`scripts/hostile`), and
//! `SANDBOXD_TEST_HOSTILE_PARTS` names some of them, to find out which does harm.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::neighbours::{APP, HOGS, start};
use super::{Test, uncounted};
use crate::support::server::{API, PREVIEWS, Server, preview_host};
use crate::support::{eventually, eventually_seen, tell};

pub(crate) const TESTS: &[Test] = &[("hostile::all_of_it_at_once_leaves_a_neighbour_quick", all_at_once)];

/// How long everything goes on where nothing else is said: short enough for every run of the tests.
const SECONDS: u64 = 20;
/// How many parts of the time are measured by themselves. The slowest is left out on both sides: what else the machine
/// does falls into one.
const WINDOWS: u32 = 5;
/// What is quicker than this is not told apart from it: a busy processor's caches, and its other core.
const FLOOR: Duration = Duration::from_millis(20);
/// By how much the victim may be slower.
const RATIO: u32 = 3;
/// In the short form p99 is at most this: slow, but answered.
const ANSWERED: Duration = Duration::from_secs(5);
/// Between two rounds of the victim's: whoever wants more than an equal share of the processors gets no more than that.
const PAUSE: Duration = Duration::from_millis(30);
/// How much the daemon may hold beyond what it holds when idle.
const DAEMON_BYTES: u64 = 256 << 20;

/// One kind of abuse.
struct Part {
    name: &'static str,
    /// Whether the sandbox may be ended for it.
    is_ended: bool,
    begin: fn(&Server, &str),
    /// What clients do to the sandbox meanwhile, again and again.
    client: Option<fn(&Server, &str)>,
    /// How many clients do so at once.
    clients: usize,
}

const fn program(name: &'static str, begin: fn(&Server, &str)) -> Part {
    Part { name, is_ended: false, begin, client: None, clients: 0 }
}

const PARTS: &[Part] = &[
    program("fork bomb", |server, id| start(server, id, HOGS[0].1)),
    program("memory hog", |server, id| start(server, id, HOGS[1].1)),
    program("disk filler", |server, id| start(server, id, HOGS[2].1)),
    program("log flood", |server, id| start(server, id, HOGS[3].1)),
    program("inotify hog", |server, id| start(server, id, HOGS[4].1)),
    program("lock hog", |server, id| start(server, id, LOCKS)),
    program("descriptors", |server, id| start(server, id, uncounted::ALL_FILES)),
    program("TCP buffers", |server, id| drop(uncounted::hold(server, id, "tcp", 150))),
    program("UDP buffers", |server, id| drop(uncounted::hold(server, id, "udp", 150))),
    Part {
        is_ended: true,
        ..program("netlink hoard", |server, id| drop(uncounted::hold(server, id, "netlink", 400)))
    },
    program("UDP flood", |server, id| start(server, id, UDP_FLOOD)),
    program("DNS flood", |server, id| start(server, id, DNS_FLOOD)),
    program("pressure triggers", |server, id| start(server, id, TRIGGERS)),
    program("sync storm", |server, id| start(server, id, SYNCS)),
    Part {
        client: Some(wait_for_answer),
        clients: 4,
        ..program("endless interim answers", |server, id| start(server, id, INTERIM))
    },
    Part {
        client: Some(flood),
        clients: 1,
        ..program("preview flood", |server, id| start(server, id, SILENT))
    },
    Part { client: Some(list), clients: 2, ..program("big listings", many_files) },
    Part { client: Some(download), clients: 2, ..program("big archives", many_files) },
    Part { client: Some(zeroes), clients: 2, ..program("big outputs", |_, _| ()) },
];

const LOCKS: &str = "import fcntl, os\nf = open('lock', 'w')\nwhile True:\n  for n in range(20000): fcntl.lockf(f, fcntl.LOCK_EX, 1, 2 * n)\n  fcntl.lockf(f, fcntl.LOCK_UN)";
/// The gateway is the nearest host there is.
const UDP_FLOOD: &str = "import socket, time\nkeep = []\nwhile True:\n  try:\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('10.97.0.1', 1024 + len(keep) % 60000)); keep.append(s)\n  except OSError:\n    for s in keep: s.close()\n    keep = []; time.sleep(0.1)";
const DNS_FLOOD: &str = "import os, random, socket, struct\nserver = [l.split()[1] for l in open('/etc/resolv.conf') if l.startswith('nameserver')][0]\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((server, 53)); s.setblocking(False)\nwhile True:\n  name = b'%08x' % random.getrandbits(32)\n  try: s.send(struct.pack('>6H', random.getrandbits(16), 0x100, 1, 0, 0, 0) + b'\\x08' + name + b'\\x04test\\x00' + struct.pack('>2H', 1, 1))\n  except OSError: pass";
/// Where the files are masked there is nothing to be done, which is as it should be.
const TRIGGERS: &str = "import os, time\nkeep = []\nwhile True:\n  for name in ('memory', 'cpu', 'io'):\n    try:\n      f = os.open('/proc/pressure/' + name, os.O_RDWR); os.write(f, b'some 150000 2000000\\x00'); keep.append(f)\n    except OSError: time.sleep(0.1)";
const SYNCS: &str = "import os\nn = 0\nwhile True:\n  n += 1\n  f = os.open('f%d' % (n % 100), os.O_CREAT | os.O_WRONLY); os.write(f, b'x' * 4096); os.fsync(f); os.close(f)";
const INTERIM: &str = "import socket, threading\ndef serve(c):\n  try:\n    c.recv(65536)\n    while True: c.sendall(b'HTTP/1.1 103 Early Hints\\r\\nLink: </a>\\r\\n\\r\\n' * 500)\n  except OSError: pass\nl = socket.create_server(('127.0.0.1', 3000))\nwhile True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()";
pub(super) const SILENT: &str = "import socket\nl = socket.create_server(('127.0.0.1', 3000), backlog=4096); keep = []\nwhile True: keep.append(l.accept()[0])";

fn many_files(server: &Server, id: &str) {
    server.sh(id, "cd app; python3 -c 'import os\nfor d in range(20):\n  os.makedirs(\"n\" * 200 + \"/%d\" % d)\n  for n in range(300): open(\"n\" * 200 + \"/%d/%s%d\" % (d, \"m\" * 200, n), \"w\").close()'");
}

/// Asks without a word of what was answered.
fn ask(port: u16, host: &str, key: &str, path: &str, patience: Duration) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
    stream.set_read_timeout(Some(patience)).unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    let _refused: std::io::Result<()> = stream.write_all(head.as_bytes());
    let (mut piece, begun) = ([0; 65_536], Instant::now());
    while begun.elapsed() < patience && stream.read(&mut piece).is_ok_and(|n| n > 0) {}
}

fn wait_for_answer(_: &Server, id: &str) {
    ask(PREVIEWS, &preview_host(id, 3000), "", "/", Duration::from_secs(3));
}

/// A thousand requests at once to an app that never answers.
pub(super) fn flood(_: &Server, id: &str) {
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", preview_host(id, 3000));
    let open = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", PREVIEWS)).ok()?;
        stream.write_all(head.as_bytes()).ok()?;
        Some(stream)
    };
    let open: Vec<_> = (0..1000).map_while(open).collect();
    std::thread::sleep(Duration::from_secs(2));
    drop(open);
}

fn list(server: &Server, id: &str) {
    let path = format!("/v1/sandboxes/{id}/files?path=.&recursive=true");
    ask(API, "localhost", &server.key(), &path, Duration::from_secs(10));
}

fn download(server: &Server, id: &str) {
    let path = format!("/v1/sandboxes/{id}/export");
    ask(API, "localhost", &server.key(), &path, Duration::from_secs(10));
}

fn zeroes(server: &Server, id: &str) {
    let body = json!({ "cmd": ["head", "-c", "8M", "/dev/zero"] });
    let _refused = server.api("POST", &format!("/sandbox/{id}/exec"), body);
}

/// How long the victim's commands and its app take, in one window.
#[derive(Debug, Default, Clone)]
struct Window {
    execs: Vec<Duration>,
    previews: Vec<Duration>,
    failures: Vec<String>,
}

impl Window {
    fn measure(server: &Server, victim: &str, time: Duration) -> Self {
        let (mut window, begun) = (Self::default(), Instant::now());
        while begun.elapsed() < time {
            std::thread::sleep(PAUSE);
            let asked = Instant::now();
            let answer = server.api("POST", &format!("/sandbox/{victim}/exec"), json!({ "cmd": ["true"] }));
            window.execs.push(asked.elapsed());
            if answer.status != 200 {
                window.failures.push(format!("exec: {} {}", answer.status, answer.text()));
            }
            for _ in 0..3 {
                let asked = Instant::now();
                let answer = server.preview(victim, 3000, "GET", "/", &[], b"");
                window.previews.push(asked.elapsed());
                if answer.status != 200 {
                    window.failures.push(format!("preview: {} {}", answer.status, answer.text()));
                }
            }
        }
        window
    }
}

/// One kind of time of a window.
type Of = fn(&Window) -> &Vec<Duration>;

/// The times of all windows but the slowest, in order.
fn times(windows: &[Window], of: Of) -> Vec<Duration> {
    let mut windows: Vec<_> = windows.iter().map(of).filter(|times| !times.is_empty()).collect();
    windows.sort_by_key(|times| times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap());
    let slowest = windows.len() - 1;
    let mut all: Vec<_> = windows[..slowest.max(1)].iter().copied().flatten().copied().collect();
    all.sort();
    all
}

fn at(times: &[Duration], percent: usize) -> Duration {
    times[times.len() * percent / 100]
}

fn measure(server: &Server, victim: &str, time: Duration) -> Vec<Window> {
    (0..WINDOWS).map(|_| Window::measure(server, victim, time / WINDOWS)).collect()
}

/// Whether it is run for a figure, by `scripts/hostile`.
fn is_long() -> bool {
    std::env::var_os("SANDBOXD_TEST_HOSTILE_SECONDS").is_some()
}

fn seconds() -> Duration {
    let said = std::env::var("SANDBOXD_TEST_HOSTILE_SECONDS").ok();
    Duration::from_secs(said.map_or(SECONDS, |text| text.parse().unwrap()))
}

fn chosen() -> Vec<&'static Part> {
    let said = std::env::var("SANDBOXD_TEST_HOSTILE_PARTS").unwrap_or_default();
    let names: Vec<_> = said.split(',').filter(|name| !name.is_empty()).collect();
    let parts: Vec<_> = PARTS.iter().filter(|part| names.is_empty() || names.contains(&part.name)).collect();
    assert!(!parts.is_empty(), "{said} names none of the parts");
    parts
}

fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Does what the clients of a part do until it is over.
fn be_client(server: &Server, part: &Part, id: &str, is_over: &AtomicBool) {
    while let Some(client) = part.client.filter(|_| !is_over.load(Ordering::Acquire)) {
        client(server, id);
    }
}

/// A directory in memory, in the mount namespace of the tests; gone with the value.
struct InMemory(tempfile::TempDir);

impl InMemory {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(directory.path()).status();
        assert!(mounted.unwrap().success());
        Self(directory)
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ignored = Command::new("umount").args(["-l"]).arg(self.0.path()).status();
    }
}

fn all_at_once() {
    // In memory, as an operator has it: the output of commands is no matter of the disk then.
    let run = InMemory::mount();
    let mut server = Server::prepare(&[("SANDBOXD_RUN_DIR", run.0.path().to_str().unwrap())]);
    server.use_optimised();
    server.boot();
    let server = server;
    let victim = server.create(json!({ "ports": [3000] }));
    start(&server, &victim, APP);
    eventually("the victim answers", Duration::from_secs(20), || {
        server.preview(&victim, 3000, "GET", "/", &[], b"").status == 200
    });
    Window::measure(&server, &victim, Duration::from_secs(1));
    let idle_bytes = resident_bytes(server.pid());
    // As long as what is compared with it, but no more than a minute of nothing.
    let quiet = measure(&server, &victim, (seconds() / 2).min(Duration::from_secs(60)));
    let parts = chosen();
    let sandboxes: Vec<_> =
        parts.iter().map(|part| (*part, server.create(json!({ "ports": [3000] })))).collect();
    for (part, id) in &sandboxes {
        (part.begin)(&server, id);
    }
    let (is_over, mut bytes) = (AtomicBool::new(false), 0);
    let beside = std::thread::scope(|threads| {
        for (part, id) in &sandboxes {
            for _ in 0..part.clients {
                threads.spawn(|| be_client(&server, part, id, &is_over));
            }
        }
        // By then they have begun.
        Window::measure(&server, &victim, Duration::from_secs(2));
        let measured = measure(&server, &victim, seconds());
        bytes = resident_bytes(server.pid());
        is_over.store(true, Ordering::Release);
        measured
    });
    let ended: Vec<_> =
        sandboxes.iter().filter(|(part, id)| !part.is_ended && server.status(id) != "running").collect();
    let ended: Vec<_> = ended.iter().map(|(part, _)| part.name).collect();
    for (part, id) in &sandboxes {
        purge(&server, part.name, id);
    }
    // What the machine does by itself may have changed meanwhile.
    let after = measure(&server, &victim, Duration::from_secs(5));
    let held = bytes.saturating_sub(idle_bytes);
    tell(&format!("hostile: {} parts; the daemon holds {} MiB more", parts.len(), held >> 20));
    judge(&quiet, &beside, &after);
    assert_eq!(ended, Vec::<&str>::new(), "sandboxes that ended");
    assert!(held < DAEMON_BYTES, "the daemon holds {} MiB more than idle", held >> 20);
}

/// Whatever a sandbox does, it can be taken away.
fn purge(server: &Server, name: &str, id: &str) {
    eventually_seen(&format!("{name} is gone"), Duration::from_secs(60), || {
        let answer = server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null);
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
}

fn judge(quiet: &[Window], beside: &[Window], after: &[Window]) {
    let failures: Vec<_> = beside.iter().flat_map(|window| &window.failures).collect();
    let mut slow = Vec::new();
    let kinds: [(&str, Of); 2] = [("exec", |w| &w.execs), ("preview", |w| &w.previews)];
    for (name, of) in kinds {
        let (quiet, beside, after) = (times(quiet, of), times(beside, of), times(after, of));
        let least = at(&quiet, 99).max(at(&after, 99));
        let line = format!(
            "hostile: {name}: p50 {:?} p99 {:?} of {} alone, p50 {:?} p99 {:?} of {} beside all: {:.2} times",
            at(&quiet, 50),
            least,
            quiet.len(),
            at(&beside, 50),
            at(&beside, 99),
            beside.len(),
            at(&beside, 99).as_secs_f64() / least.as_secs_f64(),
        );
        tell(&line);
        // The short form says that nobody is shut out; how much slower it gets is measured by the long one.
        let most = if is_long() { least.max(FLOOR) * RATIO } else { ANSWERED };
        if at(&beside, 99) > most {
            slow.push(line);
        }
    }
    assert!(failures.is_empty(), "{} requests of the victim failed: {:?}", failures.len(), failures.first());
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}
