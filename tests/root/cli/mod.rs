//! `sandboxctl` as people use it, against the real server.

mod copies;
mod examples;
mod processes;
mod terminals;
mod views;

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::Test;
use crate::support::server::{API, Server};

pub(crate) fn tests() -> Vec<Test> {
    [processes::TESTS, terminals::TESTS, copies::TESTS, views::TESTS, examples::TESTS].concat()
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// A command with the server's address and key, and nothing else in its environment.
fn command(server: &Server, arguments: &[&str]) -> Command {
    command_at(server, &format!("http://127.0.0.1:{API}"), arguments)
}

fn command_at(server: &Server, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::support::programs::sandboxctl());
    command.env_clear().env("SANDBOXD_URL", url).env("SANDBOXD_TOKEN", server.key()).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn run(server: &Server, arguments: &[&str]) -> Ran {
    finish(&mut command(server, arguments), b"")
}

/// Runs a command with an input.
fn run_with(server: &Server, arguments: &[&str], input: &[u8]) -> Ran {
    finish(command(server, arguments).stdin(Stdio::piped()), input)
}

fn finish(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A command that ends without reading it all is none of the test's business.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    Ran {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
