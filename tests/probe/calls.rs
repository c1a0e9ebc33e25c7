//! Every dangerous system call, with arguments that do no harm where it is let through, and how it is
//! to be refused.
//!
//! The arguments are chosen so that a call which reaches the kernel answers something else than what a
//! filter answers: a bad address, a descriptor that is not open, a flag that does not exist.

#[cfg(target_arch = "x86_64")]
use crate::kernel::attempt_int80;
use crate::kernel::{BAD, Outcome, attempt};
use crate::report::Report;

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;
const EINVAL: i32 = libc::EINVAL;
/// No descriptor.
const NONE: u64 = u64::MAX;
/// Numbers from here on are newer than the libseccomp of runc, which answers ENOSYS for all of them.
const NEW: i64 = 450;

const NAMESPACES: [(&str, u64); 8] = [
    ("NEWNS", 0x0002_0000),
    ("NEWCGROUP", 0x0200_0000),
    ("NEWUTS", 0x0400_0000),
    ("NEWIPC", 0x0800_0000),
    ("NEWUSER", 0x1000_0000),
    ("NEWPID", 0x2000_0000),
    ("NEWNET", 0x4000_0000),
    ("NEWTIME", 0x80),
];

#[derive(Clone)]
struct Call {
    name: String,
    number: i64,
    args: [u64; 6],
    errno: i32,
}

/// The calls with their arguments; what the arguments point to stays for as long as the probe runs.
fn table() -> Vec<Call> {
    let buffer = Box::leak(Box::new([0_u8; 512])).as_mut_ptr() as u64;
    let root = c"/".as_ptr() as u64;
    let netns = std::fs::File::open("/proc/self/ns/net").map(std::os::fd::IntoRawFd::into_raw_fd);
    let netns = netns.map_or(NONE, |number| number.cast_unsigned().into());
    [
        namespaces(netns, buffer),
        mounts(root),
        kernel(buffer),
        observation(buffer),
        memory(buffer),
        architecture(buffer),
        terminals(buffer),
        leases(),
        sockets(),
    ]
    .concat()
}

/// Tries them all.
pub(crate) fn check(report: &mut Report) {
    for call in table() {
        let outcome = attempt(call.number, call.args);
        let is_new = call.number >= NEW && outcome == Outcome::Refused(ENOSYS);
        report.check(
            outcome == Outcome::Refused(call.errno) || is_new,
            "system call",
            format_args!("{}: {outcome}", call.name),
        );
    }
    foreign(report);
    allowed(report);
}

/// Prints a line for each.
pub(crate) fn print_names() {
    for call in table() {
        // Whoever reads them sees that the list ends early.
        let _ignored: std::io::Result<()> =
            std::io::Write::write_all(&mut std::io::stdout(), format!("{}\n", call.name).as_bytes());
    }
}

fn call(name: &str, number: i64, args: &[u64], errno: i32) -> Call {
    let mut all = [0; 6];
    for (place, value) in all.iter_mut().zip(args) {
        *place = *value;
    }
    Call { name: name.to_owned(), number, args: all, errno }
}

fn namespaces(netns: u64, buffer: u64) -> Vec<Call> {
    let mut all = Vec::new();
    for (name, flag) in NAMESPACES {
        all.push(call(&format!("unshare {name}"), libc::SYS_unshare, &[flag], EPERM));
        // In clone(2) the time namespace's bit belongs to the signal.
        if name != "NEWTIME" {
            let flags = flag | u64::from(libc::SIGCHLD.cast_unsigned());
            all.push(call(&format!("clone {name}"), libc::SYS_clone, &[flags], EPERM));
            let high = flags | 1 << 40;
            all.push(call(&format!("clone {name} with high bits"), libc::SYS_clone, &[high], EPERM));
        }
    }
    all.push(call("clone3", libc::SYS_clone3, &[buffer, 88], ENOSYS));
    all.push(call("clone3 without a structure", libc::SYS_clone3, &[BAD, 88], ENOSYS));
    all.push(call("setns", libc::SYS_setns, &[netns, 0], EPERM));
    all.push(call("setns NEWNET", libc::SYS_setns, &[netns, 0x4000_0000], EPERM));
    all.push(call("setns of nothing", libc::SYS_setns, &[NONE, 0], EPERM));
    all
}

fn mounts(root: u64) -> Vec<Call> {
    let here = libc::AT_FDCWD.cast_unsigned().into();
    vec![
        call("mount", libc::SYS_mount, &[BAD, BAD, BAD, 0, 0], EPERM),
        call("umount2", libc::SYS_umount2, &[BAD, 0], EPERM),
        call("pivot_root", libc::SYS_pivot_root, &[BAD, BAD], EPERM),
        call("chroot", libc::SYS_chroot, &[BAD], EPERM),
        call("open_tree", libc::SYS_open_tree, &[here, root, 0], EPERM),
        call("open_tree CLONE", libc::SYS_open_tree, &[here, root, 1], EPERM),
        call("move_mount", libc::SYS_move_mount, &[NONE, BAD, NONE, BAD, 0], EPERM),
        call("fsopen", libc::SYS_fsopen, &[BAD, 0], EPERM),
        call("fsconfig", libc::SYS_fsconfig, &[NONE, 0, 0, 0, 0], EPERM),
        call("fsmount", libc::SYS_fsmount, &[NONE, 0, 0], EPERM),
        call("fspick", libc::SYS_fspick, &[here, BAD, 0], EPERM),
        call("mount_setattr", libc::SYS_mount_setattr, &[here, BAD, 0, BAD, 32], EPERM),
        call("statmount", 457, &[BAD, BAD, 0, 0], EPERM),
        call("listmount", 458, &[BAD, BAD, 0, 0], EPERM),
        call("open_tree_attr", 467, &[here, root, 0, 0, 0], EPERM),
        call("file_setattr", 469, &[here, BAD, BAD, 0, 0], EPERM),
        call("open_by_handle_at", libc::SYS_open_by_handle_at, &[here, BAD, 0], EPERM),
        call("quotactl", libc::SYS_quotactl, &[0x80_0000 << 8, BAD, 0, BAD], EPERM),
        call("quotactl_fd", libc::SYS_quotactl_fd, &[NONE, 0, 0, 0], EPERM),
        call("mknod of a character device", libc::SYS_mknodat, &[here, BAD, 0o020_644, 0x103], EPERM),
        call("mknod of a block device", libc::SYS_mknodat, &[here, BAD, 0o060_644, 0x700], EPERM),
        call("swapon", libc::SYS_swapon, &[BAD, 0], EPERM),
        call("swapoff", libc::SYS_swapoff, &[BAD], EPERM),
        call("fanotify_init", libc::SYS_fanotify_init, &[0xffff_0000, 0], EPERM),
        call("fanotify_mark", libc::SYS_fanotify_mark, &[NONE, 0, 0, 0, 0], EPERM),
    ]
}

fn kernel(buffer: u64) -> Vec<Call> {
    vec![
        call("init_module", libc::SYS_init_module, &[BAD, 0, BAD], EPERM),
        call("finit_module", libc::SYS_finit_module, &[NONE, BAD, 0], EPERM),
        call("delete_module", libc::SYS_delete_module, &[BAD, 0], EPERM),
        call("kexec_load", libc::SYS_kexec_load, &[0, 0xffff, BAD, 0], EPERM),
        call("kexec_file_load", libc::SYS_kexec_file_load, &[NONE, NONE, 0, 0, 0xffff], EPERM),
        call("reboot", libc::SYS_reboot, &[0, 0, 0, 0], EPERM),
        call("acct", libc::SYS_acct, &[BAD], EPERM),
        call("settimeofday", libc::SYS_settimeofday, &[BAD, 0], EPERM),
        call("clock_settime", libc::SYS_clock_settime, &[0, BAD], EPERM),
        call("adjtimex", libc::SYS_adjtimex, &[buffer], EPERM),
        call("clock_adjtime", libc::SYS_clock_adjtime, &[0, buffer], EPERM),
        call("sethostname", libc::SYS_sethostname, &[BAD, 1], EPERM),
        call("setdomainname", libc::SYS_setdomainname, &[BAD, 1], EPERM),
        call("syslog", libc::SYS_syslog, &[3, buffer, 512], EPERM),
        call("syslog SIZE_BUFFER", libc::SYS_syslog, &[10, 0, 0], EPERM),
        call("vhangup", libc::SYS_vhangup, &[], EPERM),
        call("bpf", libc::SYS_bpf, &[0, BAD, 72], EPERM),
        call("bpf PROG_LOAD", libc::SYS_bpf, &[5, BAD, 72], EPERM),
        call("keyctl GET_KEYRING_ID", libc::SYS_keyctl, &[0, (-3_i64).cast_unsigned(), 1], EPERM),
        call("keyctl JOIN_SESSION", libc::SYS_keyctl, &[1, 0], EPERM),
        call("add_key", libc::SYS_add_key, &[BAD, BAD, BAD, 1, (-2_i64).cast_unsigned()], EPERM),
        call("request_key", libc::SYS_request_key, &[BAD, BAD, 0, 0], EPERM),
        call("io_uring_setup", libc::SYS_io_uring_setup, &[1, BAD], ENOSYS),
        call("io_uring_enter", libc::SYS_io_uring_enter, &[NONE, 0, 0, 0, 0], ENOSYS),
        call("io_uring_register", libc::SYS_io_uring_register, &[NONE, 0, 0, 0], ENOSYS),
        call("io_setup", libc::SYS_io_setup, &[1, BAD], ENOSYS),
        call("io_submit", libc::SYS_io_submit, &[0, 0, 0], ENOSYS),
    ]
}

fn observation(buffer: u64) -> Vec<Call> {
    let own = u64::from(std::process::id());
    vec![
        call("perf_event_open", libc::SYS_perf_event_open, &[BAD, 0, 0, NONE, 0], EPERM),
        call("process_vm_readv", libc::SYS_process_vm_readv, &[own, 0, 0, 0, 0, 0], EPERM),
        call("process_vm_writev", libc::SYS_process_vm_writev, &[own, 0, 0, 0, 0, 0], EPERM),
        call("kcmp", libc::SYS_kcmp, &[own, own, 0, 0, 0], EPERM),
        call("pidfd_getfd", libc::SYS_pidfd_getfd, &[NONE, 0, 0], EPERM),
        call("prlimit64 of PID 1", libc::SYS_prlimit64, &[1, 7, 0, 0], EPERM),
        call("cachestat", 451, &[0, BAD, BAD, 0], EPERM),
        call("lsm_get_self_attr", 459, &[0, buffer, BAD, 0], EPERM),
    ]
}

fn memory(buffer: u64) -> Vec<Call> {
    vec![
        call("userfaultfd", libc::SYS_userfaultfd, &[0], ENOSYS),
        call("userfaultfd USER_MODE_ONLY", libc::SYS_userfaultfd, &[1], ENOSYS),
        call("mbind", libc::SYS_mbind, &[0, 0, 0, 0, 0, 0], ENOSYS),
        call("set_mempolicy", libc::SYS_set_mempolicy, &[0, 0, 0], ENOSYS),
        call("migrate_pages", libc::SYS_migrate_pages, &[0, 0, 0, 0], EPERM),
        call("move_pages", libc::SYS_move_pages, &[0, 0, 0, 0, 0, 0], EPERM),
        call("set_mempolicy_home_node", 450, &[0, 0, 0, 0], EPERM),
        call("remap_file_pages", libc::SYS_remap_file_pages, &[buffer, 0, 0, 0, 0], EPERM),
        call("process_mrelease", libc::SYS_process_mrelease, &[NONE, 0], EPERM),
        call("memfd_secret", libc::SYS_memfd_secret, &[NONE], EPERM),
        call("personality READ_IMPLIES_EXEC", libc::SYS_personality, &[0x040_0000], EPERM),
        call("personality MMAP_PAGE_ZERO", libc::SYS_personality, &[0x010_0000], EPERM),
        call("personality ADDR_COMPAT_LAYOUT", libc::SYS_personality, &[0x020_0000], EPERM),
    ]
}

#[cfg(target_arch = "x86_64")]
fn architecture(buffer: u64) -> Vec<Call> {
    vec![
        call("iopl", libc::SYS_iopl, &[0], EPERM),
        call("ioperm", libc::SYS_ioperm, &[0, 0, 0], EPERM),
        call("modify_ldt", libc::SYS_modify_ldt, &[0, buffer, 16], EPERM),
        call("set_thread_area", libc::SYS_set_thread_area, &[BAD], EPERM),
        call("get_thread_area", libc::SYS_get_thread_area, &[BAD], EPERM),
        call("uselib", libc::SYS_uselib, &[BAD], EPERM),
        call("ustat", libc::SYS_ustat, &[NONE, BAD], EPERM),
        call("sysfs", libc::SYS_sysfs, &[3], EPERM),
        call("lookup_dcookie", libc::SYS_lookup_dcookie, &[0, 0, 0], EPERM),
        call("nfsservctl", libc::SYS_nfsservctl, &[0, 0, 0], EPERM),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn architecture(_buffer: u64) -> Vec<Call> {
    Vec::new()
}

/// ioctl(2) on a descriptor that is not open: what passes the filter answers EBADF.
fn terminals(buffer: u64) -> Vec<Call> {
    let refused = [
        ("TIOCSTI", 0x5412),
        ("TIOCLINUX", 0x541c),
        ("TIOCSETD", 0x5423),
        ("FS_IOC_SETFLAGS", 0x4008_6602),
        ("FS_IOC_FSSETXATTR", 0x401c_5820),
    ];
    let both = |(name, request): (&str, u64)| {
        let high = call(
            &format!("{name} with high bits"),
            libc::SYS_ioctl,
            &[NONE, request | 1 << 32, buffer],
            EPERM,
        );
        [call(name, libc::SYS_ioctl, &[NONE, request, buffer], EPERM), high]
    };
    refused.into_iter().flat_map(both).collect()
}

/// Commands of fcntl(2) on a descriptor that is not open: what passes the filter answers EBADF.
fn leases() -> Vec<Call> {
    let refused = [("F_SETLEASE", 1024), ("F_NOTIFY", 1026), ("F_SETDELEG", 1040), ("fcntl 1041", 1041)];
    let both = |(name, command): (&str, u64)| {
        let high = format!("{name} with high bits");
        let high = call(&high, libc::SYS_fcntl, &[NONE, command | 1 << 32, 1], EINVAL);
        [call(name, libc::SYS_fcntl, &[NONE, command, 1], EINVAL), high]
    };
    refused.into_iter().flat_map(both).collect()
}

fn sockets() -> Vec<Call> {
    const FAMILIES: u64 = 48;
    let (stream, datagram, raw) = (1, 2, 3);
    let mut all = Vec::new();
    for family in (0..FAMILIES).filter(|family| ![1, 2, 10, 16].contains(family)) {
        for kind in [stream, datagram, raw, 5] {
            let name = format!("socket of family {family}, type {kind}");
            all.push(call(&name, libc::SYS_socket, &[family, kind, 0], EPERM));
        }
    }
    for family in (0..FAMILIES).filter(|family| *family != 1) {
        let name = format!("socketpair of family {family}");
        all.push(call(&name, libc::SYS_socketpair, &[family, datagram, 0, BAD], EPERM));
    }
    for protocol in 1..23 {
        let name = format!("netlink socket of protocol {protocol}");
        // A kernel without audit answers so, and PAM goes on without.
        let errno = if protocol == 9 { libc::EPROTONOSUPPORT } else { EPERM };
        all.push(call(&name, libc::SYS_socket, &[16, raw, protocol], errno));
    }
    for family in [2, 10] {
        for (name, kind, protocol) in [
            ("raw", raw, 1),
            ("raw of all protocols", raw, 255),
            ("packet", 10, 3),
            ("seqpacket", 5, 0),
            ("DCCP", 6, 33),
            ("SCTP", stream, 132),
            ("MPTCP", stream, 262),
            ("SMC", stream, 256),
            ("L2TP", datagram, 115),
            ("UDP-Lite", datagram, 136),
        ] {
            let name = format!("{name} socket of family {family}");
            all.push(call(&name, libc::SYS_socket, &[family, kind, protocol], EPERM));
        }
    }
    // The upper half of an argument is no way round: the kernel looks at the lower alone.
    all.push(call("AF_VSOCK with high bits", libc::SYS_socket, &[40 | 1 << 32, stream, 0], EPERM));
    for (name, option) in [("SO_ATTACH_FILTER", 26), ("SO_ATTACH_REUSEPORT_CBPF", 51)] {
        all.push(call(name, libc::SYS_setsockopt, &[NONE, 1, option, BAD, 16], EPERM));
        let high = 1 << 32;
        let name = format!("{name} with high bits");
        all.push(call(&name, libc::SYS_setsockopt, &[NONE, 1 | high, option | high, BAD, 16], EPERM));
    }
    all.push(call("TCP_ULP", libc::SYS_setsockopt, &[NONE, 6, 31, BAD, 3], EPERM));
    all.push(call(
        "TCP_ULP with high bits",
        libc::SYS_setsockopt,
        &[NONE, 6 | 1 << 32, 31 | 1 << 32, BAD, 3],
        EPERM,
    ));
    all
}

/// The numbers of other architectures: the filter has to see them as what they are.
#[cfg(target_arch = "x86_64")]
fn foreign(report: &mut Report) {
    const X32: i64 = 0x4000_0000;
    for (name, number) in [("getpid", 39), ("unshare", 272), ("ptrace", 521), ("execve", 520)] {
        let outcome = attempt(X32 | number, [0; 6]);
        let is_safe = [Outcome::Refused(EPERM), Outcome::Killed(libc::SIGSYS)].contains(&outcome);
        report.check(is_safe, "system call", format_args!("x32 {name}: {outcome}"));
    }
    for (name, number) in [("getpid", 20), ("getuid", 24), ("sched_yield", 158)] {
        let outcome = attempt_int80(number);
        report.check(
            outcome == Outcome::Killed(libc::SIGSYS),
            "system call",
            format_args!("int80 {name}: {outcome}"),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign(_report: &mut Report) {}

/// A filter that refuses everything would pass all of the above.
fn allowed(report: &mut Report) {
    let buffer = [0_u8; 16].as_mut_ptr() as u64;
    // `struct flock` of zeroes: a read lock of the whole file.
    let mut lock = [0_u64; 4];
    let lock = lock.as_mut_ptr() as u64;
    for (name, number, args) in [
        ("getpid", libc::SYS_getpid, [0; 6]),
        ("clone", libc::SYS_clone, [libc::SIGCHLD.cast_unsigned().into(), 0, 0, 0, 0, 0]),
        ("TCP", libc::SYS_socket, [2, 1, 6, 0, 0, 0]),
        ("UDP", libc::SYS_socket, [10, 2, 17, 0, 0, 0]),
        ("unix sockets", libc::SYS_socketpair, [1, 1, 0, buffer, 0, 0]),
        ("the list of interfaces", libc::SYS_socket, [16, 3, 0, 0, 0, 0]),
        ("personality without randomisation", libc::SYS_personality, [0x4_0000, 0, 0, 0, 0, 0]),
        ("F_DUPFD_CLOEXEC", libc::SYS_fcntl, [0, 1030, 0, 0, 0, 0]),
        ("F_GETLK", libc::SYS_fcntl, [0, 5, lock, 0, 0, 0]),
        ("F_OFD_SETLK", libc::SYS_fcntl, [0, 37, lock, 0, 0, 0]),
        ("seccomp", libc::SYS_seccomp, [2, 0, (&raw const ERRNO_ACTION) as u64, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, [buffer, 0, 0, 0, 0, 0]),
    ] {
        let outcome = attempt(number, args);
        report.check(outcome == Outcome::Done, "needed call refused", format_args!("{name}: {outcome}"));
    }
}

/// `SECCOMP_RET_ERRNO`, asked for by `SECCOMP_GET_ACTION_AVAIL`.
static ERRNO_ACTION: u32 = 0x0005_0000;
