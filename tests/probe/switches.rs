//! What of procfs and sysfs can be opened for writing or waited for: each is code of the kernel that a tenant can make
//! work, so each needs a reason to be there.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::files::walk;
use crate::report::Report;

/// Deeper than any device lies in sysfs.
const DEPTH: usize = 24;
/// What a process may write of its own beneath `/proc/self`, and why that harms nobody.
const OWN: [(&str, &str); 22] = [
    ("attr/", "labels of security modules; each asks for what it guards"),
    ("autogroup", "priority among its own cgroup; raising it asks for a capability"),
    ("clear_refs", "walks the page tables of the caller, in its own time"),
    ("comm", "a name of 16 bytes"),
    ("coredump_filter", "nothing is dumped"),
    ("fail-nth", "failures for the caller alone; kernels for tests have it"),
    ("gid_map", "is set already and cannot be set again"),
    ("latency", "is emptied by writing"),
    ("loginuid", "asks for a capability in the host's user namespace"),
    ("make-it-fail", "failures for the caller alone; kernels for tests have it"),
    ("mem", "its own memory"),
    ("net/", "of its own network namespace, which belongs to its user namespace; asks for CAP_NET_ADMIN"),
    ("oom_adj", "can only be raised: the sandbox's goes first"),
    ("oom_score_adj", "can only be raised: the sandbox's goes first"),
    ("projid_map", "asks for a capability that nobody holds"),
    ("reclaim", "of its own memory"),
    ("sched", "statistics of the caller, zeroed by writing"),
    ("seccomp_cache", "read only by its content"),
    ("setgroups", "is set already and cannot be set again"),
    ("timens_offsets", "the namespace has processes: the offsets are fixed"),
    ("timerslack_ns", "how late the caller's timers may be"),
    ("uid_map", "is set already and cannot be set again"),
];
/// What may be waited for, and why that costs nobody anything.
const POLLED: [(&str, &str); 7] = [
    ("/proc/self/mountinfo", "the mount namespace is the sandbox's own, and nothing in it changes"),
    ("/proc/self/mounts", "the same"),
    ("/proc/self/mountstats", "the same"),
    ("/proc/self/task/", "the same of its threads"),
    ("/proc/bus/input/devices", "woken when devices of the host come and go"),
    ("/proc/mdstat", "woken when arrays of the host change"),
    ("/proc/swaps", "woken when the host's swap changes"),
];

/// Tries every file.
pub(crate) fn check(report: &mut Report) {
    let own = format!("/proc/{}", std::process::id());
    let mut tried = 0_u32;
    for top in ["/proc", "/sys"] {
        walk(Path::new(top), DEPTH, &mut |path, metadata| {
            let shown = path.to_string_lossy();
            let shown = shown
                .strip_prefix(&own)
                .map_or_else(|| shown.to_string(), |rest| format!("/proc/self{rest}"));
            // Other processes are of other users or the same, and their descriptors are no files of the kernel's.
            let is_others = shown
                .strip_prefix("/proc/")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            let is_descriptor =
                shown.starts_with("/proc/self/") && (shown.contains("/fd/") || shown.contains("/map_files/"));
            if metadata.is_file() && !is_others && !is_descriptor {
                tried += 1;
                // By CAP_DAC_OVERRIDE root opens whatever is its own; what has no bit for writing has no code for it.
                if metadata.mode() & 0o222 != 0 {
                    try_writing(report, path, &shown);
                }
                try_waiting(report, path, &shown);
            }
        });
    }
    report.check(tried > 500, "kernel file", format_args!("{tried} files were tried"));
}

fn open(options: &mut fs::OpenOptions, path: &Path) -> std::io::Result<fs::File> {
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn try_writing(report: &mut Report, path: &Path, shown: &str) {
    let is_open =
        [false, true].iter().any(|&reads| open(fs::OpenOptions::new().read(reads).write(true), path).is_ok());
    report.check(!is_open || is_own(shown), "kernel file", format_args!("{shown} can be written"));
}

fn try_waiting(report: &mut Report, path: &Path, shown: &str) {
    let Ok(file) = open(fs::OpenOptions::new().read(true), path) else { return };
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLPRI;
    let mut polled = libc::pollfd { fd: file.as_raw_fd(), events: all, revents: 0 };
    // SAFETY: a structure of ours, for the time of the call.
    unsafe { libc::poll(&raw mut polled, 1, 0) };
    // A file without anything to wait for is ready for everything at once (`DEFAULT_POLLMASK`); so say those of sysfs
    // and of `/proc/sys`, which are read-only.
    let is_ready = polled.revents & (libc::POLLIN | libc::POLLOUT) == libc::POLLIN | libc::POLLOUT;
    let is_known = POLLED.iter().any(|(known, _)| shown.starts_with(known));
    report.check(is_ready || is_known, "kernel file", format_args!("{shown} can be waited for"));
}

/// Whether it is one of [`OWN`], of the process or of a thread of it.
fn is_own(shown: &str) -> bool {
    let Some(rest) = shown.strip_prefix("/proc/self/") else { return false };
    let of_thread = rest.strip_prefix("task/").and_then(|rest| rest.split_once('/')).map(|(_, rest)| rest);
    let name = of_thread.unwrap_or(rest);
    OWN.iter().any(|(known, _)| name == *known || (known.ends_with('/') && name.starts_with(known)))
}
