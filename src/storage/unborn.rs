//! Which workspaces are of creates that nobody was told of.
//!
//! A workspace is put in place while its record has reached the kernel only. When the power goes then, the
//! file system may have kept the one and lost the other: each is synced when somebody else syncs his. So a
//! new workspace bears a mark, which tenants can neither set nor see (xattr(7), `trusted`), until its record
//! is on the disk. One that bears it and is in no record goes at the next start; any other that is in no
//! record is somebody's, and stays.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use model::SandboxId;

const MARK: &str = "trusted.sandboxd.unborn";

/// Marks a workspace. Says whether that was possible: where the file system has no such attributes, what a power
/// loss leaves stays.
pub(super) fn mark(path: &Path) -> io::Result<bool> {
    match rustix::fs::lsetxattr(path, MARK, &[], XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Takes the mark away; one that is not there, or is not known to the file system, is no error.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    match rustix::fs::lremovexattr(path, MARK) {
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA | Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn is_marked(path: &Path) -> bool {
    let mut value = [0_u8; 0];
    rustix::fs::lgetxattr(path, MARK, &mut value).is_ok()
}

/// The ids of all workspaces in a data directory but for those that bear the mark.
///
/// # Errors
/// The kernel's; a data directory without workspaces is none.
pub fn known_workspaces(data_dir: &Path) -> io::Result<BTreeSet<SandboxId>> {
    let entries = match std::fs::read_dir(data_dir.join("workspaces")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok());
        found.extend(id.filter(|_| !is_marked(&entry.path())));
    }
    Ok(found)
}
