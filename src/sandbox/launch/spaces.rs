//! The user namespaces of one launch.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::error::Error;
use crate::base::view::Ids;
use engine::{Runtime, Support, Writable};
use model::{IdBase, IdRange, PathKind};
use sys::userns::Extent;

/// Why there is no writable root file system.
pub(crate) const NO_OVERLAY: &str = "\"rootfs\" can only be \"read_only\": this host cannot map the ids of files, so nobody could write it; see user_namespaces and `sandboxd check`";

/// How sandboxes get ids of their own.
#[derive(Debug, Clone, Copy)]
pub struct UserSpaces {
    pub base: IdBase,
    pub support: Support,
}

/// What a launch is made with.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) ids: Ids,
    pub(crate) namespace: Arc<OwnedFd>,
    /// By which the workspace is mapped.
    pub(crate) workspace: Option<OwnedFd>,
}

impl UserSpaces {
    pub(crate) fn range(self, lease: u32) -> Result<IdRange, Error> {
        let none = || Error::Exhausted("no ids are left for another sandbox".into());
        self.base.range(lease).ok_or_else(none)
    }

    fn processes(self, range: IdRange) -> Vec<Extent> {
        if self.support.maps_workspaces { range.processes() } else { range.processes_unmapped() }
    }

    /// Makes the namespaces of a lease; the second is the network's.
    pub(crate) async fn make(
        self,
        runtime: &Runtime,
        lease: u32,
        nested: bool,
    ) -> Result<(Space, OwnedFd), Error> {
        let range = self.range(lease)?;
        let has_root = self.support.maps_workspaces;
        let workspace = if has_root { range.workspace() } else { Vec::new() };
        let made = runtime.namespaces(self.processes(range), workspace, nested).await;
        let made = made.map_err(Error::Launch)?;
        let space = Space {
            ids: Ids { first: range.first(), has_root, maps_rootfs: self.support.maps_rootfs },
            namespace: Arc::new(made.user),
            workspace: made.workspace,
        };
        Ok((space, made.network))
    }
}

impl Space {
    pub(crate) fn overlay(
        &self,
        destinations: &[(PathBuf, PathKind)],
        layers: PathBuf,
    ) -> Result<Writable, Error> {
        let mapped = self.workspace.as_ref().ok_or_else(|| Error::Invalid(NO_OVERLAY.to_owned()))?;
        let namespace = mapped.try_clone();
        let namespace =
            namespace.map_err(|source| Error::RunDirectory { path: layers.display().to_string(), source })?;
        let destinations = destinations.to_vec();
        Ok(Writable { layers, namespace, root: self.ids.first, destinations })
    }
}
