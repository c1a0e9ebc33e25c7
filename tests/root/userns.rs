//! Users of a sandbox, and whom they are outside.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::{INSTANCE, Server, rootfs};

pub(crate) const TESTS: &[Test] = &[
    ("userns::root_inside_is_nobody_outside", root_is_nobody),
    ("userns::no_two_sandboxes_share_an_id", ids_are_disjoint),
    ("userns::what_is_counted_for_a_user_is_counted_for_each_sandbox", counts_are_apart),
    ("userns::without_them_sandboxes_work_and_root_is_refused", off),
    ("userns::packages_are_installed_into_an_overlay_and_stay", overlay),
    ("userns::a_workspace_of_an_earlier_version_is_stored_anew", earlier),
    ("userns::a_file_system_that_cannot_be_mapped_is_said_and_safe", unmapped),
];

/// The settings' default.
const ID_BASE: u32 = 1_879_048_192;

/// What the server says of a sandbox's ids.
fn ids(server: &Server, id: &str) -> Value {
    server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["user_namespace"].clone()
}

/// Runs a command as root of a sandbox.
fn as_root(server: &Server, id: &str, command: &str) -> (String, i64) {
    let body = json!({ "cmd": ["bash", "-c", command], "user": "root" });
    let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.log_text());
    let value = answer.json();
    let text = format!("{}{}", value["stdout"].as_str().unwrap(), value["stderr"].as_str().unwrap());
    (text, value["exit_code"].as_i64().unwrap())
}

fn root(server: &Server, id: &str, command: &str) -> String {
    let (text, code) = as_root(server, id, command);
    assert_eq!(code, 0, "{command}: {text}");
    text
}

/// The ids of a process outside: first and count of each line of its map.
fn map_of(pid: u64) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let numbers = |line: &str| {
        let all: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        (all[1], all[2])
    };
    text.lines().map(numbers).collect()
}

fn pid_of(server: &Server, id: &str) -> u64 {
    server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["pid"].as_u64().unwrap()
}

fn root_is_nobody() {
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let ids = ids(&server, &id);
    let first = ids["first_id"].as_u64().unwrap();
    assert!(ids["root"] == true && ids["rootfs_mapped"] == true && ids["ids"] == 65_536, "{ids}");
    assert_eq!(
        root(&server, &id, "id -u; id -G; cd /root && stat -c '%U:%G' /root /etc/passwd"),
        "0\n0\nroot:root\nroot:root\n"
    );
    // On the host its process is nobody's.
    let marker = "sleep 61.17";
    let body = json!({ "cmd": ["bash", "-c", format!("exec {marker}")], "user": "root" });
    let process = server.api("POST", &format!("/v1/sandboxes/{id}/processes"), body).json();
    assert_eq!(process["user"], "root", "{process}");
    let owner = process_owner("61.17");
    assert_eq!(u64::from(owner), first);
    // Files of root, and of whomever root gives them to, are on the disk as those of ids that no process has.
    root(
        &server,
        &id,
        "cd ~sandbox; touch of-root; touch of-games; chown 5:60 of-games; touch given; chown 1000:1000 given",
    );
    server.sh(&id, "touch ~/own; chmod 600 ~/own");
    let workspace = server.data().join("workspaces").join(&id);
    for (name, uid, gid) in [
        ("of-root", ID_BASE, ID_BASE),
        ("of-games", ID_BASE + 5, ID_BASE + 60),
        ("given", ID_BASE + 1000, ID_BASE + 1000),
        ("own", ID_BASE + 1000, ID_BASE + 1000),
    ] {
        let metadata = std::fs::symlink_metadata(workspace.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{name}");
    }
    assert_eq!(
        server.sh(&id, "cd; stat -c '%n %u:%g' of-root of-games own"),
        "of-root 0:0\nof-games 5:60\nown 1000:1000\n"
    );
    root(&server, &id, "cat ~sandbox/own");
    // A file of the host's root in there is nobody's inside, and root there cannot have it.
    std::fs::write(workspace.join("of-host"), "secret").unwrap();
    let (text, code) =
        as_root(&server, &id, "cd ~sandbox; stat -c %U of-host; chown 0 of-host || echo x > of-host");
    assert!(code != 0 && text.starts_with("nobody\n"), "{text}");
    let (text, code) = as_root(&server, &id, "cd ~sandbox; cat of-host; rm -f of-host");
    assert!(code != 0 && text.starts_with("secret"), "readable by all, and the host's: {text}");
    refused(&server, &id);
    // A set-user-id program of root's gives its user nothing.
    root(&server, &id, "cd ~sandbox; cp /bin/id .; chmod 4755 id; cp /bin/id /tmp; chmod 4755 /tmp/id");
    assert_eq!(server.sh(&id, "~/id -u; /tmp/id -u"), "1000\n1000\n");
    // A file of another sandbox's user is as its own: nothing of the lease is stored.
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    let other = server.create(json!({}));
    assert_eq!(
        server.sh(&id, "cd; stat -c '%n %u:%g' of-root of-games own"),
        "of-root 0:0\nof-games 5:60\nown 1000:1000\n"
    );
    assert_ne!(pid_of(&server, &id), pid_of(&server, &other));
}

/// What root must not do, and what belongs to the host.
fn refused(server: &Server, id: &str) {
    for attempt in [
        "mount -t tmpfs tmpfs /mnt",
        "mount --bind /etc /mnt",
        "umount /etc/hosts",
        "unshare -U true",
        "unshare -m true",
        "mknod /tmp/sda b 8 0",
        "mknod /tmp/null c 1 3",
        "echo x > /etc/hosts",
        "echo core > /proc/sys/kernel/core_pattern",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        // Masked by a null device it swallows everything.
        "[ -f /proc/sysrq-trigger ] && echo b > /proc/sysrq-trigger",
        "echo 0 0 1 > /proc/self/uid_map",
        "echo -900 > /proc/self/oom_score_adj",
        "ip link set eth0 down",
        "hostname pwned",
        "readlink /proc/1/fd/0",
        "cat /proc/1/environ",
        "date -s 2001-01-01",
        "touch /x",
        "setcap cap_net_raw+ep ~sandbox/of-root",
    ] {
        let (text, code) = as_root(server, id, attempt);
        assert_ne!(code, 0, "{attempt}: {text}");
    }
    as_root(server, id, "kill -9 1; kill -STOP 1; kill -9 -1");
    assert_eq!(server.sh(id, "echo alive"), "alive\n");
}

/// Whose the process with this argument is, as the host sees it.
fn process_owner(argument: &str) -> u32 {
    let is_it = |path: &Path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|word| word == argument.as_bytes())
    };
    let mut found: Vec<PathBuf> = Vec::new();
    eventually("the process is there", Duration::from_secs(20), || {
        let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        found = all.filter(|path| is_it(path)).collect();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "{found:?}");
    std::fs::metadata(&found[0]).unwrap().uid()
}

fn ids_are_disjoint() {
    let mut server = Server::start(&[("SANDBOXD_LAUNCH_SPARES", "1")]);
    let mut all = vec![server.create(json!({})), server.create(json!({}))];
    // Their daemon dies; the next one finds their ranges taken, and gives others.
    server.kill();
    server.boot();
    all.extend([server.create(json!({})), server.create(json!({}))]);
    server.api("POST", &format!("/v1/sandboxes/{}/stop", all[0]), Value::Null);
    server.kill();
    server.boot();
    server.sh(&all[0], "true");
    let mut ranges: Vec<_> = all.iter().flat_map(|id| map_of(pid_of(&server, id))).collect();
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{ranges:?}");
    }
    assert!(
        ranges.iter().all(|(first, count)| *first >= u64::from(ID_BASE) + 65_536 && *count == 65_536),
        "{ranges:?}"
    );
    for id in &all {
        assert_eq!(ids(&server, id)["first_id"].as_u64(), Some(map_of(pid_of(&server, id))[0].0));
        // Adopted or not, its root is one.
        assert_eq!(root(&server, id, "id -u"), "0\n");
    }
    // A daemon that is set to other ids does not take over those that another sandbox may be given by it.
    server.kill();
    server.set("SANDBOXD_ID_BASE", "1879113728");
    server.boot();
    let gone = server.log_text();
    assert!(gone.contains("which are not those of its lease"), "{gone}");
    assert_eq!(server.sh(&all[1], "echo woken"), "woken\n");
    assert!(map_of(pid_of(&server, &all[1]))[0].0 >= 1_879_113_728 + 65_536);
}

fn counts_are_apart() {
    // Ids that no other server on this host has: what is counted for theirs is counted for them.
    let server = Server::start(&[("SANDBOXD_ID_BASE", "2030043136")]);
    let (greedy, neighbour) = (server.create(json!({})), server.create(json!({})));
    let take = |most: u32| {
        format!(
            r#"python3 - <<'X'
import ctypes
libc = ctypes.CDLL(None)
n = 0
while n < {most} and libc.inotify_init() >= 0: n += 1
print(n, flush=True)
import time; time.sleep(30)
X"#
        )
    };
    let limit: u32 =
        std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap().trim().parse().unwrap();
    let run = |id: &str, most: u32| {
        server.sh(id, &format!("setsid {} > /tmp/n 2>&1 < /dev/null & for i in $(seq 200); do sleep 0.05; grep -q . /tmp/n && break; done; cat /tmp/n", wrapped(&take(most))))
    };
    // More than this no user of a sandbox may have, wherever the host's limit is.
    let limit = limit.min(1024);
    // One takes all that a user of the host may have; its neighbour does not notice.
    assert_eq!(run(&greedy, limit + 10).trim().parse::<u32>().unwrap(), limit);
    assert_eq!(run(&neighbour, 20).trim(), "20");
}

/// A script as one word of a command line.
fn wrapped(script: &str) -> String {
    format!("bash -c '{}'", script.replace('\'', r"'\''"))
}

fn off() {
    let mut server = Server::start(&[("SANDBOXD_USER_NAMESPACES", "off")]);
    let id = server.create(json!({}));
    assert_eq!(ids(&server, &id), Value::Null);
    assert_eq!(server.sh(&id, "id -u; touch ~/f; stat -c %u ~/f /etc/passwd"), "1000\n1000\n0\n");
    let body = json!({ "cmd": ["id"], "user": "root" });
    for path in [format!("/sandbox/{id}/exec"), format!("/v1/sandboxes/{id}/processes")] {
        let answer = server.api("POST", &path, body.clone());
        assert!(answer.status == 400 && answer.text().contains("no user namespace"), "{}", answer.text());
    }
    let (_, text) = server.run("check");
    assert!(text.contains("weaker   user namespaces"), "{text}");
    // The next daemon has them: it takes over what runs without, and its root stays refused.
    server.kill();
    server.set("SANDBOXD_USER_NAMESPACES", "require");
    server.boot();
    assert_eq!(server.sh(&id, "id -u; cat /proc/self/uid_map | wc -l"), "1000\n1\n");
    assert_eq!(server.api("POST", &format!("/sandbox/{id}/exec"), body.clone()).status, 400);
    // Once it is launched anew it has one.
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    assert_eq!(server.sh(&id, "id -u; stat -c %u ~/f"), "1000\n1000\n");
    assert_eq!(root(&server, &id, "id -u; stat -c %u ~sandbox/f"), "0\n1000\n");
}

/// Makes a package and a repository with it, updates and installs.
const INSTALL: &str = r#"
set -e
mkdir -p /srv/repo /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/var/lib/probe
printf '#!/bin/sh\necho installed\n' > /tmp/p/usr/bin/probe-tool; chmod 755 /tmp/p/usr/bin/probe-tool
printf '#!/bin/sh\nset -e\nchown games:games /var/lib/probe\nchmod 2750 /var/lib/probe\n' > /tmp/p/DEBIAN/postinst; chmod 755 /tmp/p/DEBIAN/postinst
printf 'Package: probe-tool\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: a tool\n' > /tmp/p/DEBIAN/control
dpkg-deb --build /tmp/p /srv/repo/probe-tool.deb > /dev/null
cd /srv/repo
{ cat /tmp/p/DEBIAN/control; echo "Filename: ./probe-tool.deb"; echo "Size: $(stat -c %s probe-tool.deb)"; echo "SHA256: $(sha256sum < probe-tool.deb | cut -d' ' -f1)"; echo; } > Packages
rm -f /etc/apt/sources.list.d/* /etc/apt/sources.list
echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list
apt-get update 2>&1
DEBIAN_FRONTEND=noninteractive apt-get install -y probe-tool 2>&1
"#;

fn overlay() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({ "rootfs": "overlay" }));
    let plain = server.create(json!({}));
    let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["row"].clone();
    assert_eq!(row["rootfs"], "overlay", "{row}");
    let (text, code) = as_root(&server, &id, INSTALL);
    assert!(code == 0 && !text.contains("W:"), "{text}");
    let looks = "probe-tool; stat -c '%U:%G %a' /var/lib/probe; dpkg -s probe-tool | grep ^Status; rm -f /etc/motd; ls /etc/motd 2>&1 | wc -l";
    let expected = "installed\ngames:games 2750\nStatus: install ok installed\n1\n";
    assert_eq!(root(&server, &id, looks), expected);
    // The user writes there as little as before, and the other sandbox sees nothing of it.
    for path in ["/usr/bin/x", "/etc/x", "/x"] {
        assert_ne!(server.exec(&id, &format!("echo x > {path}")).1, 0, "{path}");
    }
    assert_ne!(server.exec(&plain, "probe-tool").1, 0);
    assert_ne!(as_root(&server, &plain, "touch /usr/bin/x").1, 0);
    // It lasts over a sleep and a daemon that is killed, with other ids each time.
    let before = ids(&server, &id)["first_id"].clone();
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    assert_eq!(root(&server, &id, looks), expected);
    assert_ne!(ids(&server, &id)["first_id"], before);
    server.kill();
    server.boot();
    assert_eq!(
        root(
            &server,
            &id,
            "probe-tool; touch /usr/local/after; echo x > /etc/probe; mv /etc/probe /usr/local"
        ),
        "installed\n"
    );
    // On the disk it is nobody's.
    let layers = server.data().join("overlays").join(&id);
    for name in ["usr/bin/probe-tool", "usr/local/after"] {
        assert_eq!(std::fs::metadata(layers.join("upper").join(name)).unwrap().uid(), ID_BASE, "{name}");
    }
    assert_eq!(server.sh(&id, "ls -a ~ ~/workspace/app | grep -c upper || true"), "0\n");
    // Links in the way of what is mounted are refused, and nothing of the host is touched by them.
    let outside = server.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    root(&server, &id, &format!("rm -rf /etc/ssl/certs; ln -s {} /etc/ssl/certs", outside.display()));
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    let refused = server.api("POST", &format!("/v1/sandboxes/{id}/start"), Value::Null);
    assert!(refused.status >= 400, "{}", refused.text());
    assert!(server.log_text().contains("is reached through a link"), "{}", refused.text());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    server.purge(&id);
    assert!(!layers.exists());
    let off = server.api("POST", "/sandbox", json!({ "rootfs": "overlay", "isolation": "gvisor" }));
    assert_eq!(off.status, 400, "{}", off.text());
}

/// An overlay, which cannot be mapped, in the place of a directory; unmounted with the value.
pub(crate) struct Overlay(
    pub(crate) PathBuf,
    #[expect(dead_code, reason = "what it holds is removed with it")] tempfile::TempDir,
);

impl Overlay {
    pub(crate) fn over(lower: &Path, place: &Path) -> Self {
        let upper = tempfile::tempdir().unwrap();
        for name in ["upper", "work"] {
            std::fs::create_dir(upper.path().join(name)).unwrap();
        }
        std::fs::create_dir_all(place).unwrap();
        let [upper_dir, work] = ["upper", "work"].map(|name| upper.path().join(name));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper_dir.display(),
            work.display()
        );
        let mounted =
            Command::new("mount").args(["-t", "overlay", INSTANCE, "-o", &options]).arg(place).status();
        assert!(mounted.unwrap().success());
        Self(place.to_owned(), upper)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn unmapped() {
    let scene = tempfile::tempdir().unwrap();
    let tree = Overlay::over(&rootfs(), &scene.path().join("rootfs"));
    // Only what was built whole is copied to where it can be mapped.
    std::fs::remove_file(tree.0.join(".complete")).unwrap();
    let mut server = Server::prepare(&[("SANDBOXD_ROOTFS", tree.0.to_str().unwrap())]);
    server.boot();
    let id = server.create(json!({}));
    assert_eq!(ids(&server, &id)["rootfs_mapped"], false);
    let refused = server.api("POST", "/sandbox", json!({ "rootfs": "overlay" }));
    assert!(refused.status == 400 && refused.text().contains("cannot map"), "{}", refused.text());
    // Files of the root file system are nobody's; what anybody may use works, and root is one all the same.
    assert_eq!(server.sh(&id, "stat -c %U /etc/passwd; python3 -c 'print(1)'; touch ~/f"), "nobody\n1\n");
    assert_eq!(root(&server, &id, "id -u; stat -c %u ~sandbox/f"), "0\n1000\n");
    let (_, text) = server.run("check");
    assert!(
        text.contains("weaker   mapped root files") && text.contains("found    mapped workspaces"),
        "{text}"
    );
    server.signal("TERM");

    // Neither can be mapped: the user is the host's, and nobody is root.
    let data = scene.path().join("data");
    std::fs::create_dir(scene.path().join("empty")).unwrap();
    let _data = Overlay::over(&scene.path().join("empty"), &data);
    server.set("SANDBOXD_DATA_DIR", data.to_str().unwrap());
    std::fs::copy(server.data().join("api-key"), data.join("api-key")).unwrap();
    server.boot();
    let id = server.create(json!({}));
    let said = ids(&server, &id);
    assert!(said["root"] == false && said["first_id"].as_u64() > Some(ID_BASE.into()), "{said}");
    assert_eq!(
        server.sh(&id, "id -u; touch ~/f; stat -c %u ~/f; stat -c %U /etc/passwd"),
        "1000\n1000\nnobody\n"
    );
    let stored = std::fs::metadata(data.join("workspaces").join(&id).join("f")).unwrap();
    assert_eq!(stored.uid(), 1000);
    let refused =
        server.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["id"], "user": "root" }));
    assert!(refused.status == 400 && refused.text().contains("cannot be mapped"), "{}", refused.text());
    // PID 1 is still nobody outside.
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid_of(&server, &id))).unwrap();
    assert!(status.contains(&format!("Uid:\t{}\t1000\t", said["first_id"])), "{status}");
    let (_, text) = server.run("check");
    assert!(text.contains("weaker   mapped workspaces"), "{text}");
    server.signal("TERM");
    // Whoever insists is told instead.
    server.set("SANDBOXD_USER_NAMESPACES", "require");
    let (code, text) = server.run("serve");
    assert!(code == Some(69) && text.contains("cannot be mapped"), "{code:?} {text}");
}

/// Everything in a workspace, with its owner on the disk.
fn owners(workspace: &Path) -> Vec<(PathBuf, u32, u32)> {
    let mut found = vec![workspace.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let owner = |path: PathBuf| {
        let metadata = path.symlink_metadata().unwrap();
        (path, metadata.uid(), metadata.gid())
    };
    found.into_iter().map(owner).collect()
}

/// Stores what is the user's as earlier versions did: with the host's id of the same number.
fn store_as_before(path: &Path) {
    for (path, uid, gid) in owners(path) {
        let old = |id: u32| if id == ID_BASE + 1000 { 1000 } else { id };
        std::os::unix::fs::lchown(&path, Some(old(uid)), Some(old(gid))).unwrap();
    }
}

fn earlier() {
    let mut server = Server::start(&[]);
    let (id, layered) = (server.create(json!({})), server.create(json!({ "rootfs": "overlay" })));
    server.sh(
        &id,
        "cd; mkdir -p a/b; echo kept > a/b/c; ln -s / link; ln a/b/c hard; mkfifo fifo; chmod 600 a/b/c",
    );
    server.sh(&id, "cd; python3 -c 'import os\nfor n in range(600): os.mkdir(\"d\"); os.chdir(\"d\")'");
    root(&server, &id, "cd ~sandbox; touch of-root; chown 5:60 a/b");
    root(&server, &layered, "mkdir /opt/x; touch /opt/x/own; chown -R 1000:1000 /opt/x; touch /opt/root");
    let (workspace, layers) =
        (server.data().join("workspaces").join(&id), server.data().join("overlays").join(&layered));
    let before = owners(&workspace);
    assert!(before.iter().all(|(_, uid, gid)| *uid >= ID_BASE && *gid >= ID_BASE), "{before:?}");
    for id in [&id, &layered] {
        server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    }
    server.kill();
    store_as_before(&workspace);
    store_as_before(&layers.join("upper"));
    std::fs::remove_file(layers.join("ids")).unwrap();
    // One that was cut short: a part has its new owner already, and the top has not.
    std::os::unix::fs::lchown(workspace.join("a/b/c"), Some(ID_BASE + 1000), Some(ID_BASE + 1000)).unwrap();
    server.boot();
    // What the server writes before it is woken is the user's too.
    assert_eq!(server.put(&id, "early", b"content").status, 200);
    let looks =
        "cd; stat -c '%n %u:%g' a/b a/b/c of-root hard workspace/app/early; cat a/b/c; echo more > a/b/c";
    assert_eq!(
        server.sh(&id, looks),
        "a/b 5:60\na/b/c 1000:1000\nof-root 0:0\nhard 1000:1000\nworkspace/app/early 1000:1000\nkept\n"
    );
    let after = owners(&workspace);
    assert!(
        after.len() == before.len() + 1
            && after.iter().all(|(_, uid, gid)| *uid >= ID_BASE && *gid >= ID_BASE)
    );
    assert_eq!(root(&server, &layered, "stat -c %u /opt/x /opt/x/own /opt/root"), "1000\n1000\n0\n");
    assert_eq!(std::fs::metadata(layers.join("upper/opt/x/own")).unwrap().uid(), ID_BASE + 1000);
    for id in [&id, &layered] {
        server.purge(id);
    }
}
