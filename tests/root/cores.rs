//! Core dumps: where the host hands them to a program, none of a sandbox's does.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde_json::json;

use super::Test;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] =
    &[("cores::a_crash_inside_starts_no_program_of_the_hosts", no_program_is_started)];

const PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// A program as the host's `core_pattern`. It is one for all namespaces of the machine, so one test at a time has it;
/// and a shell that waits for the end of this value, or of this process, puts back what was there.
struct Handler {
    restorer: Child,
    _turn: std::fs::File,
}

impl Handler {
    fn set(program: &Path) -> Self {
        let turn = std::fs::File::create("/tmp/sandboxd-test-core-pattern").unwrap();
        rustix::fs::flock(&turn, FlockOperation::LockExclusive).unwrap();
        let before = std::fs::read_to_string(PATTERN).unwrap();
        let mut restorer = Command::new("setsid");
        restorer.args(["sh", "-c", "cat > /dev/null; printf %s \"$1\" > \"$2\"", "sh", &before, PATTERN]);
        let restorer = restorer.stdin(Stdio::piped()).spawn().unwrap();
        let this = Self { restorer, _turn: turn };
        std::fs::write(PATTERN, format!("|{} %e", program.display())).unwrap();
        this
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        drop(self.restorer.stdin.take());
        // It was started, and ends.
        let _status = self.restorer.wait();
    }
}

/// What crashes in a sandbox, after it has tried to have another limit. Prints what is left of the limit, and whether
/// the kernel says that somebody took the core.
const CRASHES: &str = r#"
import ctypes, os, resource, signal
libc = ctypes.CDLL(None)
pair = lambda n: (ctypes.c_ulong * 2)(n, n)
old = (ctypes.c_ulong * 2)()
asked = []
tries = [lambda: None]
for n in (0, 4096, 2**64 - 1):
    tries.append(lambda n=n: libc.syscall(160, 4, pair(n)))
    tries.append(lambda n=n: libc.syscall(160, ctypes.c_ulong(4 | 1 << 32), pair(n)))
    tries.append(lambda n=n: libc.syscall(302, 0, 4, pair(n), None))
    tries.append(lambda n=n: libc.syscall(302, 0, ctypes.c_ulong(4 | 1 << 32), pair(n), None))
    tries.append(lambda n=n: libc.syscall(302, 0, 4, pair(n), old))
    tries.append(lambda n=n: libc.syscall(302, os.getpid(), 4, pair(n), None))
tries.append(lambda: os.execvp('sh', ['sh', '-c', 'ulimit -c 0; kill -SEGV $$']))
seen = set()
for attempt in tries:
    reader, writer = os.pipe()
    if os.fork() == 0:
        attempt()
        os.write(writer, repr(resource.getrlimit(resource.RLIMIT_CORE)).encode())
        os.kill(os.getpid(), signal.SIGABRT)
    os.close(writer)
    status = os.wait()[1]
    seen.add((os.read(reader, 100).decode() or '(1, 1)', os.WIFSIGNALED(status), os.WCOREDUMP(status)))
    os.close(reader)
print(seen)
"#;

fn no_program_is_started() {
    let directory = tempfile::Builder::new().prefix("sandboxd-core").tempdir().unwrap();
    let (program, told) = (directory.path().join("told"), directory.path().join("log"));
    // It does nothing with what it is given: others crash on this machine too.
    std::fs::write(&program, format!("#!/bin/sh\necho \"$1\" >> {}\n", told.display())).unwrap();
    for (path, mode) in [(directory.path(), 0o755), (program.as_path(), 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let handler = Handler::set(&program);
    // That it is started at all, for a process whose limit is 0, and by this name.
    let crash = |name: &str| {
        let copy = directory.path().join(name);
        std::fs::copy("/bin/sh", &copy).unwrap();
        let status = Command::new(copy).args(["-c", "ulimit -c 0; kill -ABRT $$"]).status().unwrap();
        assert!(status.core_dumped(), "the kernel does not start {}: {status}", program.display());
        eventually("the program is told", Duration::from_secs(20), || {
            std::fs::read_to_string(&told).unwrap_or_default().lines().any(|line| line == name)
        });
    };
    crash("sbd-core-before");
    for user in ["sandbox", "root"] {
        let body = json!({ "cmd": ["python3", "-c", CRASHES], "user": user });
        let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body).json();
        assert_eq!(answer["stdout"], "{('(1, 1)', True, False)}\n", "{user}: {answer}");
    }
    crash("sbd-core-after");
    let (_, checked) = server.run("check");
    drop(handler);
    let line = checked.lines().find(|line| line.contains("core dumps")).unwrap();
    assert!(line.starts_with("found") && line.contains("though core_pattern is a program"), "{line}");
    // Who asks for less than what is there, as key agents do, is told that it is so.
    assert_eq!(server.sh(&id, "ulimit -c 0 && echo fine"), "fine\n");
}
