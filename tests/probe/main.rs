//! Looks out from inside: runs as a workload in a sandbox and tries everything that must not work.
//!
//! ```text
//! sandbox-probe check [--root yes] [--token N] [--namespace LINK] [--pid N] [--address A] [--path P] [--host-name H]
//! sandbox-probe init FILTER PROGRAM [ARGUMENT…]  a PID 1 that cannot be looked into, for other runtimes; loads
//!                                                a filter in the kernel's form from a file, or none from "-"
//! sandbox-probe dumpable-init …               one that can
//! sandbox-probe calls                           lists the system calls of the table
//! sandbox-probe plant N                   leaves one of everything that must not be seen elsewhere
//! sandbox-probe unplant N
//! ```
//!
//! With `--root yes` it runs as root of a user namespace and looks for what that has beyond what it may have.
//! Prints a line for each finding, then how much was looked at; ends with 0 when nothing was found.
//! Static, so that it runs in any root file system.

#![expect(unsafe_code, reason = "it makes the calls that a hostile program makes")]
#![expect(clippy::disallowed_methods, reason = "it is a workload, not part of the daemon")]

mod calls;
mod files;
mod kernel;
mod neighbours;
mod report;
mod status;
mod switches;

use std::process::{Command, ExitCode};
use std::slice::Iter;

use neighbours::Outside;
use report::Report;

const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let token = |text: Option<&String>| text.and_then(|t| t.parse().ok());
    match arguments.first().map(String::as_str) {
        Some("init") => init(arguments.get(1..).unwrap_or_default(), false),
        Some("dumpable-init") => init(arguments.get(1..).unwrap_or_default(), true),
        Some("calls") => {
            calls::print_names();
            ExitCode::SUCCESS
        }
        Some("plant") => match token(arguments.get(1)).map(neighbours::plant) {
            Some(Ok(())) => ExitCode::SUCCESS,
            _ => ExitCode::from(USAGE),
        },
        Some("unplant") => token(arguments.get(1)).map_or_else(
            || ExitCode::from(USAGE),
            |token| {
                neighbours::unplant(token);
                ExitCode::SUCCESS
            },
        ),
        Some("check") => outside(arguments.get(1..).unwrap_or_default().iter())
            .map_or_else(|| ExitCode::from(USAGE), |o| check(&o)),
        _ => ExitCode::from(USAGE),
    }
}

fn outside(mut arguments: Iter<'_, String>) -> Option<Outside> {
    let mut all = Outside::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--root" => all.is_root = value == "yes",
            "--token" => all.tokens.push(value.parse().ok()?),
            "--namespace" => all.namespaces.push(value.clone()),
            "--pid" => all.pids.push(value.parse().ok()?),
            "--address" => all.addresses.push(value.parse().ok()?),
            "--path" => all.paths.push(value.clone()),
            "--host-name" => all.host_name = Some(value.clone()),
            _ => return None,
        }
    }
    Some(all)
}

fn check(outside: &Outside) -> ExitCode {
    let mut report = Report::default();
    status::check(&mut report, outside.is_root);
    files::check(&mut report, outside.is_root);
    switches::check(&mut report);
    calls::check(&mut report);
    neighbours::check(&mut report, outside);
    if report.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Stands in for `sandbox-init` under another runtime: not dumpable, so that only its restrictions differ.
fn init(command: &[String], is_dumpable: bool) -> ExitCode {
    let [filter, program, arguments @ ..] = command else { return ExitCode::from(USAGE) };
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(is_dumpable), 0, 0, 0) };
    if filter != "-" && !std::fs::read(filter).is_ok_and(|program| kernel::load_filter(&program)) {
        return ExitCode::from(USAGE);
    }
    let ended = Command::new(program).args(arguments).status();
    ended.map_or_else(
        |_e| ExitCode::from(USAGE),
        |status| if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE },
    )
}
