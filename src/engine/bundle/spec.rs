//! The runtime spec of one sandbox, made from the template.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder,
    PosixRlimitType, Process, Spec,
};

use rustix::process::Resource;

use crate::bundle::error::BundleError;
use model::{Environment, PathKind};
use sys::userns::Bounds;

const TEMPLATE: &str = include_str!("../../../oci/config.json");
/// Settings of a user namespace, `user.max_…` in the template: `/proc/sys/user/max_…`.
const OF_USERS: &str = "user.";
/// The home directory of the sandbox's user: the workspace.
pub(super) const HOME: &str = "/home/sandbox";
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What every sandbox has in its environment; a client may set the same names otherwise.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("HOME", HOME),
    ("LANG", "C.UTF-8"),
    ("LOGNAME", "sandbox"),
    ("PATH", "/home/sandbox/.local/bin:/home/sandbox/.npm-global/bin:/usr/local/bin:/usr/bin:/bin"),
    ("SHELL", "/bin/bash"),
    ("USER", "sandbox"),
];
const ROOT_ENVIRONMENT: [(&str, &str); 4] = [
    ("HOME", "/root"),
    ("LOGNAME", "root"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("USER", "root"),
];
/// By which the usual programs find a bundle of certificates that is not their own.
const CA_VARIABLES: [&str; 8] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "UV_NATIVE_TLS",
    "npm_config_cafile",
];

/// What `sandbox-init` holds in a user namespace: what root in there may have, and `SETPCAP` to take it away from
/// others. `oci/README.md` says why each.
const INIT_CAPABILITIES: [Capability; 8] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
];

/// What the template leaves open; paths are the host's. Nothing of it differs between the sandboxes of one
/// daemon but the limit on open files: who a sandbox is, it is told after its launch.
#[derive(Debug)]
pub struct Plan<'a> {
    pub rootfs: &'a Path,
    /// Opened by the launcher's worker, so it may lie beneath `/proc/self/fd`.
    pub netns: &'a Path,
    /// The same; without one its processes have the host's ids, and `sandbox-init` is the sandbox's user.
    pub userns: Option<&'a Path>,
    /// The directory with `resolv.conf` and `hosts`.
    pub etc: &'a Path,
    pub ca_bundle: Option<&'a Path>,
    /// Whether the root file system can be written.
    pub is_writable: bool,
    /// How many files a process may have open.
    pub nofile: u64,
}

/// The parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    spec: Spec,
    hard_limit: fn(PosixRlimitType) -> Option<u64>,
}

impl Template {
    /// Parses the template that is built in.
    ///
    /// # Errors
    /// It is not a runtime spec, or lacks a part that is filled in.
    pub fn embedded() -> Result<Self, BundleError> {
        let spec: Spec = serde_json::from_str(TEMPLATE).map_err(BundleError::Template)?;
        let process = spec.process().as_ref().ok_or(BundleError::Incomplete("process"))?;
        process.rlimits().as_ref().ok_or(BundleError::Incomplete("process.rlimits"))?;
        spec.mounts().as_ref().ok_or(BundleError::Incomplete("mounts"))?;
        let linux = spec.linux().as_ref().ok_or(BundleError::Incomplete("linux"))?;
        linux.namespaces().as_ref().ok_or(BundleError::Incomplete("linux.namespaces"))?;
        Ok(Self { spec, hard_limit: |_| None })
    }

    /// Never asks for more than these hard limits: without CAP_SYS_RESOURCE none can be raised, and
    /// asking for it fails — man 2 setrlimit.
    #[must_use]
    pub fn within(self, hard_limit: fn(PosixRlimitType) -> Option<u64>) -> Self {
        Self { hard_limit, ..self }
    }

    /// Fills in the template.
    pub fn spec(&self, plan: &Plan<'_>) -> Spec {
        let mut spec = self.spec.clone();
        if let Some(root) = spec.root_mut() {
            root.set_path(plan.rootfs.to_owned());
            root.set_readonly(Some(!plan.is_writable));
        }
        if let Some(process) = spec.process_mut() {
            let nofile = (PosixRlimitType::RlimitNofile, plan.nofile);
            let fixed = process.rlimits().iter().flatten().map(|limit| (limit.typ(), limit.hard()));
            let within = |(kind, value): (PosixRlimitType, u64)| {
                rlimit(kind, (self.hard_limit)(kind).map_or(value, |hard| hard.min(value)))
            };
            let all: Vec<_> = fixed.chain([nofile]).filter_map(within).collect();
            process.set_rlimits(Some(all));
            if plan.userns.is_some() {
                make_root(process);
            }
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.extend(binds(plan));
        spec.set_mounts(Some(mounts));
        if let Some(linux) = spec.linux_mut() {
            // In force before the launch, see `bounds`; runtimes refuse to set those of users.
            let settings = linux.sysctl().iter().flatten().filter(|(name, _)| !name.starts_with(OF_USERS));
            let settings: HashMap<_, _> =
                settings.map(|(name, value)| (name.clone(), value.clone())).collect();
            linux.set_sysctl((!settings.is_empty()).then_some(settings));
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            let named =
                [(LinuxNamespaceType::Network, Some(plan.netns)), (LinuxNamespaceType::User, plan.userns)];
            for (kind, path) in named.into_iter().filter_map(|(kind, path)| Some((kind, path?))) {
                namespaces.extend(LinuxNamespaceBuilder::default().typ(kind).path(path).build());
            }
            linux.set_namespaces(Some(namespaces));
        }
        spec
    }

    /// What the users of a sandbox may have of what the kernel counts for users.
    ///
    /// # Errors
    /// A value that is no number.
    pub fn bounds(&self) -> Result<Bounds, BundleError> {
        let settings = self.spec.linux().iter().filter_map(|linux| linux.sysctl().as_ref()).flatten();
        let settings = settings.filter_map(|(name, value)| Some((name.strip_prefix(OF_USERS)?, value)));
        let each = settings.map(|(name, value)| {
            let number = value.parse().map_err(|_e| BundleError::Incomplete("number in linux.sysctl"));
            number.map(|number| (name.to_owned(), number))
        });
        let limits = self.spec.process().iter().filter_map(|process| process.rlimits().as_ref()).flatten();
        let together = limits.filter_map(|limit| {
            let resource = match limit.typ() {
                PosixRlimitType::RlimitMemlock => Resource::Memlock,
                PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
                PosixRlimitType::RlimitSigpending => Resource::Sigpending,
                _ => return None,
            };
            Some((resource, limit.hard()))
        });
        Ok(Bounds { each: each.collect::<Result<_, _>>()?, together: together.collect() })
    }

    /// Lists what has to exist in the rootfs, beneath which nothing may be a link.
    pub fn destinations(&self) -> Vec<(PathBuf, PathKind)> {
        let mounts = self.spec.mounts().iter().flatten().map(|m| m.destination().clone());
        // What lies in /dev is made on the tmpfs that is mounted there.
        let directories = mounts.filter(|d| d.parent() != Some(Path::new("/dev")));
        let mut all: Vec<_> = directories.map(|d| (d, PathKind::Directory)).collect();
        all.extend([HOME, "/etc", "/usr"].map(|d| (PathBuf::from(d), PathKind::Directory)));
        all.extend(["/etc/resolv.conf", "/etc/hosts", CA_BUNDLE].map(|f| (PathBuf::from(f), PathKind::File)));
        all
    }
}

/// The whole environment of a sandbox, as `NAME=value`.
pub fn environment(env: &Environment, has_ca_bundle: bool) -> Vec<String> {
    let mut all: BTreeMap<&str, &str> = ENVIRONMENT.into_iter().collect();
    if has_ca_bundle {
        all.extend(CA_VARIABLES.map(|name| (name, if name == "UV_NATIVE_TLS" { "true" } else { CA_BUNDLE })));
    }
    all.extend(env.entries().iter().map(|(name, value)| (name.as_str(), value.as_str())));
    all.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// What root of a sandbox has otherwise in its environment than its user.
pub fn root_environment() -> impl Iterator<Item = (String, String)> {
    ROOT_ENVIRONMENT.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Makes `sandbox-init` root of its user namespace; whom it starts, it makes the sandbox's user.
fn make_root(process: &mut Process) {
    let mut user = process.user().clone();
    user.set_uid(0);
    user.set_gid(0);
    process.set_user(user);
    if let Some(mut sets) = process.capabilities().clone() {
        let held: Capabilities = INIT_CAPABILITIES.into_iter().collect();
        sets.set_bounding(Some(held.clone()));
        sets.set_permitted(Some(held.clone()));
        sets.set_effective(Some(held));
        process.set_capabilities(Some(sets));
    }
}

fn binds(plan: &Plan<'_>) -> Vec<Mount> {
    let read_only = ["bind", "ro", "nosuid", "nodev", "noexec", "private"];
    let mut all = vec![
        bind(&plan.etc.join("resolv.conf"), "/etc/resolv.conf", &read_only),
        bind(&plan.etc.join("hosts"), "/etc/hosts", &read_only),
    ];
    all.extend(plan.ca_bundle.map(|path| bind(path, CA_BUNDLE, &read_only)));
    all.into_iter().flatten().collect()
}

/// The builders fail only when a field without a default is not set.
pub(super) fn bind(source: &Path, destination: &str, options: &[&str]) -> Option<Mount> {
    let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
    MountBuilder::default().typ("bind").source(source).destination(destination).options(options).build().ok()
}

fn rlimit(kind: PosixRlimitType, value: u64) -> Option<oci_spec::runtime::PosixRlimit> {
    oci_spec::runtime::PosixRlimitBuilder::default().typ(kind).soft(value).hard(value).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ca: Option<&Path>) -> Spec {
        let plan = Plan {
            rootfs: Path::new("/rootfs"),
            netns: Path::new("/proc/self/fd/4"),
            userns: None,
            etc: Path::new("/run/sandboxd/etc"),
            ca_bundle: ca,
            is_writable: false,
            nofile: 1024,
        };
        Template::embedded().unwrap().spec(&plan)
    }

    #[test]
    fn the_spec_is_as_committed() {
        let text = serde_json::to_string_pretty(&example(None)).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/snapshots/config.json");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, committed, "run the test with UPDATE_SNAPSHOTS=1 and review the difference");
    }

    #[test]
    fn a_client_may_set_what_every_sandbox_has() {
        let entries = [("A", "b"), ("LANG", "de_DE.UTF-8")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let all = environment(&Environment::new(entries.into()).unwrap(), true);
        for expected in ["A=b", "LANG=de_DE.UTF-8", "HOME=/home/sandbox", "UV_NATIVE_TLS=true"] {
            assert!(all.iter().any(|e| e == expected), "{expected} is not in {all:?}");
        }
        assert_eq!(all.iter().filter(|e| e.starts_with("LANG=")).count(), 1);
        assert_eq!(environment(&Environment::default(), false).len(), ENVIRONMENT.len());
    }

    #[test]
    fn nothing_is_granted() {
        let spec = example(Some(Path::new("/ca.pem")));
        let process = spec.process().as_ref().unwrap();
        let caps = process.capabilities().as_ref().unwrap();
        for set in [caps.bounding(), caps.effective(), caps.permitted(), caps.inheritable(), caps.ambient()] {
            assert!(set.as_ref().unwrap().is_empty());
        }
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!((process.user().uid(), process.user().gid()), (1000, 1000));
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        for mount in spec.mounts().as_ref().unwrap() {
            let options = mount.options().as_ref().unwrap();
            assert!(options.iter().any(|o| o == "nosuid"), "{mount:?}");
            // Only the /dev that libcontainer fills may hold devices.
            let devices = [Path::new("/dev"), Path::new("/dev/pts")].contains(&mount.destination().as_path());
            assert!(devices || options.iter().any(|o| o == "nodev"), "{mount:?}");
        }
        let namespaces = spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
        assert_eq!(namespaces.len(), 6);
    }

    #[test]
    fn what_is_counted_is_bounded_by_the_namespace_of_users() {
        let Bounds { mut each, together } = Template::embedded().unwrap().bounds().unwrap();
        each.sort_unstable();
        let names: Vec<_> = each.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["max_fanotify_groups", "max_inotify_instances", "max_inotify_watches", "max_user_namespaces"];
        assert_eq!(names, expected);
        assert_eq!(together.len(), 3);
        // No runtime is to refuse the spec for them.
        assert_eq!(*example(None).linux().as_ref().unwrap().sysctl(), None);
    }

    #[test]
    fn destinations_are_those_that_the_rootfs_must_have() {
        let all = Template::embedded().unwrap().destinations();
        for needed in ["/proc", "/dev", "/sys", "/tmp", "/var/tmp", "/run", HOME] {
            assert!(all.contains(&(PathBuf::from(needed), PathKind::Directory)), "{needed}");
        }
        assert!(!all.iter().any(|(path, _)| path.starts_with("/dev/pts")));
    }
}
