//! Bundles: one for all sandboxes of a kind, and one for each of the gVisor tier.
//!
//! A bundle holds nothing of a sandbox but its limit on open files and whether its root may be written, so it is written
//! once and read by every launch. What is only known at the launch is named by descriptors of the launcher.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use oci_spec::runtime::Spec;

use crate::base::error::Error;
use crate::launch::etc;
use crate::launch::host::Host;
use engine::bundle::{self, Guest, Plan};
use engine::{Engine, Identity, launcher};

/// The bundle of all sandboxes with such a limit, written when it is first needed.
pub(crate) fn of_kind(host: &Host, nofile: u64, is_writable: bool) -> Result<PathBuf, Error> {
    let mut bundles = host.bundles.lock().unwrap_or_else(PoisonError::into_inner);
    // Under the lock, since two copies at once would write to one file.
    etc::copy_certificates(host)
        .map_err(|source| Error::RunDirectory { path: host.etc_dir.display().to_string(), source })?;
    // Looked at, since somebody may have cleared the run directory.
    if let Some(bundle) =
        bundles.get(&(nofile, is_writable)).filter(|bundle| bundle.join("config.json").exists())
    {
        return Ok(bundle.clone());
    }
    let name = format!("{nofile}{}", if is_writable { "-writable" } else { "" });
    let bundle = host.config.run_dir.join("bundles").join(name);
    let failed = |source| Error::RunDirectory { path: bundle.display().to_string(), source };
    std::fs::create_dir_all(&bundle).map_err(failed)?;
    bundle::write(&bundle, &spec(host, nofile, is_writable)).map_err(Error::Bundle)?;
    bundles.insert((nofile, is_writable), bundle.clone());
    Ok(bundle)
}

/// Writes the bundle of one sandbox of the gVisor tier, which has to say whose it is.
pub(crate) fn of_gvisor(
    host: &Host,
    directory: &Path,
    nofile: u64,
    identity: &Identity,
) -> Result<PathBuf, Error> {
    let workspace = Engine::workspace(directory);
    let failed = |source| Error::RunDirectory { path: workspace.display().to_string(), source };
    std::fs::create_dir(&workspace).map_err(failed)?;
    let guest = Guest { host_name: &identity.host_name, workspace: &workspace, init: host.runtime.init() };
    let spec = bundle::gvisor(plain_spec(host, nofile), &guest);
    bundle::write(directory, &spec).map_err(Error::Bundle)?;
    Ok(directory.to_owned())
}

/// The spec of a container: it is made of what is on the stage.
fn spec(host: &Host, nofile: u64, is_writable: bool) -> Spec {
    let certificates = host.config.ca_bundle.as_ref().map(|_| launcher::own(launcher::CERTIFICATES));
    let userns = host.config.user_spaces.map(|_| launcher::userns_path());
    host.template.spec(&Plan {
        rootfs: &launcher::staged("rootfs"),
        netns: &launcher::netns_path(),
        userns: userns.as_deref(),
        etc: &launcher::own(""),
        ca_bundle: certificates.as_deref(),
        is_writable,
        nofile,
    })
}

/// The spec of what is made of the host's files as they are.
fn plain_spec(host: &Host, nofile: u64) -> Spec {
    host.template.spec(&Plan {
        rootfs: &host.config.rootfs,
        netns: &launcher::netns_path(),
        userns: None,
        etc: &host.etc_dir,
        ca_bundle: host.config.ca_bundle.as_deref(),
        is_writable: false,
        nofile,
    })
}
