//! Safe, typed, synchronous wrappers, one file per kernel facility.
//!
//! The only `unsafe`, the only `libc` and the only `Command` of the project. Names follow the man
//! pages; descriptors are owned types and close-on-exec; errors keep their errno.
#![expect(unsafe_code, reason = "the kernel boundary")]

pub mod btrfs;
#[cfg(feature = "netlink")]
pub mod buffers;
pub mod capabilities;
pub mod cgroup;
mod cgroup_end;
mod cgroup_files;
pub mod clone;
#[cfg(feature = "netlink")]
pub mod conntrack;
pub mod controls;
pub mod figures;
pub mod freezer;
pub mod fs;
pub mod furnish;
pub mod identity;
pub mod keyring;
pub mod memory;
pub mod mount;
#[cfg(feature = "netlink")]
pub mod netlink;
pub mod netns;
pub mod pidfd;
pub mod priority;
pub mod probe;
pub mod process;
pub mod processors;
pub mod pty;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tables;
pub mod termios;
pub mod userns;
mod vfork;
#[cfg(feature = "tokio")]
pub mod watch;
