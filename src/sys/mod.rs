//! Safe, typed, synchronous wrappers, one file per kernel facility.
//!
//! The only `unsafe`, the only `libc` and the only `Command` of the project. Names follow the man
//! pages; descriptors are owned types and close-on-exec; errors keep their errno.
#![expect(unsafe_code, reason = "the kernel boundary")]

#[cfg(feature = "daemon")]
pub mod btrfs;
#[cfg(feature = "daemon")]
pub mod buffers;
#[cfg(feature = "daemon")]
pub mod capabilities;
#[cfg(feature = "daemon")]
pub mod cgroup;
pub mod clone;
#[cfg(feature = "daemon")]
pub mod conntrack;
#[cfg(feature = "daemon")]
pub mod controls;
#[cfg(feature = "daemon")]
pub mod figures;
#[cfg(feature = "daemon")]
pub mod freezer;
#[cfg(feature = "daemon")]
pub mod fs;
#[cfg(feature = "daemon")]
pub mod furnish;
pub mod identity;
#[cfg(feature = "daemon")]
pub mod keyring;
#[cfg(feature = "daemon")]
pub mod memory;
#[cfg(feature = "daemon")]
pub mod mount;
#[cfg(feature = "daemon")]
pub mod netlink;
#[cfg(feature = "daemon")]
pub mod netns;
#[cfg(feature = "daemon")]
pub mod pidfd;
#[cfg(feature = "daemon")]
pub mod probe;
pub mod process;
#[cfg(feature = "daemon")]
pub mod processors;
pub mod pty;
#[cfg(feature = "daemon")]
pub mod seccomp;
pub mod signal;
pub mod socket;
#[cfg(feature = "daemon")]
pub mod tables;
#[cfg(feature = "daemon")]
pub mod termios;
#[cfg(feature = "daemon")]
pub mod userns;
mod vfork;
#[cfg(feature = "daemon")]
pub mod watch;
