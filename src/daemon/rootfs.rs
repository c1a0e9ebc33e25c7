//! Where the root file system is used: in its place, or as a copy whose ids can be mapped.
//!
//! overlayfs cannot be mounted with other ids (mount_setattr(2), `MOUNT_ATTR_IDMAP`), and in a container's image everything
//! lies on it. There a sandbox's root would own nothing of its own root file system. So it is copied once to the
//! data directory, which is a volume.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::config::{Config, UserNamespaces};
use crate::sys::process;

/// `OVERLAYFS_SUPER_MAGIC`, statfs(2).
const OVERLAYFS: i64 = 0x794c_7630;
/// What `scripts/build-rootfs` writes last.
const COMPLETE: &str = ".complete";
/// Room for the copy, and for sandboxes beside it.
const FREE_MIN: u64 = 4 << 30;

/// Says whether a copy is used in the place of the root file system.
pub(super) fn is_copied(config: &Config) -> bool {
    let existing = config.data_dir.ancestors().find(|p| p.exists()).unwrap_or_else(|| Path::new("/"));
    config.user_namespaces != UserNamespaces::Off
        && is_on_overlay(&config.rootfs)
        && !is_on_overlay(existing)
        && config.rootfs.join(COMPLETE).exists()
}

/// The root file system to use. Makes the copy if there is none yet, which takes some ten seconds, once for each image, and
/// removes those of former images. If it cannot be made the original serves, unmapped.
pub(super) fn place(config: &Config) -> PathBuf {
    if !is_copied(config) {
        return config.rootfs.clone();
    }
    match copy(&config.rootfs, &config.data_dir.join("rootfs")) {
        Ok(copied) => copied,
        Err(error) => {
            tracing::warn!(%error, "the root file system cannot be copied to the data directory: its files will be nobody's inside");
            config.rootfs.clone()
        }
    }
}

fn is_on_overlay(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == OVERLAYFS)
}

/// Copies `rootfs` to a directory beneath `copies` that is named by when it was built.
fn copy(rootfs: &Path, copies: &Path) -> io::Result<PathBuf> {
    let built = fs::metadata(rootfs.join(COMPLETE))?;
    let name = format!("{}.{}", built.mtime(), built.mtime_nsec());
    let copied = copies.join(&name);
    fs::create_dir_all(copies)?;
    for entry in fs::read_dir(copies)?.flatten() {
        if entry.file_name() != name.as_str() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    if copied.exists() {
        return Ok(copied);
    }
    let room = rustix::fs::statvfs(copies)?;
    if room.f_bavail.saturating_mul(room.f_frsize) < FREE_MIN {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("less than {} GiB are free there", FREE_MIN >> 30),
        ));
    }
    tracing::info!(to = %copied.display(), "copying the root file system to where its ids can be mapped; once for each image");
    let begun = Instant::now();
    let unfinished = copies.join(format!("{name}.new"));
    let mut cp = process::command("cp");
    cp.args(["-R", "-P", "--preserve=mode,ownership,timestamps,links", "--reflink=auto", "--"]);
    let output = cp.arg(rootfs).arg(&unfinished).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        // What is left of it is removed at the next start as well.
        let _left: io::Result<()> = fs::remove_dir_all(&unfinished);
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    rustix::fs::syncfs(fs::File::open(copies)?)?;
    fs::rename(&unfinished, &copied)?;
    tracing::info!(seconds = begun.elapsed().as_secs(), "copied the root file system");
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_copied_once_for_each_build() {
        let directory = tempfile::tempdir().unwrap();
        let (rootfs, copies) = (directory.path().join("original"), directory.path().join("copies"));
        fs::create_dir_all(rootfs.join("etc")).unwrap();
        fs::write(rootfs.join("etc/hosts"), "one").unwrap();
        fs::write(rootfs.join(COMPLETE), "1M").unwrap();
        std::os::unix::fs::symlink("/etc/hosts", rootfs.join("link")).unwrap();

        let first = copy(&rootfs, &copies).unwrap();
        assert_eq!(fs::read_to_string(first.join("etc/hosts")).unwrap(), "one");
        assert_eq!(fs::read_link(first.join("link")).unwrap(), Path::new("/etc/hosts"));
        fs::write(first.join("kept"), "").unwrap();
        assert_eq!(copy(&rootfs, &copies).unwrap(), first);
        assert!(first.join("kept").exists(), "copied again");

        // Another image, and what a start that was cut short left.
        fs::create_dir(copies.join("7.0.new")).unwrap();
        let complete = fs::File::options().write(true).open(rootfs.join(COMPLETE)).unwrap();
        complete.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(7)).unwrap();
        let second = copy(&rootfs, &copies).unwrap();
        let left: Vec<_> = fs::read_dir(&copies).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [second]);
    }
}
