//! Limits of this process.

use oci_spec::runtime::PosixRlimitType;
use rustix::process::Resource;

use sys::process;

/// The hard limits that bind this process, and so everything that it starts.
pub(super) fn hard_limit(kind: PosixRlimitType) -> Option<u64> {
    let held =
        caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).unwrap_or(false);
    let resource = match kind {
        _ if held => return None,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        _ => return None,
    };
    process::hard_limit(resource)
}
