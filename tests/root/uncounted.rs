//! What the kernel holds for a sandbox besides its pages: buffers, descriptors, filters. Each means is taken to its end by
//! a sandbox of 64 MiB, which says itself how much it got.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::Server;
use crate::support::{eventually, tell};

pub(crate) const TESTS: &[Test] = &[
    ("uncounted::no_buffer_holds_more_than_the_sandbox_may_have", buffers),
    ("uncounted::unread_netlink_messages_end_the_sandbox_that_hoards_them", netlink),
    ("uncounted::filters_on_sockets_take_no_memory_of_the_kernels_code", filters),
    ("uncounted::one_sandbox_does_not_fill_the_table_of_open_files", descriptors),
    ("uncounted::open_files_times_processes_are_a_share_of_the_machine", share_of_open_files),
];

const MIB: u64 = 1 << 20;
/// `memory_max` of the sandboxes here.
const MEMORY: u64 = 64 * MIB;
/// What version 1 grants in sockets besides.
const SOCKETS: u64 = MEMORY / 4;

/// Counts what lies in the kernel, and says so at every MiB; whatever happens to the process, the last line is known.
pub(super) const HOLD: &str = r#"
import array, fcntl, os, resource, socket, struct, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
keep, held, told = [], 0, -1
out = os.open('told', os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
def more(n):
    global held, told
    held += n
    if held >> 20 != told:
        told = held >> 20
        os.write(out, b'held %d\n' % held)
def fill(s, size, most=1 << 26):
    s.setblocking(False)
    sent = 0
    try:
        while sent < most:
            n = s.send(b'x' * size)
            sent += n; more(n)
    except OSError: pass
def tcp(rounds):
    l = socket.create_server(('127.0.0.1', 0), backlog=1000); keep.append(l)
    for _ in range(rounds):
        c = socket.create_connection(l.getsockname()); keep.extend([c, l.accept()[0]])
        fill(c, 65536)
def udp(rounds):
    for _ in range(rounds):
        r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); keep.append(r)
        r.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24); r.bind(('127.0.0.1', 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(r.getsockname())
            for _ in range(200): s.send(b'x' * 60000)
        # What did not fit was dropped without a word: what is there is counted.
        more(struct.unpack('9I', r.getsockopt(socket.SOL_SOCKET, 55, 36))[0])
def unix(rounds):
    for _ in range(rounds):
        a, b = socket.socketpair(); keep.extend([a, b])
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        fill(a, 65536)
def pipes(rounds):
    for _ in range(rounds * 8):
        r, w = os.pipe(); os.set_blocking(w, False); keep.extend([r, w])
        try: fcntl.fcntl(w, 1031, 1 << 20)
        except OSError: pass
        try:
            while True: more(os.write(w, b'x' * 65536))
        except OSError: pass
def passed(rounds):
    # Files that are open nowhere but in messages nobody reads.
    for _ in range(rounds):
        a, b = socket.socketpair(); a.setblocking(False); keep.extend([a, b])
        try:
            while True:
                files = [os.memfd_create('x') for _ in range(100)]
                try:
                    for f in files: more(os.write(f, b'x' * 65536))
                    socket.send_fds(a, [b'x'], files)
                finally:
                    for f in files: os.close(f)
        except OSError: pass
def queues(rounds):
    import ctypes
    c, m = ctypes.CDLL(None), ctypes.create_string_buffer(8200)
    m[0] = b'\x01'
    for _ in range(rounds * 100):
        q = c.msgget(0, 0o600)
        while q >= 0 and c.msgsnd(q, m, 8192, 0o4000) == 0: more(8192)
def unread():
    with open('/proc/self/net/netlink') as f: return sum(int(l.split()[4]) for l in list(f)[1:])
def netlink(rounds):
    global held
    ask = struct.pack('=IHHIIBxHiII', 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0)
    for _ in range(rounds):
        s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.setblocking(False); keep.append(s)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        try:
            for _ in range(3000): s.send(ask)
        except OSError: pass
        held = 0; more(unread())
def run(name, rounds):
    globals()[name](rounds)
    os.write(out, b'done\n')
    time.sleep(60)
"#;

/// Starts one means.
pub(super) fn hold(server: &Server, id: &str, means: &str, rounds: u32) -> String {
    let script = format!("{HOLD}\nrun('{means}', {rounds})");
    server.start_process(id, json!({ "cmd": ["python3", "-c", script] }))
}

/// What a program in a sandbox has said in a file of its workspace, which is read without waking anything there.
pub(super) fn told(server: &Server, id: &str) -> String {
    let path = server.data().join("workspaces").join(id).join("workspace/told");
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The bytes that it has said it holds.
fn held(text: &str) -> u64 {
    let numbers = text.lines().filter_map(|line| line.strip_prefix("held ")?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// How much one means gets in a fresh sandbox: until it is done or its process is ended, or for six seconds.
fn most(server: &Server, means: &str) -> u64 {
    let limits = json!({ "memory_max": MEMORY.to_string(), "memory_high": MEMORY.to_string() });
    let id = server.create(json!({ "limits": limits }));
    let process = hold(server, &id, means, 150);
    let begun = Instant::now();
    let mut text = String::new();
    while begun.elapsed() < Duration::from_secs(6) {
        let path = format!("/v1/sandboxes/{id}/processes/{process}");
        let shown = server.api("GET", &path, Value::Null).json();
        text = told(server, &id);
        if shown["status"] != "running" || text.contains("done") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(text.contains("held "), "{means}: {text}");
    server.purge(&id);
    held(&text)
}

fn buffers() {
    let server = Server::start(&[]);
    let mut too_much = Vec::new();
    for means in ["tcp", "udp", "unix", "pipes", "passed", "queues"] {
        let most = most(&server, means);
        tell(&format!("uncounted: {means}: {} MiB in a sandbox of 64", most / MIB));
        // Beyond both by what was on its way when the limit was met.
        if most > MEMORY + SOCKETS {
            too_much.push((means, most / MIB));
        }
    }
    assert!(too_much.is_empty(), "MiB in a sandbox of 64: {too_much:?}");
    let id = server.create(json!({}));
    let shown = server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json();
    let lacks = shown["limits"]["not_enforced"].as_array().unwrap();
    assert!(!lacks.contains(&json!("memory_max.sockets")), "{shown}");
    let (_, checked) = server.run("check");
    assert!(checked.contains("found    socket buffers"), "{checked}");
    // Whoever reads what is sent gets along with it.
    let body = "import socket, threading\nl = socket.create_server(('127.0.0.1', 0))\ndef serve():\n  c = l.accept()[0]\n  for _ in range(1024): c.sendall(b'x' * 65536)\n  c.close()\nthreading.Thread(target=serve).start()\nc = socket.create_connection(l.getsockname()); n = 0\nwhile d := c.recv(65536): n += len(d)\nprint(n)";
    let limits = json!({ "memory_max": MEMORY.to_string() });
    let small = server.create(json!({ "limits": limits }));
    let answer =
        server.api("POST", &format!("/sandbox/{small}/exec"), json!({ "cmd": ["python3", "-c", body] }));
    assert_eq!(answer.json()["stdout"], format!("{}\n", 64 * MIB), "{}", answer.text());
}

fn netlink() {
    let server = Server::start(&[]);
    let neighbour = server.create(json!({}));
    let limits = json!({ "memory_max": MEMORY.to_string(), "memory_high": MEMORY.to_string() });
    let id = server.create(json!({ "limits": limits }));
    // What programs do with it is left alone.
    server.sh(&id, "for i in $(seq 20); do python3 -c 'import socket; socket.if_nameindex(); socket.getaddrinfo(\"localhost\", 80)'; done");
    hold(&server, &id, "netlink", 400);
    eventually("it is ended", Duration::from_secs(20), || server.status(&id) == "stopped");
    let shown = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    let why = shown["row"]["error_message"].as_str().unwrap_or_default();
    assert!(why.contains("netlink"), "{shown}");
    assert_eq!(
        (server.sh(&neighbour, "echo well"), server.sh(&id, "echo again")),
        ("well\n".into(), "again\n".into())
    );
}

/// A filter is turned into machine code, in a room of which the kernel has one for all (`net.core.bpf_jit_limit`): where
/// it is full, no other sandbox can load the filter that it starts with.
fn filters() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let script = r"
import ctypes, errno, socket, struct
code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 1))
program = struct.pack('HxxxxxxQ', 1, ctypes.addressof(code))
for option in (26, 51):
    for family, kind in ((socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM)):
        s = socket.socket(family, kind)
        try: s.setsockopt(socket.SOL_SOCKET, option, program); print('attached', option)
        except OSError as e: print(errno.errorcode[e.errno])
";
    let answer =
        server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["python3", "-c", script] }));
    assert_eq!(answer.json()["stdout"], "EPERM\nEPERM\nEPERM\nEPERM\n", "{}", answer.text());
}

/// A setting of the machine, which is put back.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn set(path: &'static str, value: u64) -> Self {
        let before = std::fs::read_to_string(path).unwrap().trim().to_owned();
        std::fs::write(path, value.to_string()).unwrap();
        Self { path, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _refused: std::io::Result<()> = std::fs::write(self.path, &self.before);
    }
}

fn number(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// How many files the machine has open, and how many it can.
pub(super) fn open_files() -> (u64, u64) {
    (number("/proc/sys/fs/file-nr"), number(FILES_MAX))
}

/// The bytes of the host's memory in buffers of TCP and UDP, of all namespaces.
pub(super) fn sockets() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let of = |line: &str| line.split_once(" mem ")?.1.split(' ').next()?.parse::<u64>().ok();
    text.lines().filter_map(of).sum::<u64>() * 4096
}

const FILES_MAX: &str = "/proc/sys/fs/file-max";

/// Opens all that 25 processes may, and says so.
pub(super) const ALL_FILES: &str = r"
import os, resource, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
for _ in range(24):
    if os.fork() == 0: break
out, n = os.open('told', os.O_CREAT | os.O_WRONLY | os.O_APPEND), 0
try:
    while True: os.open('/dev/null', 0); n += 1
except OSError as e: os.write(out, b'opened %d %d\n' % (n, e.errno))
time.sleep(600)
";

fn descriptors() {
    // As the kernel makes it on a machine of some gigabytes.
    let _table = Setting::set(FILES_MAX, 600_000);
    let server = Server::start(&[]);
    let (id, neighbour) =
        (server.create(json!({ "limits": { "memory_max": "512M" } })), server.create(json!({})));
    server.start_process(&id, json!({ "cmd": ["python3", "-c", ALL_FILES] }));
    eventually("it has opened what it can", Duration::from_secs(60), || {
        told(&server, &id).matches("opened ").count() >= 25
    });
    let (open, most) = open_files();
    tell(&format!("uncounted: {open} open files of {most}"));
    assert!(open < most / 2, "{open} of {most}: one sandbox has most of the machine's");
    // What it has is its memory, of which it has so much and no more.
    let stats = server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json();
    assert!(stats["memory"]["current"].as_u64().unwrap() > 64 * MIB, "{stats}");
    let takes = "python3 -c 'import os, resource; n = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 10; print(len([os.open(\"/dev/null\", 0) for _ in range(n)]) == n)'";
    assert_eq!(server.sh(&neighbour, takes), "True\n");
    let (_, checked) = server.run("check");
    assert!(checked.contains("found    shared tables"), "{checked}");
}

fn share_of_open_files() {
    let server = Server::start(&[]);
    for (name, least) in [("kernel/pid_max", 1 << 22), ("kernel/threads-max", 1 << 16)] {
        assert!(number(&format!("/proc/sys/{name}")) >= least, "{name}");
    }
    let machine = number(FILES_MAX).min(total_memory() / 128);
    for processes in [1024, 32_768] {
        let id = server.create(json!({ "limits": { "pids_max": processes, "nofile": 16_384 } }));
        let each: u64 = server.sh(&id, "ulimit -Hn").trim().parse().unwrap();
        assert!(
            each * processes <= machine / 2 || each == 1024,
            "{processes} processes with {each} of {machine}"
        );
        assert!(each >= 1024, "{each}");
    }
}

fn total_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
