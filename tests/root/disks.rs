//! The disk takes no more: it was made read-only, has failed, is full, or its record is held by somebody else.
//!
//! In each case what runs goes on and what is there can be read; what has to be written is refused with an
//! answer that says so and leaves nothing; and when the disk takes writes again, so does the server.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http::{self, Answer};
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("disks::one_that_is_made_read_only_refuses_and_recovers", read_only),
    ("disks::one_that_has_failed_takes_nothing_down", failed),
    ("disks::one_without_inodes_or_room_refuses_and_recovers", full),
    ("disks::a_full_one_takes_deletes_and_starts", reserve),
    ("disks::one_that_answers_nothing_but_errors_is_said_to_be_so", broken),
    ("disks::a_record_that_another_program_holds_is_waited_for_and_told", held),
];

/// A file system at the data directory of a server that has not been started yet.
struct Disk(PathBuf);

impl Disk {
    fn mount(server: &Server, arguments: &[&str]) -> Self {
        let at = server.data();
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(arguments).arg(&at));
        Self(at)
    }

    fn remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Sandboxes that have not ended yet may hold it; it goes with them.
        let _gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A sandbox that serves its app directory; it has no file open for writing.
fn serving(server: &Server) -> String {
    let id = server.create(json!({ "ports": [3000] }));
    assert_eq!(server.put(&id, "page", b"content").status, 200);
    server.sh(&id, "cd app; nohup python3 -m http.server 3000 >/dev/null 2>&1 &");
    eventually("it serves", Duration::from_secs(20), || page(server, &id).status == 200);
    id
}

fn page(server: &Server, id: &str) -> Answer {
    server.preview(id, 3000, "GET", "/page", &[], b"")
}

fn v1(server: &Server, id: &str, action: &str) -> Answer {
    server.api("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null)
}

/// What needs no disk goes on: previews, commands, what is there, sleep and wake of the first tier.
fn goes_on(server: &Server, id: &str) {
    assert_eq!(page(server, id).text(), "content");
    assert_eq!(server.sh(id, "cat app/page"), "content");
    assert_ne!(server.exec(id, "echo x > app/new").1, 0, "it can write");
    let path = format!("/v1/sandboxes/{id}/files/content?path=page");
    assert_eq!(server.api("GET", &path, Value::Null).text(), "content");
    assert_eq!(server.status(id), "running");
    assert_eq!(v1(server, id, "pause").status, 200);
    assert_eq!(page(server, id).text(), "content");
    assert_eq!(server.api("GET", "/healthz", Value::Null).status, 200);
}

/// A create is refused by a status and a text, and leaves nothing.
fn refuses(server: &Server, status: u16, text: &str) {
    let before = HostSnapshot::settled(server);
    let rows = || server.api("GET", "/sandboxes", Value::Null).json().as_array().unwrap().len();
    let count = rows();
    let answer = server.api("POST", "/sandbox", json!({}));
    assert!(answer.status == status && answer.text().contains(text), "{} {}", answer.status, answer.text());
    assert_eq!(answer.header("retry-after").is_some(), status == 503, "{}", answer.head);
    let v1 = server.api("POST", "/v1/sandboxes", json!({ "project": { "id": "p", "user_id": "u" } }));
    assert!(v1.json()["error"]["retryable"] == true && v1.text().contains(text), "{}", v1.text());
    assert_eq!(rows(), count);
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(server) == before);
}

fn is_ready(server: &Server) -> bool {
    server.api("GET", "/readyz", Value::Null).status == 200
}

/// Everything can be done again.
fn works(server: &Server, id: &str) {
    assert!(is_ready(server));
    assert_eq!(server.put(id, "page", b"content").status, 200);
    server.sh(id, "echo x > app/new && rm app/new");
    let new = server.create(Value::Null);
    server.sh(&new, "echo well > file");
    server.purge(&new);
}

fn read_only() {
    let mut server = Server::prepare(&[]);
    // Apart from the record, whose open file would keep the disk from being made read-only.
    let record = server.directory.path().join("record.db");
    server.set("SANDBOXD_DB", record.to_str().unwrap());
    let disk = Disk::mount(&server, &["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
    server.boot();
    let (id, asleep, doomed) = (serving(&server), server.create(Value::Null), server.create(Value::Null));
    server.sh(&asleep, "echo kept > file");
    assert_eq!(v1(&server, &asleep, "stop").status, 200);
    eventually("nobody writes", Duration::from_secs(20), || disk.remount("ro"));
    goes_on(&server, &id);
    refuses(&server, 503, "disk cannot be written");
    let refused = server.put(&id, "page", b"other");
    assert!(refused.status == 502 && refused.text().contains("cannot be written"), "{}", refused.text());
    assert!(!is_ready(&server), "it is ready for creates");
    // What needs to write nothing but the record works.
    assert_eq!(server.sh(&asleep, "cat file"), "kept\n");
    let purge = server.api("POST", &format!("/sandbox/{doomed}/purge"), Value::Null);
    assert_eq!((purge.status, purge.header("retry-after").is_some()), (503, true), "{}", purge.text());
    assert!(disk.remount("rw"));
    works(&server, &id);
    server.purge(&doomed);
    assert!(!server.data().join("workspaces").join(&doomed).exists());
    assert!(server.signal("TERM").success());
}

/// The kernel makes a file system read-only for good when it finds it damaged.
fn failed() {
    let mut server = Server::prepare(&[]);
    let image = server.directory.path().join("image");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let arguments = ["-t", "ext4", "-o", "loop,errors=remount-ro", image.to_str().unwrap()];
    let disk = Disk::mount(&server, &arguments);
    server.boot();
    let (id, asleep) = (serving(&server), server.create(Value::Null));
    server.sh(&asleep, "echo kept > file; sync file");
    assert_eq!(v1(&server, &asleep, "stop").status, 200);
    // On the disk, and so clean: what is mapped has to ask the file system before it is written again.
    run(Command::new("sync").arg("--file-system").arg(&disk.0));
    let device = run(Command::new("findmnt").args(["-no", "SOURCE"]).arg(&disk.0));
    let trigger = Path::new("/sys/fs/ext4").join(device.trim_start_matches("/dev/")).join("trigger_fs_error");
    std::fs::write(trigger, "a test").unwrap();
    for _again in 0..2 {
        goes_on(&server, &id);
        refuses(&server, 503, "disk cannot be written");
    }
    assert!(!is_ready(&server));
    // That it runs could not be recorded, so it is not left running.
    let wake = server.preview(&asleep, 3000, "GET", "/", &[], b"");
    assert!(wake.status == 404 || wake.status == 503, "{}", wake.text());
    let wake = server.api("POST", &format!("/wake/{asleep}"), Value::Null);
    assert_eq!((wake.status, server.status(&asleep)), (503, "stopped".to_owned()), "{}", wake.text());
    let purge = server.api("POST", &format!("/sandbox/{asleep}/purge"), Value::Null);
    assert_eq!(purge.status, 503, "{}", purge.text());
    server.signal("TERM");
    // Somebody repairs it, and everything is there.
    drop(disk);
    run(Command::new("sh").args(["-c", "e2fsck -fy \"$0\" >/dev/null; [ $? -le 1 ]"]).arg(&image));
    let _disk = Disk::mount(&server, &arguments);
    server.boot();
    assert_eq!(server.sh(&asleep, "cat file"), "kept\n");
    assert_eq!(server.sh(&id, "cat app/page"), "content");
    works(&server, &id);
    assert!(server.signal("TERM").success());
}

fn full() {
    let mut server = Server::prepare(&[]);
    let disk = Disk::mount(&server, &["-t", "tmpfs", "-o", "size=64m,nr_inodes=1000", "tmpfs"]);
    server.boot();
    let (id, asleep) = (serving(&server), server.create(Value::Null));
    server.sh(&asleep, "echo kept > file");
    assert_eq!(v1(&server, &asleep, "stop").status, 200);
    // No inode is left.
    let filler = disk.0.join("filler");
    std::fs::create_dir(&filler).unwrap();
    let made = (0..2000).take_while(|number| File::create(filler.join(number.to_string())).is_ok()).count();
    assert!(made < 2000, "there was no end");
    goes_on(&server, &id);
    refuses(&server, 507, "disk is full");
    assert!(!is_ready(&server));
    assert_eq!(server.put(&id, "new", b"x").status, 507);
    // A wake makes no file.
    assert_eq!(server.sh(&asleep, "cat file"), "kept\n");
    std::fs::remove_dir_all(&filler).unwrap();
    works(&server, &id);
    // No room is left.
    let written = std::io::copy(&mut std::io::repeat(b'x'), &mut File::create(&filler).unwrap());
    assert!(written.is_err(), "there was no end");
    goes_on(&server, &id);
    refuses(&server, 507, "disk is full");
    assert_eq!(server.put(&id, "new", &vec![b'x'; 1 << 20]).status, 507);
    std::fs::remove_file(&filler).unwrap();
    works(&server, &id);
    assert!(server.signal("TERM").success());
}

fn held() {
    let server = Server::start(&[]);
    let (id, asleep) = (serving(&server), server.create(Value::Null));
    assert_eq!(v1(&server, &asleep, "stop").status, 200);
    let before = HostSnapshot::settled(&server);
    let other = rusqlite::Connection::open(server.data().join("sandboxd.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _client in 0..6 {
            scope.spawn(|| {
                let answer = server.api("POST", "/sandbox", json!({}));
                assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
                assert!(answer.text().contains("held by another program"), "{}", answer.text());
            });
        }
        scope.spawn(|| {
            let answer = server.api("POST", &format!("/wake/{asleep}"), Value::Null);
            assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
        });
        // What need not be recorded does not wait.
        let begun = Instant::now();
        assert_eq!(page(&server, &id).text(), "content");
        assert_eq!(server.sh(&id, "echo well"), "well\n");
        assert_eq!(v1(&server, &id, "pause").status, 200);
        assert_eq!(page(&server, &id).text(), "content");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
    // One after the other they would have waited five seconds each.
    assert!(begun.elapsed() < Duration::from_secs(24), "{:?}", begun.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
    assert_eq!(server.status(&asleep), "stopped");
    server.sh(&asleep, "true");
    works(&server, &id);
}

/// An ext4 file system of which root of the host has no part for itself.
fn ext4(server: &Server, megabytes: u64) -> Disk {
    let image = server.directory.path().join("image");
    File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
    Disk::mount(server, &["-t", "ext4", "-o", "loop", image.to_str().unwrap()])
}

fn reserve() {
    let mut server = Server::prepare(&[]);
    let _disk = ext4(&server, 96);
    server.boot();
    let (id, greedy, doomed) = (serving(&server), server.create(Value::Null), server.create(Value::Null));
    server.sh(&greedy, "mkdir -p a/.removing-0/s; for i in $(seq 200); do mkdir a/$i; done");
    // Each ends by itself when there is no room left.
    server.exec(&greedy, "cat /dev/zero > fill; for i in $(seq 50); do cat /dev/zero > fill$i; done; true");
    assert!(!is_ready(&server), "the disk is full, and it is ready for creates");
    assert!(server.log_text().contains("find room in"), "nobody is told why");
    assert_eq!(
        (page(&server, &id).text(), server.sh(&id, "cat app/page")),
        ("content".to_owned(), "content".to_owned())
    );
    // A daemon that is killed now starts again, and knows everything.
    server.kill();
    server.boot_unready();
    assert_eq!(server.sh(&id, "cat app/page"), "content");
    assert_eq!(server.status(&greedy), "running");
    refuses(&server, 507, "disk is full");
    assert_eq!(v1(&server, &doomed, "stop").status, 200);
    let purge = server.api("POST", &format!("/sandbox/{doomed}/purge"), Value::Null);
    assert_eq!(purge.status, 200, "{}", purge.text());
    // The one who filled it.
    let purge = server.api("POST", &format!("/sandbox/{greedy}/purge"), Value::Null);
    assert_eq!(purge.status, 200, "{}", purge.text());
    assert!(!server.data().join("workspaces").join(&greedy).exists());
    eventually("it is ready again", Duration::from_secs(20), || is_ready(&server));
    works(&server, &id);
    assert!(server.signal("TERM").success());
    // One that cannot even record what has ended says that it is worth another try.
    server.boot();
    server.sh(&id, "true");
    server.kill();
    let row = rusqlite::Connection::open(server.data().join("sandboxd.db")).unwrap();
    let pid: i64 =
        row.query_row("SELECT init_pid FROM sandboxes WHERE id = ?1", [&id], |row| row.get(0)).unwrap();
    drop(row);
    run(Command::new("kill").args(["-9", &pid.to_string()]));
    server.set("FAILPOINTS", "metadata-write=return");
    let (code, text) = server.run_under("serve", &["timeout", "30"]);
    assert!(code == Some(75) && text.contains("free space"), "{code:?} {text}");
    server.unset("FAILPOINTS");
    server.boot();
    assert_eq!(server.sh(&id, "cat app/page"), "content");
}

/// A file system that has been shut down after an error answers EIO to everything: `EXT4_IOC_SHUTDOWN`.
fn broken() {
    let mut server = Server::prepare(&[]);
    let record = server.directory.path().join("record.db");
    server.set("SANDBOXD_DB", record.to_str().unwrap());
    let disk = ext4(&server, 64);
    server.boot();
    let (id, doomed, key) = (server.create(Value::Null), server.create(Value::Null), server.key());
    let script =
        "import fcntl,os,struct,sys; fcntl.ioctl(os.open(sys.argv[1],0),0x8004587d,struct.pack('I',2))";
    run(Command::new("python3").args(["-c", script]).arg(&disk.0));
    let asked = |method: &str, path: &str| {
        let key = format!("Bearer {key}");
        http::request(API, "localhost", method, path, &[("Authorization", &key)], b"{}")
    };
    for path in ["/sandbox", &format!("/sandbox/{doomed}/purge")] {
        let answer = asked("POST", path);
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.text());
        assert!(answer.text().contains("disk cannot be written"), "{path}: {}", answer.text());
    }
    assert_eq!(asked("GET", "/readyz").status, 503);
    assert_eq!(asked("GET", "/healthz").status, 200);
    assert!(asked("GET", &format!("/sandbox/{id}")).text().contains("running"));
}
