//! The user namespaces of sandboxes: whose ids are whose.
//!
//! The lease of an address is also that of a range of ids (see [`model::IdRange`]): no two sandboxes that
//! live have one in common. The record holds the lease; what a sandbox that is found running really has, the
//! kernel tells.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::view::Ids;
use crate::launch::host::Host;
use crate::launch::spaces::{NO_OVERLAY, Space};
use engine::{Engine, Staging};
use model::{Isolation, RootFs, SandboxSpec};
use storage::Owner;
use sys::userns::{self, Extent};

/// Why programs of a sandbox may not make namespaces.
const NESTED_FORBIDDEN: &str = "\"nested_namespaces\" is forbidden by this server (SANDBOXD_NESTED_NAMESPACES); with the isolation \"gvisor\" it is not needed";
const NO_NESTED: &str = "\"nested_namespaces\" needs sandboxes with user namespaces of their own, which this host has not; see `sandboxd check`. With the isolation \"gvisor\" it is not needed";

/// The map of a process that is in no user namespace but the host's.
const HOST: [Extent; 1] = [(0, 0, u32::MAX)];

/// Whose the files of a sandbox's user are on the disk.
pub(crate) fn owner(host: &Host, isolation: Isolation) -> Owner {
    let mapped = host.config.user_spaces.filter(|spaces| spaces.support.maps_workspaces);
    match mapped.filter(|_| Engine::of(isolation).has_users()) {
        Some(spaces) => Owner::mapped(spaces.base),
        None => Owner::HOST,
    }
}

/// Says whether a sandbox may have such a root file system.
pub(crate) fn check_rootfs(host: &Host, rootfs: RootFs, isolation: Isolation) -> Result<(), Error> {
    let maps = host.config.user_spaces.is_some_and(|spaces| {
        let support = spaces.support;
        support.maps_rootfs && support.maps_workspaces && support.covers_rootfs
    });
    match rootfs {
        RootFs::ReadOnly => Ok(()),
        RootFs::Overlay if isolation != Isolation::Container => {
            Err(Error::Invalid("\"rootfs\" \"overlay\" is for the isolation \"container\" only".to_owned()))
        }
        RootFs::Overlay if !maps => Err(Error::Invalid(NO_OVERLAY.to_owned())),
        RootFs::Overlay => Ok(()),
    }
}

/// Says whether programs of a sandbox may make namespaces. With gVisor they always can: those are its kernel's own.
pub(crate) fn check_nested(host: &Host, spec: &SandboxSpec) -> Result<(), Error> {
    if !spec.nested_namespaces || spec.isolation != Isolation::Container {
        return Ok(());
    }
    if !host.config.nested_namespaces {
        return Err(Error::Conflict(NESTED_FORBIDDEN.to_owned()));
    }
    host.config.user_spaces.map(drop).ok_or_else(|| Error::Conflict(NO_NESTED.to_owned()))
}

/// What a container is made of.
///
/// # Errors
/// Layers were asked for where there can be none.
pub(crate) fn staging(host: &Host, space: Option<&Space>, layers: Option<PathBuf>) -> Result<Staging, Error> {
    let no_overlay = || Error::Invalid(NO_OVERLAY.to_owned());
    let overlay = |layers| space.ok_or_else(no_overlay)?.overlay(&host.destinations, layers);
    Ok(Staging {
        overlay: layers.map(overlay).transpose()?,
        namespace: space.map(|space| Arc::clone(&space.namespace)),
        rootfs: host.config.rootfs.clone(),
        maps_rootfs: space.is_some_and(|space| space.ids.maps_rootfs),
        empty: host.config.covers_rootfs.then(|| host.storage.empty_dir()),
        etc: host.etc_dir.clone(),
    })
}

/// The ids of a sandbox that is found running; `None`: the host's, as of one that another version has launched.
///
/// # Errors
/// It is gone, or has others than belong to its lease, which may be somebody else's by now.
pub(crate) fn found(host: &Host, pid: i32, lease: u32) -> Result<Option<Ids>, Error> {
    let failed = |source| Error::RunDirectory { path: format!("/proc/{pid}/uid_map"), source };
    let map = userns::ids_of(pid).map_err(failed)?;
    let Some(&(_, first, _)) = map.first().filter(|_| map != HOST) else { return Ok(None) };
    if let Some(spaces) = host.config.user_spaces
        && spaces.range(lease)?.first() != first
    {
        let text = format!("its ids begin at {first}, which are not those of its lease");
        return Err(failed(std::io::Error::other(text)));
    }
    let maps_rootfs = host.config.user_spaces.is_some_and(|spaces| spaces.support.maps_rootfs);
    Ok(Some(Ids { first, has_root: map.len() == 1, maps_rootfs }))
}
