//! Whether anything of another place can be reached: the host, or another sandbox.
//!
//! `probe plant TOKEN` leaves one of everything behind in the place where it runs and stays there;
//! the probe in a sandbox looks for each by the token.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::time::Duration;

use crate::kernel::{self, Outcome};
use crate::report::Report;
use crate::status::has_own_ids;

/// What the one who starts the probe knows of the other places.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub is_root: bool,
    pub tokens: Vec<u16>,
    /// `net:[4026531840]`, as `/proc/PID/ns/net` of another place says.
    pub namespaces: Vec<String>,
    pub pids: Vec<u64>,
    pub addresses: Vec<SocketAddr>,
    pub paths: Vec<String>,
    pub host_name: Option<String>,
}

/// Leaves one of everything behind, says so, and stays.
pub(crate) fn plant(token: u16) -> io::Result<()> {
    let _abstract = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name(token))?)?;
    let _listener = TcpListener::bind(("0.0.0.0", token))?;
    kernel::raw(libc::SYS_shmget, [token.into(), 4096, 0o1666, 0, 0, 0])?;
    kernel::raw(libc::SYS_semget, [token.into(), 1, 0o1666, 0, 0, 0])?;
    kernel::raw(libc::SYS_msgget, [token.into(), 0o1666, 0, 0, 0, 0])?;
    let queue = format!("{}\0", name(token));
    // Where mqueue is not mounted there is none; the others suffice.
    let _ignored = kernel::raw(libc::SYS_mq_open, [queue.as_ptr() as u64, 0o102, 0o666, 0, 0, 0]);
    fs::write(format!("/tmp/{}", name(token)), "secret")?;
    fs::write(format!("/dev/shm/{}", name(token)), "secret")?;
    io::Write::write_all(&mut io::stdout(), b"planted\n")?;
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Removes what outlives the planter.
pub(crate) fn unplant(token: u16) {
    for (get, control) in [
        (libc::SYS_shmget, libc::SYS_shmctl),
        (libc::SYS_semget, libc::SYS_semctl),
        (libc::SYS_msgget, libc::SYS_msgctl),
    ] {
        if let Ok(id) = kernel::raw(get, [token.into(), 0, 0, 0, 0, 0]) {
            // `IPC_RMID` is 0, in whichever argument the command stands.
            let _gone = kernel::raw(control, [id.cast_unsigned(), 0, 0, 0, 0, 0]);
        }
    }
    let queue = format!("{}\0", name(token));
    let _gone = kernel::raw(libc::SYS_mq_unlink, [queue.as_ptr() as u64, 0, 0, 0, 0, 0]);
    for directory in ["/tmp", "/dev/shm"] {
        let _gone = fs::remove_file(format!("{directory}/{}", name(token)));
    }
}

fn name(token: u16) -> String {
    format!("sandboxd-probe-{token}")
}

/// Looks for everything.
pub(crate) fn check(report: &mut Report, outside: &Outside) {
    for token in &outside.tokens {
        planted(report, *token);
    }
    namespaces(report, outside);
    // Whoever has the host's ids is somebody there.
    let shares_users = outside.namespaces.iter().any(|n| n.starts_with("user:")) && !has_own_ids();
    report.check(!shares_users, "namespace", "the ids are the host's");
    processes(report, outside);
    for address in &outside.addresses {
        let reached = TcpStream::connect_timeout(address, Duration::from_millis(300)).is_ok();
        report.check(!reached, "network", format_args!("{address} answers"));
    }
    for path in &outside.paths {
        report.check(fs::symlink_metadata(path).is_err(), "file", format_args!("{path} can be seen"));
    }
    if let Some(theirs) = &outside.host_name {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        report.check(own.trim() != theirs, "namespace", "the host's name is shown");
    }
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let foreign: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next_back())
        .filter(|n| n.starts_with('@') || n.starts_with('/'))
        .collect();
    report.check(foreign.is_empty(), "socket", format_args!("listening here already: {foreign:?}"));
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    report.check(keys.is_empty(), "keys", format_args!("{} can be seen", keys.lines().count()));
}

fn planted(report: &mut Report, token: u16) {
    let name = name(token);
    let address = UnixAddr::from_abstract_name(&name);
    let reached = address.and_then(|address| UnixStream::connect_addr(&address)).is_ok();
    report.check(!reached, "socket", format_args!("the abstract socket @{name} answers"));
    let loopback = SocketAddr::from(([127, 0, 0, 1], token));
    let reached = TcpStream::connect_timeout(&loopback, Duration::from_millis(300)).is_ok();
    report.check(!reached, "network", format_args!("{loopback} of another place answers"));
    for (what, number) in [
        ("shared memory", libc::SYS_shmget),
        ("semaphores", libc::SYS_semget),
        ("message queue", libc::SYS_msgget),
    ] {
        let found = kernel::attempt(number, [token.into(), 0, 0, 0, 0, 0]) == Outcome::Done;
        report.check(!found, "ipc", format_args!("{what} {token} of another place"));
    }
    let queue = format!("{name}\0");
    let found = kernel::attempt(libc::SYS_mq_open, [queue.as_ptr() as u64, 0, 0, 0, 0, 0]) == Outcome::Done;
    report.check(!found, "ipc", format_args!("POSIX queue {name} of another place"));
    for directory in ["/tmp", "/dev/shm"] {
        let path = format!("{directory}/{name}");
        report.check(fs::symlink_metadata(&path).is_err(), "file", format_args!("{path} of another place"));
    }
}

fn namespaces(report: &mut Report, outside: &Outside) {
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{kind}"));
        let own = own.map(|path| path.display().to_string()).unwrap_or_default();
        report.check(
            !own.is_empty() && !outside.namespaces.contains(&own),
            "namespace",
            format_args!("{own} is another place's"),
        );
    }
    // Theirs by name, through the processes that can be seen.
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let link = fs::read_link(entry.path().join("ns/net")).map(|p| p.display().to_string());
        let is_theirs = link.is_ok_and(|link| outside.namespaces.contains(&link));
        report.check(
            !is_theirs,
            "namespace",
            format_args!("{} leads to another place", entry.path().display()),
        );
    }
}

fn processes(report: &mut Report, outside: &Outside) {
    for pid in &outside.pids {
        let seen = fs::metadata(format!("/proc/{pid}")).is_ok();
        report.check(!seen, "process", format_args!("{pid} of another place can be seen"));
        let answer = kernel::attempt(libc::SYS_kill, [*pid, 0, 0, 0, 0, 0]);
        report.check(
            answer == Outcome::Refused(libc::ESRCH),
            "process",
            format_args!("{pid} of another place: {answer}"),
        );
    }
    // All that is here belongs to the sandbox's user, but PID 1 keeps root's identity aside where it has one of
    // its own.
    let is_here = |line: &str| {
        line.starts_with("Uid:\t1000\t")
            || (has_own_ids() && line.starts_with("Uid:\t0\t1000\t0\t"))
            || (outside.is_root && line.starts_with("Uid:\t0\t0\t0\t"))
    };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let is_own = status.is_empty() || status.lines().any(is_here);
        report.check(
            !is_process || is_own,
            "process",
            format_args!("{} is of another user", entry.path().display()),
        );
    }
}
