//! What this kernel can do: for people who ask before they rely on it.
//!
//! Each probe returns what was seen, or what is missing.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::OFlags;

use super::fs::{Links, is_memory};
use super::pidfd::PidFd;

/// The namespaces that every sandbox has.
const NAMESPACES: [&str; 6] = ["pid", "mnt", "ipc", "uts", "net", "cgroup"];

/// # Errors
/// Those that are missing.
pub fn namespaces() -> Result<String, String> {
    let missing: Vec<_> =
        NAMESPACES.into_iter().filter(|n| !Path::new("/proc/self/ns").join(n).exists()).collect();
    if missing.is_empty() {
        Ok(NAMESPACES.join(", "))
    } else {
        Err(format!("missing: {}", missing.join(", ")))
    }
}

/// How many inotify instances one uid may have: all sandboxes share one, and a development server takes one or more.
///
/// # Errors
/// They are few; the number.
pub fn inotify_instances() -> Result<String, String> {
    const ENOUGH: u32 = 1024;
    let number = read("/proc/sys/fs/inotify/max_user_instances")?;
    match number.parse::<u32>() {
        Ok(instances) if instances < ENOUGH => Err(format!("{instances} for each user")),
        _ => Ok(number),
    }
}

/// # Errors
/// The kernel has no filters.
pub fn seccomp() -> Result<String, String> {
    read("/proc/sys/kernel/seccomp/actions_avail").map(|actions| format!("actions: {actions}"))
}

/// # Errors
/// The system call's.
pub fn openat2() -> Result<String, String> {
    let directory = super::fs::open_directory(Path::new("/")).map_err(text)?;
    let opened = super::fs::open_beneath(directory, Path::new("proc"), OFlags::PATH, 0, Links::Refuse);
    opened.map(|_| "works".to_owned()).map_err(text)
}

/// # Errors
/// The system call's.
pub fn pidfd() -> Result<String, String> {
    PidFd::open(rustix::process::getpid().as_raw_pid()).map(|_| "works".to_owned()).map_err(text)
}

/// Changes nothing: asks for an invalid change and looks how it is refused.
///
/// # Errors
/// The kernel does not know the call.
pub fn mount_setattr() -> Result<String, String> {
    // SAFETY: an invalid descriptor and no attributes: the kernel can only refuse.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, -1, std::ptr::null::<u8>(), 0, std::ptr::null::<u8>(), 0)
    };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() == Some(libc::ENOSYS) {
        Err(text(error))
    } else {
        Ok("works".to_owned())
    }
}

/// Whether a security module has confined this process: AppArmor's profile or SELinux's context, if any.
///
/// # Errors
/// It has; by what.
pub fn security_modules() -> Result<String, String> {
    // Without a module that answers the file cannot be read; SELinux ends its answer with NUL.
    let Ok(label) = read("/proc/self/attr/current") else { return Ok("none".to_owned()) };
    let label = label.trim_end_matches('\0');
    // AppArmor's word, SELinux's type of who may do everything, and an early kernel's own label.
    let is_free = ["", "unconfined", "kernel"].contains(&label) || label.contains(":unconfined_t:");
    if is_free { Ok("unconfined".to_owned()) } else { Err(format!("confined: {label}")) }
}

/// Whether this is the host and not a container on it: by the first pid namespace's number, which the kernel fixes
/// (`PROC_PID_INIT_INO` of `linux/proc_ns.h`).
///
/// # Errors
/// It is not.
pub fn host() -> Result<String, String> {
    const FIRST: &str = "pid:[4026531836]";
    match fs::read_link("/proc/self/ns/pid") {
        Ok(name) if name.as_os_str() == FIRST => Ok("not in a container".to_owned()),
        Ok(_) => Err("inside another container".to_owned()),
        Err(error) => Err(format!("/proc/self/ns/pid: {error}")),
    }
}

/// Whom the kernel gives the memory of what crashes in a sandbox; `limit` is the highest `RLIMIT_CORE` that it can be
/// given — man 5 core.
///
/// # Errors
/// Somebody.
pub fn core_dumps(limit: Option<u64>) -> Result<String, String> {
    let pattern = read("/proc/sys/kernel/core_pattern")?;
    match pattern.get(..1) {
        Some("|") if limit == Some(0) => {
            Err(format!("the hard RLIMIT_CORE is 0, with which the kernel starts {pattern}"))
        }
        // Linux 6.16 and newer; it does not look at the limit there.
        Some("@") => Err(format!("core_pattern is a socket: {pattern}")),
        Some("|") => Ok("none of sandboxes, though core_pattern is a program".to_owned()),
        _ => Ok("none of sandboxes".to_owned()),
    }
}

/// # Errors
/// There is none.
pub fn swap() -> Result<String, String> {
    let lines = read("/proc/swaps")?.lines().count().saturating_sub(1);
    if lines == 0 { Err("none".to_owned()) } else { Ok(format!("{lines} areas")) }
}

/// Whether what is written to a directory, or to where it will be made, stays in memory.
///
/// # Errors
/// It goes to a disk.
pub fn in_memory(directory: &Path) -> Result<String, String> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    let shown = directory.display();
    let kind = rustix::fs::statfs(there).map_err(text)?.f_type;
    if is_memory(kind) { Ok(format!("{shown}: in memory")) } else { Err(format!("{shown}: on a disk")) }
}

/// # Errors
/// The kernel has no figures of pressure.
pub fn psi() -> Result<String, String> {
    read("/proc/pressure/memory").map(|_| "on".to_owned())
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map(|t| t.trim().to_owned()).map_err(|e| format!("{path}: {e}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
