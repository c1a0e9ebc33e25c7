//! `sandboxctl completions`

use std::io;

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;
use super::output;

const EXAMPLES: &str = "\
Examples:
  sandboxctl completions bash > sandboxctl.bash
  sandboxctl completions zsh > _sandboxctl
  sandboxctl completions fish > sandboxctl.fish

bash reads them from /etc/bash_completion.d, zsh from a directory in its $fpath, fish from
~/.config/fish/completions. No server is asked.";

/// Print what makes a shell complete these commands
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "sandboxctl", &mut script);
        output::emit(&mut io::stdout().lock(), &script)
    }
}
