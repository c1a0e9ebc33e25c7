//! PID 1 of a sandbox; see `init`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match init::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
