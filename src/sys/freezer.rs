//! Freezing a cgroup: version 2's `cgroup.freeze` (`Documentation/admin-guide/cgroup-v2.rst`) and the
//! freezer controller of version 1 (`cgroup-v1/freezer-subsystem.rst`).
//!
//! What is frozen runs no instruction until it is thawed: its memory, sockets and timers stay. On version
//! 2 it can be killed as it is; on version 1 it dies when it is thawed.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::cgroup_files::{CgroupError, access, is_gone, write};

/// The first pause between two looks whether everything is frozen; it doubles.
const PAUSE: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// What a cgroup's freezer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    Thawed,
    /// Asked to freeze; a member does not stop.
    Freezing,
    Frozen,
}

/// The file that is written, and the words for it.
struct Switch {
    path: PathBuf,
    freeze: &'static str,
    thaw: &'static str,
}

impl Cgroup {
    /// Freezes every member and returns once none runs any more. After a failure everything runs.
    ///
    /// # Errors
    /// A member cannot be stopped in time, such as one in uninterruptible sleep; or the kernel's.
    pub fn freeze(&self, deadline: Duration) -> Result<(), CgroupError> {
        let switch = self.switch().ok_or(CgroupError::NoFreezer)?;
        write(&switch.path, switch.freeze)?;
        let begun = Instant::now();
        let mut pause = PAUSE;
        loop {
            match self.freezer() {
                Ok(Freezer::Frozen) => return Ok(()),
                Ok(Freezer::Freezing | Freezer::Thawed) if begun.elapsed() < deadline => thread::sleep(pause),
                failed => {
                    self.thaw()?;
                    failed?;
                    return Err(CgroupError::Unfrozen { path: switch.path, waited: deadline });
                }
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Lets every member run again; one that is not frozen, or not there, is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let Some(switch) = self.switch() else { return Ok(()) };
        match write(&switch.path, switch.thaw) {
            Err(CgroupError::Access { source, .. }) if is_gone(&source) => Ok(()),
            other => other,
        }
    }

    /// Asks what the freezer is doing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn freezer(&self) -> Result<Freezer, CgroupError> {
        let Some(switch) = self.switch() else { return Ok(Freezer::Thawed) };
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(|e| access("read", path, e));
        let state = read(&switch.path)?;
        if !self.is_v2() {
            return Ok(match state.trim() {
                "FROZEN" => Freezer::Frozen,
                "FREEZING" => Freezer::Freezing,
                _ => Freezer::Thawed,
            });
        }
        if state.trim() == "0" {
            return Ok(Freezer::Thawed);
        }
        let events = read(&switch.path.with_file_name("cgroup.events"))?;
        let is_frozen = events.lines().any(|line| line == "frozen 1");
        Ok(if is_frozen { Freezer::Frozen } else { Freezer::Freezing })
    }

    /// `None` where there is no freezer, or no such cgroup.
    fn switch(&self) -> Option<Switch> {
        let (name, freeze, thaw) =
            if self.is_v2() { ("cgroup.freeze", "1", "0") } else { ("freezer.state", "FROZEN", "THAWED") };
        // Controllers of version 1 may share a hierarchy, so the file is looked for in all of ours.
        let path = self.directories().map(|d| d.join(name)).find(|p| p.exists())?;
        Some(Switch { path, freeze, thaw })
    }
}
