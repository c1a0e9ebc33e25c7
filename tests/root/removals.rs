//! What a tenant has made is removed, whatever it is called and however it is built; and where something cannot be, that is
//! said, and stops neither the rest nor a start.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("removals::no_name_or_shape_of_a_tenants_stops_a_purge_a_delete_or_a_start", names),
    ("removals::what_cannot_be_removed_stops_no_start_and_is_not_called_purged", stuck),
    ("removals::subvolumes_of_a_tenants_are_removed_with_it", subvolumes),
    ("removals::a_tree_that_is_filled_while_it_is_removed_stops_nothing", filled),
    ("removals::nobody_but_root_reaches_the_data", closed),
];

/// Names that the server uses or used for its own, beside one another and in one another; deep, wide and odd ones.
const TREE: &str = r#"
set -e
mkdir -p "$1"; cd "$1"
mkdir -p .removing-0/s/x .removing-1/.removing-0/.removing-2 trash/staging/trash .upload-x/y/z sandboxd/tree.0 a/b/c
for i in $(seq 0 40); do mkdir -p ".removing-$i/deep/.removing-$((40 - i))"; echo x > ".removing-$i/deep/file"; done
for i in $(seq 100); do mkdir -p "wide/$i/$i"; done
mkfifo fifo; ln -s / link; ln -s .removing-0 .removing-99; echo x > hard; ln hard .removing-100
mkdir "$(printf 'new\nline')" "$(printf '\377\376')" -- '-rf' '*' ' '
mkdir closed; echo x > closed/in; chmod 0 closed
python3 - <<'X'
import os
for level in range(2000):
    name = ".removing-0" if level % 3 else "d"
    os.mkdir(name); os.chdir(name)
X
"#;

fn make_tree(server: &Server, id: &str, place: &str) {
    let text = format!("cat > /tmp/tree <<'END'\n{TREE}\nEND\nbash /tmp/tree {place}");
    server.sh(id, &text);
}

fn count(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn is_clear(server: &Server) -> bool {
    count(&server.data().join("trash")) == 0 && count(&server.data().join("staging")) == 0
}

fn purge(server: &Server, id: &str) -> (u16, String) {
    let answer = server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null);
    (answer.status, answer.text())
}

fn names() {
    let mut server = Server::start(&[]);
    let (id, layered) = (server.create(Value::Null), server.create(json!({ "rootfs": "overlay" })));
    make_tree(&server, &id, "~/tree");
    make_tree(&server, &id, "~/workspace/app/tree");
    let as_root =
        json!({ "cmd": ["mkdir", "-p", "/opt/.removing-0/s/x", "/opt/a/.removing-0/y"], "user": "root" });
    assert_eq!(server.api("POST", &format!("/sandbox/{layered}/exec"), as_root).json()["exit_code"], 0);
    let path = format!("/v1/sandboxes/{id}/files?path=tree&recursive=true");
    assert_eq!(server.api("DELETE", &path, Value::Null).status, 204);
    eventually("what was deleted is removed", Duration::from_secs(20), || is_clear(&server));
    // As a daemon leaves it that was killed while it removed one and made another.
    let planted = server.create(Value::Null);
    make_tree(&server, &planted, "~/tree");
    server.api("POST", &format!("/v1/sandboxes/{planted}/stop"), Value::Null);
    server.kill();
    let tree = server.data().join("workspaces").join(&planted).join("tree");
    fs::rename(&tree, server.data().join("trash/01ARZ3NDEKTSV4RRFFQ69G5FAV.17.0")).unwrap();
    let staged = server.data().join("staging/01ARZ3NDEKTSV4RRFFQ69G5FAW/.removing-0/s/x");
    fs::create_dir_all(staged).unwrap();
    server.boot();
    eventually("what was left is removed", Duration::from_secs(20), || is_clear(&server));
    for id in [&id, &layered, &planted] {
        server.purge(id);
        assert!(!server.data().join("workspaces").join(id).exists());
        assert!(!server.data().join("overlays").join(id).exists());
    }
    assert!(is_clear(&server), "something is left");
}

fn stuck() {
    let mut server = Server::start(&[]);
    let (id, other) = (server.create(Value::Null), server.create(Value::Null));
    server.sh(&id, "mkdir -p a/b; echo x > a/b/c");
    server.sh(&other, "echo kept > file");
    // Something that nobody can remove, as an immutable file or a bad block is: a mount point of the host's.
    let mounted = server.data().join("workspaces").join(&id).join("workspace/a/mounted");
    fs::create_dir(&mounted).unwrap();
    let run = |program: &str, arguments: &[&str], path: &Path| {
        assert!(Command::new(program).args(arguments).arg(path).status().unwrap().success(), "{program}");
    };
    run("mount", &["-t", "tmpfs", "tmpfs"], &mounted);
    for attempt in 0..2 {
        let (status, text) = purge(&server, &id);
        assert!(status == 500 && !text.contains("\"purged\":true"), "{attempt}: {status} {text}");
    }
    let left = || {
        fs::read_dir(server.data().join("trash"))
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect::<Vec<_>>()
    };
    assert!(
        !left().is_empty() && left().iter().all(|name| name.to_str().unwrap().starts_with(&id)),
        "{:?}",
        left()
    );
    // The rest of it is gone.
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let place = table.lines().filter_map(|line| line.split(' ').nth(1)).find(|place| place.contains(&id));
    let place = place.expect("it is still mounted").to_owned();
    assert!(!Path::new(&place).parent().unwrap().join("b").exists());
    server.kill();
    server.boot();
    assert_eq!(server.sh(&other, "cat file"), "kept\n");
    eventually("it is said", Duration::from_secs(20), || {
        server.log_text().contains("failed to finish a purge")
    });
    assert_eq!(purge(&server, &id).0, 500);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let place = table.lines().filter_map(|line| line.split(' ').nth(1)).find(|place| place.contains(&id));
    run("umount", &[], Path::new(place.unwrap()));
    assert_eq!(purge(&server, &id).0, 200);
    assert!(is_clear(&server), "something is left");
}

/// Makes subvolumes in one another and in directories, and a read-only snapshot of one, as `btrfs(8)` does.
const SUBVOLUMES: &str = r#"
import fcntl, os, struct
CREATE, SNAPSHOT = 0x5000940e, 0x50009417
def create(name):
    here = os.open(".", os.O_RDONLY)
    fcntl.ioctl(here, CREATE, bytearray(struct.pack("q4088s", 0, name.encode())), True); os.close(here)
def snapshot(of, name):
    here, source = os.open(".", os.O_RDONLY), os.open(of, os.O_RDONLY)
    fcntl.ioctl(here, SNAPSHOT, bytearray(struct.pack("qQQ4Q4040s", source, 0, 2, 0, 0, 0, 0, name.encode())), True)
os.makedirs("d/.removing-0/s"); os.chdir("d/.removing-0/s")
create("one"); os.makedirs("one/a/b/.removing-0/s/x"); open("one/a/b/file", "w").write("x")
os.chdir("one/a/b"); create("two"); os.makedirs("two/" + "d/" * 200); open("two/d/file", "w").write("x")
os.chdir("../.."); snapshot("a/b/two", "frozen"); snapshot("../one", "whole")
os.chdir(".."); snapshot("one", "again")
"#;

fn subvolumes() {
    let mut server = Server::prepare(&[]);
    let image = server.directory.path().join("image");
    File::create(&image).unwrap().set_len(512 << 20).unwrap();
    assert!(Command::new("mkfs.btrfs").arg("-q").arg(&image).status().unwrap().success());
    fs::create_dir_all(server.data()).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(server.data()).status();
    assert!(mounted.unwrap().success());
    let disk = Unmount(server.data());
    server.boot();
    let id = server.create(Value::Null);
    for place in ["~/sub", "~/workspace/app/sub"] {
        server.sh(&id, &format!("mkdir {place}; cd {place}; python3 - <<'X'\n{SUBVOLUMES}\nX"));
    }
    let subvolumes = || {
        let list = Command::new("btrfs").args(["subvolume", "list"]).arg(server.data()).output().unwrap();
        String::from_utf8(list.stdout).unwrap().lines().count()
    };
    assert!(subvolumes() >= 8, "{}", subvolumes());
    // One that lies in a subvolume cannot be moved out of it, and a read-only one cannot be emptied.
    for path in ["sub/d/.removing-0/s/one/a", "sub"] {
        let path = format!("/v1/sandboxes/{id}/files?path={path}&recursive=true");
        let answer = server.api("DELETE", &path, Value::Null);
        assert_eq!(answer.status, 204, "{path}: {}", answer.text());
    }
    eventually("what was deleted is removed", Duration::from_secs(20), || is_clear(&server));
    server.purge(&id);
    assert!(is_clear(&server), "something is left");
    assert_eq!(subvolumes(), 0);
    assert!(server.signal("TERM").success());
    drop(disk);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn filled() {
    let mut server = Server::start(&[]);
    let id = server.create(Value::Null);
    // Each has a directory open that is deleted, and goes on filling it.
    server.sh(
        &id,
        r#"cd app; mkdir -p tree/.removing-0/s; cat > /tmp/fill <<'X'
import os
here = os.open("tree/.removing-0/s", os.O_RDONLY)
number = 0
while True:
    number += 1
    try:
        os.mkdir(f".removing-{number % 50}", dir_fd=here); os.mkdir(f".removing-{number % 50}/s", dir_fd=here)
    except FileExistsError: pass
    except FileNotFoundError: os._exit(0)
X
for i in 1 2 3; do nohup python3 /tmp/fill > /dev/null 2>&1 & done; sleep 0.5; ls tree/.removing-0/s | wc -l"#,
    );
    let path = format!("/v1/sandboxes/{id}/files?path=tree&recursive=true");
    assert_eq!(server.api("DELETE", &path, Value::Null).status, 204);
    server.kill();
    server.boot();
    assert_eq!(server.sh(&id, "ls ~/workspace/app | wc -l"), "0\n");
    server.purge(&id);
    eventually("nothing is left", Duration::from_secs(20), || is_clear(&server));
}

fn closed() {
    let mut server = Server::prepare(&[]);
    // As an earlier version made them.
    for (name, mode) in [("", 0o755), ("workspaces", 0o711), ("overlays", 0o755)] {
        fs::create_dir_all(server.data().join(name)).unwrap();
        fs::set_permissions(server.data().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    server.boot();
    let id = server.create(Value::Null);
    server.sh(&id, "cp /usr/bin/id ~/id; chmod 6755 ~/id");
    for name in ["", "workspaces", "overlays", "staging", "trash"] {
        let found = fs::metadata(server.data().join(name)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o700), "{name}");
    }
    // Whoever could pass the directories above these is stopped by them.
    fs::set_permissions(server.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = server.data().join("workspaces").join(&id).join("id");
    assert!(program.exists());
    let ran = Command::new("setpriv")
        .args(["--reuid=4242", "--regid=4242", "--clear-groups"])
        .arg(&program)
        .output();
    assert!(!ran.unwrap().status.success(), "another user of the host runs a tenant's program");
}
