//! `sandboxctl exec`
//!
//! Output comes as the command writes it, byte for byte, the two streams apart; input is passed on when it comes
//! from a file or a pipe. The command belongs to the sandbox: a connection that breaks is made again, and a
//! command that was left can be found by `ps` and followed by `attach`.

use std::io::{self, IsTerminal as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde_json::{Value, json};

use client::{ProcessExit, StartProcess};

use super::attached::{Attached, Outcome, exit_code};
use super::context::Context;
use super::create::parse_variable;
use super::directory;
use super::failure::Failure;
use super::resolve::resolve;
use super::session::{Kept, Sink, note};
use super::signals::Signals;
use super::terminal;
use super::text::printable;

const EXAMPLES: &str = "\
Examples:
  sandboxctl exec ID -- python3 -c 'print(6 * 7)'
  sandboxctl exec ID ls -la
  sandboxctl exec -e NAME=value -w /tmp ID -- bash -lc 'echo $NAME; pwd'
  sandboxctl exec -w '~/workspace' ID pwd
  echo hi | sandboxctl exec ID -- cat
  sandboxctl exec -t ID -- bash -c 'tty && echo a terminal'
  sandboxctl exec -d ID -- sleep 60
  sandboxctl exec --timeout 10 ID -- true
  sandboxctl --json exec ID -- uname -s

Enter ~ . leaves a command that has a terminal; it goes on, and `sandboxctl attach` finds it.";

/// Run a command in a sandbox and end with its exit code
#[derive(Debug, Args)]
#[command(override_usage = "sandboxctl exec [OPTIONS] <ID> [--] <COMMAND>...", after_help = EXAMPLES)]
pub(super) struct Exec {
    /// A variable of this command; repeat for more
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Working directory: absolute, beneath `~`, or relative to the app directory [default: the app directory]
    #[arg(short = 'w', long = "cwd", value_name = "DIRECTORY")]
    cwd: Option<String>,
    /// As whom to run it [default: sandbox]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Give it a terminal, and TERM as it is here
    #[arg(short, long)]
    tty: bool,
    /// Pass standard input on also when it is a terminal
    #[arg(short, long, conflicts_with = "no_stdin")]
    interactive: bool,
    /// Pass no input on, for loops that read their own
    #[arg(short, long)]
    no_stdin: bool,
    /// Leave it running and print the id of its process; it does not keep the sandbox awake
    #[arg(short, long)]
    detach: bool,
    /// Kill it after so many seconds; the exit code is then 124
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    /// The sandbox; if it sleeps, it is woken
    #[arg(value_name = "ID")]
    id: String,
    /// The command and its arguments; no shell reads them. Options of sandboxctl stand before the ID
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Returns the exit code for this process.
    pub(super) async fn run(&self, context: &Context) -> Result<u8, Failure> {
        let id = resolve(context, &self.id).await?;
        run(context, &id, self.start(io::stdin().is_terminal())).await
    }

    /// Returns what the server is asked to start.
    pub(super) fn start(&self, is_terminal: bool) -> StartProcess {
        let is_asked = self.interactive || (self.tty && !self.detach);
        let named = self.env.iter().cloned();
        StartProcess {
            cmd: self.command.clone(),
            // A client's own TERM comes last and wins.
            env: self.tty.then(terminal::variable).into_iter().chain(named).collect(),
            cwd: Some(directory::inside(self.cwd.as_deref(), self.user.as_deref())),
            user: self.user.clone(),
            tty: self.tty.then(terminal::size),
            stdin: !self.no_stdin && (is_asked || (!is_terminal && !self.detach)),
            timeout_s: self.timeout,
            detach: self.detach,
        }
    }
}

/// Starts a process and follows it, unless it is to be left.
pub(super) async fn run(context: &Context, id: &str, start: StartProcess) -> Result<u8, Failure> {
    if context.is_json && start.tty.is_some() && !start.detach {
        return Err(Failure::Usage("use --json and a terminal together: choose one".to_owned()));
    }
    let mut signals = Signals::catch()?;
    let started = match context.client.start_process(id, &start).await {
        Ok(started) => started,
        Err(error) => return Err(context.failure_about(id, "run a command in", error).await),
    };
    let process = started.value.id;
    if start.detach {
        if context.is_json {
            context.emit_json(&started.json)?;
        } else {
            context.emit(format!("{}\n", printable(&process)).as_bytes())?;
        }
        return Ok(0);
    }
    let attached = Attached {
        context,
        sandbox: id,
        process: &process,
        from: 0,
        follow: true,
        is_tty: start.tty.is_some(),
        forwards: start.stdin,
        owns: true,
    };
    let mut sink = if context.is_json { Sink::Kept(Kept::default()) } else { Sink::through() };
    match attached.run(&mut signals, &mut sink).await? {
        Outcome::Left => Ok(0),
        Outcome::Signalled(code) => Ok(code),
        Outcome::Exit(exit) => {
            if let Sink::Kept(kept) = &sink {
                context.emit_value(&result(&process, kept, &exit))?;
            } else if exit.timed_out {
                note(context, false, "the command was killed: its time was over (--timeout)");
            }
            Ok(exit_code(&exit))
        }
    }
}

/// One object with everything; output that is not UTF-8 comes in base64 under another name.
pub(super) fn result(process: &str, kept: &Kept, exit: &ProcessExit) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("process".to_owned(), process.into());
    for (name, data) in [("stdout", &kept.stdout), ("stderr", &kept.stderr)] {
        match std::str::from_utf8(data) {
            Ok(text) => object.insert(name.to_owned(), text.into()),
            Err(_) => object.insert(format!("{name}_base64"), BASE64.encode(data).into()),
        };
    }
    object.insert("exit_code".to_owned(), exit.exit_code.into());
    if let Some(signal) = &exit.signal {
        object.insert("signal".to_owned(), signal.as_str().into());
    }
    if exit.timed_out {
        object.insert("timed_out".to_owned(), true.into());
    }
    if kept.is_truncated {
        object.insert("truncated".to_owned(), true.into());
    }
    if kept.dropped_bytes > 0 {
        object.insert("dropped_bytes".to_owned(), json!(kept.dropped_bytes));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    fn start(arguments: &str, is_terminal: bool) -> StartProcess {
        let line = Line::try_parse_from(format!("exec {arguments} 01J -- cat").split_whitespace()).unwrap();
        line.exec.start(is_terminal)
    }

    #[test]
    fn a_command_needs_no_dashes_before_it() {
        let start = |line: &str| {
            let line = Line::try_parse_from(line.split_whitespace()).unwrap();
            (line.exec.id.clone(), line.exec.start(true))
        };
        for line in ["exec -w app/x 01J ls -la -- -w", "exec -w app/x 01J -- ls -la -- -w"] {
            let (id, start) = start(line);
            assert_eq!((id.as_str(), start.cmd.join(" ").as_str()), ("01J", "ls -la -- -w"), "{line}");
            assert_eq!(start.cwd.as_deref(), Some("/home/sandbox/workspace/app/app/x"));
        }
        assert!(Line::try_parse_from(["exec", "01J"]).is_err());
    }

    #[test]
    fn a_terminal_has_a_name() {
        assert!(start("-t", true).env.contains_key("TERM") && start("", true).env.is_empty());
        assert_eq!(start("-t -e TERM=vt100", true).env["TERM"], "vt100");
    }

    #[test]
    fn input_is_passed_on_when_there_is_some_or_when_asked() {
        let check = |arguments: &str, is_terminal: bool, stdin: bool| {
            assert_eq!(start(arguments, is_terminal).stdin, stdin, "{arguments} {is_terminal}");
        };
        check("", false, true);
        check("", true, false);
        check("-i", true, true);
        check("-t", true, true);
        check("-n", false, false);
        check("-d", false, false);
        check("-di", true, true);
        check("-dt", true, false);
    }

    #[test]
    fn what_is_not_text_is_shown_in_base64() {
        let kept = Kept { stdout: b"\xff\0".to_vec(), stderr: b"err\n".to_vec(), ..Kept::default() };
        let exit = ProcessExit { exit_code: 137, signal: Some("KILL".to_owned()), timed_out: true };
        assert_eq!(
            result("01P", &kept, &exit),
            json!({"process": "01P", "stdout_base64": "/wA=", "stderr": "err\n", "exit_code": 137,
                "signal": "KILL", "timed_out": true})
        );
    }
}
