//! The kernel's tables that every process of the machine shares, whose sizes no control group knows.
//!
//! Each entry of theirs is charged to the memory of the sandbox that makes it, so a table that is larger than what all
//! memory can hold is never full: then `memory.max` is the bound, and one sandbox cannot take what its neighbours need.
//! The kernel's own sizes are smaller where nobody has raised them (systemd does so for the first two). The settings
//! belong to the machine: they are only ever raised, and stay as they are when the daemon ends.

use std::fs;
use std::io;

/// Less than any open file takes: `struct file` alone has 184 bytes, and is charged (`filp`, `SLAB_ACCOUNT`).
const FILE_BYTES: u64 = 128;
/// The stack of a thread, which is charged besides all else that it takes.
const THREAD_BYTES: u64 = 16 << 10;
/// The most that a 64-bit kernel takes (`PID_MAX_LIMIT`).
const PID_MAX: u64 = 1 << 22;
/// The most that the kernel's Futexes leave room for (`FUTEX_TID_MASK`).
const THREADS_MAX: u64 = (1 << 30) - 1;

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// As sysctl(8) names it.
    pub name: &'static str,
    path: &'static str,
    /// How many entries it may have.
    pub size: u64,
    /// How many it takes for memory to be the bound.
    pub wanted: u64,
}

impl Table {
    pub fn is_large(&self) -> bool {
        self.size >= self.wanted
    }

    /// Whether this process may make it larger.
    pub fn can_be_enlarged(&self) -> bool {
        rustix::fs::access(self.path, rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// Makes it as large as is wanted.
    ///
    /// # Errors
    /// The kernel's: a `/proc/sys` that is read-only, or that belongs to another user namespace.
    pub fn enlarge(&mut self) -> io::Result<()> {
        fs::write(self.path, self.wanted.to_string())?;
        self.size = self.wanted;
        Ok(())
    }
}

/// Reads the tables of a machine with so many bytes of memory; a kernel that lacks one does not bound it.
pub fn all(memory_bytes: u64) -> Vec<Table> {
    let known = [
        ("fs.file-max", "/proc/sys/fs/file-max", memory_bytes / FILE_BYTES),
        ("kernel.pid_max", "/proc/sys/kernel/pid_max", PID_MAX),
        (
            "kernel.threads-max",
            "/proc/sys/kernel/threads-max",
            (memory_bytes / THREAD_BYTES).min(THREADS_MAX),
        ),
    ];
    let read = |(name, path, wanted)| {
        let size = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some(Table { name, path, size, wanted })
    };
    known.into_iter().filter_map(read).collect()
}

/// How many files the machine can have open at once: the table's size, or what memory holds if that is less.
pub fn open_files(memory_bytes: u64) -> u64 {
    let files = all(memory_bytes).into_iter().find(|table| table.name == "fs.file-max");
    files.map_or(memory_bytes / FILE_BYTES, |table| table.size.min(table.wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_this_machine_are_read() {
        let names: Vec<_> = all(1 << 30).iter().map(|table| table.name).collect();
        assert_eq!(names, ["fs.file-max", "kernel.pid_max", "kernel.threads-max"]);
        assert!(open_files(1 << 30) > 0 && open_files(1 << 30) <= (1 << 30) / FILE_BYTES);
    }

    #[test]
    fn a_table_is_large_once_memory_is_the_bound() {
        let mut table = Table { name: "a", path: "/proc/sandboxd/none", size: 9, wanted: 10 };
        assert!(!table.is_large() && table.enlarge().is_err() && table.size == 9);
        table.size = 10;
        assert!(table.is_large());
    }
}
