//! `sandboxctl shell`

use std::io::{self, IsTerminal as _};

use clap::Args;

use client::StartProcess;

use super::context::Context;
use super::directory;
use super::exec;
use super::failure::Failure;
use super::resolve::resolve;
use super::terminal;

const EXAMPLES: &str = "\
Examples:
  sandboxctl shell ID
  echo pwd | sandboxctl shell ID

Without a terminal here it reads commands from its input and ends with it. Enter ~ . leaves the shell, which goes on: `sandboxctl attach` finds it again. Closing the window ends it.";

/// Open a shell in a sandbox, in its app directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Shell {
    /// As whom [default: sandbox]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// The sandbox; if it sleeps, it is woken
    #[arg(value_name = "ID")]
    id: String,
}

impl Shell {
    /// Returns the shell's exit code.
    pub(super) async fn run(&self, context: &Context) -> Result<u8, Failure> {
        let id = resolve(context, &self.id).await?;
        // A terminal passes no end of input on, so a script that ends would leave the shell waiting.
        let is_terminal = io::stdin().is_terminal();
        let start = StartProcess {
            cmd: vec!["bash".to_owned(), "-l".to_owned()],
            env: is_terminal.then(terminal::variable).into_iter().collect(),
            cwd: Some(directory::inside(None, self.user.as_deref())),
            user: self.user.clone(),
            tty: is_terminal.then(terminal::size),
            stdin: true,
            ..StartProcess::default()
        };
        exec::run(context, &id, start).await
    }
}
