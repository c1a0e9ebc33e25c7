//! `check`, `check-config` and `health`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::PosixRlimitType;

use super::exit::{Exit, chain, complain, say};
use super::isolation;
use super::settings::read_config;
use super::tables;
use crate::config::Config;
use engine::Gvisor;
use model::{Finding, Isolation};
use sys::cgroup::{Hierarchy, Version};
use sys::controls::Disk;
use sys::probe;

/// How long a running server may take to answer.
const HEALTH_DEADLINE: Duration = Duration::from_secs(5);

/// Names every kernel feature that is found or missing, and what that comes to.
pub(super) fn run(flags: &[(String, String)]) -> Exit {
    let config = match read_config(flags) {
        Ok(config) => config,
        Err(error) => return Exit::Config.because(&error, ""),
    };
    let findings = findings(&config);
    for finding in &findings {
        let mark = match (finding.found, finding.required) {
            (true, _) => "found  ",
            (false, false) => "weaker ",
            (false, true) => "MISSING",
        };
        say(&format!("{mark}  {:<22} {}", finding.feature, finding.detail));
        if !finding.found {
            say(&format!("         without it: {}", finding.consequence));
            say(&format!("         remedy:     {}", finding.remedy));
        }
    }
    say("");
    for line in conclusion(&config, &findings) {
        say(&line);
    }
    if findings.iter().any(is_missing) { Exit::Failure } else { Exit::Success }
}

/// Whether the server starts here, and whether it does with `--require-isolation`.
fn conclusion(config: &Config, findings: &[Finding]) -> Vec<String> {
    let named = |chosen: &dyn Fn(&Finding) -> bool| {
        let names: Vec<_> = findings.iter().filter(|f| chosen(f)).map(|f| f.feature).collect();
        names.join(", ")
    };
    let missing = named(&is_missing);
    if !missing.is_empty() {
        return vec![format!("The server does not start here, for want of: {missing}.")];
    }
    let mut lines = vec!["The server starts here.".to_owned()];
    let weak = named(&|f| is_weakness(config, f) && !is_waived(config, f));
    let waived = named(&|f| is_weakness(config, f) && is_waived(config, f));
    lines.push(match &*weak {
        "" => "With --require-isolation it starts too.".to_owned(),
        weak => format!("With --require-isolation it does not, for want of: {weak}."),
    });
    if !waived.is_empty() {
        lines.push(format!("Weaker, and accepted by isolation_waivers: {waived}."));
    }
    let is_known = |waiver: &&String| findings.iter().any(|f| f.feature == **waiver);
    for waiver in config.isolation_waivers.iter().filter(|w| !is_known(w)) {
        lines.push(format!("isolation_waivers names {waiver:?}, and nothing above is called so."));
    }
    lines
}

/// What keeps sandboxes from the host and from one another, by the names of the findings.
const OF_ISOLATION: [&str; 13] = [
    "memory.high",
    "socket buffers",
    "shared tables",
    "memory.swap.max",
    "cpu.max",
    "user namespaces",
    "mapped workspaces",
    "inodes of their own",
    "ids of their own",
    "core dumps",
    "security modules",
    "host",
    "gVisor",
];

fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = privileges();
    findings.extend(control_groups(config));
    findings.extend(kernel());
    findings.extend(isolation::findings(config));
    findings.push(tables::finding());
    findings.extend(surroundings());
    findings.extend(network::missing_features());
    findings.extend(files(config));
    findings.push(gvisor(config));
    findings
}

/// What sandboxes are isolated less by than they can be, but for what the operator accepts.
pub(super) fn weaknesses(config: &Config) -> Vec<Finding> {
    let mut found = findings(config);
    found.retain(|finding| is_weakness(config, finding) && !is_waived(config, finding));
    found
}

fn is_missing(finding: &Finding) -> bool {
    !finding.found && finding.required
}

fn is_weakness(config: &Config, finding: &Finding) -> bool {
    let is_demanded = match finding.feature {
        // Only of interest to who relies on it.
        "gVisor" => {
            let tiers = config.token_min_isolation.iter().map(|(_, tier)| *tier);
            tiers.chain([config.min_isolation]).any(|tier| tier == Isolation::Gvisor)
        }
        feature => finding.required || OF_ISOLATION.contains(&feature),
    };
    !finding.found && is_demanded
}

fn is_waived(config: &Config, finding: &Finding) -> bool {
    config.isolation_waivers.iter().any(|waiver| waiver == finding.feature)
}

/// Prints every setting with where it came from.
pub(super) fn config(flags: &[(String, String)]) -> Exit {
    match read_config(flags) {
        Ok(config) => {
            for (name, value, origin) in &config.described {
                say(&format!("{name:<32} {value:<28} {origin}"));
            }
            for warning in &config.warnings {
                complain(&format!("sandboxd: warning: {warning}"));
            }
            Exit::Success
        }
        Err(error) => Exit::Config.because(&error, ""),
    }
}

/// Asks the server that has these settings whether it is well.
pub(super) fn health(flags: &[(String, String)]) -> Exit {
    let config = match read_config(flags) {
        Ok(config) => config,
        Err(error) => return Exit::Config.because(&error, ""),
    };
    match ask_health(config.api_addr) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Exit::Success,
        Ok(answer) => {
            complain(&format!(
                "sandboxd: the server is not well: {}",
                answer.lines().next().unwrap_or_default()
            ));
            Exit::Failure
        }
        Err(error) => {
            let address = config.api_addr;
            complain(&format!(
                "sandboxd: no server answers at {address} ({error}): start it with `sandboxd serve`, or set SANDBOXD_ADDR"
            ));
            Exit::Unavailable
        }
    }
}

fn ask_health(mut address: SocketAddr) -> std::io::Result<String> {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_DEADLINE)?;
    stream.set_read_timeout(Some(HEALTH_DEADLINE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

fn privileges() -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    let needed = [
        caps::Capability::CAP_SYS_ADMIN,
        caps::Capability::CAP_NET_ADMIN,
        caps::Capability::CAP_SETUID,
        caps::Capability::CAP_CHOWN,
    ];
    let held = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    let missing: Vec<_> = needed.iter().filter(|c| !held.contains(c)).map(ToString::to_string).collect();
    let resource = held.contains(&caps::Capability::CAP_SYS_RESOURCE);
    vec![
        Finding {
            feature: "root",
            found: root && missing.is_empty(),
            detail: if missing.is_empty() {
                format!("user {}", rustix::process::geteuid().as_raw())
            } else {
                format!("lacks {}", missing.join(", "))
            },
            consequence: "no namespace, mount or control group can be made: the server does not start",
            remedy: "run it as root; in a container with `docker run --privileged`",
            required: true,
        },
        Finding {
            feature: "CAP_SYS_RESOURCE",
            found: resource,
            detail: if resource { "held" } else { "not held" }.to_owned(),
            consequence: "hard limits cannot be raised: a sandbox has at most as many open files as the daemon",
            remedy: "start the daemon with it, and with a high LimitNOFILE",
            required: false,
        },
    ]
}

fn control_groups(config: &Config) -> Vec<Finding> {
    let detected = Hierarchy::detect(&config.instance);
    let version = detected.as_ref().ok().map(Hierarchy::version);
    let refused = detected.as_ref().ok().and_then(|found| found.check_writable().err());
    let detail = match (&detected, version) {
        (_, Some(Version::V2)) => "version 2".to_owned(),
        (_, Some(Version::Hybrid)) => {
            "version 1 enforces, version 2 is mounted without controllers (hybrid)".to_owned()
        }
        (_, Some(Version::V1)) => "version 1".to_owned(),
        (Err(error), None) => error.to_string(),
        (Ok(_), None) => String::new(),
    };
    let mut findings = vec![Finding {
        feature: "control groups",
        found: version.is_some() && refused.is_none(),
        detail: refused.map_or(detail, |error| chain(&error)),
        consequence: "memory and processes cannot be limited: the server does not start",
        remedy: "mount cgroup2 on /sys/fs/cgroup; in a container use --privileged",
        required: true,
    }];
    if let Ok(detected) = &detected {
        findings.extend(limits(config, detected, Disk::of(&config.data_dir)));
        findings.push(socket_buffers(detected));
    }
    findings
}

/// Whether a sandbox's buffers of sockets are held to anything.
fn socket_buffers(cgroups: &Hierarchy) -> Finding {
    let found = cgroups.controls().sockets;
    let detail = match (found, cgroups.version()) {
        (true, Version::V2) => "part of memory.max",
        (true, Version::V1 | Version::Hybrid) => "memory.kmem.tcp.limit_in_bytes limits them",
        (false, _) => "a kernel without memory.kmem.tcp.limit_in_bytes, or cgroup.memory=nosocket",
    };
    Finding {
        feature: "socket buffers",
        found,
        detail: detail.to_owned(),
        consequence: "limits.memory_max does not hold buffers of TCP and UDP: a sandbox may fill the host's memory with them",
        remedy: "mount cgroup2 alone; start the kernel without cgroup.memory=nosocket",
        required: false,
    }
}

/// The limits that are not there everywhere.
fn limits(config: &Config, cgroups: &Hierarchy, disk: Option<Disk>) -> Vec<Finding> {
    let has = cgroups.controls();
    let v2 = cgroups.version() == Version::V2;
    let finding = |feature, found, there: &str, lacks: &str, consequence, remedy| Finding {
        feature,
        found,
        detail: if found { there } else { lacks }.to_owned(),
        consequence,
        remedy,
        required: false,
    };
    let no_disk = "the workspaces lie on no single disk";
    let only_v2 = "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 alone";
    vec![
        finding(
            "memory.high",
            has.memory_high && config.set_memory_high,
            "enforced by version 2",
            match (has.memory_high, config.set_memory_high) {
                (true, _) => "set_memory_high is off",
                (false, true) => "version 1 has none; memory.soft_limit_in_bytes is set instead",
                (false, false) => "version 1 has none, and set_memory_high is off",
            },
            "a sandbox is not slowed down before its hard limit: it runs into the OOM killer at once",
            if has.memory_high { "set_memory_high=true, as it is by default" } else { only_v2 },
        ),
        finding(
            "memory.swap.max",
            has.swap_max,
            if v2 { "enforced by version 2" } else { "memory.memsw.limit_in_bytes limits both together" },
            "swap is not counted",
            "limits.swap_max is not enforced: where there is swap, a sandbox may use up all of it",
            "boot with swapaccount=1",
        ),
        finding(
            "memory.oom.group",
            has.oom_group,
            "enforced by version 2",
            "version 1 has none",
            "limits.oom_group is not enforced: the kernel always kills a single process",
            only_v2,
        ),
        finding(
            "cpu.max",
            has.cpu_max,
            "the cpu controller is there",
            "no cpu controller",
            "limits.cpu_max is not enforced: a sandbox may use every processor that is free",
            "mount the cpu controller, or delegate it to this container",
        ),
        finding(
            "cpu.weight",
            has.cpu_weight,
            if v2 { "the cpu controller is there" } else { "version 1 has cpu.shares" },
            "no cpu controller",
            "limits.cpu_weight is not enforced: processors are shared by processes, so that who has many gets most",
            "mount the cpu controller, or delegate it to this container",
        ),
        finding(
            "io.max",
            has.io_max && disk.is_some(),
            if v2 { "the io controller is there" } else { "version 1 throttles what is not cached" },
            if has.io_max { no_disk } else { "no io controller" },
            "limits.io_max is not enforced: a sandbox may use all the speed of the disk",
            "put the data directory on a disk's own file system; mount or delegate the io controller",
        ),
        finding(
            "io.weight",
            disk.is_some_and(|disk| cgroups.weighs(disk)),
            "the disk's scheduler is BFQ, or its cost model is on",
            if disk.is_some() { "the disk has neither the scheduler BFQ nor a cost model" } else { no_disk },
            "limits.io_weight is not enforced: the disk is shared by requests, so that who asks most gets most",
            "echo bfq > /sys/block/DISK/queue/scheduler; or with version 2 `MAJ:MIN enable=1` in io.cost.qos",
        ),
    ]
}

fn kernel() -> Vec<Finding> {
    let finding = |feature, probed: Result<String, String>, consequence, remedy, required| {
        let found = probed.is_ok();
        let detail = probed.unwrap_or_else(|problem| problem);
        Finding { feature, found, detail, consequence, remedy, required }
    };
    vec![
        finding(
            "namespaces",
            probe::namespaces(),
            "sandboxes cannot be kept apart: the server does not start",
            "a kernel with pid, mount, ipc, uts, net and cgroup namespaces",
            true,
        ),
        finding(
            "seccomp",
            probe::seccomp(),
            "system calls cannot be restricted: no sandbox starts",
            "a kernel with CONFIG_SECCOMP_FILTER",
            true,
        ),
        finding(
            "openat2",
            probe::openat2(),
            "files of a workspace cannot be opened safely: no sandbox starts",
            "Linux 5.6 or newer",
            true,
        ),
        finding(
            "pidfd",
            probe::pidfd(),
            "processes cannot be addressed safely: no sandbox starts",
            "Linux 5.3 or newer",
            true,
        ),
        finding(
            "mount_setattr",
            probe::mount_setattr(),
            "the launcher cannot be confined: the server does not start",
            "Linux 5.12 or newer",
            true,
        ),
        finding(
            "inotify instances",
            probe::inotify_instances(),
            "some dozens of development servers use them up, and the next one cannot watch its files: those of one sandbox, or of all where they have no user namespaces",
            "sysctl fs.inotify.max_user_instances=8192",
            false,
        ),
        finding(
            "core dumps",
            probe::core_dumps(super::limits::hard_limit(PosixRlimitType::RlimitCore)),
            "a crash in a sandbox starts, or asks, a program of the host's as root, which reads what a tenant has prepared",
            "sysctl kernel.core_pattern=core; or, for a program in it, start the server with ulimit -c 1 or higher",
            false,
        ),
        finding(
            "swap",
            probe::swap(),
            "a frozen sandbox keeps all of its memory, so that fewer fit",
            "add a swap file or zram",
            false,
        ),
        finding(
            "PSI",
            probe::psi(),
            "memory pressure is judged by the available memory alone",
            "boot with psi=1",
            false,
        ),
    ]
}

/// What is around the server and may be in its way.
fn surroundings() -> [Finding; 2] {
    let (modules, host) = (probe::security_modules(), probe::host());
    [
        Finding {
            feature: "security modules",
            found: modules.is_ok(),
            detail: modules.unwrap_or_else(|problem| problem),
            consequence: "AppArmor or SELinux confines the server and may refuse its mounts and namespaces: sandboxes do not start, or without user namespaces",
            remedy: "run it unconfined; in a container with --privileged",
            required: false,
        },
        Finding {
            feature: "host",
            found: host.is_ok(),
            detail: host.unwrap_or_else(|problem| problem),
            consequence: "limits, mounts and the firewall are those that the container is given, and what gets out of a sandbox has the container's privileges",
            remedy: "run it on a host of its own, or in a virtual machine; or accept it by isolation_waivers=host",
            required: false,
        },
    ]
}

fn gvisor(config: &Config) -> Finding {
    let version = Gvisor::new(config.runsc.clone()).version();
    let found = version.is_ok();
    Finding {
        feature: "gVisor",
        found,
        // Its platform needs no hardware virtualisation, and so nothing of the host that is not there.
        detail: version.map_or_else(|reason| reason, |version| format!("runsc {version}, platform systrap")),
        consequence: "sandboxes with isolation \"gvisor\" are refused",
        remedy: "install Debian's package runsc (bookworm-backports, trixie or later), or name it by SANDBOXD_RUNSC",
        required: false,
    }
}

fn files(config: &Config) -> Vec<Finding> {
    let there = |path: &Path| path.exists();
    let finding = |feature, path: &Path, remedy| Finding {
        feature,
        found: there(path),
        detail: path.display().to_string(),
        consequence: "the server does not start",
        remedy,
        required: true,
    };
    vec![
        finding(
            "root file system",
            &config.rootfs,
            "build it with scripts/build-rootfs and name it by SANDBOXD_ROOTFS",
        ),
        finding(
            "sandbox-init",
            &config.init,
            "build it with `cargo build --release --no-default-features --bin sandbox-init`, or name it by SANDBOXD_INIT",
        ),
        run_directory(&config.run_dir),
    ]
}

fn run_directory(path: &Path) -> Finding {
    let probed = probe::in_memory(path);
    Finding {
        feature: "run directory",
        found: probed.is_ok(),
        detail: probed.unwrap_or_else(|problem| problem),
        consequence: "whatever commands and processes print is written to that disk too, up to process_output_bytes of each, and waits while it is busy",
        remedy: "mount a tmpfs there, or name another directory by SANDBOXD_RUN_DIR",
        required: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_on_a_disk_is_told() {
        let of = |path: &str| run_directory(Path::new(path));
        assert!(of("/dev/shm/sandboxd/not/there/yet").found);
        let weak = of("/proc/sandboxd");
        assert!(!weak.found && !weak.required && weak.detail.contains("/proc/sandboxd"), "{weak:?}");
    }

    #[test]
    fn what_is_of_isolation_is_found_by_name() {
        let config = read_config(&[]).unwrap();
        let all = findings(&config);
        for name in OF_ISOLATION {
            assert!(all.iter().any(|finding| finding.feature == name), "{name}");
        }
    }
}
