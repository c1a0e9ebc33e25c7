//! PID 1 of a sandbox; see `sandboxd::init`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match sandboxd::init::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
