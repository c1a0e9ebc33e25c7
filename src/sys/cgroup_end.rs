//! How a control group ends.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use super::cgroup::{Cgroup, Version};
use super::cgroup_files::{CgroupError, access, is_gone, write};
use crate::cgroup_files::remove_directory;

impl Cgroup {
    /// Kills every member and removes the cgroup; one that is not there is no error.
    ///
    /// # Errors
    /// Members are left 10 s after they were killed, or the kernel's.
    pub fn destroy(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + EMPTY_DEADLINE;
        let mut pause = Duration::from_micros(200);
        loop {
            self.kill()?;
            let left = self.directories.iter().find_map(|(_, d)| remove_directory(d).err().map(|e| (d, e)));
            match left {
                None => return Ok(()),
                Some((directory, _)) if Instant::now() > deadline => {
                    return Err(CgroupError::Busy(directory.clone()));
                }
                // The kernel refuses until the last member has been torn down.
                Some(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Sends SIGKILL to every member.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), CgroupError> {
        for (_, directory) in &self.directories {
            if !directory.exists() {
                continue;
            }
            // Since Linux 5.14, version 2 only; also catches what forks meanwhile.
            if self.version == Version::V2 && write(&directory.join("cgroup.kill"), "1").is_ok() {
                return Ok(());
            }
            let procs = directory.join("cgroup.procs");
            let text = match fs::read_to_string(&procs) {
                Ok(text) => text,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(access("read", &procs, error)),
            };
            for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()) {
                kill_member(pid, &procs);
            }
        }
        // In version 1 what is frozen dies only once it is thawed; it comes back to nothing but its death.
        self.thaw()
    }
}

/// How long processes that were killed may take to leave their cgroup.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);

fn kill_member(pid: i32, procs: &Path) {
    let Ok(process) = super::pidfd::PidFd::open(pid) else { return };
    // The descriptor pins the process; if it is still listed now, the number was not used again.
    let listed = fs::read_to_string(procs).is_ok_and(|text| text.lines().any(|l| l.parse() == Ok(pid)));
    if listed {
        // A member that ended meanwhile is what was wanted; any other failure shows as one that is left.
        let _ignored: io::Result<()> = process.kill();
    }
}
