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
    terminal.expect("sleep 64");
    std::thread::sleep(Duration::from_millis(300));
    terminal.press("\x03");
    terminal.press("echo interrupted $?\r");
    terminal.expect("interrupted 130");
    terminal.press("sleep 65\r");
    std::thread::sleep(Duration::from_millis(300));
    terminal.press("\x1a");
    terminal.expect("Stopped");
    // Not `exit`, which asks again while a job is stopped.
    terminal.press("kill -9 %1; printf '\\xc3\\xa4\\xe2\\x82\\xac'; exec bash -c 'exit 6'\r");
    terminal.expect("\u{e4}\u{20ac}");
    assert_eq!(terminal.wait().code(), Some(6));
    assert!(!terminal.is_raw());
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
