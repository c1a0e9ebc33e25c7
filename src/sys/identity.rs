//! Who a process is: setresuid(2), capset(2), man 7 capabilities. For processes with one thread.
//!
//! In a user namespace PID 1 of a sandbox is started as its root, with the few capabilities that root may have
//! there. It acts as the sandbox's user all the same and keeps root's identity aside, so that a file that it opens is
//! one that the user could open too; only what it starts for a client that asks for root takes it up.

use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The user of a sandbox, and its group.
const USER: u32 = 1000;
/// What root of a sandbox holds beside [`CapabilitySet::SETPCAP`], which only PID 1 needs; `oci/README.md` says why.
pub const ROOT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Whom a new process is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The user of the sandbox.
    User,
    /// Root of its user namespace.
    Root,
}

/// Whether this process can be root.
static HAS_ROOT: AtomicBool = AtomicBool::new(false);

/// Puts root's identity aside, if the caller has it, and acts as the user from now on. It may still signal all.
///
/// # Errors
/// The kernel's.
pub fn put_root_aside() -> io::Result<()> {
    if !rustix::process::getuid().is_root() {
        return Ok(());
    }
    HAS_ROOT.store(true, Ordering::Relaxed);
    set_ids(Gid::ROOT, Uid::ROOT, Uid::from_raw(USER), Gid::from_raw(USER))?;
    // Leaving uid 0 has emptied the effective set: man 7 capabilities, "Effect of user ID changes on capabilities".
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let sets = CapabilitySets {
        effective: CapabilitySet::KILL & permitted,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Says whether [`Whom::Root`] is possible.
pub fn has_root() -> bool {
    HAS_ROOT.load(Ordering::Relaxed)
}

/// Takes root's identity up again, to execute a program that puts it aside itself.
///
/// # Errors
/// The kernel's.
pub fn take_up_root() -> io::Result<()> {
    if has_root() {
        // Setting the effective uid to 0 makes all that is permitted effective.
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    }
    Ok(())
}

/// In a child that is about to execute a program: becomes somebody for good. Neither allocates nor locks.
///
/// # Errors
/// The kernel's; `EPERM` for root where there is none.
pub fn become_whom(whom: Whom) -> io::Result<()> {
    if !has_root() {
        return if whom == Whom::User { Ok(()) } else { Err(rustix::io::Errno::PERM.into()) };
    }
    take_up_root()?;
    // The program's file must not decide what it may: the bounding set is as small as the rest.
    let dropped = match whom {
        Whom::User => ROOT_CAPABILITIES | CapabilitySet::SETPCAP,
        Whom::Root => CapabilitySet::SETPCAP,
    };
    for capability in dropped.iter() {
        rustix::thread::remove_capability_from_bounding_set(capability)?;
    }
    go_first_without_memory(c"/proc/self/oom_score_adj");
    match whom {
        Whom::User => {
            let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
            // Leaving uid 0 altogether empties all sets.
            set_ids(gid, uid, uid, gid)
        }
        Whom::Root => {
            let kept = ROOT_CAPABILITIES & rustix::thread::capabilities(None)?.permitted;
            let sets =
                CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
            Ok(rustix::thread::set_capabilities(None, sets)?)
        }
    }
}

/// Runs a step in which files that are made belong to somebody else, and no quota or reserve can be passed
/// (`CAP_SYS_RESOURCE`): an overlay remembers the credentials of whoever mounts it and uses them for ever after.
/// For a process that is root of the host, with one thread.
///
/// # Errors
/// The kernel's, or the step's.
pub fn with_file_owner<T>(id: u32, step: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    use rustix::thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits};
    let (before, bits) = (rustix::thread::capabilities(None)?, capabilities_secure_bits()?);
    // Without it the capabilities over files would go with the id of root.
    set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let effective = before.effective.difference(CapabilitySet::SYS_RESOURCE);
    rustix::thread::set_capabilities(None, CapabilitySets { effective, ..before })?;
    nix::unistd::setfsgid(id.into());
    nix::unistd::setfsuid(id.into());
    let done = step();
    nix::unistd::setfsuid(0.into());
    nix::unistd::setfsgid(0.into());
    rustix::thread::set_capabilities(None, before)?;
    set_capabilities_secure_bits(bits)?;
    done
}

/// `setgroups(0)`: leaves all supplementary groups.
///
/// # Errors
/// The kernel's.
pub fn leave_groups() -> io::Result<()> {
    Ok(rustix::thread::set_thread_groups(&[])?)
}

/// Real and saved ids are `kept_*`, the effective ones the others.
fn set_ids(kept_gid: Gid, kept_uid: Uid, uid: Uid, gid: Gid) -> io::Result<()> {
    // The group first: without uid 0 it could not be changed.
    rustix::thread::set_thread_res_gid(kept_gid, gid, kept_gid)?;
    Ok(rustix::thread::set_thread_res_uid(kept_uid, uid, kept_uid)?)
}

/// When memory runs out the workload goes before PID 1. Where it cannot be set the rest works all the same.
fn go_first_without_memory(path: &CStr) {
    use rustix::fs::{Mode, OFlags};
    if let Ok(file) = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _ignored: rustix::io::Result<usize> = rustix::io::write(&file, b"1000");
    }
}
