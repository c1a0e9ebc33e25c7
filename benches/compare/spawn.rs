//! Starts rivals, fairly: directly by posix_spawn(3), no shell between, nothing inherited but the environment.
#![expect(
    clippy::disallowed_methods,
    reason = "a bench measures other programs; sys::process::command is for the daemon's own children"
)]

use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Trouble;

/// Runs a program to its end and returns how long that took.
pub(crate) fn run(arguments: &[&str]) -> Result<Duration, Trouble> {
    let started = Instant::now();
    // Files, not pipes, for output: a container that lives on would keep a pipe open.
    let status = command(arguments)?.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = started.elapsed();
    match status {
        Ok(status) if status.success() => Ok(took),
        Ok(status) => Err(Trouble::new(format!("`{}` ended with {status}", arguments.join(" ")))),
        Err(error) => Err(Trouble::because(format!("start `{}`", arguments.join(" ")), &error)),
    }
}

/// Runs a program and returns how long it took until the first byte of its standard output arrived.
pub(crate) fn first_byte(arguments: &[&str]) -> Result<Duration, Trouble> {
    let name = || format!("run `{}`", arguments.join(" "));
    let started = Instant::now();
    let mut child = command(arguments)?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Trouble::because(name(), &e))?;
    let mut stdout = child.stdout.take().ok_or_else(|| Trouble::new("take a pipe"))?;
    let read = stdout.read_exact(&mut [0; 1]);
    let took = started.elapsed();
    let rest = io::copy(&mut stdout, &mut io::sink());
    let output = child.wait_with_output().map_err(|e| Trouble::because(name(), &e))?;
    match (read.and(rest), output.status.success()) {
        (Ok(_), true) => Ok(took),
        _ => Err(Trouble::new(format!("{}: {}: {}", name(), output.status, tail(&output.stderr)))),
    }
}

/// Runs a program that sets something up and returns what it printed.
pub(crate) fn output(arguments: &[&str]) -> Result<String, Trouble> {
    let name = || format!("run `{}`", arguments.join(" "));
    let output = command(arguments)?.output().map_err(|e| Trouble::because(name(), &e))?;
    if !output.status.success() {
        return Err(Trouble::new(format!("{}: {}: {}", name(), output.status, tail(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `from | to`.
pub(crate) fn pipe(from: &[&str], to: &[&str]) -> Result<(), Trouble> {
    let name = || format!("run `{} | {}`", from.join(" "), to.join(" "));
    let mut source =
        command(from)?.stdout(Stdio::piped()).spawn().map_err(|e| Trouble::because(name(), &e))?;
    let stdout = source.stdout.take().ok_or_else(|| Trouble::new("take a pipe"))?;
    let target = command(to)?.stdin(stdout).output().map_err(|e| Trouble::because(name(), &e))?;
    let source = source.wait().map_err(|e| Trouble::because(name(), &e))?;
    if source.success() && target.status.success() {
        return Ok(());
    }
    Err(Trouble::new(format!("{}: {source}, {}: {}", name(), target.status, tail(&target.stderr))))
}

fn command(arguments: &[&str]) -> Result<Command, Trouble> {
    let (program, rest) = arguments.split_first().ok_or_else(|| Trouble::new("start nothing"))?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null());
    Ok(command)
}

/// Returns the last line of an error output, which is the one that says why.
fn tail(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned()
}
