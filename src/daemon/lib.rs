//! Wires everything, and owns start, readiness and drain.

mod args;
mod check;
pub mod config;
mod directories;
mod exit;
mod isolation;
mod key;
mod limits;
mod lock;
mod memory;
mod record;
mod reload;
mod rootfs;
mod serve;
mod settings;
mod supervise;
mod tables;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use exit::Exit;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // Help that cannot be printed has no other place to go.
            let _ignored: std::io::Result<()> = error.print();
            return exit.into();
        }
    };
    let flags = args.settings();
    let exit = match args.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(&flags),
        Command::Supervise => supervise::run(&flags),
        Command::Check => check::run(&flags),
        Command::CheckConfig => check::config(&flags),
        Command::Health => check::health(&flags),
        Command::Backup { file } => record::backup(&flags, &file),
        Command::Restore { file } => record::restore(&flags, &file),
        Command::Launcher { init, writable } => serve::launcher(init, writable),
    };
    exit.into()
}
