//! Loading a seccomp filter: seccomp(2).

use std::io;

/// One instruction of classic BPF: `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip when a test holds, and when it does not.
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `seccomp(SECCOMP_SET_MODE_FILTER, 0, &program)`: restricts the calling thread for ever — man 2 seccomp.
///
/// The thread must have set no_new_privs.
///
/// # Errors
/// The kernel's: `EACCES` without no_new_privs, `EINVAL` for a program it does not accept.
pub fn load(program: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_e| io::Error::from_raw_os_error(libc::EINVAL))?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `Instruction` has the layout of `sock_filter` (checked below), the program is alive
    // during the call, and the kernel copies it without writing.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(
    size_of::<Instruction>() == size_of::<libc::sock_filter>()
        && align_of::<Instruction>() == align_of::<libc::sock_filter>()
);
