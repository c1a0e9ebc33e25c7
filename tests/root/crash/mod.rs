//! The daemon dies at any moment, and so do its launcher, the launcher's workers, and what runs in sandboxes.

mod chaos;
mod record;
mod soak;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http::Answer;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("crash::sandboxes_run_on_and_are_adopted", adopted),
    ("crash::at_each_step_of_a_create_nothing_is_left", at_each_step),
    ("crash::a_kept_workspace_survives_a_create_that_fails", kept_survives),
    ("crash::a_purge_goes_on_after_the_restart", purge_goes_on),
    ("crash::a_lost_launcher_is_replaced", launcher),
    ("crash::what_a_lost_launcher_had_not_begun_is_begun_again", unbegun),
    ("crash::a_lost_init_is_noticed", lost_init),
    ("record::what_nobody_knows_is_removed_while_it_runs", record::unknown),
    ("record::a_run_directory_that_was_cleared_is_made_again", record::cleared),
    ("record::a_run_directory_that_was_removed_is_not_missed", record::removed),
    ("record::after_the_host_went_down_what_is_always_on_starts", record::host_down),
    ("record::the_workspace_of_a_create_that_was_lost_goes", record::unborn),
    ("record::a_damaged_record_is_replaced_by_its_copy", record::damaged),
    ("record::backup_and_restore", record::backup),
    ("record::without_descriptors_it_refuses_and_recovers", record::descriptors),
    ("chaos::whoever_is_killed_nothing_is_lost_doubled_or_left", chaos::anybody),
    ("chaos::killed_at_any_moment_nothing_is_lost_doubled_or_left", chaos::killed),
    ("soak::used_without_end_it_stays_as_large_as_it_was", soak::flat),
];

/// Kills a process that is there, at once.
pub(super) fn kill(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success(), "{pid}");
}

/// The same for one that may have ended by itself.
fn kill_if_there(pid: &str) {
    let _gone = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status().unwrap();
}

/// The first process of a sandbox.
pub(super) fn pid_of(server: &Server, id: &str) -> String {
    server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["pid"].to_string()
}

/// The processes that a process's threads have started.
pub(super) fn children(pid: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Whether a process was started with a word among its arguments.
pub(super) fn has_word(pid: &str, word: &str) -> bool {
    let line = std::fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
    line.windows(word.len()).any(|window| window == word.as_bytes())
}

/// The launcher of a daemon.
fn launcher_of(daemon: &str) -> Option<String> {
    children(daemon).into_iter().find(|pid| has_word(pid, "__launcher"))
}

/// The daemon is killed while it deals with a request, at the fail point that is set, and started again without.
pub(super) fn dies_during(server: &mut Server, request: impl Fn(&Server) -> Answer + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| request(server));
        // The point is reached and does not return: that is where the daemon dies.
        std::thread::sleep(Duration::from_millis(600));
        kill(&server.pid().to_string());
    });
    server.kill();
    server.unset("FAILPOINTS");
    server.boot();
}

fn adopted() {
    let mut server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000], "template": "python-http" }));
    let stopped = server.create(json!({}));
    server.api("POST", &format!("/v1/sandboxes/{stopped}/stop"), Value::Null);
    let ask = |server: &Server| server.preview(&id, 3000, "GET", "/", &[], b"").text();
    assert!(ask(&server).contains("visitor"));
    server.sh(&id, "nohup sleep 1000 >/dev/null 2>&1 & echo $! > pid");
    let pid = |server: &Server| {
        server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["pid"].clone()
    };
    let before = pid(&server);
    server.kill();
    server.boot();
    assert_eq!((pid(&server), server.status(&stopped)), (before, "stopped".to_owned()));
    // The same processes, not others.
    server.sh(&id, "kill -0 $(cat pid)");
    assert!(ask(&server).contains("visitor"));
    // USR2 hands over in the same way.
    assert!(server.signal("USR2").success());
    server.boot();
    server.sh(&id, "kill -0 $(cat pid)");
    server.purge(&id);
}

fn at_each_step() {
    for step in sandbox::STEPS.into_iter().chain(["record-running"]) {
        let mut server = Server::start(&[]);
        let before = HostSnapshot::take(&server);
        server.signal("TERM");
        server.set("FAILPOINTS", &format!("{step}=sleep(60000)"));
        server.boot();
        // Its answer never comes.
        dies_during(&mut server, |server| server.api("POST", "/sandbox", json!({})));
        eventually(&format!("{step} leaves nothing"), Duration::from_secs(20), || {
            HostSnapshot::take(&server) == before
        });
        assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]), "{step}");
        let id = server.create(json!({}));
        server.purge(&id);
    }
}

fn kept_survives() {
    for (step, action) in
        [("record-running", "return"), ("provision-launch", "return"), ("provision-launch", "sleep(60000)")]
    {
        let mut server = Server::start(&[]);
        let id = server.create(json!({}));
        server.sh(&id, "echo precious > file");
        assert_eq!(server.api("DELETE", &format!("/sandbox/{id}"), Value::Null).status, 204);
        server.signal("TERM");
        server.set("FAILPOINTS", &format!("{step}={action}"));
        server.boot();
        dies_during(&mut server, |server| server.api("POST", "/sandbox", json!({ "id": id })));
        server.create(json!({ "id": id }));
        assert_eq!(server.sh(&id, "cat file"), "precious\n", "{step}={action}");
    }
}

fn purge_goes_on() {
    for step in ["delete-record", "delete-workspace", "storage-remove"] {
        let mut server = Server::start(&[]);
        let before = HostSnapshot::take(&server);
        server.signal("TERM");
        server.set("FAILPOINTS", &format!("{step}=sleep(60000)"));
        server.boot();
        let id = server.create(json!({}));
        server.sh(&id, "echo secret > file");
        dies_during(&mut server, |server| server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null));
        // Before the record was written nothing had been promised; after it, the purge is finished.
        if step == "delete-record" {
            server.purge(&id);
        }
        eventually(&format!("{step}: everything is gone"), Duration::from_secs(20), || {
            HostSnapshot::take(&server) == before
        });
    }
}

fn launcher() {
    let server = Server::start(&[]);
    server.create(json!({}));
    kill(&launcher_of(&server.pid().to_string()).unwrap());
    let id = server.create(json!({}));
    assert_eq!(server.sh(&id, "echo again"), "again\n");
}

fn unbegun() {
    const CREATES: usize = 6;
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    for _round in 0..3 {
        let launcher = launcher_of(&server.pid().to_string()).unwrap();
        // All of them wait for one launcher, which reads nothing.
        assert!(Command::new("kill").args(["-STOP", &launcher]).status().unwrap().success());
        let answers = std::thread::scope(|scope| {
            let creates: Vec<_> =
                (0..CREATES).map(|_| scope.spawn(|| server.api("POST", "/sandbox", json!({})))).collect();
            eventually("all have begun", Duration::from_secs(10), || {
                let rows = server.api("GET", "/sandboxes", Value::Null).json();
                rows.as_array().unwrap().iter().filter(|row| row["status"] == "creating").count() == CREATES
            });
            kill(&launcher);
            creates.into_iter().map(|create| create.join().unwrap()).collect::<Vec<_>>()
        });
        for answer in answers {
            assert_eq!(answer.status, 201, "{}\n{}", answer.text(), server.log_text());
            server.purge(answer.json()["id"].as_str().unwrap());
        }
    }
    eventually("nothing is left", Duration::from_secs(5), || HostSnapshot::take(&server) == before);
}

fn lost_init() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let (id, always) = (server.create(json!({})), server.create(json!({ "idle_policy": "always_on" })));
    for id in [&id, &always] {
        kill(&pid_of(&server, id));
    }
    eventually("it is noticed within a second", Duration::from_secs(1), || server.status(&id) == "stopped");
    eventually("an always-on sandbox is started again", Duration::from_secs(20), || {
        server.status(&always) == "running"
    });
    assert_eq!(server.sh(&id, "echo awake"), "awake\n");
    server.purge(&id);
    server.purge(&always);
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}
