//! Landlock, as a sandbox might have it: landlock(7). Nothing of the product uses it.
#![expect(unsafe_code, reason = "libc has no wrappers for these calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `LANDLOCK_ACCESS_FS_*` of the first version, everything from executing to making symbolic links.
const ALL: u64 = (1 << 13) - 1;
/// `struct landlock_ruleset_attr` in its first version.
static HANDLED: u64 = ALL;
/// Executing, reading files and directories.
const READ: u64 = 0b1101;
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
/// What a sandbox may write, and what it may read.
const RULES: [(&str, u64); 6] =
    [("/", READ), ("/dev", ALL), ("/home", ALL), ("/proc", ALL), ("/tmp", ALL), ("/run", ALL)];

/// `struct landlock_path_beneath_attr` of `linux/landlock.h`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// # Errors
/// The kernel has none.
pub(crate) fn supported() -> io::Result<()> {
    // SAFETY: asks for the version: no structure.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u64>(), 0, CREATE_RULESET_VERSION)
    };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Restricts the calling thread for ever. It must have set no_new_privs.
///
/// # Errors
/// The kernel's.
pub(crate) fn restrict() -> io::Result<()> {
    // SAFETY: a structure of the first version is one number.
    let ruleset = done(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const HANDLED, size_of::<u64>(), 0)
    })?;
    // SAFETY: a descriptor that the kernel has just given and nobody else has.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    for (path, allowed) in RULES {
        let parent = File::open(path)?;
        let rule = PathBeneath { allowed, parent: parent.as_raw_fd() };
        // SAFETY: two descriptors that are open, and a structure of that type.
        done(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0,
            )
        })?;
    }
    // SAFETY: a descriptor that is open.
    done(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

fn done(result: i64) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(-1)) }
}
