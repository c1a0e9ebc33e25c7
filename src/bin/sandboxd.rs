//! The daemon; see `sandboxd::daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandboxd::daemon::main()
}
