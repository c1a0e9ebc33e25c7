//! An `always_on` sandbox that was lost: while it waits to be started again, everything that is asked is answered.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use super::crash::{kill, pid_of};
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::http::Answer;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("revive::whatever_is_asked_during_the_pause_is_answered", answered),
    ("revive::nothing_is_started_once_term_has_come", ended),
];

/// Nothing that is asked takes as long as the pause, of which most is left.
const PROMPT: Duration = Duration::from_millis(1500);

/// Makes sandboxes that are lost three times, so that they wait for four seconds.
pub(crate) fn lost(server: &Server, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|_| server.create(json!({ "idle_policy": "always_on" }))).collect();
    for time in 0..3 {
        ids.iter().for_each(|id| kill(&pid_of(server, id)));
        let wanted = if time < 2 { "running" } else { "stopped" };
        eventually("all are lost", Duration::from_secs(5), || {
            ids.iter().all(|id| server.status(id) == "stopped")
        });
        eventually("all are as wanted", Duration::from_secs(10), || {
            ids.iter().all(|id| server.status(id) == wanted)
        });
    }
    ids
}

fn answered() {
    let server = Server::start(&[]);
    let ids = lost(&server, 7);
    let ask = |method: &str, path: String, body: Value| -> Answer {
        let begun = Instant::now();
        let answer = server.api(method, &path, body);
        assert!(begun.elapsed() < PROMPT, "{method} {path}: {:?}", begun.elapsed());
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        answer
    };
    let v1 = |id: &str, rest: &str| format!("/v1/sandboxes/{id}{rest}");
    let [stopped, patched, kept, executed, purged, claimed, left] = &ids[..] else { panic!("{ids:?}") };
    let lost_at = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| ask("POST", v1(stopped, "/stop"), Value::Null));
        scope.spawn(|| ask("PATCH", v1(patched, ""), json!({ "idle_policy": "sleep" })));
        scope.spawn(|| ask("POST", format!("/sandbox/{kept}/keepalive"), json!({})));
        scope.spawn(|| {
            let answer =
                ask("POST", format!("/sandbox/{executed}/exec"), json!({ "cmd": ["echo", "at once"] }));
            assert_eq!(answer.json()["stdout"], "at once\n");
        });
        scope.spawn(|| ask("POST", format!("/sandbox/{purged}/purge"), Value::Null));
        scope
            .spawn(|| ask("POST", format!("/sandbox/{claimed}/claim"), json!({ "external_user_id": "ann" })));
    });
    eventually("what waits is started again", Duration::from_secs(20), || {
        [left, kept, claimed, executed].iter().all(|id| server.status(id) == "running")
    });
    // Longer than the pause could have been.
    std::thread::sleep(Duration::from_secs(5).saturating_sub(lost_at.elapsed()));
    assert_eq!(
        (server.status(stopped), server.status(patched)),
        ("stopped".to_owned(), "stopped".to_owned())
    );
}

fn ended() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    lost(&server, 1);
    // One that is being created at that moment, too.
    let key = server.key();
    let creating = std::thread::spawn(move || {
        for _ in 0..20 {
            let headers = [("Authorization", format!("Bearer {key}"))];
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let port = crate::support::server::API;
            let _ended =
                crate::support::http::try_request(port, "localhost", "POST", "/sandbox", &headers, b"{}");
        }
    });
    std::thread::sleep(Duration::from_millis(150));
    let begun = Instant::now();
    assert!(server.signal("TERM").success());
    // Those that were made are given their time to end; the pause is not waited for.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    creating.join().unwrap();
    let after = HostSnapshot::take(&server);
    assert_eq!(
        (after.inits, &after.cgroups),
        (before.inits, &before.cgroups),
        "something runs without a daemon"
    );
}
