//! Terminals, by a real WebSocket client and with the programs that people use in them.

use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::Test;
use crate::support::eventually;
use crate::support::process::read_until;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("terminal::it_is_a_terminal", is_terminal),
    ("terminal::vim_top_and_tmux_work", programs),
    ("terminal::every_byte_goes_both_ways", bytes),
    ("terminal::a_shell_outlives_its_connection", outlives),
    ("terminal::strangers_do_not_get_in", strangers),
];

type Terminal = WebSocket<TcpStream>;

fn open(server: &Server, id: &str, query: &str) -> (Terminal, String) {
    let path = format!("/v1/sandboxes/{id}/terminal{query}");
    let (mut socket, response) = server.socket(&path, &[]).unwrap();
    let process = response.headers()["x-process-id"].to_str().unwrap().to_owned();
    // A prompt that no command's echo looks like.
    type_in(&mut socket, "PS1='<'$((6*7))'>'\n");
    read_until(&mut socket, "<42>");
    (socket, process)
}

fn type_in(socket: &mut Terminal, text: &str) {
    socket.send(Message::binary(text.as_bytes().to_vec())).unwrap();
}

/// Runs a command line and returns what came until the next prompt.
fn run(socket: &mut Terminal, line: &str) -> String {
    type_in(socket, &format!("{line}\n"));
    read_until(socket, "<42>")
}

pub(super) fn is_terminal() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let (mut socket, process) = open(&server, &id, "?cols=100&rows=30");
    let shown = run(&mut socket, "tty; stty size; echo $TERM $HOME; shopt -q login_shell && echo login; pwd");
    for wanted in ["/dev/pts/", "30 100", "xterm-256color /home/sandbox", "login", "/home/sandbox/workspace"]
    {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    // A new size is told to what runs before it.
    // The shell says that stty has gone: while that runs, an interrupt is for it alone.
    type_in(
        &mut socket,
        "bash -c 'trap exit INT; trap \"stty size; echo si$((6*7))zed\" WINCH; echo re\"\"ady; while :; do sleep 0.1; done'\n",
    );
    read_until(&mut socket, "ready");
    socket.send(Message::text(r#"{"resize":{"cols":77,"rows":22}}"#)).unwrap();
    let resized = read_until(&mut socket, "si42zed");
    assert!(resized.contains("22 77"), "{resized}");
    // Job control: interrupt, suspend, list, continue.
    type_in(&mut socket, "\x03");
    read_until(&mut socket, "<42>");
    type_in(&mut socket, "sleep 987\n");
    eventually("it runs", Duration::from_secs(20), || server.exec(&id, "pgrep -cf '^sleep 987'").0 == "1\n");
    type_in(&mut socket, "\x1a");
    let stopped = read_until(&mut socket, "<42>");
    assert!(stopped.contains("Stopped"), "{stopped}");
    assert!(run(&mut socket, "bg; jobs").contains("Running"));
    assert!(run(&mut socket, "kill %1; wait %1; echo $?").contains("143"));
    let list = server.api("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).json();
    assert_eq!((&list["processes"][0]["id"], &list["processes"][0]["tty"]), (&json!(process), &json!(true)));
    type_in(&mut socket, "exit\n");
    loop {
        if let Message::Close(frame) = socket.read().unwrap() {
            break assert_eq!(u16::from(frame.unwrap().code), 1000);
        }
    }
    assert_eq!(server.process(&id, &process)["exit_code"], 0);
}

fn programs() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let (mut socket, _) = open(&server, &id, "?cols=80&rows=24");
    type_in(&mut socket, "vi notes.txt\n");
    read_until(&mut socket, "notes.txt");
    type_in(&mut socket, "ihello from vim, grüße\x1b:s/hello/HELLO/\r");
    read_until(&mut socket, "HELLO");
    type_in(&mut socket, ":wq\r");
    read_until(&mut socket, "<42>");
    assert_eq!(server.sh(&id, "cat notes.txt"), "HELLO from vim, grüße\n");

    type_in(&mut socket, "top\n");
    let drawn = read_until(&mut socket, "COMMAND");
    assert!(drawn.contains("load average") && drawn.contains('\x1b'), "{drawn}");
    type_in(&mut socket, "q");
    read_until(&mut socket, "<42>");

    type_in(&mut socket, "tmux new-session -s work\n");
    read_until(&mut socket, "[work]");
    // Split, write in the new half, come back, leave: what ran in it is still there.
    type_in(&mut socket, "\x02%");
    // What is typed before its shell reads may be read by nobody.
    eventually("the second pane has a prompt", Duration::from_secs(20), || {
        !server.exec(&id, "tmux capture-pane -p -t work.1").0.trim().is_empty()
    });
    type_in(&mut socket, "echo in-$((20+3)) > pane.txt; tty >> pane.txt\n");
    eventually("the second pane has run it", Duration::from_secs(20), || {
        server.exec(&id, "cat pane.txt").0.starts_with("in-23\n/dev/pts/")
    });
    type_in(&mut socket, "\x02d");
    read_until(&mut socket, "[detached");
    assert_eq!(server.sh(&id, "tmux list-panes -t work | wc -l"), "2\n");
    type_in(&mut socket, "tmux attach -t work\n");
    read_until(&mut socket, "[work]");
    socket.send(Message::text(r#"{"resize":{"cols":120,"rows":40}}"#)).unwrap();
    eventually("tmux follows the size", Duration::from_secs(20), || {
        server.exec(&id, "tmux display-message -p -t work '#{window_width}x#{window_height}'").0 == "120x39\n"
    });
}

fn bytes() {
    all_bytes_but(&[]);
}

/// There ^C, ^\ and ^Z send signals even where a program has switched that off.
pub(super) fn bytes_but_signals() {
    all_bytes_but(&[3, 26, 28]);
}

fn all_bytes_but(left_out: &[u8]) {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let (mut socket, _) = open(&server, &id, "");
    type_in(&mut socket, "stty raw -echo; echo st''art; head -c 65536 > bytes; stty sane; echo\n");
    read_until(&mut socket, "start");
    let all: Vec<u8> = (0..65536_u32)
        .map(|i| u8::try_from((i * 7 + i / 256) % 256).unwrap())
        .map(|byte| if left_out.contains(&byte) { b'x' } else { byte })
        .collect();
    for piece in all.chunks(1000) {
        socket.send(Message::binary(piece.to_vec())).unwrap();
    }
    read_until(&mut socket, "<42>");
    let path = "/home/sandbox/workspace/bytes";
    let back = server.start_process(&id, json!({ "cmd": ["cat", path] }));
    let written = server.output(&id, &back, 0).stdout;
    let wrong = written.iter().zip(&all).position(|(written, typed)| written != typed);
    assert!(written == all, "{} bytes, the first that is another: {wrong:?}", written.len());
    // And out of it, in raw mode, with characters cut in the middle by the frames.
    type_in(
        &mut socket,
        "stty raw; clear; echo be''gin; for i in $(seq 300); do printf '€äß%s' '→'; done; echo e''nd; stty sane\n",
    );
    let shown = read_until(&mut socket, "end");
    assert_eq!(shown.matches("€äß→").count(), 300);
}

pub(super) fn outlives() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let (mut socket, process) = open(&server, &id, "");
    run(&mut socket, "marker=kept; echo set");
    // The line is cut, without a word.
    let _gone = socket.get_ref().shutdown(std::net::Shutdown::Both);
    let mut again = server.follow(&id, &process, 0);
    again.send(Message::binary(b"echo again-$marker\n".to_vec())).unwrap();
    let shown = read_until(&mut again, "again-kept");
    assert!(shown.contains("set"), "what was shown before is shown again: {shown}");
    let _gone = again.get_ref().shutdown(std::net::Shutdown::Both);
    assert_eq!(server.process(&id, &process)["status"], "running");
    // Whoever closes the window means it.
    let (mut socket, process) = open(&server, &id, "");
    type_in(&mut socket, "sleep 3456\n");
    eventually("it runs", Duration::from_secs(20), || server.exec(&id, "pgrep -cf '^sleep 3456'").0 == "1\n");
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    eventually("it is hung up with what ran in it", Duration::from_secs(20), || {
        server.exec(&id, "pgrep -cf '^sleep 3456'").0 == "0\n"
            && server.api("GET", &format!("/v1/sandboxes/{id}/processes/{process}"), Value::Null).status
                == 404
    });
}

fn strangers() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let path = format!("/v1/sandboxes/{id}/terminal");
    let status = |headers: &[(&'static str, &str)]| match server.socket(&path, headers) {
        Ok(_) => 101,
        Err(error) => match *error {
            Error::Http(response) => response.status().as_u16(),
            other => panic!("{other}"),
        },
    };
    assert_eq!(status(&[("Authorization", "")]), 401);
    assert_eq!(status(&[("Authorization", "Bearer wrong")]), 401);
    // A page of a preview has the browser send its origin, with the right key or without.
    let preview = format!("http://s-{}-3000.preview.localhost", id.to_lowercase());
    assert_eq!(status(&[("Origin", &preview)]), 403);
    assert_eq!(status(&[("Origin", "null")]), 403);
    assert_eq!(status(&[("Origin", &format!("http://localhost:{}", crate::support::server::API))]), 101);
    // A browser cannot set headers: the key comes among the protocols, and is not sent back.
    let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(server.key());
    let offer = format!("bearer.{key}, sandboxd.v1");
    let (_, response) =
        server.socket(&path, &[("Authorization", ""), ("Sec-WebSocket-Protocol", &offer)]).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "sandboxd.v1");
    assert_eq!(status(&[("Authorization", ""), ("Sec-WebSocket-Protocol", "bearer.x, sandboxd.v1")]), 401);
    // Frames that are too long, or no orders, end or change nothing else.
    let (mut socket, process) = open(&server, &id, "");
    socket.send(Message::text("{\"rm\":1}")).unwrap();
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            break assert!(text.contains("bad text frame"), "{text}");
        }
    }
    let _refused = socket.send(Message::binary(vec![0; 4 << 20]));
    while socket.read().is_ok() {}
    assert_eq!(server.process(&id, &process)["status"], "running");
}
