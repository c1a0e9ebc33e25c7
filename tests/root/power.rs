//! The power goes: what was written but not synced is lost, and what was answered is not.
//!
//! The data directory lies on a device that, from one instant on, throws writes away (dm-flakey). Then
//! everything is killed, the file system is mounted anew as after a crash, and the server started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::{INSTANCE, Server};

pub(crate) const TESTS: &[Test] =
    &[("power::what_was_answered_survives_and_what_was_purged_stays_gone", power_loss)];

/// What was done to a sandbox, and whether the answer came while writes still counted.
#[derive(Debug, Default, Clone, Copy)]
struct History {
    created: bool,
    written: bool,
    purge_asked: bool,
    purged: bool,
}

type Histories = Mutex<BTreeMap<String, History>>;

/// A device whose writes can be thrown away.
struct Device {
    name: String,
    loop_device: String,
    sectors: String,
}

impl Device {
    fn make(file: &Path) -> Self {
        run("truncate", &["-s", "256M", file.to_str().unwrap()]);
        run("mkfs.ext4", &["-q", file.to_str().unwrap()]);
        let loop_device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        let sectors = run("blockdev", &["--getsz", &loop_device]);
        let device = Self { name: format!("{INSTANCE}power"), loop_device, sectors };
        run("dmsetup", &["create", &device.name, "--table", &device.table("3600 0")]);
        device
    }

    fn table(&self, intervals: &str) -> String {
        format!("0 {} flakey {} 0 {intervals}", self.sectors, self.loop_device)
    }

    /// Changes the table without letting the file system write what it still holds.
    fn switch(&self, intervals: &str) {
        run("dmsetup", &["suspend", "--nolockfs", &self.name]);
        run("dmsetup", &["load", &self.name, "--table", &self.table(intervals)]);
        run("dmsetup", &["resume", &self.name]);
    }

    /// Says whether no file system on it is in use: mounted ones claim their device (open(2), `O_EXCL`).
    fn is_free(&self) -> bool {
        File::options()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(format!("/dev/mapper/{}", self.name))
            .is_ok()
    }

    fn mount(&self, at: &Path) {
        run("mount", &["-t", "ext4", &format!("/dev/mapper/{}", self.name), at.to_str().unwrap()]);
    }

    /// Ends what uses the file system, and waits until it is gone: a mount of a device whose file system lives
    /// on in some namespace would be given that one, with all that was lost still in its memory.
    fn let_go(&self, server: &mut Server, at: &Path) -> bool {
        server.kill();
        kill_sandboxes();
        // In our namespace; those of the sandboxes and of the launcher end with their processes.
        let _unmounted = Command::new("umount").args(["--lazy", at.to_str().unwrap()]).status();
        let end = Instant::now() + Duration::from_secs(60);
        while !self.is_free() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_free()
    }
}

/// The server and the device its data lies on, in the order in which they can be taken away, also by a failure.
struct Rig {
    server: Server,
    device: Device,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let data = self.server.data();
        self.device.let_go(&mut self.server, &data);
        for (program, arguments) in
            [("dmsetup", ["remove", &self.device.name]), ("losetup", ["--detach", &self.device.loop_device])]
        {
            // What is left fails the next round of it, by its name.
            let _left = Command::new(program).args(arguments).env("DM_DISABLE_UDEV", "1").status();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    // Nobody runs udev here.
    let output = Command::new(program).args(arguments).env("DM_DISABLE_UDEV", "1").output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn power_loss() {
    let server = Server::prepare(&[("SANDBOXD_STOP_GRACE_SECONDS", "1")]);
    let data = server.data();
    std::fs::create_dir(&data).unwrap();
    let device = Device::make(&server.directory.path().join("disk"));
    let mut rig = Rig { server, device };
    rig.device.mount(&data);
    let histories = Histories::default();
    for round in 0..3_u64 {
        rig.server.boot();
        let cut = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 0..2 {
                let (server, cut, histories) = (&rig.server, &cut, &histories);
                scope.spawn(move || use_it(server, cut, histories, client));
            }
            eventually("something was done", Duration::from_secs(60), || {
                histories.lock().unwrap().values().any(|h| h.written && !h.purge_asked)
            });
            // Not at the same point of what the clients do in each round.
            std::thread::sleep(Duration::from_millis(2000 + 1370 * round));
            cut.store(true, Ordering::SeqCst);
            rig.device.switch("0 3600 1 drop_writes");
            std::thread::sleep(Duration::from_millis(300));
        });
        assert!(rig.device.let_go(&mut rig.server, &data), "a namespace holds the file system");
        rig.device.switch("3600 0");
        rig.device.mount(&data);
        rig.server.boot();
        compare(&rig.server, &mut histories.lock().unwrap());
        rig.server.signal("TERM");
    }
}

/// Creates, writes and purges until the power goes.
fn use_it(server: &Server, cut: &AtomicBool, histories: &Histories, client: usize) {
    let counts = || !cut.load(Ordering::SeqCst);
    let note = |id: &str, change: &dyn Fn(&mut History)| {
        change(histories.lock().unwrap().entry(id.to_owned()).or_default());
    };
    for turn in 0.. {
        let answer = server.api("POST", "/sandbox", json!({}));
        if !counts() || answer.status != 201 {
            return;
        }
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        note(&id, &|h| h.created = counts());
        let written = server.put(&id, "kept", id.as_bytes()).status == 200 && counts();
        note(&id, &|h| h.written = written);
        // In the page cache only: may or may not be there, but must harm nothing.
        server.api(
            "POST",
            &format!("/sandbox/{id}/exec"),
            json!({ "cmd": ["sh", "-c", "head -c 1M /dev/urandom > app/lost"] }),
        );
        if (turn + client).is_multiple_of(2) {
            note(&id, &|h| h.purge_asked = true);
            let answer = server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null);
            let purged = answer.status == 200 && counts();
            note(&id, &|h| h.purged = purged);
        }
        if !counts() {
            return;
        }
    }
}

fn kill_sandboxes() {
    for entry in std::fs::read_dir(format!("/sys/fs/cgroup/{INSTANCE}")).into_iter().flatten().flatten() {
        // One that has gone meanwhile has nobody to kill.
        let _gone = std::fs::write(entry.path().join("cgroup.kill"), "1");
    }
}

/// Compares what the server knows with what was answered.
fn compare(server: &Server, histories: &mut BTreeMap<String, History>) {
    let listed = server.api("GET", "/sandboxes", Value::Null).json();
    let known: Vec<&str> = listed.as_array().unwrap().iter().filter_map(|row| row["id"].as_str()).collect();
    assert!(histories.values().any(|h| h.written), "nothing was done before the power went: {histories:?}");
    for (id, history) in histories.iter() {
        let is_known = known.contains(&id.as_str());
        assert!(!history.purged || !is_known, "{id} was purged and is back: {history:?}");
        if history.purge_asked || !history.created {
            continue;
        }
        assert!(is_known, "{id} was created and is gone: {history:?}");
        assert_eq!(server.status(id), "stopped", "{id}");
        if history.written {
            let path = format!("/v1/sandboxes/{id}/files/content?path=kept");
            assert_eq!(server.api("GET", &path, Value::Null).text(), *id, "{history:?}");
        }
        server.sh(id, "echo awake again");
    }
    // Nothing is left over of those that are gone.
    let workspaces: Vec<_> = std::fs::read_dir(server.data().join("workspaces"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(workspaces.iter().all(|w| known.contains(&w.as_str())), "{workspaces:?} but {known:?}");
    for id in known {
        server.purge(id);
    }
    histories.clear();
}
