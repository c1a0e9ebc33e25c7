//! The command line: what `sandboxctl` understands, and how it ends.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use client::{Client, Endpoint, Timeouts};

use super::context::Context;
use super::failure::{ExitStatus, Failure};
use super::{
    attach, completions, cp, create, events, exec, key, kill, limits, logs, ls, open, output, pause, presets,
    ps, purge, resume, rm, shell, show, start, stats, stop,
};

const URL: &str = "http://127.0.0.1:9090";

/// Over the options that every command takes, in its help.
const EVERYWHERE: &str = "Options of every command";

const AFTER_HELP: &str = "\
Environment:
  SANDBOXD_URL       address of the server (default: http://127.0.0.1:9090)
  SANDBOXD_TOKEN     key for the API
  SANDBOXD_DATA_DIR  the server's data directory, where a key is looked for when
                     SANDBOXD_TOKEN is not set and the server is on this machine
                     (default: /var/lib/sandboxd)
  NO_COLOR           no colours

Exit codes: 64 usage, 65 copied but not all, 66 no such sandbox, process or file, 69 no server,
70 a bug, 73 conflict, 74 result not written, 75 try again later, 76 not to be believed,
77 no permission. `exec`, `shell` and `attach` end with the command's own code: 128 + n after
signal n, 124 after --timeout, 126 and 127 for one that cannot be started or is not there.

An ID, and a PROCESS, may be shortened as long as it stays unique. `sandboxctl help COMMAND`
has examples, in which ID stands for that of a sandbox and PROCESS for that of a process.";

/// Runs commands in sandboxes and looks after them.
#[derive(Debug, Parser)]
#[command(name = "sandboxctl", version, after_help = AFTER_HELP, max_term_width = 100)]
struct CommandLine {
    /// Address of the server
    #[arg(long, global = true, env = "SANDBOXD_URL", hide_env = true, value_name = "URL", default_value = URL, help_heading = EVERYWHERE)]
    url: String,
    /// Print the server's JSON instead of tables; errors too
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Ls),
    Create(Box<create::Create>),
    Show(show::Show),
    Exec(exec::Exec),
    Shell(shell::Shell),
    Ps(ps::Ps),
    Attach(attach::Attach),
    Kill(kill::Kill),
    Logs(logs::Logs),
    Cp(cp::Cp),
    Open(open::Open),
    Stats(stats::Stats),
    Events(events::Events),
    Stop(stop::Stop),
    Start(start::Start),
    Limits(limits::Limits),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Rm(rm::Rm),
    Purge(purge::Purge),
    Presets(presets::Presets),
    Completions(completions::Completions),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse_from(std::env::args_os()) {
        Ok(line) => line,
        Err(error) => return explain(&error),
    };
    let is_json = line.json;
    match run(line) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.report(&mut io::stderr().lock(), is_json);
            failure.status().into()
        }
    }
}

fn run(line: CommandLine) -> Result<u8, Failure> {
    // An empty variable is how some shells and compose files say "not set".
    let url = if line.url.is_empty() { URL } else { &line.url };
    let endpoint: Endpoint = url.parse().map_err(Failure::Endpoint)?;
    let token = std::env::var("SANDBOXD_TOKEN").ok();
    let data_dir = std::env::var_os("SANDBOXD_DATA_DIR").map(|dir: OsString| PathBuf::from(dir));
    let (token, key) = key::find(&endpoint, token, data_dir)?;
    let context = Context {
        client: Client::with_timeouts(endpoint, token.as_deref(), Timeouts::default()),
        key,
        is_json: line.json,
        is_coloured: output::is_colour_wanted(),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let result = runtime.block_on(dispatch(&line.command, &context));
    // A write to a pipe that nobody reads must not keep the program from ending.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: &Command, context: &Context) -> Result<u8, Failure> {
    let done = |()| ExitStatus::Done.code();
    match command {
        // Their output is that of a process, which a reader that goes away ends.
        Command::Exec(command) => return command.run(context).await,
        Command::Shell(command) => return command.run(context).await,
        Command::Attach(command) => return command.run(context).await,
        Command::Logs(command) => command.run(context).await,
        Command::Ls(command) => command.run(context).await.map(done),
        Command::Create(command) => command.run(context).await.map(done),
        Command::Show(command) => command.run(context).await.map(done),
        Command::Ps(command) => command.run(context).await.map(done),
        Command::Kill(command) => command.run(context).await.map(done),
        Command::Cp(command) => command.run(context).await.map(done),
        Command::Open(command) => command.run(context).await.map(done),
        Command::Stats(command) => command.run(context).await.map(done),
        Command::Events(command) => command.run(context).await.map(done),
        Command::Stop(command) => command.run(context).await.map(done),
        Command::Start(command) => command.run(context).await.map(done),
        Command::Limits(command) => command.run(context).await.map(done),
        Command::Pause(command) => command.run(context).await.map(done),
        Command::Resume(command) => command.run(context).await.map(done),
        Command::Rm(command) => command.run(context).await.map(done),
        Command::Purge(command) => command.run(context).await.map(done),
        Command::Presets(command) => command.run(context).await.map(done),
        Command::Completions(command) => command.run(CommandLine::command()).map(done),
    }
    .or_else(ignore_broken_pipe)
}

/// `sandboxctl ls | head -1` did all that was wanted of it.
fn ignore_broken_pipe(failure: Failure) -> Result<u8, Failure> {
    match failure {
        Failure::BrokenPipe => Ok(ExitStatus::Done.code()),
        other => Err(other),
    }
}

/// Writes help, version, or what is wrong with a command line.
fn explain(error: &clap::Error) -> ExitCode {
    let is_error = error.use_stderr();
    // What cannot be parsed says nowhere else whether JSON is wanted; behind `--` are words of a command.
    let mut words = std::env::args_os().take_while(|word| word != "--");
    if is_error && words.any(|word| word == "--json") {
        misuse(error).report(&mut io::stderr().lock(), true);
        return ExitStatus::Usage.into();
    }
    let is_terminal = if is_error { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let text = error.render();
    let text = if is_terminal && !no_colour { text.ansi().to_string() } else { text.to_string() };
    let stream: &mut dyn Write = if is_error { &mut io::stderr() } else { &mut io::stdout() };
    match (output::emit(stream, text.as_bytes()), is_error) {
        (_, true) => ExitStatus::Usage.into(),
        (Ok(()) | Err(Failure::BrokenPipe), false) => ExitStatus::Done.into(),
        (Err(failure), false) => failure.status().into(),
    }
}

/// What is wrong with a command line, without the help that people are shown beneath it.
fn misuse(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let paragraphs = text.trim_start_matches("error: ").split("\n\n");
    let first = paragraphs.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).next();
    Failure::Misuse(first.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<CommandLine, clap::error::ErrorKind> {
        CommandLine::try_parse_from([&["sandboxctl"], arguments].concat()).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn options_of_all_commands_stand_anywhere() {
        let line = parse(&["ls", "--json", "--url", "http://h:1"]).unwrap();
        assert_eq!((line.json, line.url.as_str()), (true, "http://h:1"));
        assert!(parse(&["--json", "ls"]).unwrap().json);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for arguments in [
            &[][..],
            &["frobnicate"],
            &["ls", "extra"],
            &["stop"],
            &["create", "--port", "0"],
            &["create", "--port", "65536"],
            &["create", "--port", "http"],
            &["create", "--env", "novalue"],
            &["create", "--env", "=x"],
            &["create", "--id", "../x"],
            &["create", "--memory", "lots"],
            &["exec", "01J"],
            &["exec", "01J", "--"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_command_line_fits_into_an_object() {
        let error = CommandLine::try_parse_from(["sandboxctl", "create", "--port", "0"]).unwrap_err();
        let mut text = Vec::new();
        misuse(&error).report(&mut text, true);
        let object: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(object["error"], "invalid value '0' for '--port <N>': 0 is not in 1..=65535");
        assert_eq!((&object["exit_code"], object["remedy"].is_string()), (&64.into(), true));
        let error = CommandLine::try_parse_from(["sandboxctl", "show"]).unwrap_err();
        assert_eq!(misuse(&error).to_string(), "the following required arguments were not provided: <ID>");
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let line = parse(&["exec", "-e", "A=1", "-e", "B=x=y", "01J", "--", "ls", "-la", "--json"]).unwrap();
        assert!(!line.json);
        let Command::Exec(command) = line.command else { panic!("{:?}", line.command) };
        let start = command.start(false);
        assert_eq!(start.cmd, ["ls", "-la", "--json"]);
        assert_eq!(
            start.env.into_iter().collect::<Vec<_>>(),
            [("A".into(), "1".into()), ("B".into(), "x=y".into())]
        );
    }
}
