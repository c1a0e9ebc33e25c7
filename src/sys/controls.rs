//! The limits of a cgroup, as files of both versions: the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/{memory,blkio-controller}.rst`,
//! `scheduler/sched-bwc.rst`.

use std::fs;
use std::io;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::cgroup::{Cgroup, Hierarchy, Version};
use super::cgroup_files::{CgroupError, SOCKETS_FILE, write};
use crate::cgroup_files::make_directory;

/// The period in which the quota of processors is counted: the kernel's own.
const CPU_PERIOD_US: u64 = 100_000;
/// What a weight of 100 is in `cpu.shares`: both are the kernel's default.
const SHARES_PER_HUNDRED: u64 = 1024;
/// The least that `cpu.shares` takes.
const SHARES_MIN: u64 = 2;
/// What a new cgroup has.
const WEIGHT: u32 = 100;
/// Version 1 counts the buffers of sockets apart from all other memory: a sandbox may hold this share of its
/// `memory_max` in them besides.
const SOCKETS_SHARE: u64 = 4;
/// Less leaves a package manager's dozen of connections without windows: 8 MiB are 128 KiB for each of 64.
const SOCKETS_MIN: u64 = 8 << 20;
/// The host's TCP is slowed down as a whole once all sockets together hold a sixteenth of its memory
/// (`tcp_mem`, man 7 tcp): with 64 MiB it takes two dozen sandboxes to get a host of 24 GiB there.
const SOCKETS_MAX: u64 = 64 << 20;
/// What a cgroup may use; bytes and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub memory_max: u64,
    /// `None`: not throttled before the hard limit.
    pub memory_high: Option<u64>,
    pub swap_max: u64,
    pub oom_group: bool,
    /// In thousandths of a processor; `None`: whatever is free.
    pub cpu_max_milli: Option<u32>,
    pub cpu_weight: u32,
    pub pids_max: u64,
    pub io_weight: u32,
    /// The disk that is meant, and how much of it; `None`: there is no disk that could be limited.
    pub io: Option<IoLimit>,
}

/// How much of a disk may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoLimit {
    pub disk: Disk,
    /// Bytes and requests in a second: read, written. `None`: whatever is free.
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// A whole block device: limits of a partition are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    major: u32,
    minor: u32,
}

/// Which limits the control groups of a host enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controls {
    pub memory_high: bool,
    pub swap_max: bool,
    pub oom_group: bool,
    pub cpu_max: bool,
    pub cpu_weight: bool,
    pub io_max: bool,
    /// Whether the buffers of TCP and UDP sockets are limited at all.
    pub sockets: bool,
}

impl Hierarchy {
    /// Makes a cgroup and writes its limits.
    ///
    /// # Errors
    /// The kernel's; what was made is removed again.
    pub fn create(&self, leaf: &str, settings: &Settings) -> Result<Cgroup, CgroupError> {
        let cgroup = self.leaf(leaf);
        let made = cgroup.directories.iter().try_for_each(|(_, d)| make_directory(d));
        match made.and_then(|()| cgroup.limit_new(settings)) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                for (_, directory) in &cgroup.directories {
                    // Best effort: the first error is the one to tell, and the next start sweeps.
                    let _ignored: io::Result<()> = fs::remove_dir(directory);
                }
                Err(error)
            }
        }
    }

    /// Which limits are enforced, of what is needed beyond memory and pids.
    pub fn controls(&self) -> Controls {
        if self.version() == Version::V2 {
            return Controls {
                memory_high: true,
                swap_max: self.has("memory", "memory.swap.max"),
                oom_group: true,
                cpu_max: self.has("cpu", "cpu.max"),
                cpu_weight: self.has("cpu", "cpu.weight"),
                io_max: self.has("io", "io.max"),
                // They are part of `memory.current`.
                sockets: counts_sockets(),
            };
        }
        Controls {
            memory_high: false,
            swap_max: self.has("memory", "memory.memsw.limit_in_bytes"),
            oom_group: false,
            cpu_max: self.has("cpu", "cpu.cfs_quota_us"),
            cpu_weight: self.has("cpu", "cpu.shares"),
            io_max: self.has("blkio", "blkio.throttle.read_bps_device"),
            sockets: self.has("memory", SOCKETS_FILE) && counts_sockets(),
        }
    }

    /// Whether a disk is shared by weight: by its scheduler, or by its cost model, which only the root cgroup of the
    /// host tells of. That the files of weights are there says neither.
    pub fn weighs(&self, disk: Disk) -> bool {
        let Disk { major, minor } = disk;
        let scheduler = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/queue/scheduler"));
        let is_fair = scheduler.is_ok_and(|text| ["[bfq]", "[cfq]"].iter().any(|name| text.contains(name)));
        if self.version() != Version::V2 {
            return is_fair && self.ours("blkio").is_some();
        }
        let root = self.ours("io").and_then(Path::parent);
        let qos = root.and_then(|root| fs::read_to_string(root.join("io.cost.qos")).ok());
        let is_costed = qos.is_some_and(|text| has_cost_model(&text, disk));
        (is_fair || is_costed) && self.has("io", "io.max")
    }

    /// Whether our cgroups have a control file.
    fn has(&self, controller: &str, file: &str) -> bool {
        let Some(ours) = self.ours(controller) else { return false };
        if ours.exists() {
            return ours.join(file).exists();
        }
        // Nothing of ours has been made yet. The root of version 2 has hardly any files: whether the controller
        // can be had has to do.
        let Some(root) = ours.parent() else { return false };
        if self.version() != Version::V2 {
            return root.join(file).exists();
        }
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        controllers.split_ascii_whitespace().any(|c| c == controller)
    }
}

impl Cgroup {
    /// Writes limits of a cgroup that runs and has others. One whose file is not there cannot be enforced, which
    /// [`Hierarchy::controls`] tells; memory and pids always can.
    ///
    /// # Errors
    /// The kernel's; what was written before stays.
    pub fn limit(&self, from: &Settings, to: &Settings) -> Result<(), CgroupError> {
        self.change_memory(from, to)?;
        if from.pids_max != to.pids_max {
            write(&self.directory("pids").join("pids.max"), &to.pids_max.to_string())?;
        }
        if from.cpu_max_milli != to.cpu_max_milli {
            self.write_cpu_max(to.cpu_max_milli)?;
        }
        if from.cpu_weight != to.cpu_weight {
            self.write_cpu_weight(to.cpu_weight)?;
        }
        if from.io_weight != to.io_weight {
            self.write_io_weight(to.io_weight)?;
        }
        to.io.filter(|_| from.io != to.io).map_or(Ok(()), |io| self.write_io(&io))
    }

    /// Writes the limits of one that has just been made: what the kernel gives anyway is not written.
    pub(super) fn limit_new(&self, settings: &Settings) -> Result<(), CgroupError> {
        let fresh = Settings {
            memory_max: u64::MAX,
            memory_high: None,
            swap_max: u64::MAX,
            oom_group: false,
            cpu_max_milli: None,
            cpu_weight: WEIGHT,
            pids_max: u64::MAX,
            io_weight: WEIGHT,
            io: settings.io.map(|io| IoLimit::unlimited(io.disk)),
        };
        self.limit(&fresh, settings)
    }

    /// Version 1 has no `memory.high`; its `memory.soft_limit_in_bytes` is the nearest thing: it is
    /// reclaimed first when the host is short, but is not slowed down. It limits memory and swap together.
    fn change_memory(&self, from: &Settings, to: &Settings) -> Result<(), CgroupError> {
        let memory = self.directory("memory");
        if self.is_v2() {
            if from.memory_high != to.memory_high {
                self.set_memory_high(to.memory_high)?;
            }
            if from.memory_max != to.memory_max {
                write(&memory.join("memory.max"), &to.memory_max.to_string())?;
            }
            if from.swap_max != to.swap_max {
                self.write_if_there("memory", "memory.swap.max", &to.swap_max.to_string())?;
            }
            if from.oom_group != to.oom_group {
                write(&memory.join("memory.oom.group"), if to.oom_group { "1" } else { "0" })?;
            }
            return Ok(());
        }
        if from.memory_high != to.memory_high {
            let soft = to.memory_high.map_or_else(|| "-1".to_owned(), |h| h.to_string());
            write(&memory.join("memory.soft_limit_in_bytes"), &soft)?;
        }
        if (from.memory_max, from.swap_max) == (to.memory_max, to.swap_max) {
            return Ok(());
        }
        if from.memory_max != to.memory_max {
            self.write_if_there("memory", SOCKETS_FILE, &sockets_max(to.memory_max).to_string())?;
        }
        // The limit of both may never be below that of memory: on the way up it goes first.
        let both = to.memory_max.saturating_add(to.swap_max).to_string();
        let max = (memory.join("memory.limit_in_bytes"), to.memory_max.to_string());
        match write(&max.0, &max.1) {
            Err(CgroupError::Access { source, .. }) if source.kind() == ErrorKind::InvalidInput => {
                self.write_if_there("memory", "memory.memsw.limit_in_bytes", &both)?;
                return write(&max.0, &max.1);
            }
            other => other?,
        }
        self.write_if_there("memory", "memory.memsw.limit_in_bytes", &both)
    }

    /// Writes `cpu.max`, or the quota of version 1.
    fn write_cpu_max(&self, milli: Option<u32>) -> Result<(), CgroupError> {
        let (file, unlimited) = if self.is_v2() { ("cpu.max", "max") } else { ("cpu.cfs_quota_us", "-1") };
        // A hundred microseconds of the kernel's usual period of 100 ms are a thousandth.
        let quota = milli.map(|milli| (u64::from(milli) * CPU_PERIOD_US / 1000).to_string());
        self.write_if_there("cpu", file, quota.as_deref().unwrap_or(unlimited))
    }

    /// Changes the weight of one that runs, between the kernel's 1 and 10,000.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_cpu_weight(&self, weight: u32) -> Result<(), CgroupError> {
        self.write_cpu_weight(weight)
    }

    fn write_cpu_weight(&self, weight: u32) -> Result<(), CgroupError> {
        if self.is_v2() {
            return self.write_if_there("cpu", "cpu.weight", &weight.to_string());
        }
        let shares = (u64::from(weight) * SHARES_PER_HUNDRED / 100).max(SHARES_MIN);
        self.write_if_there("cpu", "cpu.shares", &shares.to_string())
    }

    /// Which of the files there is, is the kernel's configuration: its cost model, or the scheduler BFQ. Only the
    /// former takes more than 1000.
    fn write_io_weight(&self, weight: u32) -> Result<(), CgroupError> {
        let least = weight.min(1000);
        if self.is_v2() {
            self.write_if_there("io", "io.weight", &weight.to_string())?;
            return self.write_if_there("io", "io.bfq.weight", &least.to_string());
        }
        self.write_if_there("blkio", "blkio.weight", &least.max(10).to_string())?;
        self.write_if_there("blkio", "blkio.bfq.weight", &least.to_string())
    }

    /// Writes `io.max`, or what version 1 throttles by: reads, and writes that are not cached.
    fn write_io(&self, io: &IoLimit) -> Result<(), CgroupError> {
        let Disk { major, minor } = io.disk;
        if self.is_v2() {
            let text = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |n| n.to_string());
            let (rbps, wbps, riops, wiops) =
                (text(io.read_bps), text(io.write_bps), text(io.read_iops), text(io.write_iops));
            let line = format!("{major}:{minor} rbps={rbps} wbps={wbps} riops={riops} wiops={wiops}");
            return self.write_if_there("io", "io.max", &line);
        }
        for (file, limit) in [
            ("blkio.throttle.read_bps_device", io.read_bps),
            ("blkio.throttle.write_bps_device", io.write_bps),
            ("blkio.throttle.read_iops_device", io.read_iops),
            ("blkio.throttle.write_iops_device", io.write_iops),
        ] {
            // Zero takes the limit away.
            self.write_if_there("blkio", file, &format!("{major}:{minor} {}", limit.unwrap_or(0)))?;
        }
        Ok(())
    }

    fn write_if_there(&self, controller: &str, file: &str, text: &str) -> Result<(), CgroupError> {
        let directory = self.directory(controller);
        match write(&directory.join(file), text) {
            Err(CgroupError::Access { source, .. })
                if source.kind() == ErrorKind::NotFound && directory.exists() =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

impl IoLimit {
    /// No limit of this disk.
    pub fn unlimited(disk: Disk) -> Self {
        Self { disk, read_bps: None, write_bps: None, read_iops: None, write_iops: None }
    }
}

/// What version 1 lets a cgroup with such a `memory_max` hold in buffers of sockets, in bytes.
fn sockets_max(memory_max: u64) -> u64 {
    (memory_max / SOCKETS_SHARE).clamp(SOCKETS_MIN, SOCKETS_MAX)
}

/// Whether the kernel charges buffers of sockets to cgroups: it does unless it was started with
/// `cgroup.memory=nosocket` (the kernel's `admin-guide/kernel-parameters.txt`).
fn counts_sockets() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    !is_told_not_to_count(&line, "nosocket")
}

fn is_told_not_to_count(command_line: &str, what: &str) -> bool {
    let settings =
        command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("cgroup.memory="));
    settings.flat_map(|list| list.split(',')).any(|setting| setting == what)
}

/// `8:0 enable=1 ctrl=auto …`, a line for each disk that was ever set.
fn has_cost_model(text: &str, Disk { major, minor }: Disk) -> bool {
    let of_disk = text.lines().find_map(|line| line.strip_prefix(&format!("{major}:{minor} ")));
    of_disk.is_some_and(|settings| settings.split(' ').any(|setting| setting == "enable=1"))
}

impl Disk {
    /// Finds the disk that holds a file system; `None` where there is none, as with tmpfs and overlayfs, or where
    /// it is no single one.
    pub fn of(path: &Path) -> Option<Self> {
        // Of one that is yet to be made: where it would be.
        let path = path.ancestors().find(|place| place.exists())?;
        let mut device = fs::metadata(path).ok()?.dev();
        if major(device) == 0 {
            // A file system with a number of its own, like btrfs: its mount names a device.
            device = fs::metadata(mount_source(path)?).ok()?.rdev();
        }
        let node = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
        let node = fs::canonicalize(node).ok()?;
        // A partition stands beneath its disk.
        let disk = if node.join("partition").exists() { node.parent()? } else { &node };
        let text = fs::read_to_string(disk.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// The device that the mount of a path names — man 5 proc_pid_mountinfo.
fn mount_source(path: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = text.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        Some((Path::new(mount.split(' ').nth(4)?), file_system.split(' ').nth(1)?))
    });
    // The last of the deepest is what is seen.
    let (_, source) = mounts
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())?;
    source.starts_with('/').then(|| PathBuf::from(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_model_is_read_as_the_kernel_writes_it() {
        let text = "8:0 enable=0 ctrl=auto rpct=0.00\n8:16 enable=1 ctrl=user rpct=95.00 max=100.00\n";
        let has = |minor| has_cost_model(text, Disk { major: 8, minor });
        assert!(!has(0) && has(16) && !has(1) && !has(32));
    }

    #[test]
    fn the_share_of_sockets_has_edges() {
        for (memory, sockets) in [(32, 8), (64, 16), (128, 32), (4096, 64)] {
            assert_eq!(sockets_max(memory << 20), sockets << 20, "{memory} MiB");
        }
    }

    #[test]
    fn a_kernel_that_does_not_count_sockets_is_known_by_its_command_line() {
        for (line, expected) in [
            ("quiet cgroup.memory=nokmem,nosocket", true),
            ("cgroup.memory=nosocket quiet\n", true),
            ("cgroup.memory=nokmem", false),
            ("nosocket", false),
        ] {
            assert_eq!(is_told_not_to_count(line, "nosocket"), expected, "{line}");
        }
    }

    #[test]
    fn a_file_system_without_a_disk_has_none() {
        assert_eq!(Disk::of(Path::new("/proc")), None);
        assert_eq!(Disk::of(Path::new("/proc/nonexistent/either")), None);
    }

    #[test]
    fn the_disk_of_a_file_system_is_a_whole_one() {
        // Where the build lies on overlayfs there is none.
        if let Some(Disk { major, minor }) = Disk::of(Path::new(".")) {
            let node = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
            assert!(node.exists() && !node.join("partition").exists(), "{}", node.display());
        }
    }
}
