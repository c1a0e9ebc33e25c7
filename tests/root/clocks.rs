//! Somebody sets the clock, by more than a day and both ways, while the server runs and while it does not.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Test;
use super::events::Reader;
use super::sleep::with_app;
use crate::support::eventually;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[("clocks::a_jump_ends_nothing_and_holds_nothing_up", jumps)];

const DAY: i64 = 86_400;

/// The library that shows a program another time than the kernel's; the monotonic clock stays the kernel's.
fn library() -> PathBuf {
    let candidates = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = candidates.map(|e| e.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).expect("Debian's package faketime")
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// A server whose clock can be set.
fn with_clock() -> Server {
    let mut server = Server::prepare(&[
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("SANDBOXD_FREEZE_AFTER_SECONDS", "3600"),
        ("SANDBOXD_IDLE_THRESHOLD_SECONDS", "7200"),
        ("SANDBOXD_IDLE_REAP_INTERVAL_SECONDS", "1"),
        ("SANDBOXD_WAKE_TCP_READY_TIMEOUT_SECONDS", "1"),
    ]);
    let clock = server.directory.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    server.set("LD_PRELOAD", library().to_str().unwrap());
    server.set("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
    server
}

fn set(server: &Server, ahead: i64) {
    std::fs::write(server.directory.path().join("clock"), format!("{ahead:+}")).unwrap();
}

fn view(server: &Server, id: &str) -> Value {
    server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json()
}

fn jumps() {
    let mut server = with_clock();
    server.boot();
    let (app, kept, silent) =
        (with_app(&server), server.create(Value::Null), server.create(json!({ "ports": [3000] })));
    let ours = [&app, &kept, &silent];
    let until = now() + 3600;
    let answer = server.api("POST", &format!("/sandbox/{kept}/keepalive"), json!({ "until": until }));
    assert_eq!(answer.json()["keepalive_until"], until);
    // Kept awake for an hour although nobody uses it.
    let short = json!({ "sleep": { "after": 1, "then_stop_after": null } });
    assert_eq!(server.api("PATCH", &format!("/v1/sandboxes/{kept}"), short.clone()).status, 200);
    let process =
        server.start_process(&app, json!({ "cmd": ["sleep", "1000"], "timeout_s": 600, "detach": true }));
    let mut ids = BTreeSet::new();
    for ahead in [30 * 3600, -30 * 3600, 400 * DAY, 0] {
        set(&server, ahead);
        // Idle time is still measured: it is one that is made now, sleeps after a second, and does.
        let sleeper = server.create(short.clone());
        let row = server.api("GET", &format!("/sandbox/{sleeper}"), Value::Null).json();
        let used = row["row"]["last_active_at"].as_i64().unwrap();
        assert!((used - now() - ahead).abs() < 60, "the clock was not set by {ahead}: {used}");
        eventually("an idle one sleeps", Duration::from_secs(20), || server.status(&sleeper) == "paused");
        for id in ours {
            let view = view(&server, id);
            assert_eq!(view["status"], "running", "{ahead}: {view}");
            assert!(view["idle_for_s"].as_f64().unwrap() < 120.0, "{ahead}: {view}");
        }
        assert_eq!(server.process(&app, &process)["status"], "running", "{ahead}");
        assert_eq!(server.preview(&app, 3000, "GET", "/", &[], b"").status, 200);
        // It has been up for longer than a request is held for an app that may still come.
        let begun = Instant::now();
        assert_eq!(server.preview(&silent, 3000, "GET", "/", &[], b"").status, 502, "{ahead}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{ahead}: {:?}", begun.elapsed());
        assert!(ids.insert(sleeper), "an id came twice");
    }
    server.purge(&ids.pop_last().unwrap());
    let seen = Reader::open(&server, "?from=0", None).until("sandbox.deleted");
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    // A daemon that starts when the clock was set back takes nothing for older or younger than it can be.
    set(&server, -30 * 3600);
    server.kill();
    server.boot();
    let mut events = Reader::open(&server, "", None);
    let sleeper = server.create(short);
    assert!(events.next().0 > seen.last().unwrap().0, "numbers came twice");
    eventually("an idle one sleeps", Duration::from_secs(20), || server.status(&sleeper) == "paused");
    for id in ours {
        assert_eq!(server.status(id), "running");
    }
    // Nor does one that starts when it was set ahead, whether it was set while no daemon ran or just before.
    for (ahead, is_seen) in [(30 * 3600, false), (400 * DAY, true), (400 * DAY, false)] {
        let kept = || std::fs::read(server.directory.path().join("run/clock")).unwrap();
        if is_seen {
            let before = kept();
            set(&server, ahead);
            eventually("it is seen", Duration::from_secs(10), || kept() != before);
        }
        server.kill();
        set(&server, ahead);
        server.boot();
        // Long enough for a look at all of them.
        let sleeper = server.create(json!({ "sleep": { "after": 1, "then_stop_after": null } }));
        eventually("an idle one sleeps", Duration::from_secs(20), || server.status(&sleeper) == "paused");
        server.purge(&sleeper);
        for id in [&app, &silent] {
            let view = view(&server, id);
            assert_eq!(view["status"], "running", "{ahead}: {view}");
            assert!(view["idle_for_s"].as_f64().unwrap() < 300.0, "{ahead}: {view}");
        }
    }
    assert_eq!(server.process(&app, &process)["status"], "running");
}
