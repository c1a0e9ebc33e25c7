//! The ways out that other runtimes have had, each tried against the real server.
//!
//! Root file systems are laid over the real one, so that an image can be as hostile as it likes. Races run
//! for a few seconds: a start that is refused is a good outcome, one that touches the host is not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::{Server, rootfs};

pub(crate) const TESTS: &[Test] = &[
    ("escapes::cve_2019_5736_the_runtime_is_not_overwritten", runtime_overwritten),
    ("escapes::cve_2019_14271_nothing_of_the_image_runs_outside", libraries_of_the_image),
    ("escapes::cve_2021_30465_directories_swapped_for_links", swapped_workspace),
    ("escapes::cve_2022_0492_no_release_agent", release_agent),
    ("escapes::cve_2023_27561_nothing_is_mounted_through_links", links_for_mounts),
    ("escapes::cve_2024_21626_no_way_out_by_a_working_directory", working_directories),
    ("escapes::cve_2025_31133_masks_are_the_real_null_device", hostile_devices),
    ("escapes::cve_2025_52565_terminals_are_not_taken_by_path", hostile_terminals),
    ("escapes::cve_2025_52881_writes_to_procfs_are_not_led_elsewhere", hostile_procfs),
    ("escapes::cve_2026_41579_devices_are_not_made_on_the_host", swapped_devices),
];

const RACE: Duration = Duration::from_secs(3);

/// The real root file system under a layer of the attacker's.
struct Image {
    base: tempfile::TempDir,
}

impl Image {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("sandboxd-image").tempdir().unwrap();
        // A layer of tmpfs, since one overlay cannot always lie in another.
        run("mount", &["-t", "tmpfs", "tmpfs", &base.path().display().to_string()]);
        let path = |name: &str| base.path().join(name).display().to_string();
        for name in ["upper", "work", "merged", "trap"] {
            fs::create_dir(path(name)).unwrap();
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", rootfs().display(), path("upper"), path("work"));
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &path("merged")]);
        // Only what was built whole is copied to where nobody changes it.
        fs::remove_file(base.path().join("merged/.complete")).unwrap();
        Self { base }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.base.path().join("merged").join(inside)
    }

    /// A directory of the host's that the image wants to have changed.
    fn trap(&self) -> PathBuf {
        self.base.path().join("trap")
    }

    fn replace(&self, inside: &str, target: &Path) {
        let place = self.path(inside);
        let _absent = fs::remove_dir_all(&place);
        let _absent = fs::remove_file(&place);
        symlink(target, place).unwrap();
    }

    /// A server of sandboxes with this image; each is launched when it is asked for.
    fn server(&self) -> Server {
        let merged = self.base.path().join("merged").display().to_string();
        let mut server = Server::prepare(&[("SANDBOXD_ROOTFS", &merged), ("SANDBOXD_POOL_SIZE", "0")]);
        server.set("SANDBOXD_LAUNCH_SPARES", "0");
        server.boot();
        server
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let base = self.base.path().display().to_string();
        for place in [format!("{base}/merged"), base] {
            // Lazily: a server that failed may still be there.
            let _ended = Command::new("umount").args(["-l", &place]).status();
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What an attacker would change on the host: its settings, and whatever the test watches besides.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    settings: Vec<String>,
    trap: Vec<String>,
    mounts: usize,
}

impl Host {
    fn look(trap: &Path) -> Self {
        let settings = ["core_pattern", "modprobe", "hostname", "domainname", "panic", "randomize_va_space"];
        let settings =
            settings.map(|name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default());
        let mut found = Vec::new();
        let mut stack = vec![trap.to_owned()];
        while let Some(directory) = stack.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                found.push(entry.path().display().to_string());
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    stack.push(entry.path());
                }
            }
        }
        found.sort();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap().lines().count();
        Self { settings: settings.into(), trap: found, mounts }
    }
}

/// Creates a sandbox, which may be refused; what was created is removed.
fn try_create(server: &Server) -> Option<String> {
    let answer = server.api("POST", "/sandbox", json!({}));
    assert!(answer.status == 201 || answer.status >= 400, "{}", answer.text());
    (answer.status == 201).then(|| answer.json()["id"].as_str().unwrap().to_owned())
}

/// A program that names `/proc/self/exe` as its interpreter makes the runtime's own binary run in the sandbox, where it is
/// held open and written once it no longer runs.
fn runtime_overwritten() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let init = std::env::var_os("SANDBOXD_TEST_INIT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/sandbox-init"),
        PathBuf::from,
    );
    let before = fs::read(&init).unwrap();
    let script = "#!/proc/self/exe\n";
    assert_eq!(server.put(&id, "evil", script.as_bytes()).status, 200);
    let attack = r"
import os, subprocess, time
os.chmod('/home/sandbox/workspace/app/evil', 0o755)
held, opened, end = [], 0, time.time() + 2
while time.time() < end:
    try: subprocess.Popen(['/home/sandbox/workspace/app/evil'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError: pass
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            fd = os.open(f'/proc/{pid}/exe', os.O_PATH)
            if len(held) < 200: held.append(fd)
            else: os.close(fd)
        except OSError: pass
    for fd in held:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            try: os.write(os.open(f'/proc/self/fd/{fd}', flags), b'#!/bin/sh\n'); opened += 1
            except OSError: pass
print(opened)
";
    let answer =
        server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["python3", "-c", attack] }));
    assert_eq!(answer.json()["stdout"], "0\n", "{}", answer.text());
    // The daemon's own way to start a program, by the same interpreter.
    server.exec(&id, "/home/sandbox/workspace/app/evil & sleep 0.1; echo x > /proc/$!/exe");
    assert!(fs::read(&init).unwrap() == before, "the runtime was overwritten");
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
}

/// A library that every program of the image loads: it must only ever run inside.
fn libraries_of_the_image() {
    let image = Image::new();
    let marker = Path::new("/tmp/sandboxd-test-poisoned");
    let _absent = fs::remove_file(marker);
    let source = image.base.path().join("poison.c");
    let code = "#include <fcntl.h>\n__attribute__((constructor)) static void poison(void) { open(\"/tmp/sandboxd-test-poisoned\", O_CREAT | O_WRONLY, 0644); }\n";
    fs::write(&source, code).unwrap();
    let library = image.path("usr/lib/poison.so").display().to_string();
    run("cc", &["-shared", "-fPIC", "-o", &library, &source.display().to_string()]);
    fs::write(image.path("etc/ld.so.preload"), "/usr/lib/poison.so\n").unwrap();
    let server = image.server();
    let id = server.create(json!({}));
    assert_eq!(
        server.sh(&id, "ls /tmp/sandboxd-test-poisoned"),
        "/tmp/sandboxd-test-poisoned\n",
        "the poison works"
    );
    // Everything that the daemon does with files and names of a sandbox.
    assert_eq!(server.put(&id, "a/b", b"x").status, 200);
    for path in ["files?path=&recursive=true", "files/content?path=a/b", "stats", "export"] {
        server.api("GET", &format!("/v1/sandboxes/{id}/{path}"), Value::Null);
    }
    for action in ["stop", "start"] {
        assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).status, 200);
    }
    server.purge(&id);
    assert!(!marker.exists(), "a library of the image ran outside");
}

/// The tenant swaps the directories of its workspace for links to the host's while they are used.
fn swapped_workspace() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let secret = server.directory.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("passwd"), "secret of the host").unwrap();
    let before = Host::look(&secret);
    let script = format!(
        "cd ~/workspace; mkdir -p app real; echo fine > app/passwd; ln -sfn {} link; ln -sfn /etc etclink; \
         python3 - <<'X' &\nimport os, time\nend = time.time() + 4\nwhile time.time() < end:\n  for name in ('link', 'etclink'):\n    try:\n      os.rename('app', 'real2'); os.rename(name, 'app'); os.rename('app', name); os.rename('real2', 'app')\n    except OSError: pass\nX\n",
        secret.display()
    );
    let swapping = json!({ "cmd": ["bash", "-c", format!("({script}) > /dev/null 2>&1 < /dev/null")] });
    server.api("POST", &format!("/sandbox/{id}/exec"), swapping);
    let (end, mut served) = (Instant::now() + RACE, 0);
    while Instant::now() < end {
        let content =
            server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path=passwd"), Value::Null);
        assert!(
            content.status != 200 || content.text() == "fine\n" || content.text() == "written",
            "{}",
            content.text()
        );
        served += u32::from(content.status == 200);
        server.put(&id, "passwd", b"written");
        server.put(&id, "planted", b"x");
        let list = server.api("GET", &format!("/v1/sandboxes/{id}/files?path="), Value::Null).text();
        assert!(!list.contains("shadow"), "{list}");
    }
    assert!(served > 0, "the race never let a read through");
    for action in ["stop", "start"] {
        server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null);
    }
    server.purge(&id);
    assert_eq!(Host::look(&secret), before);
    assert_eq!(fs::read_to_string(secret.join("passwd")).unwrap(), "secret of the host");
    assert!(!Path::new("/etc/planted").exists());
}

fn release_agent() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    for attempt in [
        "unshare -UrmC true",
        "unshare -Ur true",
        "mkdir -p /tmp/c && mount -t cgroup -o rdma cgroup /tmp/c",
        "mount -t cgroup2 none /tmp",
        "echo /tmp/x > /sys/fs/cgroup/release_agent",
        "ls /sys/fs/cgroup/*",
        "find /sys /proc/self/cwd/ -name release_agent | grep .",
    ] {
        assert_ne!(server.exec(&id, attempt).1, 0, "{attempt}");
    }
}

/// How many launches were refused by the look at the image, and not only by what is behind it.
fn seen_links(server: &Server) -> usize {
    let log = server.log_text();
    log.lines().filter(|l| l.contains("is a link") || l.contains("through a link")).count()
}

/// An image in which the place of a mount is a link: to the host, out by `..`, or in a circle.
fn links_for_mounts() {
    for place in ["proc", "sys", "dev", "tmp", "run", "var", "home", "home/sandbox"] {
        let image = Image::new();
        let trap = image.trap();
        let targets = [
            trap.clone(),
            Path::new("../../../../../../..").join(trap.strip_prefix("/").unwrap()),
            place.into(),
        ];
        for name in ["pts", "shm", "mqueue", "sandbox", "tmp"] {
            fs::create_dir(trap.join(name)).unwrap();
        }
        // The image is looked at when the server starts; this one turns hostile afterwards.
        let server = image.server();
        server.purge(&server.create(json!({})));
        for target in targets {
            image.replace(place, &target);
            let (before, seen) = (Host::look(&trap), seen_links(&server));
            assert_eq!(try_create(&server), None, "{place} → {}", target.display());
            assert!(seen_links(&server) > seen, "{place} → {}: {}", target.display(), server.log_text());
            assert_eq!(Host::look(&trap), before, "{place} → {}", target.display());
        }
    }
}

/// Descriptors that lead to the host's tree, by number, as a working directory or under one.
fn working_directories() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let host = server.directory.path().display().to_string();
    let script = format!(
        "for n in $(seq 0 64); do for p in /proc/self/fd/$n /proc/1/fd/$n /proc/$PPID/fd/$n; do \
         for up in . .. ../.. ../../.. ../../../../../..; do ls -d $p/$up{host} $p/$up/proc/1/root{host}; done; (cd $p && ls -d .{host} ../../../../..{host}); done; done 2>/dev/null; true"
    );
    assert_eq!(server.sh(&id, &script), "", "the host's tree is reached");
    // The directory in which commands start is the tenant's to replace.
    for target in
        ["/proc/self/fd/7", "/proc/1/root", "/proc/1/cwd", "/proc/self/fd/3/../../..", "/nonexistent", &host]
    {
        let id = server.create(json!({}));
        server.sh(&id, &format!("cd /; rm -rf ~/workspace; ln -s {target} ~/workspace"));
        for action in ["", "stop"] {
            if !action.is_empty() {
                server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null);
            }
            let command = format!("ls -d .{host} ..{host} ../..{host} ../../..{host} 2>/dev/null; true");
            let body = json!({ "cmd": ["bash", "-c", command] });
            let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body);
            let found = answer.status == 200 && answer.json()["stdout"] != "";
            assert!(!found, "{target}: {}", answer.text());
        }
        server.purge(&id);
    }
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
}

/// All masks as they are seen inside: a null device, or an empty directory, both not to be written.
fn check_masks(server: &Server, id: &str) {
    for path in
        ["/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger", "/proc/interrupts"]
    {
        let shown =
            server.sh(id, &format!("[ ! -e {path} ] && echo 'null 1:3' || stat -Lc 'null %t:%T' {path}"));
        assert_eq!(shown, "null 1:3\n", "{path}");
    }
    for path in ["/sys/kernel", "/sys/module", "/sys/firmware", "/sys/fs"] {
        assert_eq!(server.sh(id, &format!("ls -A {path} | wc -l")), "0\n", "{path}");
    }
    for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe"] {
        let written = server.exec(id, &format!("[ -c {path} ] || echo x > {path}"));
        assert!(written.1 != 0 || path.ends_with("trigger"), "{path}");
    }
}

/// What the runtime binds over masked paths must not come from the image.
fn hostile_devices() {
    let image = Image::new();
    let before = Host::look(&image.trap());
    for target in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd"] {
        for device in ["dev/null", "dev/zero", "dev/full", "dev/random", "dev/urandom", "dev/tty"] {
            image.replace(device, Path::new(target));
        }
        let server = image.server();
        let id = server.create(json!({}));
        check_masks(&server, &id);
        server.purge(&id);
    }
    assert_eq!(Host::look(&image.trap()), before);
}

fn hostile_terminals() {
    let image = Image::new();
    let before = Host::look(&image.trap());
    fs::create_dir_all(image.path("dev/pts")).unwrap();
    for terminal in ["dev/console", "dev/ptmx", "dev/pts/0", "dev/pts/1", "dev/pts/ptmx"] {
        image.replace(terminal, Path::new("/proc/sys/kernel/core_pattern"));
    }
    let server = image.server();
    let id = server.create(json!({}));
    check_masks(&server, &id);
    assert_eq!(server.sh(&id, "[ -e /dev/console ] || echo none"), "none\n");
    assert_eq!(server.sh(&id, "stat -Lc %t:%T /dev/ptmx"), "5:2\n");
    // A terminal is a descriptor that was passed, not a path that was opened.
    let terminal = "script -qec 'tty; readlink /proc/self/fd/0' /dev/null | tr -d '\\r' | sort -u";
    assert!(server.sh(&id, terminal).starts_with("/dev/pts/"), "a terminal of its own");
    server.purge(&id);
    assert_eq!(Host::look(&image.trap()), before);
}

/// An image with a tree of its own where procfs will be, made of links to what an attacker wants written.
fn hostile_procfs() {
    let image = Image::new();
    let before = Host::look(&image.trap());
    for directory in ["self/attr", "thread-self/attr", "self/ns", "1/attr", "sys/kernel", "sys/net/ipv4"] {
        fs::create_dir_all(image.path("proc").join(directory)).unwrap();
    }
    for file in [
        "self/attr/exec",
        "self/attr/keycreate",
        "thread-self/attr/exec",
        "self/oom_score_adj",
        "self/setgroups",
        "self/uid_map",
        "sys/kernel/domainname",
        "sys/net/ipv4/ping_group_range",
    ] {
        let target = image.trap().join("written");
        symlink(target, image.path("proc").join(file)).unwrap();
    }
    let server = image.server();
    let id = server.create(json!({}));
    check_masks(&server, &id);
    // What it sees is a real procfs, and what the runtime wrote has gone there.
    assert_eq!(server.sh(&id, "stat -fc %T /proc; [ $(cat /proc/self/oom_score_adj) -ge 500 ]"), "proc\n");
    server.purge(&id);
    assert_eq!(Host::look(&image.trap()), before);
}

/// The image is changed while sandboxes start: `/dev` and the workspace's place are links half of the time. The look
/// before a launch finds most of it; what slips past is the confined launcher's to hold.
fn swapped_devices() {
    let image = Image::new();
    let trap = image.trap();
    for name in ["pts", "shm", "mqueue", "sandbox"] {
        fs::create_dir(trap.join(name)).unwrap();
    }
    fs::write(trap.join("ptmx"), "a file of the host").unwrap();
    for (place, spare) in [("dev", "dev2"), ("home", "home2"), ("run", "run2")] {
        // Made anew: an overlay does not rename what comes from below.
        fs::remove_dir_all(image.path(place)).unwrap();
        fs::create_dir(image.path(place)).unwrap();
        symlink(&trap, image.path(spare)).unwrap();
    }
    fs::create_dir(image.path("home/sandbox")).unwrap();
    let server = image.server();
    let before = Host::look(&trap);
    let end = Instant::now() + RACE;
    let mut outcomes = [0, 0];
    std::thread::scope(|scope| {
        let image = &image;
        scope.spawn(move || {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while Instant::now() < end {
                for (place, spare) in [("dev", "dev2"), ("home", "home2"), ("run", "run2")] {
                    let (place, spare) = (image.path(place), image.path(spare));
                    rustix::fs::renameat_with(rustix::fs::CWD, place, rustix::fs::CWD, spare, exchange)
                        .unwrap();
                }
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        while Instant::now() < end {
            match try_create(&server) {
                Some(id) => {
                    outcomes[0] += 1;
                    // It may be of no use by now: the image is its own to break.
                    server.purge(&id);
                }
                None => outcomes[1] += 1,
            }
        }
    });
    assert_eq!(Host::look(&trap), before, "{outcomes:?}");
    assert_eq!(fs::read_to_string(trap.join("ptmx")).unwrap(), "a file of the host");
    assert!(outcomes[0] + outcomes[1] > 3, "{outcomes:?}");
    assert!(seen_links(&server) > 0, "{outcomes:?}");
}
