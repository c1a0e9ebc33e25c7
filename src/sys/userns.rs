//! User namespaces: unshare(2), man 7 user_namespaces.
//!
//! One can be made by a process with a single thread only. It lives for as long as a descriptor or a process
//! uses it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitiesSecureBits, UnshareFlags};

use super::clone::{self, Fork};
use super::mount;

/// `(inside, outside, count)`: one line of `/proc/<pid>/uid_map`.
pub type Extent = (u32, u32, u32);

/// Asked of the parent of a process in an outer namespace, and answered.
const MAP_ME: &[u8] = b"m";
/// Rides with the inner namespaces; anything else says why there are none.
const MADE: &[u8] = b"d";

/// What the users of a namespace may have of what the kernel counts for users.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Each of them: name and value of settings beneath `/proc/sys/user`.
    pub each: Vec<(String, u32)>,
    /// All of them together. As with processes, who makes the namespace has them: man 7 user_namespaces does not say so,
    /// `set_userns_rlimit_max` in `kernel/user_namespace.c` does.
    pub together: Vec<(Resource, u64)>,
}

impl Bounds {
    /// The same for a namespace in which further ones may be made, of which there is another bound.
    #[must_use]
    pub fn but_for_namespaces(&self) -> Self {
        let each = self.each.iter().filter(|(name, _)| !name.ends_with("_namespaces"));
        Self { each: each.cloned().collect(), together: self.together.clone() }
    }
}

/// A user namespace, and a network namespace that belongs to it.
#[derive(Debug)]
pub struct Namespaces {
    pub user: OwnedFd,
    pub network: Option<OwnedFd>,
}

/// What of user namespaces works on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// Whether files of the root file system can be shown with a sandbox's ids.
    pub maps_rootfs: bool,
    /// The same of the workspaces.
    pub maps_workspaces: bool,
    /// Whether each sandbox can have inodes of its own for the root file system: see [`mount::cover`].
    pub covers_rootfs: bool,
}

/// Makes a user namespace with these ids, users and groups alike, and, if asked for, a network namespace that
/// belongs to it. For a process with one thread.
///
/// Its owner is the first id outside: what the kernel counts for each user (inotify instances, pending signals,
/// queues) it counts once more for the owner of the namespace, and against the host's limit there. Made by
/// root, all of them would share root's.
///
/// # Errors
/// The kernel's, with the step's name.
pub fn make(ids: &[Extent], has_network: bool, bounds: &Bounds) -> io::Result<Namespaces> {
    make_owned(ids, has_network, ids.first().map_or(0, |&(_, outside, _)| outside), bounds)
}

fn make_owned(ids: &[Extent], has_network: bool, owner: u32, bounds: &Bounds) -> io::Result<Namespaces> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match step("fork", clone::fork_into(None))? {
        Fork::Child => {
            drop(ours);
            let mut spaces = UnshareFlags::NEWUSER;
            spaces.set(UnshareFlags::NEWNET, has_network);
            clone::exit_now(stay_in(spaces, owner, bounds, &theirs))
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let made = taken_from(pid, &ours, ids, has_network);
            // It ends when this is closed.
            drop(ours);
            clone::wait_for(pid);
            made
        }
    }
}

/// The same within another user namespace, in which there can be so many namespaces of a kind (`/proc/sys/user/`) and no
/// more, whoever inside makes them. What is made here is among them.
///
/// Set in the namespace itself such a limit would be one for each user in it, and its root can be 65,536 of them.
///
/// # Errors
/// As [`make`].
pub fn make_bounded(ids: &[Extent], most: &[(&str, u32)], bounds: &Bounds) -> io::Result<Namespaces> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let owner = ids.first().map_or(0, |&(_, outside, _)| outside);
    match step("fork", clone::fork_into(None))? {
        Fork::Child => {
            drop(ours);
            clone::exit_now(i32::from(enclose(owner, &theirs, ids, (most, bounds)).is_err()))
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let made = enclosed(pid, &ours, ids);
            drop(ours);
            clone::wait_for(pid);
            made
        }
    }
}

/// In the child: becomes the first user of the outer namespace, and makes the inner one from there: nobody else may
/// write its map.
fn enclose(
    owner: u32,
    socket: &OwnedFd,
    ids: &[Extent],
    (most, bounds): (&[(&str, u32)], &Bounds),
) -> io::Result<()> {
    let inner = || -> io::Result<Namespaces> {
        unshare_as(owner, UnshareFlags::NEWUSER, &Bounds::default())?;
        super::socket::send(socket, MAP_ME, &[])?;
        // By the answer the map is written.
        if super::socket::receive(socket, &mut [0])?.0 == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Changing ids has taken it away, and with it the right to write what is a child's in /proc.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
        for (kind, most) in most {
            step("bound the namespaces", bound(&format!("max_{kind}_namespaces"), *most))?;
        }
        make_owned(ids, true, owner, &bounds.but_for_namespaces())
    };
    match inner() {
        Ok(made) => {
            let descriptors: Vec<_> =
                std::iter::once(&made.user).chain(&made.network).map(AsFd::as_fd).collect();
            super::socket::send(socket, MADE, &descriptors).map(drop)
        }
        Err(error) => super::socket::send(socket, error.to_string().as_bytes(), &[]).map(drop),
    }
}

/// In the parent: writes the map of the outer namespace, and is given the inner one.
fn enclosed(pid: i32, socket: &OwnedFd, ids: &[Extent]) -> io::Result<Namespaces> {
    let mut message = [0; 256];
    loop {
        let (length, descriptors) = step("ask the child", super::socket::receive(socket, &mut message))?;
        match message.get(..length).unwrap_or_default() {
            MAP_ME => {
                // In the outer one the ids are what they are on the host.
                let outer: Vec<_> =
                    ids.iter().map(|&(_, outside, count)| (outside, outside, count)).collect();
                map_ids(pid, &outer)?;
                step("answer the child", super::socket::send(socket, MAP_ME, &[]))?;
            }
            MADE => {
                let mut descriptors = descriptors.into_iter();
                let user = descriptors.next().ok_or(io::ErrorKind::UnexpectedEof)?;
                return Ok(Namespaces { user, network: descriptors.next() });
            }
            text => return Err(io::Error::other(String::from_utf8_lossy(text).into_owned())),
        }
    }
}

/// In the child: unshares, says how that went, and stays until it has been looked at; the exit status.
fn stay_in(spaces: UnshareFlags, owner: u32, bounds: &Bounds, socket: &OwnedFd) -> i32 {
    let unshared = unshare_as(owner, spaces, bounds);
    let errno = unshared.err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
    if super::socket::send(socket, &errno.to_ne_bytes(), &[]).is_err() {
        return 1;
    }
    // Until the other side is closed: by then the namespaces are held by descriptors.
    super::socket::receive(socket, &mut [0]).map_or(1, |_| 0)
}

/// Makes namespaces as somebody else.
fn unshare_as(owner: u32, spaces: UnshareFlags, bounds: &Bounds) -> io::Result<()> {
    // Some kernels ask for a capability to make one, which changing ids would take away.
    rustix::thread::set_capabilities_secure_bits(
        rustix::thread::capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP,
    )?;
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    for (resource, most) in &bounds.together {
        let maximum = rustix::process::getrlimit(*resource).maximum;
        let current = Some(maximum.map_or(*most, |maximum| maximum.min(*most)));
        rustix::process::setrlimit(*resource, Rlimit { current, maximum })?;
    }
    // SAFETY: the process has one thread, and no descriptor is unshared.
    unsafe { rustix::thread::unshare_unsafe(spaces) }?;
    bounds.each.iter().try_for_each(|(name, most)| bound(name, *most))
}

/// Sets what each user of the caller's own namespace may have. Whoever is to be bound by it is in no position to set it
/// again: that takes `CAP_SYS_RESOURCE` there.
fn bound(name: &str, most: u32) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys/user").join(name), most.to_string()) {
        // What a kernel does not have it need not count.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// In the parent: writes the maps of the child's namespace and takes hold of it.
fn taken_from(pid: i32, socket: &OwnedFd, ids: &[Extent], has_network: bool) -> io::Result<Namespaces> {
    let mut errno = [0; 4];
    let (length, _) = step("ask the child", super::socket::receive(socket, &mut errno))?;
    step("unshare the user namespace", result_of(length, errno))?;
    map_ids(pid, ids)?;
    let open = |name: &str| step("open the namespace", File::open(format!("/proc/{pid}/ns/{name}")));
    let network = has_network.then(|| open("net")).transpose()?.map(OwnedFd::from);
    Ok(Namespaces { user: open("user")?.into(), network })
}

/// What a child has said of itself.
fn result_of(length: usize, errno: [u8; 4]) -> io::Result<()> {
    match i32::from_ne_bytes(errno) {
        0 if length == errno.len() => Ok(()),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        // What unshare(2) says then, and what nobody would guess.
        libc::ENOSPC => Err(io::Error::other("no more are allowed, see sysctl user.max_user_namespaces")),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn map_ids(pid: i32, ids: &[Extent]) -> io::Result<()> {
    let mut map = String::new();
    for (inside, outside, count) in ids {
        // Writing to a String does not fail.
        let _ok: std::fmt::Result = writeln!(map, "{inside} {outside} {count}");
    }
    for file in ["uid_map", "gid_map"] {
        step("map the ids", fs::write(format!("/proc/{pid}/{file}"), &map))?;
    }
    Ok(())
}

/// Tries everything that a sandbox with a user namespace needs. For a process with one thread, which may be
/// confined: that is how it will be.
///
/// # Errors
/// Why there can be none.
pub fn probe(ids: &[Extent], rootfs: &Path, workspaces: &Path, bounds: &Bounds) -> Result<Support, String> {
    let spaces = make(ids, true, bounds).map_err(|e| e.to_string())?;
    mounts_inside(&spaces).map_err(|e| format!("mount proc and sysfs inside: {e}"))?;
    let ids = Some(spaces.user.as_fd());
    let maps = |path: &Path| mount::detached_at(path, ids).is_ok();
    let covers_mapped = maps(rootfs) && in_child(|| mount::try_cover(rootfs, ids)).is_ok();
    let covers_rootfs = covers_mapped || covers(rootfs);
    // Files that show as nobody's are the lesser harm: nobody writes them, but anybody may lock and watch them.
    let maps_rootfs = maps(rootfs) && covers_mapped == covers_rootfs;
    Ok(Support { maps_rootfs, maps_workspaces: maps(workspaces), covers_rootfs })
}

/// Says whether a root file system can be covered whose files are shown as they are. For a process with one thread.
pub fn covers(rootfs: &Path) -> bool {
    in_child(|| mount::try_cover(rootfs, None)).is_ok()
}

/// Mounts as the init of a sandbox will: the kernel refuses where something is mounted over a part of the
/// caller's own proc or sysfs, which a new one would uncover.
fn mounts_inside(spaces: &Namespaces) -> io::Result<()> {
    let network = spaces.network.as_ref().ok_or(io::ErrorKind::NotFound)?;
    let enter = || -> io::Result<()> {
        use rustix::thread::{LinkNameSpaceType as Kind, move_into_link_name_space as enter};
        enter(spaces.user.as_fd(), Some(Kind::User))?;
        enter(network.as_fd(), Some(Kind::Network))?;
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        // SAFETY: the process has one thread, and no descriptor is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) }?;
        mount::try_file_system("sysfs")?;
        // The process namespace is that of children.
        in_child(|| mount::try_file_system("proc"))
    };
    in_child(enter)
}

/// Runs a step in a child, and returns what it returned.
fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    super::signal::keep_children()?;
    match clone::fork_into(None)? {
        Fork::Child => clone::exit_now(work().err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO))),
        Fork::Parent(pid) => match clone::wait_for(pid) {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::Interrupted.into()),
        },
    }
}

/// The ids of the user namespace of a process, as it was told: `/proc/<pid>/uid_map`.
///
/// # Errors
/// The process is gone.
pub fn ids_of(pid: i32) -> io::Result<Vec<Extent>> {
    let text = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let extent = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    Ok(text.lines().filter_map(extent).collect())
}

fn step<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{what}: {e}")))
}
