//! What privileged processes of ours may do: capset(2), prctl(2), man 7 capabilities.
//!
//! Root that executes a program holds whatever its bounding set has, whatever it held before. So the bounding set of
//! the daemon has what it and its helpers need, and each lays down what is not its own as soon as it starts.
//! `docs/adr/0033` gives the reason of each.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// What the daemon holds.
pub const DAEMON: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE);

/// What the launcher holds.
pub const LAUNCHER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE);

/// What anything that the daemon executes can hold: its own, the launcher's, and what an old iptables asks for.
pub const REACHABLE: CapabilitySet = DAEMON.union(LAUNCHER).union(CapabilitySet::NET_RAW);

/// What the supervisor holds: it passes signals on, and executes the daemon.
pub const SUPERVISOR: CapabilitySet = CapabilitySet::KILL;

/// Holds nothing but `held` from now on, in no set; what is executed later can have at most `reachable`. For a process
/// with one thread: threads that are there already keep what they have.
///
/// `prctl(PR_CAPBSET_DROP)`, `prctl(PR_CAP_AMBIENT_CLEAR_ALL)`, `capset()`.
///
/// # Errors
/// The kernel's; `PermissionDenied` where the bounding set cannot be made smaller, when the rest is done all the same.
pub fn keep(held: CapabilitySet, reachable: CapabilitySet) -> io::Result<()> {
    let bounded = bound(reachable);
    rustix::thread::clear_ambient_capability_set()?;
    let kept = rustix::thread::capabilities(None)?.permitted & held;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    bounded
}

/// `prctl(PR_SET_NO_NEW_PRIVS, 1)`: neither the caller nor what it executes gains anything by executing.
///
/// # Errors
/// The kernel's.
pub fn gain_nothing() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// While it still holds what that takes.
fn bound(reachable: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all().difference(reachable).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not have.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
