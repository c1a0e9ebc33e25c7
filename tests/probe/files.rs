//! What the file systems show and take: masks, read-only mounts, devices, the ways out of procfs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::kernel;
use crate::report::Report;

const MASKED_FILES: [&str; 13] = [
    "/proc/cmdline",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/softirqs",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/config.gz",
];
const MASKED_DIRECTORIES: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/pressure",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs",
    "/sys/kernel",
    "/sys/module",
];
const READ_ONLY: [&str; 10] =
    ["/", "/etc", "/usr", "/bin", "/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/etc/hosts"];
/// Readable by root only, in case a mount changes who that is.
const SECRET: [&str; 10] = [
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/slabinfo",
    "/proc/vmallocinfo",
    "/proc/pagetypeinfo",
    "/proc/1/mem",
    "/dev/mem",
    "/dev/kmsg",
];
/// What changes the host when it is written.
const SWITCHES: [&str; 13] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
];
const DEVICES: [(&str, (u32, u32)); 7] = [
    ("full", (1, 7)),
    ("null", (1, 3)),
    ("ptmx", (5, 2)),
    ("random", (1, 8)),
    ("tty", (5, 0)),
    ("urandom", (1, 9)),
    ("zero", (1, 5)),
];
/// What is mounted, by its place: kind, and whether it may hold devices and programs. Any other is a finding.
const MOUNTS: [(&str, bool); 12] = [
    ("/", false),
    ("/dev", true),
    ("/dev/mqueue", false),
    ("/dev/pts", true),
    ("/dev/shm", false),
    ("/etc/hosts", false),
    ("/etc/resolv.conf", false),
    ("/etc/ssl/certs/ca-certificates.crt", false),
    ("/home/sandbox", false),
    ("/run", false),
    ("/tmp", false),
    ("/var/tmp", false),
];

/// Looks at everything.
pub(crate) fn check(report: &mut Report, is_root: bool) {
    masks(report);
    for path in READ_ONLY {
        let flags = kernel::mount_flags(path);
        let is_read_only = flags.is_none_or(|flags| flags & libc::ST_RDONLY != 0);
        report.check(is_read_only, "writable", path);
    }
    for path in SECRET {
        let is_readable = fs::File::open(path)
            .is_ok_and(|mut file| std::io::Read::read(&mut file, &mut [0; 64]).is_ok_and(|n| n > 0));
        report.check(!is_readable, "readable", path);
    }
    for path in SWITCHES {
        report.check(fs::OpenOptions::new().write(true).open(path).is_err() || is_null(path), "switch", path);
    }
    for directory in ["/", "/etc", "/usr/bin", "/sys", "/proc", "/dev", "/opt", "/root", "/var", "/home"] {
        // A file system of the sandbox's own, too small to keep anything: its root may write there.
        if is_root && directory == "/dev" {
            continue;
        }
        let made = Path::new(directory).join("probe");
        report.check(fs::write(&made, "x").is_err(), "writable", format_args!("{directory} takes a file"));
    }
    mounts(report);
    devices(report);
    programs(report);
    escapes(report);
    sockets(report);
}

fn is_null(path: impl AsRef<Path>) -> bool {
    kernel::device(path.as_ref()) == Some((1, 3))
}

fn masks(report: &mut Report) {
    for path in MASKED_FILES {
        report.check(!Path::new(path).exists() || is_null(path), "not masked", path);
    }
    for path in MASKED_DIRECTORIES {
        let entries = fs::read_dir(path).into_iter().flatten().count();
        report.check(entries == 0, "not masked", path);
    }
}

fn mounts(report: &mut Report) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (Some(root), Some(place), Some(options)) = (fields.get(3), fields.get(4), fields.get(5)) else {
            continue;
        };
        let kind = fields.iter().skip_while(|f| **f != "-").nth(1).copied().unwrap_or_default();
        let is_mask = place.starts_with("/proc/") || place.starts_with("/sys/");
        // In a user namespace no device can be made, so those of the host are bound.
        let is_device = place.strip_prefix("/dev/").is_some_and(|name| DEVICES.iter().any(|d| d.0 == name));
        let is_mask = is_mask || (is_device && kernel::device(Path::new(place)).is_some());
        let known = MOUNTS.iter().find(|(name, _)| name == place);
        let is_known = known.is_some() || is_mask || ["/proc", "/sys"].contains(place);
        report.check(is_known, "mount", format_args!("{kind} at {place}"));
        report.check(
            !kind.starts_with("cgroup"),
            "mount",
            format_args!("{kind} at {place}: cgroups can be seen"),
        );
        let options: Vec<_> = options.split(',').collect();
        let has = |option| options.contains(&option);
        // The root is read-only and without privileged programs, which `programs` looks for.
        report.check(
            has("nosuid") || *place == "/" || is_mask,
            "mount",
            format_args!("{place} lacks nosuid"),
        );
        let may_hold_devices = known.is_some_and(|(_, devices)| *devices) || *place == "/" || is_mask;
        report.check(has("nodev") || may_hold_devices, "mount", format_args!("{place} lacks nodev"));
        let needs_noexec = ["/proc", "/sys", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue"].contains(place);
        report.check(has("noexec") || !needs_noexec, "mount", format_args!("{place} lacks noexec"));
        report.check(!root.contains("control"), "mount", format_args!("{place} is {root}"));
        // A mount that goes on telling the host of what is mounted here, or is told.
        let is_private = !fields.iter().take_while(|f| **f != "-").any(|f| f.starts_with("shared:"));
        report.check(is_private, "mount", format_args!("{place} is shared"));
    }
    report.check(!table.is_empty(), "mount", "the table cannot be read");
}

fn devices(report: &mut Report) {
    let mut found = Vec::new();
    walk(Path::new("/dev"), 3, &mut |path, metadata| {
        if metadata.file_type().is_char_device() || metadata.file_type().is_block_device() {
            found.push(path.to_owned());
        }
    });
    for path in found {
        let name = path.strip_prefix("/dev").unwrap_or(&path);
        let numbers = kernel::device(&path);
        let is_terminal =
            name.starts_with("pts") && numbers.is_some_and(|(major, _)| [5, 136].contains(&major));
        let is_plain =
            DEVICES.iter().any(|(known, expected)| name == Path::new(known) && numbers == Some(*expected));
        report.check(is_plain || is_terminal, "device", format_args!("{} is {numbers:?}", path.display()));
    }
}

/// Set-user-id programs and file capabilities: of no use with no_new_privs, and still not there.
fn programs(report: &mut Report) {
    for directory in ["/usr/bin", "/usr/sbin", "/usr/lib", "/bin", "/sbin", "/usr/local"] {
        walk(Path::new(directory), 3, &mut |path, metadata| {
            let is_privileged = metadata.is_file() && metadata.mode() & 0o6000 != 0;
            report.check(!is_privileged, "set-user-id program", path.display());
        });
    }
}

/// The ways out that procfs has had.
fn escapes(report: &mut Report) {
    for path in ["/proc/self/exe", "/proc/1/exe"] {
        let opened = fs::OpenOptions::new().write(true).open(path);
        // Its own program is its own file, but a program that runs is not written.
        report.check(opened.is_err(), "program overwritten", path);
    }
    for path in ["/proc/1/root", "/proc/1/cwd", "/proc/thread-self/root/../../proc/1/root"] {
        let is_outside = fs::metadata(Path::new(path).join("etc")).is_ok();
        report.check(!is_outside, "leads out", path);
    }
    for (name, file) in [
        ("release_agent", "release_agent"),
        ("notify_on_release", "notify_on_release"),
        ("cgroup.procs", "cgroup.procs"),
    ] {
        for place in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/rdma",
            "/sys/fs/cgroup/devices",
        ] {
            report.check(!Path::new(place).join(file).exists(), "cgroup", format_args!("{name} at {place}"));
        }
    }
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in cgroups.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        report.check(
            path == "/" || path.starts_with("/../"),
            "cgroup",
            format_args!("its path on the host is shown: {line}"),
        );
    }
    for attribute in ["exec", "fscreate", "keycreate", "sockcreate", "current"] {
        let path = format!("/proc/self/attr/{attribute}");
        let is_something = fs::read_to_string(&path).is_ok_and(|text| text.contains("unconfined_t"));
        report.check(!is_something, "label", path);
    }
    for map in ["uid_map", "gid_map"] {
        report.check(
            fs::write(format!("/proc/self/{map}"), "0 0 1").is_err(),
            "process",
            format_args!("{map} can be written"),
        );
    }
    for timens in ["monotonic 1 0", "boottime 1 0"] {
        report.check(
            fs::write("/proc/self/timens_offsets", timens).is_err(),
            "process",
            "the clocks can be moved",
        );
    }
}

/// Sockets in the file system: nobody inside listens yet, so any is the host's.
fn sockets(report: &mut Report) {
    for directory in ["/run", "/tmp", "/var", "/dev", "/etc", "/home/sandbox"] {
        walk(Path::new(directory), 3, &mut |path, metadata| {
            report.check(!metadata.file_type().is_socket(), "socket", path.display());
        });
    }
}

/// Visits a tree without following links, a few levels deep.
pub(crate) fn walk(directory: &Path, depth: usize, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let mut stack: Vec<(PathBuf, usize)> = vec![(directory.to_owned(), depth)];
    while let Some((directory, depth)) = stack.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let path = entry.path();
            visit(&path, &metadata);
            if metadata.is_dir() && depth > 0 && path.file_name() != Some(OsStr::new("node_modules")) {
                stack.push((path, depth - 1));
            }
        }
    }
}
