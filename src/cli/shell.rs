//! `sandboxctl shell`

use clap::Args;

use crate::client::StartProcess;

use super::context::Context;
use super::exec;
use super::failure::Failure;
use super::resolve::resolve;
use super::terminal;

const EXAMPLES: &str = "\
Examples:
  sandboxctl shell ID
  echo 'pwd; exit' | sandboxctl shell ID

Enter ~ . leaves the shell, which goes on: `sandboxctl attach` finds it again. Closing the window ends it.";

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
        let terminal = std::env::var("TERM").ok().filter(|name| is_terminal_name(name));
        let start = StartProcess {
            cmd: vec!["bash".to_owned(), "-l".to_owned()],
            env: [("TERM".to_owned(), terminal.unwrap_or_else(|| "xterm-256color".to_owned()))].into(),
            cwd: Some("/home/sandbox/workspace/app".to_owned()),
            user: self.user.clone(),
            tty: Some(terminal::size()),
            stdin: true,
            ..StartProcess::default()
        };
        exec::run(context, &id, start).await
    }
}

fn is_terminal_name(name: &str) -> bool {
    !name.is_empty()
        && name != "dumb"
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+._".contains(&b))
}
