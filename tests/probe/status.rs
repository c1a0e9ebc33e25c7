//! What the probe's own process, and PID 1, hold: credentials, descriptors, limits, environment.

use std::fs;

use crate::kernel;
use crate::report::Report;

/// All that capabilities(7) names, by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// What root of a sandbox may have: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID and SETUID, by their numbers.
const OF_ROOT: u64 = 0b1111_1011;
/// PID 1 of a user namespace keeps these and SETPCAP aside, and acts with KILL alone.
const OF_INIT: u64 = OF_ROOT | 1 << 8;
const KILL: u64 = 1 << 5;

/// Whether root of the user namespace is somebody else outside.
pub(crate) fn has_own_ids() -> bool {
    let map = read("/proc/self/uid_map");
    let mut lines = map.lines().map(|line| line.split_ascii_whitespace().nth(1));
    map.lines().count() > 0 && lines.all(|outside| outside.is_some_and(|first| first != "0"))
}

/// Looks at everything.
pub(crate) fn check(report: &mut Report, is_root: bool) {
    let own = if is_root { [0, OF_ROOT, OF_ROOT, OF_ROOT, 0] } else { [0; 5] };
    credentials(report, "self", own, if is_root { ["0"; 4] } else { ["1000"; 4] });
    if has_own_ids() {
        credentials(report, "1", [0, OF_INIT, KILL, OF_INIT, 0], ["0", "1000", "0", "1000"]);
    } else {
        credentials(report, "1", [0; 5], ["1000"; 4]);
    }
    descriptors(report);
    init(report, is_root);
    limits(report);
    shared_tables(report);
    let score = read("/proc/self/oom_score_adj");
    let is_first_to_go = score.trim().parse::<i32>().is_ok_and(|s| s >= 500);
    report.check(is_first_to_go, "memory", format_args!("oom_score_adj is {}", score.trim()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_ours =
            name.starts_with("SANDBOXD_") || name.starts_with("LISTEN_") || name.contains("NOTIFY_SOCKET");
        report.check(!is_ours, "environment", name);
    }
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_ascii_whitespace().collect()
}

/// `may_have` is in the order of [`SETS`], `expected_ids` in that of `/proc/PID/status`.
fn credentials(report: &mut Report, who: &str, may_have: [u64; 5], expected_ids: [&str; 4]) {
    let status = read(&format!("/proc/{who}/status"));
    for (set, may_have) in SETS.iter().zip(may_have) {
        let bits = field(&status, set).first().and_then(|text| u64::from_str_radix(text, 16).ok());
        let bits = bits.unwrap_or(u64::MAX);
        for (number, name) in CAPABILITIES.iter().enumerate() {
            report.check(
                (bits & !may_have) >> number & 1 == 0,
                "capability",
                format_args!("CAP_{name} is in {set} of {who}"),
            );
        }
        report.check(
            bits >> CAPABILITIES.len() == 0,
            "capability",
            format_args!("one without a name is in {set} of {who}"),
        );
    }
    for (name, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let value = field(&status, name);
        report.check(value == [expected], "process", format_args!("{name} of {who} is {value:?}"));
    }
    for name in ["Uid", "Gid"] {
        let ids = field(&status, name);
        report.check(ids == expected_ids, "process", format_args!("{name} of {who} is {ids:?}"));
    }
    let groups = field(&status, "Groups");
    report.check(
        groups.iter().all(|g| *g == "1000"),
        "process",
        format_args!("groups of {who} are {groups:?}"),
    );
    let tracer = field(&status, "TracerPid");
    report.check(tracer == ["0"], "process", format_args!("{who} is traced by {tracer:?}"));
}

/// Only the standard streams, and none of them a directory or a socket of the host's.
fn descriptors(report: &mut Report) {
    let directory = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for entry in directory {
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(-1);
        // The one by which the directory is being read is gone when it is looked at afterwards.
        let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) else { continue };
        let is_listing = target.to_string_lossy().starts_with("/proc/");
        report.check(
            number <= 2 || is_listing,
            "descriptor",
            format_args!("{number} is {}", target.display()),
        );
        let is_directory = fs::metadata(format!("/proc/self/fd/{number}")).is_ok_and(|m| m.is_dir());
        report.check(!is_directory || is_listing, "descriptor", format_args!("{number} is a directory"));
        report.check(
            !target.to_string_lossy().starts_with("anon_inode:"),
            "descriptor",
            format_args!("{number} is {}", target.display()),
        );
    }
}

/// PID 1 holds the control socket: it must not be looked into, and not be changed.
fn init(report: &mut Report, is_root: bool) {
    for (what, is_open) in [
        // To root of the same namespace their numbers are shown, and nothing else of them.
        ("its descriptors can be listed", !is_root && fs::read_dir("/proc/1/fd").is_ok()),
        ("its descriptors can be named", (0..8).any(|n| fs::read_link(format!("/proc/1/fd/{n}")).is_ok())),
        ("its descriptors can be opened", (0..8).any(|n| fs::File::open(format!("/proc/1/fd/{n}")).is_ok())),
        ("its root can be entered", fs::read_dir("/proc/1/root/").is_ok()),
        ("its directory can be entered", fs::read_dir("/proc/1/cwd/").is_ok()),
        ("its program can be opened", fs::File::open("/proc/1/exe").is_ok()),
        ("its program can be written", fs::File::options().write(true).open("/proc/1/exe").is_ok()),
        ("its program can be named", fs::read_link("/proc/1/exe").is_ok()),
        ("its environment can be read", fs::read("/proc/1/environ").is_ok()),
        ("its memory can be opened", fs::File::open("/proc/1/mem").is_ok()),
        ("its memory map can be read", fs::read("/proc/1/maps").is_ok()),
        ("its namespaces can be opened", fs::File::open("/proc/1/ns/net").is_ok()),
        ("its stack can be read", fs::read("/proc/1/stack").is_ok()),
        ("its system call can be read", fs::read("/proc/1/syscall").is_ok()),
        (
            "its limits can be set",
            kernel::attempt(libc::SYS_prlimit64, [1, 7, 0, 0, 0, 0]) == kernel::Outcome::Done,
        ),
        (
            "it can be attached to",
            kernel::attempt(libc::SYS_ptrace, [16, 1, 0, 0, 0, 0]) == kernel::Outcome::Done,
        ),
        (
            "it can be seized",
            kernel::attempt(libc::SYS_ptrace, [0x4206, 1, 0, 0, 0, 0]) == kernel::Outcome::Done,
        ),
        ("its memory can be advised", advise_init()),
    ] {
        report.check(!is_open, "PID 1", what);
    }
    // Where it could be attached to it stands still now.
    kernel::attempt(libc::SYS_kill, [1, libc::SIGCONT.cast_unsigned().into(), 0, 0, 0, 0]);
    // A signal that PID 1 has no handler for is dropped by the kernel. Where the processes are the host's, its
    // PID 1 is of another user, and is left alone.
    if has_own_ids() || field(&read("/proc/1/status"), "Uid").first() == Some(&"1000") {
        for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGTERM] {
            kernel::attempt(libc::SYS_kill, [1, signal.cast_unsigned().into(), 0, 0, 0, 0]);
        }
    }
    let state = read("/proc/1/status");
    report.check(
        field(&state, "State").first().is_some_and(|s| ["S", "R", "D"].contains(s)),
        "PID 1",
        "a signal stops or ends it",
    );
}

fn advise_init() -> bool {
    let Ok(process) = kernel::raw(libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0]) else { return false };
    let (vector, cold) = ([4096_u64 * 16, 4096], 20);
    let process = process.cast_unsigned();
    kernel::attempt(libc::SYS_process_madvise, [process, vector.as_ptr() as u64, 1, cold, 0, 0])
        == kernel::Outcome::Done
}

fn limits(report: &mut Report) {
    for (name, resource, most) in [
        ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE, 65_536),
        ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK, 8 << 20),
        ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE, 819_200),
        ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING, 4096),
        ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO, 0),
        ("RLIMIT_NICE", libc::RLIMIT_NICE, 0),
    ] {
        let (_, hard) = kernel::limit(resource);
        report.check(hard <= most, "limit", format_args!("{name} may be {hard}"));
    }
    // The kernel starts no program for the core of a process with exactly this, whatever the host's core_pattern says.
    let core = kernel::limit(libc::RLIMIT_CORE);
    report.check(core == (1, 1), "limit", format_args!("RLIMIT_CORE is {core:?}"));
    for (name, by) in [("setrlimit", set_core as fn(u64) -> bool), ("prlimit64", prlimit_core)] {
        for bytes in [0, 4096, libc::RLIM_INFINITY] {
            let changed = kernel::in_child(|| if by(bytes) { Ok(()) } else { Err(libc::EPERM) });
            report.check(
                changed != kernel::Outcome::Done,
                "limit",
                format_args!("RLIMIT_CORE is set to {bytes} by {name}"),
            );
        }
    }
    let terminals = kernel::in_child(|| {
        let all: Result<Vec<_>, _> = (0..65).map(|_| fs::File::open("/dev/ptmx")).collect();
        all.map(drop).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
    });
    let is_bounded = terminals == kernel::Outcome::Refused(libc::ENOSPC);
    report.check(is_bounded, "limit", format_args!("more than 64 terminals: {terminals}"));
    // Without a user namespace they are the host's.
    if has_own_ids() {
        for (name, most) in [
            ("max_user_namespaces", 0),
            ("max_inotify_instances", 1024),
            ("max_inotify_watches", 131_072),
            ("max_fanotify_groups", 0),
        ] {
            let path = format!("/proc/sys/user/{name}");
            let value = read(&path).trim().parse().unwrap_or(u64::MAX);
            report.check(value <= most, "limit", format_args!("{name} is {value}"));
            report.check(fs::write(&path, "1").is_err(), "limit", format_args!("{name} can be set"));
        }
    }
    let realtime = kernel::attempt(libc::SYS_sched_setscheduler, [0, 1, [1_u32].as_ptr() as u64, 0, 0, 0]);
    report.check(realtime != kernel::Outcome::Done, "limit", "real-time scheduling is granted");
    let nice = kernel::attempt(libc::SYS_setpriority, [0, 0, (-20_i64).cast_unsigned(), 0, 0, 0]);
    report.check(nice != kernel::Outcome::Done, "limit", "a higher priority is granted");
    let own_score = fs::write("/proc/self/oom_score_adj", "-999");
    report.check(own_score.is_err(), "memory", "oom_score_adj can be lowered");
}

/// Whether the limit is another one then; what the call says of it does not count.
fn set_core(bytes: u64) -> bool {
    // The kernel looks at the lower half of the first argument alone.
    for resource in [libc::RLIMIT_CORE.into(), u64::from(libc::RLIMIT_CORE) | 1 << 32] {
        let _ignored: std::io::Result<i64> =
            kernel::raw(libc::SYS_setrlimit, [resource, [bytes; 2].as_ptr() as u64, 0, 0, 0, 0]);
    }
    kernel::limit(libc::RLIMIT_CORE) != (1, 1)
}

fn prlimit_core(bytes: u64) -> bool {
    let (new, mut old) = ([bytes; 2], [0_u64; 2]);
    for resource in [libc::RLIMIT_CORE.into(), u64::from(libc::RLIMIT_CORE) | 1 << 32] {
        for process in [0, u64::from(std::process::id())] {
            for old in [0, old.as_mut_ptr() as u64] {
                let _ignored: std::io::Result<i64> =
                    kernel::raw(libc::SYS_prlimit64, [process, resource, new.as_ptr() as u64, old, 0, 0]);
            }
        }
    }
    kernel::limit(libc::RLIMIT_CORE) != (1, 1)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Whether the machine's table of open files is larger than what its memory holds: else some sandboxes can fill it. The
/// least that an open file takes is `struct file`, with 184 bytes.
fn shared_tables(report: &mut Report) {
    let memory = read("/proc/meminfo");
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let files = read("/proc/sys/fs/file-max").trim().parse::<u64>().unwrap_or(0);
    let holds =
        total.and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX).saturating_mul(1024) / 184;
    report.check(files >= holds, "descriptors", format_args!("{files} files fill the machine's table"));
}
