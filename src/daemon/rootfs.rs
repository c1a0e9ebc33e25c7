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
use sys::process;

/// `OVERLAYFS_SUPER_MAGIC`, statfs(2).
const OVERLAYFS: i64 = 0x794c_7630;
/// What `scripts/build-rootfs` writes last.
const COMPLETE: &str = ".complete";
/// Room for the copy, and for sandboxes beside it.
pub(super) const FREE_MIN: u64 = 4 << 30;

/// What serves as the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    Original,
    /// A copy that is there.
    Copy,
    /// A copy that the next start makes.
    NewCopy,
    /// The original, for want of room for a copy: so many bytes are free.
    NoRoom(u64),
}

/// Says what the next start uses; changes nothing.
pub(super) fn serving(config: &Config) -> Serves {
    if !is_copied(config) {
        return Serves::Original;
    }
    let copies = config.data_dir.join("rootfs");
    let copied = copy_of(&config.rootfs, &copies);
    if copied.is_ok_and(|copied| copied.exists()) {
        return Serves::Copy;
    }
    // Former copies go first.
    match free(existing(&copies)).map(|free| free.saturating_add(allocated(&copies))) {
        Ok(free) if free < FREE_MIN => Serves::NoRoom(free),
        Ok(_) => Serves::NewCopy,
        Err(_) => Serves::NoRoom(0),
    }
}

/// Says whether a copy is to be used in the place of the root file system.
fn is_copied(config: &Config) -> bool {
    config.user_namespaces != UserNamespaces::Off
        && is_on_overlay(&config.rootfs)
        && !is_on_overlay(existing(&config.data_dir))
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

/// Before the first start there is no data directory yet; what counts is the file system that it will be on.
pub(super) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or_else(|| Path::new("/"))
}

fn free(path: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(path)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// The bytes on the disk that a tree holds; what cannot be read counts as nothing.
fn allocated(tree: &Path) -> u64 {
    let mut bytes: u64 = 0;
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    bytes
}

/// Where the copy of `rootfs` lies beneath `copies`: named by when the original was built.
fn copy_of(rootfs: &Path, copies: &Path) -> io::Result<PathBuf> {
    let built = fs::metadata(rootfs.join(COMPLETE))?;
    Ok(copies.join(format!("{}.{}", built.mtime(), built.mtime_nsec())))
}

/// Copies `rootfs` to a directory beneath `copies`.
fn copy(rootfs: &Path, copies: &Path) -> io::Result<PathBuf> {
    let copied = copy_of(rootfs, copies)?;
    fs::create_dir_all(copies)?;
    for entry in fs::read_dir(copies)?.flatten() {
        if entry.path() != copied {
            fs::remove_dir_all(entry.path())?;
        }
    }
    if copied.exists() {
        return Ok(copied);
    }
    if free(copies)? < FREE_MIN {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("less than {} GiB are free there", FREE_MIN >> 30),
        ));
    }
    tracing::info!(to = %copied.display(), "copying the root file system to where its ids can be mapped; once for each image");
    let begun = Instant::now();
    let mut unfinished = copied.clone().into_os_string();
    unfinished.push(".new");
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
