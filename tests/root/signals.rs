//! USR2 hands over to the next daemon, HUP reads the keys again; under the supervisor and without.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use super::crash::{children, pid_of};
use crate::support::eventually;
use crate::support::http;
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("signals::usr2_ends_the_daemon_alone_and_answers_what_is_open", alone),
    ("signals::usr2_to_the_supervisor_starts_the_new_binary", new_binary),
    ("signals::hup_reads_the_keys_again", keys),
    ("signals::hup_to_the_supervisor_reads_the_keys_again", supervised_keys),
];

const ONE: &str = "first-0123456789";
const OTHER: &str = "second-0123456789";

/// Sends a signal in the middle of a command; the command is answered all the same.
fn during_a_command(server: &Server, id: &str, signal: impl FnOnce()) {
    std::thread::scope(|scope| {
        let command = scope.spawn(|| server.sh(id, "sleep 1; echo answered"));
        std::thread::sleep(Duration::from_millis(400));
        signal();
        assert_eq!(command.join().unwrap(), "answered\n");
    });
}

fn alone() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({}));
    let pid = pid_of(&server, &id);
    during_a_command(&server, &id, || server.tell("USR2"));
    assert!(server.wait().success());
    assert!(Path::new("/proc").join(&pid).exists(), "the sandbox has ended with the daemon");
    server.boot();
    assert_eq!(pid_of(&server, &id), pid);
    assert_eq!(server.sh(&id, "echo well"), "well\n");
}

fn daemon_of(server: &Server) -> String {
    let mut children = children(&server.pid().to_string());
    // Sandboxes of a daemon that has ended are children of the supervisor, too.
    children.retain(|pid| super::crash::has_word(pid, "serve"));
    children.pop().unwrap_or_default()
}

fn new_binary() {
    let mut server = Server::prepare(&[]);
    let (old, new) = (server.directory.path().join("sandboxd"), server.directory.path().join("next"));
    let built = server.program();
    std::fs::copy(&built, &old).unwrap();
    std::fs::copy(&built, &new).unwrap();
    server.use_program(&old);
    server.boot_supervised();
    let id = server.create(json!({}));
    let (pid, daemon, supervisor) = (pid_of(&server, &id), daemon_of(&server), server.pid());
    let inode = std::fs::metadata(&new).unwrap().ino();
    during_a_command(&server, &id, || {
        std::fs::rename(&new, &old).unwrap();
        server.tell("USR2");
    });
    eventually("another daemon serves", Duration::from_secs(20), || {
        let now = daemon_of(&server);
        !now.is_empty() && now != daemon
    });
    server.wait_until_ready();
    let running = std::fs::metadata(format!("/proc/{}/exe", daemon_of(&server))).unwrap().ino();
    assert_eq!((running, server.pid()), (inode, supervisor));
    assert_eq!(pid_of(&server, &id), pid);
    // A binary that cannot be executed costs nobody a sandbox: the supervisor tries until there is one.
    let broken = server.directory.path().join("broken");
    std::fs::write(&broken, "no program").unwrap();
    std::fs::rename(&old, &new).unwrap();
    std::fs::rename(&broken, &old).unwrap();
    server.tell("USR2");
    eventually("it is said", Duration::from_secs(20), || server.log_text().contains("failed to start"));
    assert!(Path::new("/proc").join(&pid).exists());
    std::fs::rename(&new, &old).unwrap();
    eventually("a daemon serves again", Duration::from_secs(20), || !daemon_of(&server).is_empty());
    server.wait_until_ready();
    assert_eq!(pid_of(&server, &id), pid);
    assert!(server.signal("TERM").success());
}

fn status_with(key: &str) -> u16 {
    let value = format!("Bearer {key}");
    http::request(API, "localhost", "GET", "/sandboxes", &[("Authorization", &value)], b"").status
}

fn keys() {
    exchanged(Server::boot);
}

fn supervised_keys() {
    exchanged(Server::boot_supervised);
}

fn exchanged(boot: fn(&mut Server)) {
    let mut server = Server::prepare(&[]);
    let file = server.directory.path().join("environment");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(&format!("# keys\nSANDBOXD_API_TOKENS=a={ONE}\n"));
    server.set("SANDBOXD_ENV_FILE", file.to_str().unwrap());
    boot(&mut server);
    let id = server.create(json!({}));
    let (pid, own) = (pid_of(&server, &id), server.key());
    assert_eq!([ONE, OTHER, &own].map(status_with), [200, 401, 200]);
    write(&format!("export SANDBOXD_API_TOKENS=\"b={OTHER}\"\n"));
    server.tell("HUP");
    eventually("an added key works", Duration::from_secs(5), || status_with(OTHER) == 200);
    assert_eq!([ONE, OTHER, &own].map(status_with), [401, 200, 200]);
    // Whatever is wrong with it, everything stays as it was, and the log says why without the secret.
    for (number, broken) in ["no-variable-at-all", "SANDBOXD_API_TOKENS=c=short"].into_iter().enumerate() {
        write(broken);
        server.tell("HUP");
        let said = || server.log_text().matches("failed to read the keys again").count();
        eventually("it is said", Duration::from_secs(5), || said() == number + 1);
        assert_eq!([ONE, OTHER, &own].map(status_with), [401, 200, 200], "{broken}");
    }
    std::fs::remove_file(&file).unwrap();
    server.tell("HUP");
    eventually("it is said", Duration::from_secs(5), || {
        server.log_text().matches("failed to read the keys again").count() == 3
    });
    assert_eq!([ONE, OTHER, &own].map(status_with), [401, 200, 200]);
    assert!(!server.log_text().contains("c=short"));
    // The server's own key is read again, too.
    write(&format!("SANDBOXD_API_TOKENS=b={OTHER}\nSANDBOXD_IMAGE=another\n"));
    std::fs::write(server.data().join("api-key"), "own-key-0123456789\n").unwrap();
    server.tell("HUP");
    eventually("the new own key works", Duration::from_secs(5), || status_with("own-key-0123456789") == 200);
    assert_eq!(status_with(&own), 401);
    eventually("what waits for the next start is named", Duration::from_secs(5), || {
        server.log_text().contains("at the next start") && server.log_text().contains("image")
    });
    assert_eq!((pid_of(&server, &id), server.sh(&id, "echo well")), (pid, "well\n".to_owned()));
    assert_eq!(server.api("GET", "/readyz", Value::Null).status, 200);
}
