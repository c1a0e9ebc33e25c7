//! System calls as a hostile program makes them: any number, any argument, each in a process of its own.

use std::ffi::CString;
use std::io;
use std::path::Path;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Refused(i32),
    Killed(i32),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("it was done"),
            Self::Refused(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// An address that no process has mapped: a call that looks at it has come into the kernel.
pub(crate) const BAD: u64 = 1;
/// The status by which a child says that the call was done; no errno is as high.
const DONE: i32 = 255;

/// Runs something in a child that ends after two seconds at the latest.
pub(crate) fn in_child(call: impl FnOnce() -> Result<(), i32>) -> Outcome {
    // SAFETY: the probe has one thread, so a child may do what its parent may.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number; a call that blocks is ended by the signal.
        unsafe { libc::alarm(2) };
        let status = call().map_or_else(|errno| errno.clamp(1, DONE - 1), |()| DONE);
        // SAFETY: ends the process, whatever the call has made of it.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the answer.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if libc::WIFSIGNALED(status) {
        return Outcome::Killed(libc::WTERMSIG(status));
    }
    match libc::WEXITSTATUS(status) {
        DONE => Outcome::Done,
        errno => Outcome::Refused(errno),
    }
}

/// Makes a system call in a child.
pub(crate) fn attempt(number: i64, args: [u64; 6]) -> Outcome {
    in_child(|| raw(number, args).map(drop).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)))
}

/// Makes a system call here.
pub(crate) fn raw(number: i64, args: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: pointers among the arguments are buffers of the caller that live on, or bad on purpose,
    // which the kernel answers with EFAULT.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a call through the 32-bit entry, where the numbers mean other calls.
#[cfg(target_arch = "x86_64")]
pub(crate) fn attempt_int80(number: u32) -> Outcome {
    in_child(|| {
        let mut answer = number;
        // SAFETY: the calls tried take no pointer; the registers that the entry destroys are named.
        unsafe {
            std::arch::asm!("int 0x80", inout("eax") answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        };
        let answer = answer.cast_signed();
        if answer < 0 { Err(-answer) } else { Ok(()) }
    })
}

/// The flags that a mount has: `ST_*`.
pub(crate) fn mount_flags(path: &str) -> Option<u64> {
    let path = CString::new(path).ok()?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a path that ends with NUL, and a place for the answer.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut answer) };
    (result == 0).then_some(answer.f_flag)
}

/// The numbers of a device node.
pub(crate) fn device(path: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let metadata = std::fs::symlink_metadata(path).ok()?;
    let is_device = metadata.file_type().is_char_device() || metadata.file_type().is_block_device();
    is_device.then(|| (libc::major(metadata.rdev()), libc::minor(metadata.rdev())))
}

/// `(soft, hard)` of a resource limit.
pub(crate) fn limit(resource: u32) -> (u64, u64) {
    let mut answer = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::getrlimit(resource, &raw mut answer) };
    (answer.rlim_cur, answer.rlim_max)
}

/// Loads a seccomp filter for this process and its children; eight bytes are an instruction.
pub(crate) fn load_filter(bytes: &[u8]) -> bool {
    let instruction = |b: &[u8]| libc::sock_filter {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    let mut program: Vec<_> = bytes.chunks_exact(8).map(instruction).collect();
    let Ok(len) = u16::try_from(program.len()) else { return false };
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    raw(libc::SYS_seccomp, [1, 0, (&raw const filter) as u64, 0, 0, 0]).is_ok()
}
