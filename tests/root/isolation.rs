//! What a tenant can see and do from inside.

use serde_json::json;

use super::Test;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("isolation::nothing_is_granted", nothing_is_granted),
    ("isolation::dangerous_system_calls_are_refused", system_calls),
    ("isolation::the_file_systems_are_confined", file_systems),
    ("isolation::no_descriptor_of_the_daemons_is_inside", descriptors),
    ("isolation::limits_hold_and_hurt_only_their_sandbox", limits),
];

fn nothing_is_granted() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let status = server.sh(&id, "cat /proc/self/status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set}\n{status}");
    }
    assert!(status.contains("Uid:\t1000\t1000\t1000\t1000"), "{status}");
    // PID 1 acts as the same user; what it keeps aside, in its own user namespace, is told in `oci/README.md`.
    let status_of_init = server.sh(&id, "cat /proc/1/status");
    for held in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000000001fb",
        "CapEff:\t0000000000000020",
        "CapBnd:\t00000000000001fb",
        "Uid:\t0\t1000\t0\t1000",
    ] {
        assert!(status_of_init.contains(held), "{held}\n{status_of_init}");
    }
    for status in [status, status_of_init] {
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    }
    // PID 1 cannot be looked into, stopped or ended.
    for attempt in [
        "ls /proc/1/fd",
        "cat /proc/1/environ",
        "readlink /proc/1/exe",
        "ls /proc/1/root/",
        "cat /proc/1/mem",
    ] {
        assert_ne!(server.exec(&id, attempt).1, 0, "{attempt}");
    }
    server.sh(&id, "kill -9 1; kill -TERM 1; kill -STOP 1; true");
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
    // Other processes than the sandbox's own are not there.
    let processes: i32 = server.sh(&id, "ls /proc | grep -c '^[0-9]'").trim().parse().unwrap();
    assert!(processes < 8, "{processes}");
    for namespace in ["pid", "mnt", "ipc", "uts", "net", "cgroup", "user"] {
        let inside = server.sh(&id, &format!("readlink /proc/self/ns/{namespace}"));
        let outside = std::fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(inside.trim(), outside.display().to_string(), "{namespace}");
    }
}

fn system_calls() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    // number, arguments, the errno that is expected
    let script = r#"
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    return errno.errorcode.get(ctypes.get_errno(), 'OK') if result < 0 else 'OK'
expected = {
    'unshare': (272, (0x10000000,), 'EPERM'), 'setns': (308, (0, 0), 'EPERM'), 'mount': (165, (0, 0, 0, 0, 0), 'EPERM'),
    'umount2': (166, (0, 0), 'EPERM'), 'pivot_root': (155, (0, 0), 'EPERM'), 'chroot': (161, (0,), 'EPERM'),
    'bpf': (321, (0, 0, 0), 'EPERM'), 'perf_event_open': (298, (0, 0, 0, 0, 0), 'EPERM'), 'userfaultfd': (323, (0,), 'ENOSYS'),
    'io_uring_setup': (425, (1, 0), 'ENOSYS'), 'keyctl': (250, (0, 0), 'EPERM'), 'add_key': (248, (0, 0, 0, 0, 0), 'EPERM'),
    'clone_newuser': (56, (0x10000000 | 17, 0, 0, 0, 0), 'EPERM'), 'clone3': (435, (0, 0), 'ENOSYS'),
    'open_by_handle_at': (304, (0, 0, 0), 'EPERM'), 'kexec_load': (246, (0, 0, 0, 0), 'EPERM'), 'reboot': (169, (0, 0, 0), 'EPERM'),
    'init_module': (175, (0, 0, 0), 'EPERM'), 'swapon': (167, (0, 0), 'EPERM'), 'acct': (163, (0,), 'EPERM'),
    'settimeofday': (164, (0, 0), 'EPERM'), 'syslog': (103, (3, 0, 0), 'EPERM'), 'quotactl': (179, (0, 0, 0, 0), 'EPERM'),
    'iopl': (172, (3,), 'EPERM'), 'modify_ldt': (154, (0, 0, 0), 'EPERM'), 'process_vm_readv': (310, (1, 0, 0, 0, 0, 0), 'EPERM'),
    'kcmp': (312, (1, 1, 0, 0, 0), 'EPERM'), 'pidfd_getfd': (438, (0, 0, 0), 'EPERM'), 'move_mount': (429, (0, 0, 0, 0, 0), 'EPERM'),
    'open_tree': (428, (0, 0, 0), 'EPERM'), 'fsopen': (430, (0, 0), 'EPERM'), 'mount_setattr': (442, (0, 0, 0, 0, 0), 'EPERM'),
    'mknod_char': (133, (0, 0o020644, 0x103), 'EPERM'), 'tiocsti': (16, (0, 0x5412, 0), 'EPERM'),
    'tiocsti_high': (16, (0, 0x100005412, 0), 'EPERM'), 'tioclinux': (16, (0, 0x541c, 0), 'EPERM'),
}
bad = [f'{name}: {call(n, *a)} not {want}' for name, (n, a, want) in expected.items() if call(n, *a) != want]
for family in (17, 40, 38, 15, 31, 16):
    protocol = 3 if family == 16 else 0
    try:
        socket.socket(family, socket.SOCK_DGRAM if family in (16, 17, 15) else socket.SOCK_STREAM, protocol); bad.append(f'socket family {family} is allowed')
    except OSError: pass
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); bad.append('raw sockets are allowed')
except OSError: pass
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
    socket.socket(family, socket.SOCK_STREAM).close()
os.mkfifo('/tmp/fifo')
print('\n'.join(bad) or 'none')
"#;
    let answer = server
        .api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["python3", "-c", script] }))
        .json();
    assert_eq!(answer["stdout"], "none\n", "{answer}");
}

fn file_systems() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    for path in ["/x", "/etc/x", "/usr/x", "/dev/x", "/sys/x", "/proc/sys/kernel/core_pattern", "/opt/x"] {
        assert_ne!(server.exec(&id, &format!("echo x > {path}")).1, 0, "{path} can be written");
    }
    for path in ["/tmp", "/var/tmp", "/run", "/dev/shm", "$HOME"] {
        server.sh(&id, &format!("echo x > {path}/y"));
    }
    let sizes = server.sh(&id, "df --output=size -m /tmp /var/tmp /dev/shm | tail -3");
    assert_eq!(sizes.split_whitespace().collect::<Vec<_>>(), ["512", "128", "64"]);
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger"] {
        assert_eq!(server.sh(&id, &format!("cat {path} 2>/dev/null | wc -c")), "0\n", "{path}");
    }
    for path in ["/sys/firmware", "/sys/kernel", "/sys/fs", "/sys/module"] {
        assert_eq!(server.sh(&id, &format!("ls {path} | wc -l")), "0\n", "{path}");
    }
    // Those of the host are bound, so that what the directory says of them is not what they are.
    let devices = server.sh(
        &id,
        "cd /dev; find . -path ./shm -prune -o ! -type d ! -type l -exec stat -c '%n %F' {} + | sort",
    );
    let expected = ["full", "null", "pts/ptmx", "random", "tty", "urandom", "zero"];
    assert_eq!(devices, expected.map(|name| format!("./{name} character special file\n")).concat());
    assert_eq!(server.sh(&id, "find / -xdev -perm /6000 -type f 2>/dev/null | wc -l"), "0\n");
    // Nothing of the host's directories can be read off the mounts but the workspace's own.
    let mounts = server.sh(&id, "cat /proc/mounts");
    assert!(!mounts.contains("sandboxd-test") && !mounts.contains("control.sock"), "{mounts}");
}

fn descriptors() {
    let server = Server::start(&[("LISTEN_FDS", "3"), ("LISTEN_PID", "1"), ("LISTEN_FDNAMES", "a:b:c")]);
    let id = server.create(json!({}));
    assert_eq!(
        server.sh(&id, "ls /proc/self/fd | head -c 100").split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "ls itself holds 3"
    );
    assert_eq!(server.sh(&id, "env | grep -c LISTEN || true"), "0\n");
    // What PID 1 holds is seen from outside: the null device, its signals, the control socket.
    let pid =
        server.api("GET", &format!("/sandbox/{id}"), serde_json::Value::Null).json()["live_state"]["pid"]
            .as_i64()
            .unwrap();
    // The pipes of a command that has ended go once the daemon has told that it has its output.
    let mut held = Vec::new();
    eventually("PID 1 holds nothing else", std::time::Duration::from_secs(20), || {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        held = entries.filter_map(|e| std::fs::read_link(e.path()).ok()).collect();
        let known = ["/dev/null", "socket:", "anon_inode:[signalfd]", "pipe:"];
        // Both ends of one pipe are its own: through it the output of processes goes to the daemon.
        let pipes: Vec<_> = held.iter().filter(|t| t.to_string_lossy().starts_with("pipe:")).collect();
        held.iter().all(|target| known.iter().any(|k| target.to_string_lossy().starts_with(k)))
            && pipes.len() <= 2
            && pipes.windows(2).all(|pair| pair[0] == pair[1])
    });
    assert!(held.len() >= 5, "{held:?}");
    let hash = |path: &str| std::fs::read(path).unwrap();
    let before = hash(&format!("/proc/{pid}/exe"));
    assert_ne!(server.exec(&id, "echo x > /proc/1/exe").1, 0);
    assert!(before == hash(&format!("/proc/{pid}/exe")));
}

fn limits() {
    let server = Server::start(&[]);
    let (victim, neighbour) = (server.create(json!({})), server.create(json!({})));
    // More memory than the limit of 256 MiB: killed inside, the sandbox goes on.
    let (_, code) = server.exec(&victim, "python3 -c 'x = bytearray(600_000_000)'");
    assert_ne!(code, 0, "the memory limit does not hold");
    assert_eq!(server.sh(&victim, "echo alive"), "alive\n");
    // The shared memory of /dev/shm and /tmp counts too.
    // Memory that no kill gives back ends the sandbox in the worst case; the next request starts it anew.
    let fill = json!({ "cmd": ["bash", "-c", "head -c 400M /dev/zero > /tmp/fill"] });
    let filled = server.api("POST", &format!("/sandbox/{victim}/exec"), fill);
    assert!(
        filled.status == 503 || filled.json()["exit_code"] != 0,
        "tmpfs is not counted: {}",
        filled.text()
    );
    server.api("POST", &format!("/v1/sandboxes/{victim}/stop"), serde_json::Value::Null);
    assert_eq!(server.sh(&victim, "ls /tmp | wc -l"), "0\n");
    // A fork bomb ends at the limit of processes, and goes with its sandbox.
    server.exec(&victim, "python3 - <<'X'\nimport os\nn=0\ntry:\n  while True:\n    if os.fork()==0:\n      import time; time.sleep(60)\n    n+=1\nexcept OSError: pass\nprint(n)\nX\n");
    assert_eq!(server.sh(&neighbour, "echo unharmed"), "unharmed\n");
    let begun = std::time::Instant::now();
    server.purge(&victim);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    let soft: u64 = server.sh(&neighbour, "ulimit -n").trim().parse().unwrap();
    assert!(soft <= 65_536);
}
