//! Control groups, version 1, version 2 and the hybrid of both: man 7 cgroups, the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`.
//!
//! All of ours live beneath one directory per hierarchy, or beside it with its name before theirs, so that they can be
//! found again by name alone. Limits are written directly. A process joins by being born there (v2) or by writing itself
//! (v1); nobody else's pid is ever written, since that waits for an RCU grace period.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use super::cgroup_files::CgroupError;
use super::cgroup_files::{SOCKETS_FILE, access, read, write};
use crate::cgroup_files::is_gone;
use crate::cgroup_files::make_directory;
use crate::cgroup_files::remove_directory;

/// The controllers of version 1 that we use where they are mounted; the first two are required.
const V1_CONTROLLERS: [&str; 6] = ["memory", "pids", "freezer", "cpu", "cpuacct", "blkio"];
/// The controllers of version 2 that are enabled; the first two are required.
const V2_CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// The leaf into which the daemon moves its own processes where they stand in the way.
const DAEMON_LEAF: &str = "daemon";
/// Which version enforces the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    /// Version 1 enforces; version 2 is mounted too, without controllers.
    Hybrid,
    V2,
}

/// The directory of ours in each hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    pub(super) version: Version,
    /// (controller, directory); version 2 has one entry, named `unified`.
    pub(super) parents: Vec<(String, PathBuf)>,
}

/// One cgroup of ours, in every hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    pub(super) version: Version,
    pub(super) directories: Vec<(String, PathBuf)>,
}

/// What a process needs to become a member of a cgroup.
#[derive(Debug)]
pub enum Entry {
    /// The `tasks` files: a single-threaded process writes `0` to each.
    V1(Vec<OwnedFd>),
    /// The directory, for clone3(2) with `CLONE_INTO_CGROUP`.
    V2(OwnedFd),
}

impl Hierarchy {
    /// Finds the mounted hierarchies and makes our directory, `name`, in each.
    ///
    /// In a container with a cgroup namespace of version 2 the container's own processes are first moved
    /// to a leaf, because a cgroup that hands controllers to children may not have members itself.
    ///
    /// # Errors
    /// No hierarchy with the controllers memory and pids, or no permission to write it.
    pub fn open(name: &str) -> Result<Self, CgroupError> {
        let found = Self::detect(name)?;
        for (_, directory) in &found.parents {
            make_directory(directory)?;
        }
        found.check_writable()?;
        if found.version == Version::V2 {
            found.enable_controllers()?;
        }
        found.count_sockets()?;
        Ok(found)
    }

    /// Asks whether cgroups can be made and limits written; changes nothing.
    ///
    /// # Errors
    /// The kernel's: a file system that is mounted read-only, as in a container without privileges.
    pub fn check_writable(&self) -> Result<(), CgroupError> {
        for (_, directory) in &self.parents {
            let place = if directory.exists() { directory } else { directory.parent().unwrap_or(directory) };
            rustix::fs::access(place, rustix::fs::Access::WRITE_OK)
                .map_err(|errno| access("write to", place, errno.into()))?;
        }
        Ok(())
    }

    /// Like [`Hierarchy::open`], but changes nothing.
    ///
    /// # Errors
    /// No hierarchy with the controllers memory and pids.
    pub fn detect(name: &str) -> Result<Self, CgroupError> {
        let text = read(Path::new("/proc/self/mountinfo"))?;
        let mounts = parse_mountinfo(&text);
        if let Some(root) = mounts.iter().find(|m| m.kind == "cgroup2" && has_v2_controllers(&m.point)) {
            let parents = vec![("unified".to_owned(), root.point.join(name))];
            return Ok(Self { version: Version::V2, parents });
        }
        let mut parents = Vec::new();
        for controller in V1_CONTROLLERS {
            let mount =
                mounts.iter().find(|m| m.kind == "cgroup" && m.options.iter().any(|o| o == controller));
            if let Some(mount) = mount
                && !parents.iter().any(|(_, path): &(String, PathBuf)| path.starts_with(&mount.point))
            {
                parents.push((controller.to_owned(), mount.point.join(name)));
            }
        }
        let has = |controller| {
            mounts.iter().any(|m| m.kind == "cgroup" && m.options.iter().any(|o| o == controller))
        };
        if !has("memory") && mounts.iter().any(|m| m.kind == "cgroup2") {
            return Err(CgroupError::Detect(
                "version 2 is mounted, but cgroup.controllers there does not name both of them",
            ));
        }
        if !has("memory") {
            return Err(CgroupError::Detect("the memory controller is not mounted"));
        }
        if !has("pids") {
            return Err(CgroupError::Detect("the pids controller is not mounted"));
        }
        let hybrid = mounts.iter().any(|m| m.kind == "cgroup2");
        Ok(Self { version: if hybrid { Version::Hybrid } else { Version::V1 }, parents })
    }

    /// Has version 1 count the buffers of sockets beneath our directory from now on. A socket that was made before
    /// its cgroup counts is never counted; and while any cgroup counts, the next to do so patches no kernel code.
    fn count_sockets(&self) -> Result<(), CgroupError> {
        let Some(ours) = self.ours("memory").filter(|_| self.version() != Version::V2) else { return Ok(()) };
        match write(&ours.join(SOCKETS_FILE), "-1") {
            // A kernel that has no such file cannot be helped; `controls` tells.
            Err(CgroupError::Access { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether members can be frozen.
    pub fn has_freezer(&self) -> bool {
        // Every cgroup of version 2 but the root has `cgroup.freeze`, since Linux 5.2.
        self.parents.iter().any(|(_, parent)| match self.version {
            Version::V2 => parent.join("cgroup.freeze").exists(),
            Version::V1 | Version::Hybrid => parent.join("freezer.state").exists(),
        })
    }

    /// Our directory, in the hierarchy of a controller.
    pub(super) fn ours(&self, controller: &str) -> Option<&Path> {
        let same = |(name, _): &&(String, PathBuf)| self.version == Version::V2 || name == controller;
        self.parents.iter().find(same).map(|(_, ours)| ours.as_path())
    }

    /// Names a cgroup without looking whether it is there.
    pub fn leaf(&self, leaf: &str) -> Cgroup {
        let place = |(controller, ours): &(String, PathBuf)| {
            (controller.clone(), self.beside(controller, ours, leaf).unwrap_or_else(|| ours.join(leaf)))
        };
        Cgroup { version: self.version, directories: self.parents.iter().map(place).collect() }
    }

    /// Where a leaf lies that is not in our directory but beside it; `None` elsewhere.
    ///
    /// In one common directory the sandboxes are one competitor for the processors, with one weight: what some of them
    /// use, the others wait for. So in version 1, where the controller `cpu` has a hierarchy of its own, each is a
    /// competitor. A leaf that an earlier daemon has made in our directory stays there.
    fn beside(&self, controller: &str, ours: &Path, leaf: &str) -> Option<PathBuf> {
        if self.version == Version::V2 || controller != "cpu" || ours.join(leaf).exists() {
            return None;
        }
        Some(ours.with_file_name(format!("{}{leaf}", prefix(ours)?)))
    }

    /// Lists the leaves that exist in any hierarchy.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leaves(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for (_, ours) in &self.parents {
            names.extend(directories_in(ours)?.into_iter().filter(|name| name != DAEMON_LEAF));
            if let (Some(prefix), Some(top)) = (prefix(ours), ours.parent()) {
                let beside = directories_in(top)?;
                names.extend(beside.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes our directories; only when no leaf is left.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.parents.iter().try_for_each(|(_, directory)| remove_directory(directory))
    }

    fn enable_controllers(&self) -> Result<(), CgroupError> {
        let Some((_, ours)) = self.parents.first() else { return Ok(()) };
        let Some(root) = ours.parent() else { return Ok(()) };
        // Only a cgroup that is not the real root of the hierarchy has this file and the rule against
        // members beside children: that is how the root of a container's namespace is told apart.
        if root.join("cgroup.type").exists() {
            let leaf = root.join(DAEMON_LEAF);
            make_directory(&leaf)?;
            move_all(&root.join("cgroup.procs"), &leaf.join("cgroup.procs"))?;
        }
        for parent in [root, ours] {
            let available = read(&parent.join("cgroup.controllers"))?;
            for (index, controller) in V2_CONTROLLERS.iter().enumerate() {
                let required = index < 2;
                if available.split_ascii_whitespace().any(|c| c == *controller) {
                    let result = write(&parent.join("cgroup.subtree_control"), &format!("+{controller}"));
                    if required {
                        result?;
                    }
                } else if required {
                    return Err(CgroupError::Detect(
                        "the controllers memory and pids are not delegated to this container",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Cgroup {
    /// Opens what a new process needs to be a member.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        if self.version == Version::V2 {
            let directory = self.directory("unified");
            return Ok(Entry::V2(File::open(directory).map_err(|e| access("open", directory, e))?.into()));
        }
        let mut tasks = Vec::new();
        for (_, directory) in &self.directories {
            let path = directory.join("tasks");
            let file = OpenOptions::new().write(true).open(&path).map_err(|e| access("open", &path, e))?;
            tasks.push(file.into());
        }
        Ok(Entry::V1(tasks))
    }

    /// Reads the bytes in use, page cache included; `None` when the cgroup is gone.
    pub fn memory_current(&self) -> Option<u64> {
        let file = if self.version == Version::V2 { "memory.current" } else { "memory.usage_in_bytes" };
        fs::read_to_string(self.directory("memory").join(file)).ok()?.trim().parse().ok()
    }

    /// Reads how often members were held up at `memory.high`; `None` before version 2.
    pub fn memory_high_events(&self) -> Option<u64> {
        self.field("memory.events", "high")
    }

    /// Reads the bytes that no dropping of caches gives back: anonymous memory, that of tmpfs, and the
    /// kernel's own; `None` before version 2.
    pub fn memory_unreclaimable(&self) -> Option<u64> {
        let names = ["anon", "shmem", "kernel"];
        names.into_iter().map(|name| self.field("memory.stat", name)).sum()
    }

    /// Reads the bytes that the end of all members gives back: anonymous memory,
    /// that of tmpfs and, in version 2, the kernel's own. The page cache is not in it — the kernel's
    /// `Documentation/admin-guide/cgroup-v1/memory.rst`, 5.2. `None` when the cgroup is gone.
    pub fn memory_held(&self) -> Option<u64> {
        if self.is_v2() {
            return self.memory_unreclaimable();
        }
        let names = ["total_rss", "total_shmem"];
        names.into_iter().map(|name| self.field("memory.stat", name)).sum()
    }

    /// Changes `memory.high` of a running cgroup.
    ///
    /// # Errors
    /// The kernel's; there is no such file before version 2.
    pub fn set_memory_high(&self, high: Option<u64>) -> Result<(), CgroupError> {
        let text = high.map_or_else(|| "max".to_owned(), |h| h.to_string());
        write(&self.directory("memory").join("memory.high"), &text)
    }

    /// Whether memory can be moved out by order: `memory.reclaim`, since Linux 5.19.
    pub fn has_reclaim(&self) -> bool {
        self.is_v2() && self.directory("memory").join("memory.reclaim").exists()
    }

    /// Moves about so many bytes out of memory.
    ///
    /// # Errors
    /// `EAGAIN` when not so much can be moved.
    pub fn reclaim(&self, bytes: u64) -> Result<(), CgroupError> {
        write(&self.directory("memory").join("memory.reclaim"), &bytes.to_string())
    }

    /// A figure of a file with lines of a name and a number.
    pub(super) fn field(&self, file: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.directory("memory").join(file)).ok()?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value)
    }

    /// Returns the directory by which the cgroup is known: that of the memory controller.
    pub fn path(&self) -> &Path {
        self.directory("memory")
    }

    /// The directories in every hierarchy.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(|(_, path)| path.as_path())
    }

    pub(super) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    pub(super) fn directory(&self, controller: &str) -> &Path {
        let same = |(name, _): &&(String, PathBuf)| name == controller || self.version == Version::V2;
        let found = self.directories.iter().find(same).or_else(|| self.directories.first());
        found.map_or_else(|| Path::new("/nonexistent"), |(_, path)| path)
    }
}

/// What the names of leaves begin with that lie beside our directory.
fn prefix(ours: &Path) -> Option<String> {
    Some(format!("{}.", ours.file_name()?.to_str()?))
}

fn directories_in(path: &Path) -> Result<Vec<String>, CgroupError> {
    let entries = fs::read_dir(path).map_err(|e| access("list", path, e))?;
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    Ok(directories.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

struct Mount {
    point: PathBuf,
    kind: String,
    options: Vec<String>,
}

/// Reads lines of `/proc/self/mountinfo` — man 5 proc_pid_mountinfo.
fn parse_mountinfo(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let mut fields = file_system.split(' ');
        let kind = fields.next()?.to_owned();
        let options = fields.nth(1)?.split(',').map(str::to_owned).collect();
        // Blanks in a path are written as \040; cgroup mounts with blanks are not supported.
        Some(Mount { point: PathBuf::from(point), kind, options })
    };
    text.lines().filter_map(parse).collect()
}

fn has_v2_controllers(root: &Path) -> bool {
    let text = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    V2_CONTROLLERS.iter().take(2).all(|c| text.split_ascii_whitespace().any(|t| t == *c))
}

/// Moves every process of one cgroup to another; one that ends meanwhile is no error.
fn move_all(from: &Path, to: &Path) -> Result<(), CgroupError> {
    // What is forked while the list is written is caught by reading again.
    for _round in 0..16 {
        let pids = read(from)?;
        if pids.trim().is_empty() {
            return Ok(());
        }
        for pid in pids.lines() {
            match write(to, pid) {
                Err(CgroupError::Access { source, .. }) if is_gone(&source) => {}
                // A process of an outer pid namespace is shown as 0 and cannot be moved from here.
                Err(_) if pid == "0" => {}
                other => other?,
            }
        }
    }
    Err(CgroupError::Busy(from.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_whatever_its_optional_fields() {
        let text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    40 30 0:20 / /sys/fs/cgroup/memory rw shared:7 master:3 - cgroup cgroup rw,memory\n\
                    41 30 0:21 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\nnonsense\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[1].kind.as_str(), mounts[1].options[1].as_str()), ("cgroup", "memory"));
        assert_eq!(mounts[2].point, Path::new("/sys/fs/cgroup"));
    }
}
