//! The directories of the server: made, and closed to everybody else.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use sys::fs as sysfs;

/// Set on directories such as `/tmp`, which are not the server's own: `S_ISVTX`, man 7 inode.
const STICKY: u32 = 0o1000;
/// What others than the owner may do.
const OTHERS: u32 = 0o077;

/// Makes both directories. Nobody but root may reach the data: files of tenants lie in it, some of them programs, and the
/// root file system's own set-user-id programs. One of an earlier version is closed.
///
/// # Errors
/// They cannot be made or looked at.
pub(super) fn make(data_dir: &Path, run_dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    fs::create_dir_all(run_dir)?;
    let mode = fs::metadata(data_dir)?.mode();
    if mode & STICKY != 0 || data_dir.parent().is_none() {
        let path = data_dir.display();
        tracing::warn!(%path, "data_dir is a directory for everybody; it is left open, and what is in it is closed");
        return Ok(());
    }
    if mode & OTHERS != 0
        && let Err(error) = sysfs::set_directory_mode(data_dir, 0o700)
    {
        tracing::warn!(%error, path = %data_dir.display(), "failed to close data_dir to other users");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nobody_else_reaches_the_data_and_what_is_for_everybody_stays_so() {
        let scene = tempfile::tempdir().unwrap();
        let (data, run) = (scene.path().join("a/data"), scene.path().join("run"));
        let mode = || fs::metadata(&data).unwrap().mode() & 0o7777;
        make(&data, &run).unwrap();
        assert!(run.is_dir() && mode() == 0o700, "{:o}", mode());
        for (before, after) in [(0o755, 0o700), (0o700, 0o700), (0o1777, 0o1777)] {
            fs::set_permissions(&data, fs::Permissions::from_mode(before)).unwrap();
            make(&data, &run).unwrap();
            assert_eq!(mode(), after, "{before:o}");
        }
    }
}
