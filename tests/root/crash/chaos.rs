//! The daemon and everything that it depends on are killed at every named point and at random moments under load, and
//! afterwards host, record and what clients were told are compared: nothing lost, doubled, or left.
//!
//! `SANDBOXD_TEST_KILLS` says how many random kills there are beside the named ones; `scripts/soak` sets it high.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use model::SandboxId;
use serde_json::{Value, json};

use super::{children, has_word, kill, kill_if_there, launcher_of, pid_of};
use crate::support::host::HostSnapshot;
use crate::support::http;
use crate::support::server::{API, Server};
use crate::support::{eventually, eventually_seen};

/// What clients were told.
#[derive(Default)]
pub(super) struct History {
    /// By sandbox.
    written: Mutex<BTreeMap<String, Lines>>,
    pub(super) created: Mutex<BTreeSet<String>>,
    /// Asked to be purged, acknowledged or not.
    pub(super) doomed: Mutex<BTreeSet<String>>,
    pub(super) purged: Mutex<BTreeSet<String>>,
    next: AtomicU64,
}

/// What the server has made ahead, when it is left alone.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Ahead {
    pub(super) blanks: usize,
    pub(super) sites: usize,
}

/// Lines that were to be appended to a file.
#[derive(Default)]
struct Lines {
    asked: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
}

/// A client that does not mind that the server is gone.
pub(super) struct Client<'a> {
    pub(super) key: String,
    pub(super) history: &'a History,
}

impl Client<'_> {
    pub(super) fn ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let key = format!("Bearer {}", self.key);
        let answer =
            http::try_request(API, "localhost", method, path, &[("Authorization", &key)], body.as_bytes())?;
        (answer.status > 0).then(|| (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default()))
    }

    /// Appends a line inside a sandbox; returns what was answered.
    pub(super) fn write(&self, id: &str) -> Option<(u16, Value)> {
        let number = self.history.next.fetch_add(1, Ordering::Relaxed);
        let note = |acknowledged: bool| {
            let mut written = self.history.written.lock().unwrap();
            let lines = written.entry(id.to_owned()).or_default();
            lines.asked.insert(number);
            if acknowledged {
                lines.acknowledged.insert(number);
            }
        };
        note(false);
        let body = json!({ "cmd": ["sh", "-c", format!("echo {number} >> log")] });
        let answer = self.ask("POST", &format!("/sandbox/{id}/exec"), &body);
        if answer.is_none() {
            // Nobody is there; it must not be asked ten thousand times a second.
            std::thread::sleep(Duration::from_millis(5));
        }
        note(answer.as_ref().is_some_and(|(status, body)| *status == 200 && body["exit_code"] == 0));
        answer
    }

    /// Creates a sandbox and purges every other one.
    fn come_and_go(&self) {
        let id = SandboxId::generate().to_string();
        if self.ask("POST", "/sandbox", &json!({ "id": id })).is_some_and(|(status, _)| status == 201) {
            self.history.created.lock().unwrap().insert(id.clone());
        }
        if self.history.next.load(Ordering::Relaxed).is_multiple_of(2) {
            self.history.doomed.lock().unwrap().insert(id.clone());
            let purged = self.ask("POST", &format!("/sandbox/{id}/purge"), &Value::Null);
            if purged.is_some_and(|(status, _)| status == 200) {
                self.history.purged.lock().unwrap().insert(id);
            }
        }
    }
}

/// Works until told to end.
fn load(server: &Server, history: &History, ids: &[String], ends: &AtomicBool) {
    let client = || Client { key: server.key(), history };
    let going = || !ends.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for id in ids {
            scope.spawn(move || {
                let client = client();
                while going() {
                    client.write(id);
                }
            });
        }
        scope.spawn(|| {
            let client = client();
            for action in ["pause", "resume", "pause", "stop", "start"].iter().cycle() {
                if !going() {
                    break;
                }
                client.ask("POST", &format!("/v1/sandboxes/{}/{action}", ids[0]), &Value::Null);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        scope.spawn(|| {
            let client = client();
            while going() {
                client.come_and_go();
            }
        });
    });
}

/// Compares what is with what clients were told.
pub(super) fn compare(server: &Server, history: &History, what: &str, ahead: Ahead) {
    let rows = server.api("GET", "/sandboxes", Value::Null).json();
    let rows: BTreeMap<String, String> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row["status"].as_str().unwrap().to_owned()))
        .collect();
    let (created, doomed) = (history.created.lock().unwrap().clone(), history.doomed.lock().unwrap().clone());
    let lost: Vec<_> = created.difference(&doomed).filter(|id| !rows.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{what}: lost {lost:?}");
    for id in history.purged.lock().unwrap().iter() {
        let workspace = server.data().join("workspaces").join(id);
        assert!(!rows.contains_key(id) && !workspace.exists(), "{what}: {id} was purged");
    }
    assert!(
        rows.values().all(|status| ["running", "paused", "stopped"].contains(&status.as_str())),
        "{what}: {rows:?}"
    );
    for (id, lines) in history.written.lock().unwrap().iter() {
        let file = server.data().join("workspaces").join(id).join("workspace/log");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            let number = line.parse().unwrap_or_else(|_e| panic!("{what}: {id} has the line {line:?}"));
            assert!(
                lines.asked.contains(&number) && seen.insert(number),
                "{what}: {number} is in {id} twice or unasked"
            );
        }
        let lost: Vec<_> = lines.acknowledged.difference(&seen).collect();
        assert!(lost.is_empty(), "{what}: {id} has lost {lost:?}");
    }
    let alike = format!("{what}: the host has what runs, and nothing else");
    eventually_seen(&alike, Duration::from_secs(20), || {
        let rows = server.api("GET", "/sandboxes", Value::Null).json();
        let present = rows
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["status"] == "running" || r["status"] == "paused")
            .count();
        let host = HostSnapshot::take(server);
        let cgroups = host.cgroups.iter().filter(|c| c.starts_with("pids/")).count();
        let run = host.run.iter().filter(|name| name.len() == 26).count();
        let places = present + ahead.blanks + ahead.sites;
        let is_alike = (cgroups == places || host.cgroups.is_empty())
            && run == places
            && host.inits == present + ahead.blanks;
        if is_alike { Ok(()) } else { Err(format!("{ahead:?}, {host:?}, {rows}")) }
    });
}

pub(super) fn killed() {
    let random: usize = std::env::var("SANDBOXD_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut server = Server::start(&[]);
    let history = History::default();
    let ids: Vec<String> = (0..3).map(|_| server.create(Value::Null)).collect();
    history.created.lock().unwrap().extend(ids.iter().cloned());
    let points = sandbox::POINTS.into_iter().chain(["provision-launch"]);
    let moments = points.map(Some).chain(std::iter::repeat_n(None, random));
    for (round, moment) in moments.enumerate() {
        let what = format!("round {round}, {}", moment.unwrap_or("at random"));
        // Every other round with what was made ahead, for which a create takes another way.
        let is_ahead = round.is_multiple_of(2);
        if moment.is_some() || is_ahead {
            server.signal("USR2");
            if is_ahead {
                server.set("SANDBOXD_POOL_SIZE", "4");
            }
            if let Some(point) = moment {
                // It is passed a few times first, so that the daemon dies in the middle of its work.
                server.set("FAILPOINTS", &format!("{point}=2*off->sleep(60000)"));
            }
            server.boot();
        }
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (server, ids, ends, history) = (&server, &ids, &ends, &history);
            let working = scope.spawn(move || load(server, history, ids, ends));
            // Not evenly: a kill every so many milliseconds would always meet the same moment.
            let wait = 500 + (round as u64 * 137) % 400;
            if moment.is_none() && round.is_multiple_of(2) {
                std::thread::sleep(Duration::from_millis(wait / 2));
                launcher_of(&server.pid().to_string()).iter().for_each(|pid| kill_if_there(pid));
            }
            std::thread::sleep(Duration::from_millis(wait));
            kill(&server.pid().to_string());
            ends.store(true, Ordering::Relaxed);
            working.join().unwrap();
        });
        server.kill();
        server.unset("FAILPOINTS");
        server.set("SANDBOXD_POOL_SIZE", "0");
        server.boot();
        compare(&server, &history, &what, Ahead::default());
        for id in &ids {
            assert_eq!(server.sh(id, "echo well"), "well\n", "{what}");
        }
        purge_others(&server, &history, &ids);
    }
    assert_was_used(&history);
}

/// What came and was not purged goes now, so that the rounds stay alike.
fn purge_others(server: &Server, history: &History, ids: &[String]) {
    let rows = server.api("GET", "/sandboxes", Value::Null).json();
    let all = rows.as_array().unwrap().iter().filter_map(|row| row["id"].as_str());
    for id in all.filter(|id| !ids.iter().any(|i| i == id)) {
        history.doomed.lock().unwrap().insert(id.to_owned());
        server.purge(id);
    }
}

fn assert_was_used(history: &History) {
    let written = history.written.lock().unwrap();
    let acknowledged: usize = written.values().map(|lines| lines.acknowledged.len()).sum();
    assert!(acknowledged > 30, "only {acknowledged} commands were run");
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// The child of the supervisor, which starts it again.
    Daemon,
    Launcher,
    /// What the launcher forks for each launch.
    LaunchWorker,
    /// The first process of a sandbox.
    Init,
    Web,
    AppWorker,
}

impl Victim {
    const ALL: [Self; 6] =
        [Self::Launcher, Self::Init, Self::LaunchWorker, Self::Web, Self::Daemon, Self::AppWorker];

    /// The processes, once there are any: a worker of the launcher lives for milliseconds.
    fn find(self, server: &Server, id: &str) -> Vec<String> {
        let daemon = || children(&server.pid().to_string()).into_iter().find(|pid| has_word(pid, "serve"));
        let launcher = || daemon().and_then(|daemon| launcher_of(&daemon));
        let of_app = |word: &str| {
            let all = descendants(&pid_of(server, id));
            all.into_iter().filter(|pid| has_word(pid, word)).collect()
        };
        match self {
            Self::Daemon => daemon().into_iter().collect(),
            Self::Launcher => launcher().into_iter().collect(),
            Self::LaunchWorker => launcher().iter().flat_map(|launcher| children(launcher)).collect(),
            Self::Init => Some(pid_of(server, id)).filter(|pid| pid != "null").into_iter().collect(),
            Self::Web => of_app("app.py"),
            Self::AppWorker => of_app("--of-the-app"),
        }
    }

    fn kill(self, server: &Server, id: &str) {
        let mut found = Vec::new();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while found.is_empty() {
            assert!(std::time::Instant::now() < end, "there is no {self:?}");
            found = self.find(server, id);
        }
        found.iter().for_each(|pid| kill_if_there(pid));
    }
}

fn descendants(pid: &str) -> Vec<String> {
    let mut all = children(pid);
    let further: Vec<_> = all.iter().flat_map(|child| descendants(child)).collect();
    all.extend(further);
    all
}

/// What the daemon is doing when it is killed is what the other test looks at; here it lives on, or its supervisor
/// starts it again, while whatever it depends on is killed under it.
pub(super) fn anybody() {
    let random: usize = std::env::var("SANDBOXD_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let mut server = Server::prepare(&[]);
    server.boot_supervised();
    let history = History::default();
    let app = crate::root::sleep::with_app(&server);
    let manifest = "version: 1\nweb: {command: python3 app.py}\nworkers: [{name: w, command: 'python3 -c \"import time; time.sleep(1000)\" --of-the-app'}]\n";
    assert_eq!(server.put(&app, "sandbox.yaml", manifest.as_bytes()).status, 200);
    let ids = [server.create(Value::Null), app.clone(), server.create(Value::Null)];
    history.created.lock().unwrap().extend(ids.iter().cloned());
    let points = sandbox::POINTS.into_iter().chain(["provision-launch", "provision-claim"]);
    let moments = points.map(Some).chain(std::iter::repeat_n(None, random));
    for (round, (moment, victim)) in moments.zip(Victim::ALL.into_iter().cycle()).enumerate() {
        let what = format!("round {round}, {victim:?} at {}", moment.unwrap_or("random"));
        if moment.is_some() || server.has("FAILPOINTS") {
            let daemon = children(&server.pid().to_string()).into_iter().find(|pid| has_word(pid, "serve"));
            server.part(&daemon.unwrap());
            server.unset("FAILPOINTS");
            if let Some(point) = moment {
                // It takes its time there, once, and goes on.
                server.set("FAILPOINTS", &format!("{point}=2*off->1*sleep(700)->off"));
            }
            server.boot_supervised();
        }
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (server, ids, ends, history) = (&server, &ids, &ends, &history);
            let working = scope.spawn(move || load(server, history, ids, ends));
            std::thread::sleep(Duration::from_millis(250 + (round as u64 * 137) % 400));
            victim.kill(server, &ids[1]);
            std::thread::sleep(Duration::from_millis(300));
            ends.store(true, Ordering::Relaxed);
            working.join().unwrap();
        });
        server.wait_until_ready();
        compare(&server, &history, &what, Ahead::default());
        for id in &ids {
            assert_eq!(server.sh(id, "echo well"), "well\n", "{what}");
        }
        eventually(&format!("{what}: the app is whole"), Duration::from_secs(20), || {
            let view = server.api("GET", &format!("/v1/sandboxes/{app}"), Value::Null).json();
            let processes = view["processes"].as_array().unwrap();
            processes.len() == 2
                && processes.iter().all(|process| process["running"] == true)
                && server.preview(&app, 3000, "GET", "/", &[], b"").status == 200
        });
        purge_others(&server, &history, &ids);
    }
    assert_was_used(&history);
}
