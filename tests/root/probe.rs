//! The probe: a hostile program that tries everything, in a sandbox of the real server; and, so that its
//! silence means something, under runc in the same bundle with one restriction removed at a time.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use engine::bundle::seccomp;
use serde_json::{Value, json};

use super::Test;
use crate::support::server::{API, INSTANCE, Server, probe, rootfs};

pub(crate) const TESTS: &[Test] = &[
    ("probe::nothing_is_found_in_a_sandbox", nothing_is_found),
    ("probe::root_of_a_sandbox_finds_nothing_either", nothing_is_found_by_root),
    ("probe::where_namespaces_may_be_made_they_alone_are_found", only_namespaces_are_found),
    ("probe::without_user_namespaces_that_alone_is_found", only_the_ids_are_found),
    ("probe::every_weakness_is_found", every_weakness_is_found),
    ("probe::every_system_call_of_the_table_would_be_found", every_call_would_be_found),
];

/// Where the probe lies in a sandbox.
const INSIDE: &str = "/home/sandbox/workspace/app/probe";
const FILTER: &str = "/home/sandbox/workspace/app/filter";
/// A directory of the host's with a socket in it.
const SOCKETS: &str = "/run/sandboxd-probe";
const HOST_TOKEN: u16 = 41_001;
const SIBLING_TOKEN: u16 = 41_002;
const PROFILE: &str = include_str!("../../oci/seccomp.json");

/// A server with a sandbox that holds the probe, and what there is to be found elsewhere.
struct Scene {
    server: Server,
    id: String,
    arguments: Vec<String>,
    planter: Child,
}

impl Scene {
    fn new() -> Self {
        Self::with(&[], json!({}))
    }

    /// One whose bundle another runtime can be given: it knows nothing of what our launcher makes ready.
    fn without_user_namespaces() -> Self {
        Self::with(&[("SANDBOXD_USER_NAMESPACES", "off")], json!({}))
    }

    fn with(settings: &[(&str, &str)], body: Value) -> Self {
        let server = Server::start(settings);
        let (id, sibling) = (server.create(body), server.create(json!({})));
        for sandbox in [&id, &sibling] {
            let put = server.put(sandbox, "probe", &std::fs::read(probe()).unwrap());
            assert_eq!(put.status, 200, "{}", put.text());
            server.sh(sandbox, &format!("chmod 755 {INSIDE}"));
        }
        let planted = server.sh(
            &sibling,
            &format!("setsid {INSIDE} plant {SIBLING_TOKEN} > /tmp/log 2>&1 < /dev/null & for i in $(seq 100); do sleep 0.05; grep planted /tmp/log && break; done"),
        );
        assert_eq!(planted, "planted\n");
        // Left over from a run that was killed.
        let _gone = std::fs::remove_dir_all(SOCKETS);
        std::fs::create_dir_all(SOCKETS).unwrap();
        let _stays_as_a_file = UnixListener::bind(format!("{SOCKETS}/control")).unwrap();
        let planter = plant();
        let arguments = arguments(&server, &sibling);
        Self { server, id, arguments, planter }
    }

    /// A bundle that the server has made, with the workspace that a claim attaches, to be run by runc.
    fn bundle(&self) -> Value {
        let bundles = std::fs::read_dir(self.server.directory.path().join("run/bundles")).unwrap();
        let mut bundles = bundles.flatten().map(|entry| entry.path().join("config.json"));
        let text = bundles.find_map(|path| std::fs::read_to_string(path).ok()).unwrap();
        let mut spec: Value = serde_json::from_str(&text).unwrap();
        // What our launcher puts on a stage lies here as it is.
        let etc = self.server.directory.path().join("run/etc").display().to_string();
        spec["root"]["path"] = json!(rootfs());
        for mount in spec["mounts"].as_array_mut().unwrap() {
            let source = mount["source"].as_str().and_then(|source| source.strip_prefix("/dev/"));
            if let Some(name) = source.map(str::to_owned) {
                mount["source"] = json!(format!("{etc}/{name}"));
            }
        }
        let workspace = self.server.data().join("workspaces").join(&self.id).display().to_string();
        mount(&mut spec, "/home/sandbox", "bind", &workspace, &["bind", "rw", "nosuid", "nodev", "private"]);
        let mut command = vec![INSIDE, "init", FILTER, INSIDE, "check"];
        let arguments = self.arguments.chunks(2).filter(|pair| !pair[1].starts_with("user:"));
        command.extend(arguments.flatten().map(String::as_str));
        spec["process"]["args"] = json!(command);
        spec["linux"]["cgroupsPath"] = json!(format!("/{INSTANCE}-runc"));
        // Not the runtime's to load: runc's compiler cannot refuse single arguments of a call. See `under_runc`.
        spec["filter"] = serde_json::from_str(PROFILE).unwrap();
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            // The one that the server made is behind a descriptor of its launcher's.
            namespace.as_object_mut().unwrap().remove("path");
        }
        spec
    }

    /// What the probe says under runc.
    fn under_runc(&self, mut spec: Value, descriptors: u32) -> Vec<String> {
        let filter = spec.as_object_mut().unwrap().remove("filter").unwrap();
        if filter.is_null() {
            let arguments = spec["process"]["args"].as_array_mut().unwrap();
            arguments.iter_mut().filter(|a| **a == FILTER).for_each(|a| *a = json!("-"));
        } else {
            let program = seccomp::compile(&serde_json::from_value(filter).unwrap()).unwrap();
            let mut bytes = Vec::new();
            for i in program {
                bytes.extend(i.code.to_ne_bytes());
                bytes.extend([i.jt, i.jf]);
                bytes.extend(i.k.to_ne_bytes());
            }
            let workspace = self.server.data().join("workspaces").join(&self.id);
            std::fs::write(workspace.join("workspace/app/filter"), bytes).unwrap();
        }
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
        let id = format!("{INSTANCE}-probe");
        let mut runc = Command::new("sh");
        runc.arg("-c").arg("exec 3< /etc; exec timeout -k 1 60 runc \"$@\"").arg("runc");
        runc.arg("--root").arg(bundle.path().join("state")).args(["run", "--preserve-fds"]);
        runc.arg(descriptors.to_string()).arg("--bundle").arg(bundle.path()).arg(id);
        let output = runc.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(" checks, "), "{text}{complaints}");
        text.lines().filter(|line| line.starts_with("finding ")).map(str::to_owned).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Both fail only when the test has failed before, which says more.
        let _ended = self.planter.kill();
        let _reaped = self.planter.wait();
        let _gone = std::fs::remove_dir_all(SOCKETS);
        let _removed = Command::new(probe()).args(["unplant", &HOST_TOKEN.to_string()]).status();
    }
}

/// Leaves one of everything on the host, in the namespaces of the server.
fn plant() -> Child {
    let mut command = Command::new(probe());
    command.args(["plant", &HOST_TOKEN.to_string()]).stdout(Stdio::piped());
    let mut planter = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(planter.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "planted\n");
    planter
}

/// What the probe is told of the host and of the sibling.
fn arguments(server: &Server, sibling: &str) -> Vec<String> {
    let answer = server.api("GET", &format!("/sandbox/{sibling}"), Value::Null).json();
    let pid = answer["live_state"]["pid"].as_u64().unwrap();
    let address = answer["row"]["container_ip"].as_str().unwrap();
    let mut all = Vec::new();
    let mut add = |name: &str, value: String| all.extend([format!("--{name}"), value]);
    for token in [HOST_TOKEN, SIBLING_TOKEN] {
        add("token", token.to_string());
    }
    for process in ["self".to_owned(), pid.to_string()] {
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            let link = std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
            add("namespace", link.display().to_string());
        }
    }
    for pid in [pid, u64::from(server.pid())] {
        add("pid", pid.to_string());
    }
    add("address", format!("{address}:{SIBLING_TOKEN}"));
    let links = Command::new("ip").args(["-4", "-o", "addr"]).output().unwrap();
    for line in String::from_utf8_lossy(&links.stdout).lines() {
        let own = line.split_whitespace().nth(3).and_then(|a| a.split('/').next()).unwrap();
        add("address", format!("{own}:{API}"));
        add("address", format!("{own}:{HOST_TOKEN}"));
    }
    for path in [server.data(), server.directory.path().join("run"), server.data().join("api-key")] {
        add("path", path.display().to_string());
    }
    add("path", server.data().join("workspaces").join(sibling).display().to_string());
    add("host-name", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned());
    all
}

/// What the probe says inside: its findings, and how much it looked at.
fn inside(scene: &Scene, user: &str) -> (Vec<String>, u32) {
    inside_of(scene, user, &[])
}

/// The same, run by another program.
fn inside_of(scene: &Scene, user: &str, by: &[&str]) -> (Vec<String>, u32) {
    let mut command = by.to_vec();
    command.extend([INSIDE, "check", "--root", if user == "root" || !by.is_empty() { "yes" } else { "no" }]);
    command.extend(scene.arguments.iter().map(String::as_str));
    let body = json!({ "cmd": command, "user": user });
    let answer = scene.server.api("POST", &format!("/sandbox/{}/exec", scene.id), body).json();
    let text = answer["stdout"].as_str().unwrap_or_else(|| panic!("{answer:#}"));
    let (findings, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("finding "));
    let checks = rest.last().and_then(|line| line.split(' ').next()?.parse().ok());
    assert_eq!(scene.server.sh(&scene.id, "echo alive"), "alive\n");
    (findings.into_iter().map(str::to_owned).collect(), checks.unwrap_or_else(|| panic!("{answer:#}")))
}

fn nothing_is_found() {
    let (findings, checks) = inside(&Scene::new(), "sandbox");
    assert!(findings.is_empty() && checks > 1000, "{checks}: {findings:#?}");
}

fn nothing_is_found_by_root() {
    let (findings, checks) = inside(&Scene::new(), "root");
    assert!(findings.is_empty() && checks > 1000, "{checks}: {findings:#?}");
}

/// And so for somebody who is root, with every capability, of a user and a network namespace of his own in there: what
/// he may do beyond others is make namespaces and go into a directory for good.
fn only_namespaces_are_found() {
    let scene = Scene::with(&[], json!({ "nested_namespaces": true }));
    assert_eq!(scene.server.put(&scene.id, "nested.py", include_bytes!("nested.py")).status, 200);
    let is_known = |line: &String, calls: &[&str]| {
        let line = line.trim_start_matches("finding ");
        calls.iter().any(|call| line.starts_with(&format!("system call: {call}")))
            || line.starts_with("needed call refused: the list of interfaces")
    };
    let (mut findings, _) = inside(&scene, "sandbox");
    // What bounds them is a namespace around the sandbox's, whose settings are not to be seen.
    let unbounded = "finding limit: max_user_namespaces is ";
    assert!(findings.iter().any(|line| line.starts_with(unbounded)), "{findings:#?}");
    findings.retain(|line| !line.starts_with(unbounded));
    findings.retain(|line| !is_known(line, &["unshare NEWUSER:", "clone NEWUSER", "chroot: Bad address"]));
    assert!(findings.is_empty(), "{findings:#?}");
    let (mut findings, checks) = inside_of(&scene, "sandbox", &["python3", "app/nested.py"]);
    let calls = ["unshare NEWUSER:", "clone NEWUSER", "clone NEWPID", "clone NEWNET", "chroot: Bad address"];
    findings.retain(|line| {
        // His own capabilities, and that PID 1 is somebody without a name there.
        let own = ["process: Uid of 1 is", "process: Gid of 1 is", "process: /proc/1 is of"];
        let is_own = line.starts_with("finding capability: ") && line.ends_with(" of self")
            || own.iter().any(|what| line.starts_with(&format!("finding {what}")));
        // A namespace of his own has settings of its own; what he takes counts for the sandbox all the same.
        let is_setting = line.starts_with("finding limit: max_");
        !is_known(line, &calls) && !is_own && !is_setting
    });
    assert!(findings.is_empty() && checks > 1000, "{checks}: {findings:#?}");
}

fn only_the_ids_are_found() {
    let (findings, _) = inside(&Scene::without_user_namespaces(), "sandbox");
    let is_expected = |line: &String| {
        line == "finding namespace: the ids are the host's"
            || (line.starts_with("finding namespace: user:") && line.ends_with("is another place's"))
    };
    assert!(findings.len() == 2 && findings.iter().all(is_expected), "{findings:#?}");
}

/// A restriction that is removed, and how the probe's finding begins.
type Weakness = (&'static str, fn(&mut Value), &'static [&'static str]);

fn every_weakness_is_found() {
    let scene = Scene::without_user_namespaces();
    let unaltered = scene.under_runc(scene.bundle(), 0);
    let mut missed = Vec::new();
    for (name, weaken, expected) in WEAKNESSES {
        let mut spec = scene.bundle();
        weaken(&mut spec);
        let found = scene.under_runc(spec, u32::from(*name == "a descriptor is leaked"));
        for wanted in *expected {
            let wanted = format!("finding {wanted}");
            let is_new = |line: &&String| line.starts_with(&wanted) && !unaltered.contains(line);
            if !found.iter().any(|line| is_new(&line)) {
                missed.push(format!(
                    "{name}: no {wanted:?} among {} findings, such as {:?}",
                    found.len(),
                    found.first()
                ));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(unaltered.is_empty(), "{unaltered:#?}");

    // The profile as another runtime compiles it: only what it cannot express differs.
    let mut spec = scene.bundle();
    spec["filter"] = Value::Null;
    spec["linux"]["seccomp"] = serde_json::from_str(PROFILE).unwrap();
    let beyond = [
        "TIOCSTI",
        "TIOCLINUX",
        "TIOCSETD",
        "FS_IOC_SETFLAGS",
        "FS_IOC_FSSETXATTR",
        "TCP_ULP",
        "F_SETLEASE",
        "F_NOTIFY",
        "F_SETDELEG",
        "fcntl 1041",
        "SO_ATTACH",
    ];
    let mut found = scene.under_runc(spec, 0);
    // It has no order among rules: what refuses the other commands of fcntl refuses all.
    found.retain(|line| !line.starts_with("finding needed call refused: F_"));
    found.retain(|line| !beyond.iter().any(|b| line.starts_with(&format!("finding system call: {b}"))));
    assert!(found.is_empty(), "{found:#?}");
}

fn set(spec: &mut Value, pointer: &str, value: Value) {
    *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
}

fn share(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != kind);
}

fn mount(spec: &mut Value, destination: &str, kind: &str, source: &str, options: &[&str]) {
    let mount = json!({ "destination": destination, "type": kind, "source": source, "options": options });
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

/// Takes an option away from the mount at a place.
fn without(spec: &mut Value, destination: &str, option: &str) {
    let mounts = spec["mounts"].as_array_mut().unwrap();
    let mount = mounts.iter_mut().find(|m| m["destination"] == destination).unwrap();
    mount["options"].as_array_mut().unwrap().retain(|o| o != option);
}

fn grant(spec: &mut Value, sets: &[&str], names: &[&str]) {
    for set in sets {
        spec["process"]["capabilities"][set] = json!(names);
    }
}

fn permit(spec: &mut Value, call: &str) {
    let calls = spec["filter"]["syscalls"].as_array_mut().unwrap();
    for entry in calls.iter_mut() {
        entry["names"].as_array_mut().unwrap().retain(|name| name != call);
    }
    calls.retain(|entry| entry["names"] != json!([]));
    calls.push(json!({ "names": [call], "action": "SCMP_ACT_ALLOW" }));
}

const WEAKNESSES: &[Weakness] = &[
    (
        "no seccomp",
        |s| s["filter"] = Value::Null,
        &[
            "process: Seccomp of self is [\"0\"]",
            "process: Seccomp of 1 is [\"0\"]",
            "system call: unshare NEWUSER: it was done",
            "system call: io_uring_setup",
            "system call: int80 getpid",
            "system call: x32 getpid",
        ],
    ),
    ("unshare permitted", |s| permit(s, "unshare"), &["system call: unshare NEWUSER: it was done"]),
    ("clone permitted", |s| permit(s, "clone"), &["system call: clone NEWUSER: it was done"]),
    ("clone3 permitted", |s| permit(s, "clone3"), &["system call: clone3"]),
    ("keyctl permitted", |s| permit(s, "keyctl"), &["system call: keyctl"]),
    ("add_key permitted", |s| permit(s, "add_key"), &["system call: add_key"]),
    ("io_uring permitted", |s| permit(s, "io_uring_setup"), &["system call: io_uring_setup"]),
    ("userfaultfd permitted", |s| permit(s, "userfaultfd"), &["system call: userfaultfd USER_MODE_ONLY"]),
    ("ioctl permitted", |s| permit(s, "ioctl"), &["system call: TIOCSTI", "system call: FS_IOC_SETFLAGS"]),
    (
        "socket permitted",
        |s| permit(s, "socket"),
        &["system call: SCTP socket of family 2", "system call: netlink", "system call: socket of family 40"],
    ),
    ("personality permitted", |s| permit(s, "personality"), &["system call: personality READ_IMPLIES_EXEC"]),
    ("kcmp permitted", |s| permit(s, "kcmp"), &["system call: kcmp"]),
    ("process_vm_readv permitted", |s| permit(s, "process_vm_readv"), &["system call: process_vm_readv"]),
    ("mknod permitted", |s| permit(s, "mknodat"), &["system call: mknod of a block device"]),
    (
        "a capability in all sets",
        |s| grant(s, &["bounding", "effective", "permitted", "inheritable", "ambient"], &["CAP_NET_RAW"]),
        &["capability: CAP_NET_RAW is in CapEff of self", "capability: CAP_NET_RAW is in CapBnd of 1"],
    ),
    (
        "a capability in the bounding set",
        |s| grant(s, &["bounding"], &["CAP_SYS_ADMIN"]),
        &["capability: CAP_SYS_ADMIN is in CapBnd of self"],
    ),
    (
        "new privileges",
        |s| {
            set(s, "/process/noNewPrivileges", json!(false));
            // Without it nobody may load a filter.
            s["filter"] = Value::Null;
        },
        &["process: NoNewPrivs of self", "process: NoNewPrivs of 1"],
    ),
    ("root", |s| set(s, "/process/user/uid", json!(0)), &["process: Uid of self"]),
    ("root's group", |s| set(s, "/process/user/gid", json!(0)), &["process: Gid of self"]),
    ("another group", |s| s["process"]["user"]["additionalGids"] = json!([6]), &["process: groups of self"]),
    ("a writable root", |s| set(s, "/root/readonly", json!(false)), &["writable: /", "writable: /etc"]),
    (
        "nothing masked",
        |s| set(s, "/linux/maskedPaths", json!([])),
        &[
            "not masked: /proc/interrupts",
            "not masked: /proc/timer_list",
            "not masked: /proc/cmdline",
            "not masked: /sys/kernel",
            "not masked: /sys/module",
        ],
    ),
    (
        "one path unmasked",
        |s| s["linux"]["maskedPaths"].as_array_mut().unwrap().retain(|p| p != "/proc/keys"),
        &["not masked: /proc/keys"],
    ),
    (
        "pressure",
        |s| s["linux"]["maskedPaths"].as_array_mut().unwrap().retain(|p| p != "/proc/pressure"),
        &["not masked: /proc/pressure", "kernel file: /proc/pressure/memory can be written"],
    ),
    (
        "nothing read-only",
        |s| set(s, "/linux/readonlyPaths", json!([])),
        &["writable: /proc/sys", "writable: /proc/irq", "writable: /proc/bus", "writable: /proc/fs"],
    ),
    ("a writable sysfs", |s| without(s, "/sys", "ro"), &["writable: /sys"]),
    ("a writable hosts file", |s| without(s, "/etc/hosts", "ro"), &["writable: /etc/hosts"]),
    ("set-user-id on /tmp", |s| without(s, "/tmp", "nosuid"), &["mount: /tmp lacks nosuid"]),
    (
        "devices in the workspace",
        |s| without(s, "/home/sandbox", "nodev"),
        &["mount: /home/sandbox lacks nodev"],
    ),
    ("terminals without end", |s| without(s, "/dev/pts", "max=64"), &["limit: more than 64 terminals"]),
    ("programs in /dev/shm", |s| without(s, "/dev/shm", "noexec"), &["mount: /dev/shm lacks noexec"]),
    ("processes shared", |s| share(s, "pid"), &["process: ", "namespace: pid:", "namespace: /proc/"]),
    (
        "network shared",
        |s| share(s, "network"),
        &["socket: the abstract socket", "network: 127.0.0.1:41001", "namespace: net:"],
    ),
    (
        "ipc shared",
        |s| share(s, "ipc"),
        &["ipc: shared memory 41001", "ipc: semaphores 41001", "ipc: message queue 41001", "namespace: ipc:"],
    ),
    (
        "host name shared",
        |s| {
            share(s, "uts");
            s.as_object_mut().unwrap().remove("hostname");
        },
        &["namespace: uts:", "namespace: the host's name"],
    ),
    (
        "cgroup namespace shared",
        |s| share(s, "cgroup"),
        &["namespace: cgroup:", "cgroup: its path on the host"],
    ),
    ("cgroups mounted", |s| mount(s, "/mnt", "cgroup", "cgroup", &["rw"]), &["mount: "]),
    (
        "the host's files",
        |s| mount(s, "/mnt", "bind", "/", &["rbind", "ro"]),
        &["mount: ", "mount: /mnt lacks nosuid"],
    ),
    ("a socket of the host", |s| mount(s, "/run", "bind", SOCKETS, &["bind"]), &["socket: /run/control"]),
    (
        "a device",
        |s| {
            s["linux"]["devices"] =
                json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 438 }]);
        },
        &["device: /dev/kmsg"],
    ),
    ("a descriptor is leaked", |_| {}, &["descriptor: 3 is /etc", "descriptor: 3 is a directory"]),
    (
        "PID 1 can be looked into",
        |s| set(s, "/process/args/1", json!("dumpable-init")),
        &[
            "PID 1: its descriptors can be listed",
            "PID 1: its root can be entered",
            "PID 1: its memory can be opened",
        ],
    ),
    (
        "no limits",
        |s| set(s, "/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024 }])),
        &["limit: RLIMIT_CORE is ", "limit: RLIMIT_SIGPENDING"],
    ),
    (
        "no core file, but a program for it",
        |s| {
            let limits = s["process"]["rlimits"].as_array_mut().unwrap();
            limits.retain(|limit| limit["type"] != "RLIMIT_CORE");
            limits.push(json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }));
        },
        &["limit: RLIMIT_CORE is (0, 0)"],
    ),
    ("setrlimit permitted", |s| permit(s, "setrlimit"), &["limit: RLIMIT_CORE is set to 0 by setrlimit"]),
    ("prlimit64 permitted", |s| permit(s, "prlimit64"), &["limit: RLIMIT_CORE is set to 0 by prlimit64"]),
    ("last to be killed", |s| set(s, "/process/oomScoreAdj", json!(0)), &["memory: oom_score_adj is 0"]),
    (
        "a variable of ours",
        |s| s["process"]["env"].as_array_mut().unwrap().push(json!("SANDBOXD_API_TOKENS=x")),
        &["environment: SANDBOXD_API_TOKENS"],
    ),
];

/// Without a filter and with every capability each call gets into the kernel, which answers otherwise.
fn every_call_would_be_found() {
    let scene = Scene::without_user_namespaces();
    let mut spec = scene.bundle();
    spec["filter"] = Value::Null;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
    let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
    let all: Vec<_> =
        CAPABILITIES.iter().enumerate().filter(|(n, _)| bounding >> n & 1 == 1).map(|(_, c)| *c).collect();
    grant(&mut spec, &["bounding", "effective", "permitted", "inheritable", "ambient"], &all);
    let found = scene.under_runc(spec, 0);
    for name in all {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let wanted = format!("finding capability: {name} is in {set} of self");
            assert!(found.contains(&wanted), "{wanted}");
        }
    }
    let names = Command::new(probe()).arg("calls").output().unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    let quiet = |name: &&str| !found.iter().any(|f| f.starts_with(&format!("finding system call: {name}: ")));
    let mut quiet: Vec<_> = names.lines().filter(quiet).collect();
    // What a kernel was built without it answers as the filter does.
    let optional = ["mbind", "set_mempolicy", "io_uring", "io_setup", "io_submit", "userfaultfd"];
    quiet.retain(|name| !optional.iter().any(|o| name.starts_with(o)));
    assert!(quiet.is_empty() && names.lines().count() > 350, "{quiet:#?}");
}

const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];
