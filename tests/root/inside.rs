//! What programs expect of the machine that they run on, and find inside.

use serde_json::{Value, json};

use super::Test;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("inside::calls_that_are_not_there_are_answered_so", unknown_calls),
    ("inside::streams_can_be_opened_by_their_names", streams),
    ("inside::a_terminal_has_a_type_and_takes_utf8", terminals),
    ("inside::an_environment_carries_what_execve_does", environments),
];

fn run(server: &Server, id: &str, request: Value) -> Value {
    server.api("POST", &format!("/sandbox/{id}/exec"), request).json()
}

/// PAM and libaudit go on without audit where the kernel has none, and end where it is forbidden.
fn unknown_calls() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let script = r"
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number):
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
    return errno.errorcode.get(ctypes.get_errno(), 'OK')
try:
    socket.socket(16, socket.SOCK_RAW, 9); print('OK')
except OSError as e: print(errno.errorcode[e.errno])
print(call(457), call(480), call(600), call(165), call(321))
";
    let answer = run(&server, &id, json!({ "cmd": ["python3", "-c", script] }));
    assert_eq!(answer["stdout"], "EPROTONOSUPPORT\nENOSYS ENOSYS ENOSYS EPERM EPERM\n", "{answer}");
}

fn streams() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "rootfs": "overlay" }));
    let script = "echo out > /dev/stdout; echo err | tee /dev/stderr > /dev/null; cat /dev/stdin < /dev/null";
    for user in ["sandbox", "root"] {
        let answer = run(&server, &id, json!({ "cmd": ["bash", "-c", script], "user": user }));
        assert_eq!((&answer["stdout"], &answer["stderr"]), (&json!("out\n"), &json!("err\n")), "{answer}");
    }
}

fn terminals() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let shown = |line: &str, env: Value| {
        let cmd = json!(["bash", "-c", line]);
        let process =
            server.start_process(&id, json!({ "cmd": cmd, "tty": { "cols": 80, "rows": 24 }, "env": env }));
        server.output(&id, &process, 0).text()
    };
    let line = "echo $TERM; clear > /dev/null && tput colors; stty -a | grep -o '.iutf8'";
    assert_eq!(shown(line, json!({})), "xterm-256color\r\n256\r\n iutf8\r\n");
    assert_eq!(shown("echo $TERM", json!({ "TERM": "vt100" })), "vt100\r\n");
}

fn environments() {
    let server = Server::start(&[]);
    let longest = "x".repeat(128 * 1024 - "LONG=\0".len());
    let id = server.create(json!({ "env": { "KEY": "-----\nab\n-----\n", "LONG": longest } }));
    let script = "printf %s \"$KEY\" | od -An -c | tr -d ' \\n'; echo; echo ${#LONG}";
    let answer = run(&server, &id, json!({ "cmd": ["bash", "-c", script] }));
    assert_eq!(answer["stdout"], format!("-----\\nab\\n-----\\n\n{}\n", longest.len()), "{answer}");
    for bad in [json!({ "NUL": "a\0b" }), json!({ "LONGER": longest })] {
        assert_eq!(server.api("POST", "/sandbox", json!({ "env": bad })).status, 400);
    }
}
