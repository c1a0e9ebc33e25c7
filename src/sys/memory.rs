//! The host's memory: `/proc/meminfo` — man 5 proc_meminfo.

use std::fs::{self, File};
use std::io::{self, Read as _};

/// More than `/proc/meminfo` has.
const MEMINFO_BYTES: usize = 8192;

/// Memory in bytes.
#[derive(Debug, Clone, Copy)]
pub struct HostMemory {
    pub total_bytes: u64,
    /// What can be had without swapping (`MemAvailable`).
    pub available_bytes: u64,
    pub swap_free_bytes: u64,
}

/// Arenas of the allocator, among which threads are spread: each keeps what was freed in it for its own threads, and
/// there are more than a hundred threads.
const ARENAS: libc::c_int = 2;
/// From this size on what is freed goes back to the kernel at once; and so much of the end of an arena stays.
const KEPT_BYTES: libc::c_int = 512 * 1024;

/// `mallopt()`: bounds what the allocator keeps of what was freed — man 3 mallopt. For the beginning of a program.
pub fn keep_little() {
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, KEPT_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ] {
        // SAFETY: the call takes two numbers; what it does not know it refuses, and then all is as it was.
        let _known: libc::c_int = unsafe { libc::mallopt(parameter, value) };
    }
}

/// `malloc_trim(0)`: gives what was freed back to the kernel — man 3 malloc_trim. It takes milliseconds after much was
/// freed, so not on a thread that serves others.
pub fn give_back() {
    // SAFETY: the call takes a number and touches only what nobody uses.
    let _any: libc::c_int = unsafe { libc::malloc_trim(0) };
}

/// Reads for which share of the last ten seconds every task that wanted to run waited for memory, in percent:
/// `full avg10` of /proc/pressure/memory — the kernel's `Documentation/accounting/psi.rst`. `None` where the
/// kernel does not count it.
pub fn pressure() -> Option<f64> {
    full_avg10(&fs::read_to_string("/proc/pressure/memory").ok()?)
}

fn full_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    line.split(' ').find_map(|field| field.strip_prefix("avg10=")?.parse().ok())
}

/// Reads how many processes the kernel has killed for want of memory, the host's or a cgroup's: `oom_kill`
/// in /proc/vmstat, since Linux 4.13.
pub fn oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

/// Reads the host's figures.
///
/// # Errors
/// `/proc/meminfo` cannot be read, or lacks them.
pub fn host() -> io::Result<HostMemory> {
    // In one read: the kernel works the figures out anew for each that begins at the front, and this is done at every start.
    let mut buffer = [0; MEMINFO_BYTES];
    let length = File::open("/proc/meminfo")?.read(&mut buffer)?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    match (field("MemTotal"), field("MemAvailable")) {
        (Some(total_bytes), Some(available_bytes)) => {
            Ok(HostMemory { total_bytes, available_bytes, swap_free_bytes: field("SwapFree").unwrap_or(0) })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal or MemAvailable")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=5\nfull avg10=0.75 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(full_avg10(text), Some(0.75));
        assert_eq!(full_avg10("some avg10=1.50\n"), None);
    }
}
