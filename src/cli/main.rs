//! `sandboxctl`: the commands of `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
