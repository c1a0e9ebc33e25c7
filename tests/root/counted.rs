//! What the kernel counts for users or namespaces: each limit at its edge, as the sandbox sees it, and a neighbour who
//! is not harmed by one that has all of everything.

use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("counted::all_of_everything_leaves_the_neighbour_unharmed", all_of_everything),
    ("counted::many_users_have_no_more_than_one", many_users),
    ("counted::shared_memory_and_queues_count_as_memory", queues_are_memory),
];

/// What is counted for an id on the host is counted for all servers that use it, and others may run here.
const OWN_IDS: &[(&str, &str)] = &[("SANDBOXD_ID_BASE", "2013265920")];

/// Calls that Python has no words for.
const CALLS: &str = r#"
import ctypes, errno, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), 'failed')
    return result
def most(take, limit=300000):
    for n in range(limit):
        try: take(n)
        except OSError as e: return '%d %s' % (n, errno.errorcode[e.errno])
    return 'no end'
def queue(messages, size):
    attributes = (ctypes.c_long * 8)(0, messages, size)
    return lambda n: check(libc.mq_open(b'/%d-%d-%d' % (size, os.getpid(), n), os.O_CREAT | os.O_RDWR, 0o600, ctypes.addressof(attributes)))
def terminal(n): os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)
def pend(n): check(libc.sigqueue(os.getpid(), signal.SIGRTMIN, None))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
"#;

/// Takes all there is of each, says how much that was, and keeps it.
const TAKE_ALL: &str = r#"
watcher = check(libc.inotify_init())
# As many watches as there are directories, for each of some instances.
for n in range(1100): os.mkdir('/tmp/%d' % n)
watchers = [watcher] + [check(libc.inotify_init()) for _ in range(119)]
def watch(n):
    check(libc.inotify_add_watch(watchers[n % 120], b'/tmp/%d' % (n // 120), 0x100))
for name, take in [
    ('terminals', terminal),
    ('watches', watch),
    ('queues', queue(1, 8)),
    ('pending signals', pend),
    ('segments', lambda n: check(libc.shmget(0, 4096, 0o600))),
    ('semaphores', lambda n: check(libc.semget(0, 1, 0o600))),
    ('instances', lambda n: check(libc.inotify_init())),
    ('descriptors', lambda n: os.dup(0)),
]:
    print(name, most(take), file=out, flush=True)
print('done', file=out, flush=True)
time.sleep(600)
"#;

/// One of each, by a sandbox with its own limits.
const TAKE_ONE: &str = r#"
terminal(0)
check(libc.inotify_add_watch(check(libc.inotify_init()), b'/tmp', 0x100))
queue(10, 8192)(0)
pend(0)
for call in (libc.shmget, libc.semget): check(call(0, 1, 0o600))
check(libc.msgget(0, 0o600))
socket.socketpair()
print('unharmed')
"#;

fn python(server: &Server, id: &str, script: &str, user: &str) -> Value {
    let body = json!({ "cmd": ["python3", "-c", format!("{CALLS}{script}")], "user": user });
    server.api("POST", &format!("/sandbox/{id}/exec"), body).json()
}

fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn all_of_everything() {
    let server = Server::start(OWN_IDS);
    let (hog, neighbour) = (server.create(json!({ "limits": { "nofile": 2048 } })), server.create(json!({})));
    let shown = server.sh(&hog, "cd /proc/sys/user; cat max_user_namespaces max_inotify_instances max_inotify_watches max_fanotify_groups");
    assert_eq!(shown, "0\n1024\n131072\n0\n");
    assert_ne!(server.exec(&hog, "echo 5 > /proc/sys/user/max_inotify_instances").1, 0);
    let script = format!("{CALLS}out = open('/tmp/told', 'w')\n{TAKE_ALL}");
    let body = json!({ "cmd": ["python3", "-c", script], "detach": true });
    let started = server.api("POST", &format!("/v1/sandboxes/{hog}/processes"), body);
    assert_eq!(started.status, 201, "{}", started.text());
    let mut told = String::new();
    eventually("it has taken all", Duration::from_secs(60), || {
        told = server.exec(&hog, "cat /tmp/told").0;
        told.contains("done")
    });
    // The host's own limit counts for each sandbox where it is lower.
    let host = |name: &str| number(&format!("/proc/sys/fs/inotify/max_user_{name}"));
    for (what, expected) in [
        ("terminals", "64 ENOSPC".to_owned()),
        ("queues", "256 ENOSPC".to_owned()),
        ("segments", "4096 ENOSPC".to_owned()),
        ("semaphores", "32000 ENOSPC".to_owned()),
        ("watches", format!("{} ENOSPC", host("watches").min(131_072))),
        ("instances", format!("{} EMFILE", host("instances").min(1024) - 120)),
    ] {
        assert!(told.contains(&format!("{what} {expected}\n")), "{what} {expected}: {told}");
    }
    // One or two of others are among them.
    let pending =
        told.lines().find_map(|line| line.strip_prefix("pending signals ")?.strip_suffix(" EAGAIN"));
    assert!((4090..=4096).contains(&pending.unwrap().parse::<u32>().unwrap()), "{told}");
    assert!(told.contains("descriptors ") && told.contains(" EMFILE\ndone"), "{told}");
    let answer = python(&server, &neighbour, TAKE_ONE, "sandbox");
    assert_eq!(answer["stdout"], "unharmed\n", "{answer}");
    assert_eq!(server.sh(&hog, "echo alive"), "alive\n");
    // What it had is gone with it, though the kernel takes a moment, and whoever has its ids next has them unused.
    server.purge(&hog);
    let next = server.create(json!({}));
    eventually("all is free again", Duration::from_secs(20), || {
        python(&server, &next, TAKE_ONE, "sandbox")["stdout"] == "unharmed\n"
    });
}

/// Root of a sandbox can be 65,536 users, for each of whom the kernel counts anew; for all of them together it has the limits of
/// the namespace.
fn many_users() {
    let server = Server::start(OWN_IDS);
    let id = server.create(json!({}));
    let script = r#"
def as_others(take):
    told = []
    for uid in range(2000, 2008):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setresuid(uid, uid, uid)
            os.write(writer, most(take).encode())
            signal.pause()
        others.append(pid)
        told.append(os.read(reader, 100).decode())
    return told
others = []
signals = as_others(pend)
queues = as_others(queue(10, 8192))
print(sum(int(t.split()[0]) for t in signals), sum(int(t.split()[0]) for t in queues), signals, queues)
for pid in others: os.kill(pid, signal.SIGKILL)
"#;
    let answer = python(&server, &id, script, "root");
    let text = answer["stdout"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let mut sums = text.split(' ').map(|n| n.parse::<u32>().unwrap_or(0));
    let (signals, queues) = (sums.next().unwrap(), sums.next().unwrap());
    // A few signals of others are among them; a queue of ten times 8 KiB takes a tenth of the limit.
    assert!((4000..=4096).contains(&signals) && (7..=9).contains(&queues), "{text}");
}

/// What is left in an ipc namespace without any process is the sandbox's memory.
fn queues_are_memory() {
    let server = Server::start(OWN_IDS);
    let id = server.create(json!({ "limits": { "memory_max": "128M", "memory_high": "128M" } }));
    let used = || -> u64 {
        let stats = server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json();
        stats["memory"]["current"].as_u64().unwrap()
    };
    let before = used();
    let script = r#"
libc.shmat.restype = ctypes.c_void_p
segment = check(libc.shmget(0, 32 << 20, 0o600))
ctypes.memset(libc.shmat(segment, None, 0), 1, 32 << 20)
message = ctypes.create_string_buffer(8200)
message[0] = b'\x01'
for _ in range(500):
    q = check(libc.msgget(0, 0o600))
    for _ in range(2): check(libc.msgsnd(q, message, 8192, 0o4000))
print('left')
"#;
    assert_eq!(python(&server, &id, script, "sandbox")["stdout"], "left\n");
    // 32 MiB and 8 MiB; what the kernel charges in batches comes a moment later.
    eventually("it counts", Duration::from_secs(20), || used() > before + (36 << 20));
    // And there it ends.
    let more = "segment = check(libc.shmget(0, 200 << 20, 0o600))\nlibc.shmat.restype = ctypes.c_void_p\nctypes.memset(libc.shmat(segment, None, 0), 1, 200 << 20)\nprint('has it')";
    let answer = python(&server, &id, more, "sandbox");
    assert_ne!(answer["stdout"], "has it\n", "{answer}");
}
