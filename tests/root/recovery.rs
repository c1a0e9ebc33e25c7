//! The record is held, cannot be read, is gone or is older than it must be: nothing is lost without a word, and nothing
//! that runs is ended.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use super::crash::pid_of;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("recovery::a_database_that_is_held_is_waited_for_and_not_replaced", held),
    ("recovery::a_read_that_fails_is_no_damage", unreadable),
    ("recovery::whatever_goes_while_sandboxes_run_none_is_lost_or_ended", while_running),
    ("recovery::whatever_goes_after_the_end_nothing_is_lost_without_a_word", after_the_end),
    ("recovery::a_copy_is_restored_by_an_explicit_act_only", restored),
];

fn file(server: &Server, suffix: &str) -> PathBuf {
    server.data().join(format!("sandboxd.db{suffix}"))
}

/// Another process that lets nobody else read or write.
fn hold(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
    connection.execute_batch("BEGIN EXCLUSIVE; CREATE TABLE held (x); ROLLBACK").unwrap();
    connection
}

fn said_damaged(server: &Server) -> bool {
    server.log_text().contains("THE RECORD WAS DAMAGED")
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn held() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({}));
    let pid = pid_of(&server, &id);
    server.kill();
    let connection = hold(&file(&server, ""));
    let begun = Instant::now();
    // One that starts all the same is ended.
    let (code, text) = server.run_under("serve", &["timeout", "20"]);
    assert!(code == Some(75) && text.contains("fuser"), "{code:?} {text}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert!(is_alive(&pid));
    let releasing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        drop(connection);
    });
    server.boot();
    releasing.join().unwrap();
    assert_eq!(pid_of(&server, &id), pid);
    assert!(!said_damaged(&server), "{}", server.log_text());
    assert_eq!(server.sh(&id, "echo well"), "well\n");
}

fn unreadable() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({}));
    let pid = pid_of(&server, &id);
    server.kill();
    server.set("FAILPOINTS", "metadata-read=return");
    let (code, text) = server.run_under("serve", &["timeout", "20"]);
    assert!(code == Some(75) && text.contains("disk"), "{code:?} {text}");
    server.set("FAILPOINTS", "metadata-read=2*return->off");
    server.boot();
    assert_eq!(pid_of(&server, &id), pid);
    assert!(!said_damaged(&server), "{}", server.log_text());
}

/// What happens to one file.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Removed,
    Emptied,
    Cut,
    Zeroed,
}

fn inflict(path: &Path, fault: Fault) {
    let Ok(length) = std::fs::metadata(path).map(|meta| meta.len()) else { return };
    let open = || std::fs::File::options().write(true).open(path).unwrap();
    match fault {
        Fault::Removed => std::fs::remove_file(path).unwrap(),
        Fault::Emptied => open().set_len(0).unwrap(),
        Fault::Cut => open().set_len(length / 2).unwrap(),
        Fault::Zeroed => std::fs::write(path, vec![0; usize::try_from(length).unwrap()]).unwrap(),
    }
}

fn while_running() {
    use Fault::{Cut, Emptied, Removed, Zeroed};
    let mut server = Server::start(&[]);
    let first = server.create(json!({ "external": { "user_id": "ann" } }));
    // The copies have the first; what follows is in the log only.
    server.signal("USR2");
    server.boot();
    let cases: [&[(&str, Fault)]; 9] = [
        &[("-wal", Removed)],
        &[("-wal", Cut)],
        &[("-wal", Zeroed), ("-shm", Removed)],
        &[("", Removed)],
        &[("", Emptied)],
        &[("", Zeroed)],
        &[("-wal", Removed), (".mark", Removed)],
        &[("-wal", Removed), (".backup", Removed)],
        &[("", Removed), ("-wal", Removed), ("-shm", Removed), (".backup", Zeroed), (".mark", Zeroed)],
    ];
    for case in cases {
        let (running, stopped) = (server.create(json!({})), server.create(json!({})));
        assert_eq!(server.api("POST", &format!("/v1/sandboxes/{stopped}/stop"), Value::Null).status, 200);
        server.sh(&running, "echo kept > file");
        let ids = [&first, &running];
        let pids: Vec<_> = ids.iter().map(|id| pid_of(&server, id)).collect();
        server.kill();
        case.iter().for_each(|(suffix, fault)| inflict(&file(&server, suffix), *fault));
        server.boot();
        let now: Vec<_> = ids.iter().map(|id| pid_of(&server, id)).collect();
        assert_eq!(now, pids, "{case:?}: {}", server.log_text());
        assert_eq!(server.status(&stopped), "stopped", "{case:?}");
        assert_eq!(server.sh(&running, "cat file"), "kept\n", "{case:?}");
        server.purge(&running);
        server.purge(&stopped);
    }
    let owned = server.api("GET", "/sandboxes?external_user_id=ann", Value::Null).json();
    assert_eq!(owned.as_array().unwrap().len(), 1, "the owner is lost: {owned}");
    assert!(said_damaged(&server), "nothing was said");
    // A restart without any fault says nothing more.
    let told = server.log_text().matches("THE RECORD WAS DAMAGED").count();
    server.kill();
    server.boot();
    assert_eq!(server.log_text().matches("THE RECORD WAS DAMAGED").count(), told);
}

fn after_the_end() {
    let mut server = Server::start(&[]);
    let ids: Vec<_> = (0..3).map(|_| server.create(json!({ "ports": [3000] }))).collect();
    server.sh(&ids[0], "echo kept > file");
    server.signal("TERM");
    for fault in [Fault::Removed, Fault::Emptied, Fault::Cut, Fault::Zeroed] {
        inflict(&file(&server, ""), fault);
        server.boot();
        for id in &ids {
            assert_eq!(server.status(id), "stopped", "{fault:?}: {}", server.log_text());
        }
        server.signal("TERM");
    }
    // The copies are of use as long as there is one; without any the start is refused and says what helps.
    let saved = server.directory.path().join("saved");
    assert_eq!(server.run_with("backup", &[saved.to_str().unwrap()]).0, Some(0));
    for fault in [Fault::Removed, Fault::Zeroed] {
        for suffix in ["", ".backup", ".backup.1", ".backup.2", ".mark"] {
            inflict(&file(&server, suffix), fault);
        }
        for _again in 0..2 {
            let (code, text) = server.run_under("serve", &["timeout", "20"]);
            assert!(code == Some(69) && text.contains("sandboxd restore"), "{fault:?}: {code:?} {text}");
        }
    }
    assert!(ids.iter().all(|id| server.data().join("workspaces").join(id).exists()));
    assert_eq!(server.run_with("restore", &[saved.to_str().unwrap()]).0, Some(0));
    server.boot();
    assert_eq!(server.sh(&ids[0], "cat file"), "kept\n");
    assert!(ids[1..].iter().all(|id| server.status(id) == "stopped"));
}

fn restored() {
    let mut server = Server::start(&[("SANDBOXD_BACKUP_INTERVAL_SECONDS", "1")]);
    let first = server.create(json!({}));
    let saved = server.directory.path().join("saved");
    assert_eq!(server.run_with("backup", &[saved.to_str().unwrap()]).0, Some(0));
    let second = server.create(json!({}));
    let copy = file(&server, ".backup");
    eventually("the copy has both", Duration::from_secs(10), || {
        std::fs::read(&copy)
            .is_ok_and(|bytes| bytes.windows(second.len()).any(|text| text == second.as_bytes()))
    });
    server.kill();
    assert_eq!(server.run_with("restore", &[saved.to_str().unwrap()]).0, Some(0));
    server.boot();
    let missing = server.api("GET", &format!("/sandbox/{second}"), Value::Null).status;
    assert_eq!((server.status(&first), missing), ("running".to_owned(), 404));
    assert!(!said_damaged(&server), "{}", server.log_text());
    // From then on the restored one is the truth, and an older one is not.
    server.purge(&first);
    server.kill();
    server.boot();
    assert_eq!(server.api("GET", &format!("/sandbox/{first}"), Value::Null).status, 404);
    assert!(!said_damaged(&server), "{}", server.log_text());
    server.purge(&second);
}
