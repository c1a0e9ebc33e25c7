//! `sandboxctl`: the commands of `sandboxd::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandboxd::cli::main()
}
