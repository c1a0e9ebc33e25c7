//! `sandboxctl` in a terminal, as a person has it.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::super::Test;
use super::command;
use crate::support::server::Server;
use crate::support::terminal::Terminal;

pub(crate) const TESTS: &[Test] = &[
    ("cli::shell_is_a_terminal_with_everything", shell),
    ("cli::the_terminal_is_given_back_on_every_way_out", given_back),
    ("cli::colours_are_for_terminals_that_want_them", colours),
    ("cli::a_copy_shows_how_far_it_is_to_whoever_looks", progress),
];

fn shell() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let mut terminal = Terminal::start(command(&server, &["shell", &id]).env("TERM", "xterm"));
    terminal.expect("$ ");
    assert!(terminal.is_raw());
    terminal.press("stty size; pwd; echo $TERM\r");
    terminal.expect("24 80");
    terminal.expect("/home/sandbox/workspace/app");
    terminal.expect("xterm");
    // The window.
    terminal.resize(132, 50);
    crate::support::eventually("the window has its new size there", Duration::from_secs(20), || {
        terminal.press("stty size\r");
        std::thread::sleep(Duration::from_millis(100));
        terminal.screen().contains("50 132")
    });
    // Keys that are signals are for the processes on the other side.
    terminal.press("sleep 64; echo $((6 * 7)) $?\r");
    // An interrupt that comes before it runs would be the shell's.
    runs(&server, &id, "sleep 64");
    terminal.press("\x03");
    terminal.press("echo interrupted $?\r");
    terminal.expect("interrupted 130");
    terminal.press("sleep 65\r");
    runs(&server, &id, "sleep 65");
    terminal.press("\x1a");
    terminal.expect("Stopped");
    // Not `exit`, which asks again while a job is stopped.
    terminal.press("kill -9 %1; printf '\\xc3\\xa4\\xe2\\x82\\xac'; exec bash -c 'exit 6'\r");
    terminal.expect("\u{e4}\u{20ac}");
    assert_eq!(terminal.wait().code(), Some(6));
    assert!(!terminal.is_raw());
}

fn runs(server: &Server, id: &str, command: &str) {
    crate::support::eventually(command, Duration::from_secs(20), || {
        server.exec(id, &format!("pgrep -cf '^{command}'")).0 == "1\n"
    });
}

fn given_back() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let send = |terminal: &Terminal, signal: &str| {
        let sent = Command::new("kill").arg(signal).arg(terminal.pid().to_string()).status().unwrap();
        assert!(sent.success());
    };
    // Signals.
    for (signal, code) in [("-TERM", 143), ("-HUP", 129)] {
        let mut terminal = Terminal::start(&mut command(&server, &["shell", &id]));
        terminal.expect("$ ");
        send(&terminal, signal);
        assert_eq!(terminal.wait().code(), Some(code));
        assert!(!terminal.is_raw(), "{signal}");
    }
    // Closing the window has ended the shells.
    crate::support::eventually("shells end", Duration::from_secs(20), || {
        super::run(&server, &["ps", "-q", &id]).text().is_empty()
    });
    // A terminal has the name of ours, also for a command.
    let mut terminal =
        Terminal::start(command(&server, &["exec", "-t", &id, "tput", "cols"]).env("TERM", "xterm"));
    assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.screen());
    // Stopped, and continued.
    let mut terminal = Terminal::start(&mut command(&server, &["exec", "-t", &id, "--", "bash", "--norc"]));
    terminal.expect("$ ");
    send(&terminal, "-TSTP");
    crate::support::eventually("the terminal is given back", Duration::from_secs(20), || !terminal.is_raw());
    send(&terminal, "-CONT");
    crate::support::eventually("the terminal is taken again", Duration::from_secs(20), || terminal.is_raw());
    terminal.press("echo $((6 * 7))\r");
    terminal.expect("42");
    // Left by key: the process goes on and is found again.
    terminal.press("\r~.");
    assert_eq!(terminal.wait().code(), Some(0));
    assert!(!terminal.is_raw());
    terminal.expect("goes on");
    let process = super::run(&server, &["ps", "-q", &id]).text().trim().to_owned();
    let mut terminal = Terminal::start(&mut command(&server, &["attach", "--new", &id, &process]));
    crate::support::eventually("the terminal is taken", Duration::from_secs(20), || terminal.is_raw());
    terminal.press("echo again $((6 * 7)); exit 8\r");
    terminal.expect("again 42");
    assert_eq!(terminal.wait().code(), Some(8));
    assert!(!terminal.is_raw());
}

fn colours() {
    let server = Server::start(&[]);
    server.create(Value::Null);
    let shown = |name: &str, value: &str| {
        let mut terminal = Terminal::start(command(&server, &["ls"]).env("TERM", "xterm").env(name, value));
        assert!(terminal.wait().success());
        terminal.expect("running");
        terminal.screen()
    };
    assert!(shown("LANG", "C").contains("\x1b["));
    assert!(!shown("NO_COLOR", "1").contains("\x1b["));
    assert!(!super::run(&server, &["ls"]).text().contains("\x1b["));
}

fn progress() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("file");
    std::fs::write(&file, vec![b'x'; 8 << 20]).unwrap();
    let (file, there) = (file.to_str().unwrap(), format!("{id}:file"));
    let copy = |arguments: &[&str]| {
        let mut terminal = Terminal::start(command(&server, arguments).env("TERM", "xterm"));
        assert!(terminal.wait().success(), "{arguments:?}");
        terminal
    };
    for (from, to) in [(file, there.as_str()), (there.as_str(), file)] {
        let terminal = copy(&["cp", from, to]);
        terminal.expect("B/s");
        crate::support::eventually("the bar is taken away", Duration::from_secs(20), || {
            terminal.screen().trim_end().ends_with("\x1b[2K")
        });
        assert_eq!(copy(&["cp", "--quiet", from, to]).screen(), "", "{from} to {to}");
        let ran = super::run(&server, &["cp", from, to]);
        assert_eq!((ran.code, ran.text(), ran.stderr.as_str()), (Some(0), "", ""));
    }
}
