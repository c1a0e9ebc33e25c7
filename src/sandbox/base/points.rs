//! Fail points: at each, a test makes a step fail or ends the daemon.

use crate::base::error::Error;

/// The names of the fail points, in the order of the steps: at each, a test makes the step fail or
/// ends the daemon.
pub const STEPS: [&str; 9] = [
    "provision-lease",
    "provision-record",
    "provision-workspace",
    "provision-cgroup",
    "provision-network",
    "provision-bundle",
    "provision-launch",
    "provision-claim",
    "provision-claimed",
];

/// The further fail points of a sandbox's life.
pub const POINTS: [&str; 8] = [
    "record-running",
    "exec",
    "freeze",
    "freeze-record",
    "thaw",
    "stop",
    "delete-record",
    "delete-workspace",
];

/// Fails if a test has asked for it; without the feature `failpoints` it is nothing.
#[cfg_attr(not(feature = "failpoints"), expect(unused_variables, reason = "the points are compiled out"))]
pub(crate) fn fail_point(name: &'static str) -> Result<(), Error> {
    fail::fail_point!(name, |_| Err(Error::FailPoint(name)));
    Ok(())
}
