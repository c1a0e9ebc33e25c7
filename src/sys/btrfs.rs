//! Subvolumes of btrfs, which anybody may make in a directory of theirs: `linux/btrfs.h`, man 8 btrfs-subvolume.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The inode number of the top of every subvolume, `BTRFS_FIRST_FREE_OBJECTID`.
pub const TOP_INODE: u64 = 256;

/// `_IOW(0x94, 15, struct btrfs_ioctl_vol_args)`.
const SNAP_DESTROY: libc::Ioctl = 0x5000_940f;
/// `_IOW(0x94, 26, __u64)`.
const SUBVOL_SETFLAGS: libc::Ioctl = 0x4008_941a;
/// The size of the name in `struct btrfs_ioctl_vol_args`, with its NUL.
const NAME_BYTES: usize = 4088;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; NAME_BYTES],
}

/// `ioctl(parent, BTRFS_IOC_SNAP_DESTROY)`: removes a subvolume with everything in it.
///
/// # Errors
/// The kernel's: `ENOTTY` elsewhere than on btrfs, `EINVAL` for a plain directory, `ENOTEMPTY` while there is a subvolume
/// in it.
pub fn destroy_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let bytes = name.to_bytes();
    let mut arguments = VolumeArguments { fd: 0, name: [0; NAME_BYTES] };
    // One byte is left, so that the name ends with NUL.
    let place = arguments.name.get_mut(..bytes.len()).filter(|_| bytes.len() < NAME_BYTES);
    place.ok_or(io::ErrorKind::InvalidFilename)?.copy_from_slice(bytes);
    // SAFETY: the structure has the layout that the kernel reads for this request, and lives until the call is over.
    let result = unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SNAP_DESTROY, &raw const arguments) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `ioctl(subvolume, BTRFS_IOC_SUBVOL_SETFLAGS)`: lets a read-only snapshot be written.
///
/// # Errors
/// The kernel's.
pub fn make_writable(subvolume: impl AsFd) -> io::Result<()> {
    let flags: u64 = 0;
    // SAFETY: the kernel reads one number of 64 bits, which lives until the call is over.
    let result = unsafe { libc::ioctl(subvolume.as_fd().as_raw_fd(), SUBVOL_SETFLAGS, &raw const flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
