//! What gVisor needs otherwise than the spec of all sandboxes says.

use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::spec::{HOME, bind};

/// Where `sandbox-init` lies inside: gVisor executes by path. Nothing can be put over or in place of it, since it
/// is a mount itself.
const INIT: &str = "/run/sandbox-init";
/// The namespaces that gVisor has an own notion of.
const NAMESPACES: [LinuxNamespaceType; 5] = [
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Uts,
];

/// Who a sandbox is: with gVisor that has to be known before it starts.
#[derive(Debug)]
pub struct Guest<'a> {
    pub host_name: &'a str,
    pub workspace: &'a Path,
    pub init: &'a Path,
}

/// Adapts a spec: the workspace and `sandbox-init` are mounted, the host name is set, and what only the host's
/// kernel has is left out. Everything else, limits and mounts among it, stays as it is.
pub fn gvisor(mut spec: Spec, guest: &Guest<'_>) -> Spec {
    spec.set_hostname(Some(guest.host_name.to_owned()));
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(vec![INIT.to_owned()]));
    }
    let mut mounts: Vec<Mount> = spec.mounts().clone().unwrap_or_default();
    mounts.extend(bind(guest.workspace, HOME, &["bind", "rw", "nosuid", "nodev", "private"]));
    mounts.extend(bind(guest.init, INIT, &["bind", "ro", "nosuid", "nodev", "private"]));
    spec.set_mounts(Some(mounts));
    if let Some(linux) = spec.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| NAMESPACES.contains(&namespace.typ()));
        linux.set_namespaces(Some(namespaces)).set_uid_mappings(None).set_gid_mappings(None);
    }
    spec
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Plan, Template};
    use super::*;

    #[test]
    fn only_what_gvisor_needs_differs() {
        let plan = Plan {
            rootfs: Path::new("/rootfs"),
            netns: Path::new("/proc/self/fd/4"),
            userns: None,
            etc: Path::new("/run/sandboxd/etc"),
            ca_bundle: None,
            is_writable: false,
            nofile: 1024,
        };
        let plain = Template::embedded().unwrap().spec(&plan);
        let guest = Guest {
            host_name: "s-1",
            workspace: Path::new("/w/1"),
            init: Path::new("/usr/lib/sandbox-init"),
        };
        let adapted = gvisor(plain.clone(), &guest);
        assert_eq!(adapted.hostname().as_deref(), Some("s-1"));
        assert_eq!(adapted.root(), plain.root());
        let (before, after) = (plain.mounts().as_ref().unwrap(), adapted.mounts().as_ref().unwrap());
        assert_eq!(&after[..before.len()], &before[..]);
        let added: Vec<PathBuf> = after[before.len()..].iter().map(|m| m.destination().clone()).collect();
        assert_eq!(added, [PathBuf::from(HOME), PathBuf::from(INIT)]);
        for mount in &after[before.len()..] {
            assert!(mount.options().as_ref().unwrap().contains(&"nosuid".to_owned()));
        }
        let (before, after) = (plain.process().as_ref().unwrap(), adapted.process().as_ref().unwrap());
        assert_eq!(
            (before.user(), before.rlimits(), before.capabilities()),
            (after.user(), after.rlimits(), after.capabilities())
        );
        assert_eq!(after.no_new_privileges(), Some(true));
        let namespaces = adapted.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
        assert!(namespaces.iter().any(|n| n.path().as_deref() == Some(plan.netns)));
        assert!(!namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Cgroup));
    }
}
