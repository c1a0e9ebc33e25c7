//! The daemon; see `daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main()
}
