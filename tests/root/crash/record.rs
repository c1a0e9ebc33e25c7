//! The record and the host: compared while the server runs, and made to agree whatever happened to either.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{kill, pid_of};
use crate::support::eventually;
use crate::support::server::{INSTANCE, Server};

fn leftovers(server: &Server) -> u64 {
    let text = server.api("GET", "/metrics", Value::Null).text();
    text.lines()
        .find_map(|l| l.strip_prefix("sandboxd_leftovers_removed_total "))
        .map_or(0, |n| n.parse().unwrap())
}

pub(super) fn unknown() {
    let server = Server::start(&[("SANDBOXD_SWEEP_INTERVAL_SECONDS", "1")]);
    let id = server.create(Value::Null);
    let pid = pid_of(&server, &id);
    // What a launch leaves that everybody has forgotten: cgroups with a process, and a run directory.
    let name = "01arz3ndektsv4rrffq69g5fav";
    let parents: Vec<PathBuf> = ["memory", "pids", "cpu", "freezer", ""]
        .iter()
        .map(|c| Path::new("/sys/fs/cgroup").join(c).join(INSTANCE))
        .filter(|p| p.exists())
        .collect();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    for parent in &parents {
        std::fs::create_dir(parent.join(name)).unwrap();
        std::fs::write(parent.join(name).join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    let run = server.directory.path().join("run").join(name);
    std::fs::create_dir(&run).unwrap();
    // What is not named like ours is nobody's business.
    let other = server.directory.path().join("run/other");
    std::fs::create_dir(&other).unwrap();
    eventually("it is removed", Duration::from_secs(20), || {
        !run.exists() && parents.iter().all(|p| !p.join(name).exists())
    });
    assert!(!child.wait().unwrap().success(), "its process lives");
    assert!(leftovers(&server) >= 1 && other.exists());
    assert_eq!((pid_of(&server, &id), server.sh(&id, "echo well")), (pid, "well\n".to_owned()));
    std::fs::remove_dir(other).unwrap();
}

pub(super) fn cleared() {
    let server = Server::start(&[("SANDBOXD_SWEEP_INTERVAL_SECONDS", "1"), ("SANDBOXD_POOL_SIZE", "2")]);
    let id = server.create(Value::Null);
    server.sh(&id, "echo kept > file");
    let run = server.directory.path().join("run");
    for entry in std::fs::read_dir(&run).unwrap() {
        // What is made ahead may come and go meanwhile.
        let _gone = std::fs::remove_dir_all(entry.unwrap().path());
    }
    eventually("what cannot be reached is ended", Duration::from_secs(20), || {
        server.status(&id) == "stopped"
    });
    assert_eq!(server.sh(&id, "cat file; cat /etc/resolv.conf").lines().next(), Some("kept"));
    server.create(Value::Null);
}

pub(super) fn removed() {
    let server = Server::start(&[
        ("SANDBOXD_SWEEP_INTERVAL_SECONDS", "1"),
        ("SANDBOXD_POOL_SIZE", "2"),
        ("SANDBOXD_LAUNCH_SPARES", "2"),
    ]);
    let (id, asleep) = (server.create(Value::Null), server.create(Value::Null));
    server.sh(&id, "echo kept > file");
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{asleep}/stop"), Value::Null).status, 200);
    let run = server.directory.path().join("run");
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&run).unwrap());
    let before = inode();
    // Held on to, so that the next directory cannot have its number.
    let held = std::fs::File::open(&run).unwrap();
    // What is made ahead may come meanwhile.
    eventually("it is gone", Duration::from_secs(20), || std::fs::remove_dir_all(&run).is_ok());
    // The launcher had a mount of it, and what was made ahead was in it: nobody is to notice either.
    for _one in 0..6 {
        let new = server.create(Value::Null);
        assert!(server.sh(&new, "cat /etc/resolv.conf").contains("nameserver"));
    }
    server.sh(&asleep, "true");
    assert_ne!(inode(), before);
    drop(held);
    eventually("what cannot be reached is ended", Duration::from_secs(20), || {
        server.status(&id) == "stopped"
    });
    assert_eq!(server.sh(&id, "cat file"), "kept\n");
}

pub(super) fn unborn() {
    let mut server = Server::start(&[]);
    let id = server.create(Value::Null);
    let workspaces = server.data().join("workspaces");
    let mark = "trusted.sandboxd.unborn";
    let is_marked = |path: &Path| rustix::fs::lgetxattr(path, mark, &mut [0_u8; 0]).is_ok();
    eventually("what is recorded bears no mark", Duration::from_secs(20), || {
        !is_marked(&workspaces.join(&id))
    });
    server.signal("TERM");
    // What is there when the record of a create was lost with the power; and what a copy of the record, used in
    // the place of a damaged one, does not know.
    let (unborn, unknown) =
        (workspaces.join("01ARZ3NDEKTSV4RRFFQ69G5FAV"), workspaces.join("01ARZ3NDEKTSV4RRFFQ69G5FAW"));
    for path in [&unborn, &unknown] {
        std::fs::create_dir_all(path.join("workspace/app")).unwrap();
    }
    for path in [&unborn, &workspaces.join(&id)] {
        rustix::fs::lsetxattr(path, mark, &[], rustix::fs::XattrFlags::empty()).unwrap();
    }
    server.boot();
    assert!(!unborn.exists() && unknown.exists());
    assert!(workspaces.join(&id).exists() && !is_marked(&workspaces.join(&id)));
    server.sh(&id, "echo well");
}

pub(super) fn host_down() {
    let mut server = Server::start(&[]);
    let (always, lazy) = (server.create(json!({ "idle_policy": "always_on" })), server.create(Value::Null));
    let frozen = server.create(Value::Null);
    for id in [&always, &lazy, &frozen] {
        server.sh(id, "echo kept > file");
    }
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{frozen}/pause"), Value::Null).status, 200);
    let pids: Vec<_> = [&always, &lazy, &frozen].iter().map(|id| pid_of(&server, id)).collect();
    // Everything that ran is gone at once, and so is what only lasts as long as the host is up.
    server.kill();
    pids.iter().for_each(|pid| kill(pid));
    std::fs::remove_dir_all(server.directory.path().join("run")).unwrap();
    server.boot();
    eventually("what is always on starts", Duration::from_secs(20), || server.status(&always) == "running");
    assert_eq!((server.status(&lazy), server.status(&frozen)), ("stopped".to_owned(), "stopped".to_owned()));
    for id in [&always, &lazy, &frozen] {
        assert_eq!(server.sh(id, "cat file"), "kept\n");
    }
}

pub(super) fn damaged() {
    let mut server = Server::start(&[("SANDBOXD_BACKUP_INTERVAL_SECONDS", "1")]);
    let id = server.create(json!({ "external": { "user_id": "ann" } }));
    server.sh(&id, "echo kept > file");
    let copy = server.data().join("sandboxd.db.backup");
    let holds = |id: &str| {
        std::fs::read(&copy).is_ok_and(|bytes| bytes.windows(id.len()).any(|window| window == id.as_bytes()))
    };
    eventually("the copy has it", Duration::from_secs(20), || holds(&id));
    server.kill();
    for suffix in ["", "-wal"] {
        std::fs::write(server.data().join(format!("sandboxd.db{suffix}")), vec![b'x'; 8192]).unwrap();
    }
    server.boot();
    assert!(server.log_text().contains("THE RECORD WAS DAMAGED"), "it was not said");
    let kept = std::fs::read_dir(server.data())
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().contains("damaged-"));
    assert!(kept.count() >= 1);
    assert_eq!(server.sh(&id, "cat file"), "kept\n");
    server.purge(&id);
}

pub(super) fn backup() {
    let mut server = Server::start(&[]);
    let first = server.create(Value::Null);
    let file = server.directory.path().join("copy");
    let run = |server: &Server, verb: &str, file: &Path| server.run_with(verb, &[file.to_str().unwrap()]);
    assert_eq!(run(&server, "backup", &file).0, Some(0));
    let second = server.create(Value::Null);
    let (code, text) = run(&server, "restore", &file);
    assert!(code == Some(69) && text.contains("another sandboxd"), "{code:?} {text}");
    server.signal("TERM");
    std::fs::write(server.directory.path().join("bad"), "x").unwrap();
    assert_eq!(run(&server, "restore", &server.directory.path().join("bad")).0, Some(69));
    assert_eq!(run(&server, "backup", Path::new("/nonexistent/copy")).0, Some(69));
    let (code, text) = run(&server, "restore", &file);
    assert!(code == Some(0) && text.contains("replaced-"), "{code:?} {text}");
    server.boot();
    assert_eq!(server.status(&first), "stopped");
    assert_eq!(server.api("GET", &format!("/sandbox/{second}"), Value::Null).status, 404);
    assert_eq!(server.sh(&first, "echo well"), "well\n");
    // Nobody's files are thrown away for that their record is not there.
    assert!(server.data().join("workspaces").join(&second).exists());
    server.purge(&second);
}

pub(super) fn descriptors() {
    let server = Server::start(&[]);
    let id = crate::root::sleep::with_app(&server);
    let limit = |soft: &str| {
        let pid = server.pid().to_string();
        assert!(
            Command::new("prlimit")
                .args(["--pid", &pid, &format!("--nofile={soft}:")])
                .status()
                .unwrap()
                .success()
        );
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    limit(&(open + 6).to_string());
    std::thread::scope(|scope| {
        for number in 0..40 {
            let (server, id) = (&server, &id);
            // Some are served, some refused, some wait; what counts is what is left afterwards.
            scope.spawn(move || {
                if number % 2 == 0 {
                    let answer = server.preview(id, 3000, "GET", "/", &[], b"");
                    assert!(
                        [200, 502, 503].contains(&answer.status),
                        "{} {}\n{}",
                        answer.status,
                        answer.head,
                        server.log_text()
                    );
                } else {
                    let body = json!({ "cmd": ["true"] });
                    let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body);
                    assert!(
                        [200, 500, 503].contains(&answer.status),
                        "{} {}\n{}",
                        answer.status,
                        answer.head,
                        server.log_text()
                    );
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        limit("4096");
    });
    assert_eq!(server.preview(&id, 3000, "GET", "/", &[], b"").status, 200);
    assert_eq!(server.sh(&id, "echo well"), "well\n");
    let other = server.create(Value::Null);
    server.purge(&other);
}
