//! Keyrings: man 7 keyrings, man 2 keyctl.

use std::io;

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)`: leaves the session's keyring, which is inherited by fork and exec, for a
/// new one with nothing in it — man 2 KEYCTL_JOIN_SESSION_KEYRING.
///
/// # Errors
/// The kernel's; a kernel without keys is none.
pub fn leave() -> io::Result<()> {
    // SAFETY: takes a number and, as the name, no pointer.
    let joined = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    match io::Error::last_os_error() {
        error if joined < 0 && error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session keyring's serial number; a thread has its own credentials.
    fn session() -> i64 {
        // SAFETY: takes numbers.
        unsafe {
            libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, libc::KEY_SPEC_SESSION_KEYRING, 1)
        }
    }

    #[test]
    fn what_was_in_it_is_left_behind() {
        leave().unwrap();
        let before = session();
        // SAFETY: two names that end with NUL, and a payload of the length that is said.
        let key = unsafe {
            let payload = [7_u8; 4];
            let (kind, name) = (c"user".as_ptr(), c"sandboxd-test".as_ptr());
            libc::syscall(libc::SYS_add_key, kind, name, payload.as_ptr(), 4, libc::KEY_SPEC_SESSION_KEYRING)
        };
        assert!(key > 0, "{}", io::Error::last_os_error());
        let find = || {
            let (kind, name) = (c"user".as_ptr(), c"sandboxd-test".as_ptr());
            // SAFETY: two names that end with NUL.
            unsafe { libc::syscall(libc::SYS_request_key, kind, name, std::ptr::null::<u8>(), 0) }
        };
        assert_eq!(find(), key);
        leave().unwrap();
        assert_ne!(session(), before);
        assert_eq!((find(), io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOKEY)));
    }
}
