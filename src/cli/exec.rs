//! `sandboxctl exec`
//!
//! Output comes as the command writes it: its standard output at once, its standard error when it
//! ends, which is what the API's text stream carries. With `--json` both come apart, at the end.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;

use crate::client::ExecChunk;

use super::context::Context;
use super::create::parse_variable;
use super::failure::Failure;
use super::output;
use super::resolve::resolve;

/// Run a command in a sandbox and end with its exit code
#[derive(Debug, Args)]
#[command(override_usage = "sandboxctl exec [OPTIONS] <ID> -- <COMMAND>...")]
pub(super) struct Exec {
    /// A variable of this command; repeat for more
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Give up waiting for the command after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// The sandbox; if it sleeps, it is woken
    #[arg(value_name = "ID")]
    id: String,
    /// The command and its arguments; no shell reads them
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

impl Exec {
    /// Returns the exit code for this process.
    pub(super) async fn run(&self, context: &Context) -> Result<u8, Failure> {
        let id = resolve(context, &self.id).await?;
        let deadline = Duration::from_secs(self.timeout.into());
        if context.is_json {
            let answer = context.client.exec(&id, &self.command_line(), deadline).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Err(context.failure_about(&id, "run a command in", error).await),
            };
            context.emit_json(&answer.json)?;
            return Ok(exit_code(answer.value.exit_code));
        }
        tokio::time::timeout(deadline, self.follow(context, &id, deadline)).await.unwrap_or_else(|_elapsed| {
            Err(Failure::Timeout {
                action: format!("run the command in sandbox {id}"),
                seconds: self.timeout,
            })
        })
    }

    /// Returns what the server is asked to run: exec takes no environment, env(1) does.
    pub(super) fn command_line(&self) -> Vec<String> {
        let mut line = Vec::new();
        if !self.env.is_empty() {
            line.extend(["env".to_owned(), "--".to_owned()]);
            line.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        }
        line.extend(self.command.iter().cloned());
        line
    }

    async fn follow(&self, context: &Context, id: &str, deadline: Duration) -> Result<u8, Failure> {
        let stream = context.client.exec_stream(id, &self.command_line(), deadline).await;
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => return Err(context.failure_about(id, "run a command in", error).await),
        };
        let broken = |error| context.failure(format!("follow the command in sandbox {id}"), error);
        while let Some(chunks) = stream.next().await.map_err(|e| broken(e.into()))? {
            chunks.iter().try_for_each(pass_on)?;
        }
        let (rest, code) = stream.finish().map_err(|e| broken(e.into()))?;
        rest.iter().try_for_each(pass_on)?;
        Ok(exit_code(code))
    }
}

fn pass_on(chunk: &ExecChunk) -> Result<(), Failure> {
    let (stream, data): (&mut dyn Write, _) = match chunk {
        ExecChunk::Stdout(data) => (&mut io::stdout(), data),
        ExecChunk::Stderr(data) => (&mut io::stderr(), data),
    };
    output::emit(stream, data)
}

/// Exit codes of processes have eight bits; what has more, or is negative, is a failure all the same.
fn exit_code(code: i64) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_fit_and_never_become_success() {
        let check = |code, expected| assert_eq!(exit_code(code), expected, "{code}");
        check(0, 0);
        check(137, 137);
        check(256, 255);
        check(-1, 255);
        check(i64::MIN, 255);
    }
}
