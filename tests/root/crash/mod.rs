//! The daemon dies at any moment.

mod chaos;
mod record;
mod soak;

use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("crash::sandboxes_run_on_and_are_adopted", adopted),
    ("crash::at_each_step_of_a_create_nothing_is_left", at_each_step),
    ("crash::a_kept_workspace_survives_a_create_that_fails", kept_survives),
    ("crash::a_purge_goes_on_after_the_restart", purge_goes_on),
    ("crash::a_lost_launcher_is_replaced", launcher),
    ("crash::a_lost_init_is_noticed", lost_init),
    ("record::what_nobody_knows_is_removed_while_it_runs", record::unknown),
    ("record::a_run_directory_that_was_cleared_is_made_again", record::cleared),
    ("record::a_run_directory_that_was_removed_is_not_missed", record::removed),
    ("record::after_the_host_went_down_what_is_always_on_starts", record::host_down),
    ("record::a_damaged_record_is_replaced_by_its_copy", record::damaged),
    ("record::backup_and_restore", record::backup),
    ("record::without_descriptors_it_refuses_and_recovers", record::descriptors),
    ("chaos::killed_at_any_moment_nothing_is_lost_doubled_or_left", chaos::killed),
    ("soak::used_without_end_it_stays_as_large_as_it_was", soak::flat),
];

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
    // HUP hands over in the same way.
    assert!(server.signal("HUP").success());
    server.boot();
    server.sh(&id, "kill -0 $(cat pid)");
    server.purge(&id);
}

fn at_each_step() {
    for step in sandboxd::sandbox::STEPS.into_iter().chain(["record-running"]) {
        let mut server = Server::start(&[]);
        let before = HostSnapshot::take(&server);
        server.signal("TERM");
        // The step is reached and does not return: that is where the daemon dies.
        server.set("FAILPOINTS", &format!("{step}=sleep(60000)"));
        server.boot();
        std::thread::scope(|scope| {
            // Its answer never comes.
            scope.spawn(|| server.api("POST", "/sandbox", json!({})));
            std::thread::sleep(Duration::from_millis(400));
            let killed =
                std::process::Command::new("kill").args(["-9", &server.pid().to_string()]).status().unwrap();
            assert!(killed.success());
        });
        server.kill();
        server.unset("FAILPOINTS");
        server.boot();
        eventually(&format!("{step} leaves nothing"), Duration::from_secs(5), || {
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
        std::thread::scope(|scope| {
            scope.spawn(|| server.api("POST", "/sandbox", json!({ "id": id })));
            std::thread::sleep(Duration::from_millis(500));
            assert!(
                std::process::Command::new("kill")
                    .args(["-9", &server.pid().to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
        });
        server.kill();
        server.unset("FAILPOINTS");
        server.boot();
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
        std::thread::scope(|scope| {
            scope.spawn(|| server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null));
            std::thread::sleep(Duration::from_millis(600));
            assert!(
                std::process::Command::new("kill")
                    .args(["-9", &server.pid().to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
        });
        server.kill();
        server.unset("FAILPOINTS");
        server.boot();
        // Before the record was written nothing had been promised; after it, the purge is finished.
        if step == "delete-record" {
            server.purge(&id);
        }
        eventually(&format!("{step}: everything is gone"), Duration::from_secs(5), || {
            HostSnapshot::take(&server) == before
        });
    }
}

fn launcher() {
    let server = Server::start(&[]);
    server.create(json!({}));
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).unwrap();
    let launcher = children.split_whitespace().next().unwrap_or_default().to_owned();
    let children = if launcher.is_empty() { launcher_by_name() } else { launcher };
    assert!(std::process::Command::new("kill").args(["-9", &children]).status().unwrap().success());
    let id = server.create(json!({}));
    assert_eq!(server.sh(&id, "echo again"), "again\n");
}

/// The launcher is a child of whichever thread started it.
fn launcher_by_name() -> String {
    let output = std::process::Command::new("pgrep").args(["-n", "-f", "__launcher"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn lost_init() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let (id, always) = (server.create(json!({})), server.create(json!({ "idle_policy": "always_on" })));
    let pid = |id: &str| {
        server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["pid"].to_string()
    };
    for id in [&id, &always] {
        assert!(std::process::Command::new("kill").args(["-9", &pid(id)]).status().unwrap().success());
    }
    eventually("it is noticed within a second", Duration::from_secs(1), || server.status(&id) == "stopped");
    eventually("an always-on sandbox is started again", Duration::from_secs(10), || {
        server.status(&always) == "running"
    });
    assert_eq!(server.sh(&id, "echo awake"), "awake\n");
    server.purge(&id);
    server.purge(&always);
    eventually("nothing is left", Duration::from_secs(5), || HostSnapshot::take(&server) == before);
}
