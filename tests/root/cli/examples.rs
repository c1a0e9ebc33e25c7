//! Every example of `sandboxctl help COMMAND`, word for word, in a terminal.
//!
//! `ID` and `PROCESS` are replaced by those of a sandbox that was made for the one example, and nothing else is. It takes
//! about a second for each of some fifty examples: help that does not work is worse than none.

use std::process::Command;

use serde_json::{Value, json};

use super::super::Test;
use super::run;
use crate::support::server::{API, Server};
use crate::support::terminal::Terminal;

pub(crate) const TESTS: &[Test] = &[("cli::help_is_true_word_for_word", examples)];

/// Examples that end when the user wants it: what is waited for, what is pressed, and how they end then.
const ENDED_BY_HAND: &[(&str, &str, &str, i32)] =
    &[("sandboxctl shell ID", "$ ", "exit\r", 0), ("sandboxctl logs -f ID web", "", "\x03", 130)];

fn examples() {
    let server = Server::start(&[("SANDBOXD_MEMORY_MAX", "1G")]);
    let help = run(&server, &["help"]);
    let commands: Vec<&str> = help
        .text()
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    let mut wrong = Vec::new();
    for name in commands {
        let help = run(&server, &["help", name]);
        let found: Vec<String> = help
            .text()
            .lines()
            .skip_while(|line| *line != "Examples:")
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .map(|line| line.trim().to_owned())
            .collect();
        assert!(!found.is_empty(), "{name} has no examples");
        for example in found {
            assert!(
                example.contains(&format!("sandboxctl {name}"))
                    || example.contains(&format!("sandboxctl --json {name}")),
                "{example}"
            );
            wrong.extend(try_example(&server, &example));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs one; returns what went wrong.
fn try_example(server: &Server, example: &str) -> Option<String> {
    let id = server.create(json!({ "ports": [3000, 8080], "template": "python-http" }));
    let mut line = example.replace("ID", &id);
    if example.contains("PROCESS") {
        // Long enough to be killed, short enough to be followed to its end.
        let arguments = ["exec", "-d", &id, "--", "bash", "-c", "echo started; sleep 3"];
        let process = run(server, &arguments).text().trim().to_owned();
        line = line.replace("PROCESS", &process);
    }
    server.put(&id, "hello.txt", b"hello\n");
    server.sh(&id, "touch ~/.bashrc");
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("notes.txt"), "notes\n").unwrap();
    std::fs::create_dir(here.path().join("src")).unwrap();
    std::fs::write(here.path().join("src/main.py"), "print(1)\n").unwrap();
    let programs = std::path::Path::new(crate::support::programs::sandboxctl()).parent().unwrap();
    // As in a user's terminal, also where the tests run in the background of a script, whose children ignore ^C.
    let mut shell = Command::new("env");
    shell.args(["--default-signal=INT,QUIT", "bash", "-o", "pipefail", "-c", &line]).current_dir(here.path());
    shell
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display()))
        .env("SANDBOXD_URL", format!("http://127.0.0.1:{API}"))
        .env("SANDBOXD_TOKEN", server.key())
        .env("HOME", here.path())
        .env("TERM", "xterm");
    let mut terminal = Terminal::start(&mut shell);
    let mut expected = 0;
    if let Some((_, shown, keys, code)) = ENDED_BY_HAND.iter().find(|(by_hand, ..)| *by_hand == example) {
        terminal.expect(shown);
        if shown.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        terminal.press(keys);
        expected = *code;
    }
    let status = terminal.wait();
    let is_killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(2) && expected == 130;
    let is_right = status.code() == Some(expected) || is_killed;
    // The example may have created more, or purged it.
    for left in run(server, &["ls", "-q"]).text().lines() {
        server.api("POST", &format!("/sandbox/{left}/purge"), Value::Null);
    }
    (!is_right).then(|| format!("{example}: {status}\n{}", terminal.screen()))
}
