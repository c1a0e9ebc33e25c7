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

/// `malloc_trim(0)` — man 3 malloc_trim: gives free memory inside of glibc's heaps back to the kernel. Takes the lock
/// of one heap after another, for some milliseconds where there is much to give.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and locks what it works on; any thread may call it at any time (MT-Safe).
    // Neither std, rustix nor nix has it.
    let _whether_any: libc::c_int = unsafe { libc::malloc_trim(0) };
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
