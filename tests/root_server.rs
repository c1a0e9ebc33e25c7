//! The real server with real sandboxes: everything a client, a tenant or an operator may do to it.
//!
//! The tests run in network and mount namespaces of their own, one after the other, as root. Where
//! something is missing they are shown as ignored with the reason; `SANDBOXD_TEST_ROOT=require` makes
//! that a failure.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "test code: a failure is the message"
)]

mod root;
mod support;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Set in the process that has been moved to namespaces of its own.
const INSIDE: &str = "SANDBOXD_TEST_INSIDE";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share ports and cgroups.
    arguments.test_threads = Some(1);
    let required = std::env::var("SANDBOXD_TEST_ROOT").is_ok_and(|v| v == "require");
    if let Some(missing) = support::server::missing() {
        let trials = root::all().into_iter().map(|(name, _)| {
            let reason = missing.clone();
            let kind = if required { String::new() } else { reason.clone() };
            Trial::test(name, move || Err(reason.into())).with_kind(kind).with_ignored_flag(!required)
        });
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    if !arguments.list && std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            "ip link set lo up; exec \"$0\" \"$@\"",
        ]);
        let error = command.arg(own).args(std::env::args().skip(1)).env(INSIDE, "1").exec();
        panic!("unshare: {error}");
    }
    let trial = |(name, test): root::Test| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let mut trials: Vec<_> = root::all().into_iter().map(trial).collect();
    let has_v2 =
        std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|c| c.contains("memory"));
    let of_v2 = root::of_cgroup_v2().into_iter().map(trial);
    // Shown with the reason; `scripts/test vm` runs them where they can run.
    trials.extend(
        of_v2.map(|t| if has_v2 { t } else { t.with_kind("needs cgroup v2").with_ignored_flag(true) }),
    );
    let has_flakey = Command::new("dmsetup")
        .arg("targets")
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("flakey"));
    let of_flakey = root::of_dm_flakey().into_iter().map(trial);
    trials.extend(
        of_flakey
            .map(|t| if has_flakey { t } else { t.with_kind("needs dm-flakey").with_ignored_flag(true) }),
    );
    let is_ours = std::env::var_os("SANDBOXD_TEST_MACHINE").is_some();
    let of_machine = root::of_a_machine().into_iter().map(trial);
    trials.extend(of_machine.map(|t| {
        if is_ours { t } else { t.with_kind("needs a machine of its own").with_ignored_flag(true) }
    }));
    let has_tools = std::env::var_os("SANDBOXD_TEST_TOOLS").is_some();
    let of_tools = root::of_tools().into_iter().map(trial);
    trials.extend(of_tools.map(|t| {
        if has_tools { t } else { t.with_kind("needs SANDBOXD_TEST_TOOLS").with_ignored_flag(true) }
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}
