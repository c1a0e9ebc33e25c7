//! `sandboxctl attach`

use clap::Args;

use super::attached::{Attached, Outcome, exit_code};
use super::context::Context;
use super::exec::result;
use super::failure::Failure;
use super::resolve::{resolve, resolve_process};
use super::session::{Kept, Sink};
use super::signals::Signals;

const EXAMPLES: &str = "\
Examples:
  sandboxctl attach ID PROCESS
  sandboxctl attach --from 4 ID PROCESS
  sandboxctl attach --new ID PROCESS

Ctrl-C ends the following and not the process, unless that has a terminal; then Enter ~ . does.";

/// Follow a process of a sandbox to its end, and end with its exit code
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Attach {
    /// Begin at this byte of its output
    #[arg(long, value_name = "OFFSET", default_value_t = 0, conflicts_with = "new")]
    from: u64,
    /// Show only what it writes from now on
    #[arg(long)]
    new: bool,
    /// Pass standard input on; a process with a terminal gets it anyway
    #[arg(short, long, conflicts_with = "no_stdin")]
    interactive: bool,
    /// Pass no input on
    #[arg(short, long)]
    no_stdin: bool,
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
    /// The process, as `exec -d` and `ps` show it
    #[arg(value_name = "PROCESS")]
    process: String,
}

impl Attach {
    /// Returns the process's exit code.
    pub(super) async fn run(&self, context: &Context) -> Result<u8, Failure> {
        let id = resolve(context, &self.id).await?;
        let process = resolve_process(context, &id, &self.process).await?;
        let mut signals = Signals::catch()?;
        let attached = Attached {
            context,
            sandbox: &id,
            process: &process.id,
            from: if self.new { process.output.end } else { self.from },
            follow: true,
            is_tty: process.tty,
            forwards: !self.no_stdin
                && process.status == "running"
                && (self.interactive || (process.tty && !context.is_json)),
            owns: false,
        };
        let mut sink = if context.is_json { Sink::Kept(Kept::default()) } else { Sink::through() };
        match attached.run(&mut signals, &mut sink).await? {
            Outcome::Left => Ok(0),
            Outcome::Signalled(code) => Ok(code),
            Outcome::Exit(exit) => {
                if let Sink::Kept(kept) = &sink {
                    context.emit_value(&result(&process.id, kept, &exit))?;
                }
                Ok(exit_code(&exit))
            }
        }
    }
}
