//! Forking a single-threaded process, straight into a cgroup where the kernel can: clone3(2).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Which side of a fork the caller is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    Child,
    /// The child's pid.
    Parent(i32),
}

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; the constant of libc overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The first version of `struct clone_args` that has `cgroup` (Linux 5.7) — man 2 clone3.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `clone3({ flags: CLONE_INTO_CGROUP, exit_signal: SIGCHLD, cgroup })`: forks; the child is born in the
/// cgroup v2 directory if one is given. Joining one later costs an RCU grace period, 11 ms on an idle machine.
///
/// # Errors
/// The kernel's; `EPERM` if the process has a second thread, since the child could then hold locks that nobody releases.
pub fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.take(2).count();
    if threads != 1 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "fork in a process with several threads",
        ));
    }
    let mut args = CloneArgs { exit_signal: libc::SIGCHLD.unsigned_abs().into(), ..CloneArgs::default() };
    if let Some(directory) = cgroup {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = directory.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: without CLONE_VM the child gets a copy of the one thread and its stack, as after fork(2);
    // that there is one thread was checked above, so no lock is left held by a thread that is not copied.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(i32::try_from(pid).unwrap_or(i32::MAX))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `execveat(program, "", argv, environ, AT_EMPTY_PATH)`: becomes another program; returns only if it cannot.
///
/// The environment is the process's own.
pub fn execute(
    program: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    environment: &[std::ffi::CString],
) -> io::Error {
    let argv = [name.as_ptr(), std::ptr::null()];
    let mut envp: Vec<*const libc::c_char> = environment.iter().map(|e| e.as_ptr()).collect();
    envp.push(std::ptr::null());
    // SAFETY: both arrays end with a null pointer and their strings outlive the call, since they are
    // borrowed for all of it; an empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// `waitpid(pid)`: waits for a child's end; its exit status, `None` if a signal ended it, or nobody knows since
/// the kernel has reaped it.
pub fn wait_for(pid: i32) -> Option<i32> {
    use nix::sys::wait::{WaitStatus, waitpid};
    loop {
        match waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, status)) => return Some(status),
            Err(nix::errno::Errno::EINTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// `_exit(status)`: ends a forked child without running what its parent has registered for exit.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used after.
    unsafe { libc::_exit(status) }
}
