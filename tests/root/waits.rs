//! Every command that a sandbox's driver takes, asked while the driver waits for something: each is answered, and as
//! soon as it can be.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use super::revive::lost;
use crate::support::eventually;
use crate::support::host::HostSnapshot;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("waits::while_a_program_is_given_time_to_end", graceful),
    ("waits::while_a_sandbox_is_launched", launched),
    ("waits::while_a_sandbox_is_frozen", frozen),
    ("waits::while_a_lost_sandbox_waits_for_its_next_start", pausing),
];

/// What can be asked of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Start,
    Pause,
    Resume,
    Stop,
    Delete,
    Purge,
    Claim,
    KeepAlive,
    Update,
}

const ALL: [Ask; 9] = [
    Ask::Start,
    Ask::Pause,
    Ask::Resume,
    Ask::Stop,
    Ask::Delete,
    Ask::Purge,
    Ask::Claim,
    Ask::KeepAlive,
    Ask::Update,
];

impl Ask {
    fn request(self, id: &str) -> (&'static str, String, Value) {
        let v1 = |action: &str| format!("/v1/sandboxes/{id}{action}");
        let none = Value::Null;
        match self {
            Self::Start => ("POST", v1("/start"), none),
            Self::Pause => ("POST", v1("/pause"), none),
            Self::Resume => ("POST", v1("/resume"), none),
            Self::Stop => ("POST", v1("/stop"), none),
            Self::Delete => ("DELETE", format!("/sandbox/{id}"), none),
            Self::Purge => ("POST", format!("/sandbox/{id}/purge"), none),
            Self::Claim => ("POST", format!("/sandbox/{id}/claim"), json!({ "external_user_id": "ann" })),
            Self::KeepAlive => ("POST", format!("/sandbox/{id}/keepalive"), json!({})),
            Self::Update => ("PATCH", v1(""), json!({ "idle_policy": "manual" })),
        }
    }
}

/// What is expected of one: whether it succeeds, how soon it is answered, and what the sandbox is in the end.
struct Expected {
    succeeds: bool,
    soonest: Duration,
    latest: Duration,
    becomes: &'static str,
}

const fn expected(succeeds: bool, within_ms: (u64, u64), becomes: &'static str) -> Expected {
    let (soonest, latest) = (Duration::from_millis(within_ms.0), Duration::from_millis(within_ms.1));
    Expected { succeeds, soonest, latest, becomes }
}

/// Has each sandbox begin to wait by `begin`, asks one thing of each, and looks at what comes of it.
fn ask_all(
    server: &Server,
    sandboxes: &[(Ask, String)],
    begin: impl Fn(&str) + Sync,
    of: impl Fn(Ask) -> Expected + Sync,
) {
    std::thread::scope(|scope| {
        for (ask, id) in sandboxes {
            let (begin, of) = (&begin, &of);
            scope.spawn(move || begin(id));
            scope.spawn(move || {
                // The wait has begun by then.
                std::thread::sleep(Duration::from_millis(500));
                let Expected { succeeds, soonest, latest, .. } = of(*ask);
                let (method, path, body) = ask.request(id);
                let begun = Instant::now();
                let answer = server.api(method, &path, body);
                let took = begun.elapsed();
                let told = format!("{ask:?}: {} {} after {took:?}", answer.status, answer.text());
                assert_eq!((200..300).contains(&answer.status), succeeds, "{told}");
                assert!(succeeds || answer.status == 409, "{told}");
                assert!(took >= soonest && took <= latest, "{told}");
            });
        }
    });
    for (ask, id) in sandboxes {
        let becomes = of(*ask).becomes;
        let status = || server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null);
        eventually(&format!("{ask:?} leads to {becomes}"), Duration::from_secs(10), || match becomes {
            "gone" => status().status == 404,
            _ => status().json()["status"] == becomes,
        });
    }
}

fn made(server: &Server, asks: &[Ask]) -> Vec<(Ask, String)> {
    asks.iter().map(|ask| (*ask, server.create(Value::Null))).collect()
}

/// Removes what is left; then the host is as it was.
fn clear(server: &Server, before: &HostSnapshot, sandboxes: &[(Ask, String)]) {
    for (_, id) in sandboxes {
        let _gone = server.api("POST", &format!("/sandbox/{id}/purge"), Value::Null);
    }
    eventually("nothing is left", Duration::from_secs(10), || {
        let after = HostSnapshot::take(server);
        (after.inits, &after.cgroups) == (before.inits, &before.cgroups)
    });
}

/// TERM is not heard, and the grace time is four seconds.
fn graceful() {
    let server = Server::start(&[("SANDBOXD_STOP_GRACE_SECONDS", "4")]);
    let before = HostSnapshot::take(&server);
    let sandboxes = made(&server, &ALL);
    for (_, id) in &sandboxes {
        let deaf = json!({ "cmd": ["sh", "-c", "trap '' TERM; while :; do sleep 60; done"], "detach": true });
        let answer = server.api("POST", &format!("/v1/sandboxes/{id}/processes"), deaf);
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let stop = |id: &str| {
        let answer = server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    ask_all(&server, &sandboxes, stop, |ask| match ask {
        // What only changes the record does not wait for the program.
        Ask::Claim | Ask::KeepAlive | Ask::Update => expected(true, (0, 2000), "stopped"),
        // Nothing is saved by more time for the program.
        Ask::Purge => expected(true, (0, 2500), "gone"),
        Ask::Start => expected(true, (2500, 9000), "running"),
        Ask::Stop => expected(true, (2500, 9000), "stopped"),
        Ask::Delete => expected(true, (2500, 9000), "gone"),
        Ask::Pause | Ask::Resume => expected(false, (2500, 9000), "stopped"),
    });
    clear(&server, &before, &sandboxes);
}

/// A launch takes one and a half seconds.
fn launched() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let sandboxes = made(&server, &ALL);
    for (_, id) in &sandboxes {
        assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    }
    server.signal("USR2");
    server.set("FAILPOINTS", "provision-bundle=sleep(1500)");
    server.boot();
    let start = |id: &str| {
        let answer = server.api("POST", &format!("/v1/sandboxes/{id}/start"), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    ask_all(&server, &sandboxes, start, |ask| match ask {
        Ask::Start | Ask::Resume | Ask::Claim | Ask::KeepAlive | Ask::Update => {
            expected(true, (500, 6000), "running")
        }
        Ask::Pause => expected(true, (500, 6000), "paused"),
        Ask::Stop => expected(true, (500, 6000), "stopped"),
        Ask::Delete | Ask::Purge => expected(true, (500, 6000), "gone"),
    });
    clear(&server, &before, &sandboxes);
}

/// A freeze takes one and a half seconds.
fn frozen() {
    let server = Server::start(&[("FAILPOINTS", "freeze=sleep(1500)")]);
    let before = HostSnapshot::take(&server);
    let sandboxes = made(&server, &ALL);
    let pause = |id: &str| {
        let answer = server.api("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    ask_all(&server, &sandboxes, pause, |ask| match ask {
        Ask::Start | Ask::Resume => expected(true, (500, 6000), "running"),
        Ask::Pause | Ask::Claim | Ask::KeepAlive | Ask::Update => expected(true, (500, 6000), "paused"),
        Ask::Stop => expected(true, (500, 6000), "stopped"),
        Ask::Delete | Ask::Purge => expected(true, (500, 6000), "gone"),
    });
    clear(&server, &before, &sandboxes);
}

/// The next start is four seconds away; what is asked then comes first.
fn pausing() {
    let server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let asks = [Ask::Start, Ask::Pause, Ask::Resume, Ask::Delete];
    let sandboxes: Vec<_> = asks.into_iter().zip(lost(&server, asks.len())).collect();
    ask_all(
        &server,
        &sandboxes,
        |_id| (),
        |ask| match ask {
            Ask::Start => expected(true, (0, 1500), "running"),
            // A stopped one cannot be paused or resumed; it is started again in its time.
            Ask::Pause | Ask::Resume => expected(false, (0, 1500), "running"),
            _ => expected(true, (0, 1500), "gone"),
        },
    );
    clear(&server, &before, &sandboxes);
}
