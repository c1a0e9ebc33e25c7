//! Mount namespaces: unshare(2), setns(2), mount(2), open_tree(2), mount_setattr(2), move_mount(2).

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_set_string,
};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::fs::own_path;

/// Where mounts are put together that a launch needs: every part of the way to it may be passed by anybody, and
/// so by root of a user namespace, to whom the directories of the daemon are closed. The names in it are
/// [`STAGED`].
pub const STAGE: &str = "/sys/fs/cgroup";
/// Directories on the stage.
const STAGED: [&str; 2] = ["rootfs", "layers"];
/// Where a worker sees the sandbox's own device nodes and files: libcontainer binds devices from this path.
pub const OWN: &str = "/dev";

/// Moves the calling, single-threaded process into a mount namespace in which only `writable` can be
/// written (and `/proc` and `/sys`, whose files are not a file system's), and in which the cgroup file systems
/// are replaced by [`STAGE`].
///
/// `unshare(CLONE_NEWNS)`, `mount_setattr("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY)` — man 2 mount_setattr.
///
/// # Errors
/// The kernel's, with the step's name.
pub fn confine(writable: &[&Path]) -> io::Result<()> {
    step("unshare the mount namespace", unshare_mounts())?;
    // Nothing that happens here may come back to the host.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("make the mounts private", rustix::mount::mount_change("/", private).map_err(Into::into))?;
    // The copies are taken while they are still writable, and put back in place over the read-only tree.
    let mut trees = Vec::new();
    for path in writable {
        trees.push((path, step("copy a writable mount", copy_tree(path))?));
    }
    // Unmounted and not only covered: what is mounted is still listed in mountinfo. The host keeps its own.
    match rustix::mount::unmount(STAGE, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(errno) => return step("unmount the cgroup file systems", Err(errno.into())),
    }
    let hidden =
        rustix::mount::mount("tmpfs", STAGE, "tmpfs", MountFlags::empty(), Some(c"size=4k,mode=755"));
    step("hide the cgroup file system", hidden.map_err(Into::into))?;
    step("set the stage", set_stage())?;
    step("make the mounts read-only", set_read_only(Path::new("/"), true, true))?;
    step("make /proc writable", set_read_only(Path::new("/proc"), false, false))?;
    // A user namespace may have a new sysfs only where it sees one that is no less writable.
    step("make /sys writable", set_read_only(Path::new("/sys"), false, false))?;
    for (path, tree) in trees {
        let moved = rustix::mount::move_mount(tree, "", CWD, *path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        step("put a writable mount in place", moved.map_err(Into::into))?;
    }
    Ok(())
}

/// Mounts an empty file system without a disk, of at most half of the memory: `mount("tmpfs")` — man 5 tmpfs.
///
/// # Errors
/// The kernel's.
pub fn in_memory(path: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(c"mode=755"))?)
}

/// Takes a copy of the mount at a path beneath a directory, or at the directory itself, that is in no namespace yet: no set-user-id, no devices, private.
/// With a user namespace, whoever is on the disk one of its inner ids is the outer one in the copy.
///
/// `open_tree(fd, path, OPEN_TREE_CLONE)`, `mount_setattr(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_IDMAP, MS_PRIVATE)`.
///
/// # Errors
/// The kernel's; `EINVAL` for a file system that cannot be mapped, such as overlayfs.
pub fn detached(directory: BorrowedFd<'_>, path: &Path, ids: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(directory, path, flags)?;
    let mut attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    if let Some(ids) = ids {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::from(ids.as_raw_fd().unsigned_abs());
    }
    set_attributes(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH, &attributes)?;
    Ok(tree)
}

/// The same of an absolute path.
///
/// # Errors
/// The kernel's.
pub fn detached_at(path: &Path, ids: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    detached(CWD, path, ids)
}

/// `mount_setattr(tree, -MOUNT_ATTR_RDONLY)`: lets a detached copy be written although what it was taken from is
/// read-only here.
///
/// # Errors
/// The kernel's.
pub fn make_writable(tree: &OwnedFd) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
    set_attributes(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH, &attributes)
}

/// `unshare(CLONE_NEWNS)`: moves the calling, single-threaded process into a copy of its mount namespace.
///
/// # Errors
/// The kernel's.
pub fn unshare() -> io::Result<()> {
    unshare_mounts()
}

/// Lays `upper` in a directory over another one; the mount is nowhere yet.
///
/// `fsopen("overlay")`, `fsconfig(lowerdir, upperdir, workdir)`, `fsmount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)`.
///
/// # Errors
/// The kernel's.
pub fn overlay(lower: &Path, layers: &Path) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let options = [("upperdir", layers.join("upper")), ("workdir", layers.join("work"))];
    overlay_of(lower.as_os_str(), &options, attributes)
}

/// Lays an empty directory under another one, read-only; the mount is nowhere yet.
///
/// Every overlay has inodes of its own, also where the files beneath are the same: watches (inotify), locks and leases
/// are on those. File content is mapped and cached once, for the file beneath. The kernel wants two layers where
/// none is written; on one file system they keep one device number — man 5 overlayfs,
/// Documentation/filesystems/overlayfs.rst "Inode properties".
///
/// # Errors
/// The kernel's; `EINVAL` for an idmapped `lower` before Linux 5.19, and for one that lies on two overlays already.
pub fn cover(lower: &Path, empty: &Path) -> io::Result<OwnedFd> {
    let empty = open_path(empty)?;
    let layers = [lower.as_os_str(), OsStr::new(":"), OsStr::new(&own_path(&empty))].join(OsStr::new(""));
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        .union(MountAttrFlags::MOUNT_ATTR_NODEV)
        .union(MountAttrFlags::MOUNT_ATTR_RDONLY);
    overlay_of(&layers, &[], attributes)
}

/// Lays the files of a directory over [`OWN`], read-only; the mount is nowhere yet. Device nodes in it work, and have
/// inodes of its own as files do, see [`cover`].
///
/// # Errors
/// The kernel's.
pub fn own_files(files: &Path) -> io::Result<OwnedFd> {
    // Named by its descriptor: what is mounted is listed inside, and paths of the host are nobody's business there.
    let files = open_path(files)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_RDONLY;
    overlay_of(OsStr::new(&format!("{}:{OWN}", own_path(&files))), &[], attributes)
}

/// Says whether [`cover`] works for a directory, mapped by a user namespace if there is one. Runs in a mount namespace
/// of the calling, single-threaded process: for a child that ends.
///
/// # Errors
/// The kernel's.
pub fn try_cover(directory: &Path, ids: Option<BorrowedFd<'_>>) -> io::Result<()> {
    unshare_mounts()?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let tree = detached_at(directory, ids)?;
    rustix::mount::mount("tmpfs", STAGE, "tmpfs", MountFlags::empty(), Some(c"size=4k,mode=755"))?;
    set_stage()?;
    let [rootfs, empty] = STAGED.map(|name| Path::new(STAGE).join(name));
    attach(tree, &rootfs)?;
    cover(&rootfs, &empty).map(drop)
}

fn overlay_of(lower: &OsStr, options: &[(&str, PathBuf)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |name: &str, value: &OsStr| fsconfig_set_string(context.as_fd(), name, value);
    set("source", OsStr::new("overlay"))?;
    set("lowerdir", lower)?;
    for (name, path) in options {
        set(name, path.as_os_str())?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn open_path(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

/// `unshare(CLONE_NEWTIME)`: what the calling process forks from now on is in a time namespace of its own, with the
/// clocks of this one. Without one all processes of the host share the inode of `/proc/self/ns/time`, on which locks
/// and watches can be placed — man 7 time_namespaces.
///
/// # Errors
/// The kernel's; `EINVAL` where it was built without `CONFIG_TIME_NS`.
pub fn unshare_time() -> io::Result<()> {
    // SAFETY: the flag changes the namespace of children only, no descriptor is unshared or closed.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) }?)
}

/// `fsopen(type)`, `fsmount`: mounts a file system nowhere, to see whether that may be.
///
/// # Errors
/// The kernel's.
pub fn try_file_system(kind: &str) -> io::Result<()> {
    let context = rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let flags = rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(context.as_fd(), flags, rustix::mount::MountAttrFlags::empty())?;
    Ok(())
}

/// `move_mount(tree, path)`: puts a detached mount in place, in the caller's namespace.
///
/// # Errors
/// The kernel's.
pub fn attach(tree: OwnedFd, path: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", CWD, path, flags)?)
}

/// The same in a new mount namespace of the calling, single-threaded process.
///
/// # Errors
/// The kernel's.
pub fn attach_apart(tree: OwnedFd, path: &Path) -> io::Result<()> {
    unshare_mounts()?;
    attach(tree, path)
}

/// `setns(pidfd, CLONE_NEWNS | CLONE_NEWUTS)`: the calling thread, which must not share its root and working
/// directory, goes into the mount and host name namespaces of a process; both become that namespace's root.
///
/// # Errors
/// The kernel's.
pub fn enter(process: BorrowedFd<'_>) -> io::Result<()> {
    let spaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    Ok(rustix::thread::move_into_thread_name_spaces(process, spaces)?)
}

/// `sethostname(name)`, in the caller's namespace.
///
/// # Errors
/// The kernel's.
pub fn set_host_name(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

fn set_stage() -> io::Result<()> {
    STAGED.iter().try_for_each(|name| std::fs::create_dir(Path::new(STAGE).join(name)))
}

fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the flag changes mounts only, no descriptor is unshared or closed.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

fn copy_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

fn set_read_only(path: &Path, read_only: bool, recursive: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (set, clear) = if read_only { (libc::MOUNT_ATTR_RDONLY, 0) } else { (0, libc::MOUNT_ATTR_RDONLY) };
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    set_attributes(libc::AT_FDCWD, &path, flags, &attributes)
}

fn set_attributes(
    directory: RawFd,
    path: &CStr,
    flags: libc::c_int,
    attributes: &libc::mount_attr,
) -> io::Result<()> {
    // SAFETY: the path ends with NUL and the structure is of the size that is passed; the kernel only
    // reads both, during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn step<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{what}: {e}")))
}
