//! Sandboxes that were launched before anybody asked for them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use super::crash::dies_during;
use crate::support::host::HostSnapshot;
use crate::support::server::{INSTANCE, Server};
use crate::support::{eventually, eventually_seen};

pub(crate) const TESTS: &[Test] = &[
    ("pool::a_claimed_sandbox_cannot_be_told_from_another", alike),
    ("pool::what_is_ready_is_used_and_made_again", used),
    ("pool::one_that_cannot_be_used_costs_nobody_a_create", unusable),
    ("pool::a_crash_leaves_nothing_of_it", crash),
    ("pool::at_each_step_of_a_claim_nothing_is_left", each_step),
    ("pool::a_request_says_where_its_time_went", traced),
    ("pool::what_took_long_is_told_in_the_log", told),
];

const SIZE: &str = "4";

fn metric(server: &Server, name: &str) -> u64 {
    let text = server.api("GET", "/metrics", Value::Null).text();
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

fn ready(server: &Server) -> u64 {
    metric(server, "sandboxd_pool_members{kind=\"blank\"}")
}

fn hits(server: &Server) -> u64 {
    metric(server, "sandboxd_pool_claims_total{outcome=\"hit\"}")
}

fn start() -> Server {
    let server = Server::start(&[("SANDBOXD_POOL_SIZE", SIZE), ("SANDBOXD_LAUNCH_SPARES", "2")]);
    eventually("something is ready", Duration::from_secs(20), || ready(&server) >= 1);
    server
}

/// Everything that can be seen of a sandbox, from inside and from the host, under the names of its parts.
fn portrait(server: &Server) -> BTreeMap<&'static str, String> {
    let body = json!({ "env": { "COLOUR": "blue", "LANG": "de" }, "memory_high": "64M" });
    let id = server.create(body);
    let detail = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    let pid = detail["live_state"]["pid"].to_string();
    let mut seen = BTreeMap::new();
    for (name, command) in [
        ("environment", "env | sort"),
        ("host name", "hostname; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"),
        ("mounts", "cat /proc/self/mountinfo"),
        ("mounts of PID 1", "cat /proc/1/mounts"),
        ("privileges", "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask)' /proc/self/status"),
        // The limit on locks is the mark of one process, another for each.
        ("limits", "grep -v 'file locks' /proc/self/limits"),
        ("cgroup", "cat /proc/self/cgroup"),
        ("descriptors", "ls /proc/self/fd"),
        ("processes", "for process in /proc/[0-9]*; do cat $process/comm; done"),
        ("devices", "ls -l /dev | tail -n +2 | awk '{print $1,$3,$4,$NF}'"),
        ("network", "cat /proc/net/dev | cut -d: -f1; cat /proc/net/route"),
        ("home", "cd; pwd; find . | sort; stat -c '%U %a' . workspace workspace/app"),
        ("namespaces", "ls /proc/self/ns"),
        ("oom", "cat /proc/1/oom_score_adj"),
    ] {
        seen.insert(name, server.sh(&id, &format!("{command} 2>&1 || true")));
    }
    let proc = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    seen.insert("PID 1's environment", sorted(&proc("environ").replace('\0', "\n")));
    seen.insert("PID 1's command", proc("cmdline") + &proc("comm"));
    seen.insert("PID 1's limits", proc("limits"));
    let status = proc("status");
    let told =
        ["Name", "Umask", "Uid", "Gid", "Groups", "NSpid", "Threads", "Cap", "NoNew", "Secc", "Sig", "Shd"];
    let lines = status.lines().filter(|l| told.iter().any(|name| l.starts_with(name)));
    // The queue of signals is counted per uid, for all sandboxes together.
    let own = lines.filter(|l| !l.starts_with("NSpid") && !l.starts_with("SigQ"));
    seen.insert("PID 1's status", own.collect::<Vec<_>>().join("\n"));
    // Their numbers depend on what came first, the app's log or the commands above.
    let mut kinds = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap();
        kinds.insert(target.to_string_lossy().split([':', '[']).next().unwrap().to_owned());
    }
    seen.insert("PID 1's descriptors", kinds.into_iter().collect::<Vec<_>>().join("\n"));
    seen.insert(
        "PID 1's directory",
        std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().display().to_string(),
    );
    seen.insert("limits of the cgroups", limits(&proc("cgroup")));
    seen.insert("as clients see it", detail["row"].to_string());
    let address = detail["row"]["container_ip"].as_str().unwrap().to_owned();
    let launch =
        proc("cgroup").lines().find_map(|l| Some(l.split_once(&format!("/{INSTANCE}/"))?.1.to_owned()));
    server.purge(&id);
    for text in seen.values_mut() {
        for (found, shown) in [
            (id.clone(), "ID"),
            (id.to_lowercase(), "id"),
            (address.clone(), "ADDRESS"),
            (launch.clone().unwrap(), "LAUNCH"),
        ] {
            *text = text.replace(&found, shown);
        }
        *text = text.replace(&server.directory.path().display().to_string(), "DIRECTORY");
    }
    for name in ["mounts", "as clients see it"] {
        let text = seen[name].clone();
        let cleaned: Vec<_> = text.lines().map(if name == "mounts" { mount } else { timeless }).collect();
        seen.insert(name, cleaned.join("\n"));
    }
    seen
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// A line of mountinfo without the numbers that the kernel deals out.
fn mount(line: &str) -> String {
    line.split(' ')
        .enumerate()
        .filter(|(at, _)| *at > 2)
        .map(|(_, field)| field)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A row without its times.
fn timeless(line: &str) -> String {
    let mut row: Value = serde_json::from_str(line).unwrap();
    row.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_at"));
    row.to_string()
}

/// The values of the control files that hold limits.
fn limits(cgroups: &str) -> String {
    let mut values = Vec::new();
    for line in cgroups.lines() {
        let (_, rest) = line.split_once(':').unwrap();
        let (controllers, path) = rest.split_once(':').unwrap();
        if !path.contains(INSTANCE) {
            continue;
        }
        let directory = match controllers {
            "" => ["/sys/fs/cgroup".to_owned() + path, "/sys/fs/cgroup/unified".to_owned() + path]
                .into_iter()
                .find(|d| std::path::Path::new(d).exists())
                .unwrap(),
            controllers => format!("/sys/fs/cgroup/{controllers}{path}"),
        };
        for file in [
            "memory.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.max",
            "memory.high",
            "pids.max",
            "cpu.shares",
            "cpu.weight",
            "cpu.max",
            "freezer.state",
            "cgroup.freeze",
        ] {
            if let Ok(text) = std::fs::read_to_string(format!("{directory}/{file}")) {
                values.push(format!("{file} {}", text.trim()));
            }
        }
    }
    assert!(!values.is_empty(), "{cgroups}");
    sorted(&values.join("\n"))
}

fn alike() {
    let launched = {
        let server = Server::start(&[]);
        let seen = portrait(&server);
        assert_eq!(hits(&server), 0);
        seen
    };
    let server = start();
    let claimed = portrait(&server);
    assert_eq!(hits(&server), 1, "it was not one of the pool's");
    for (name, text) in &launched {
        assert_eq!(*text, claimed[name], "{name}");
    }
    // The portrait is one: it shows what was asked for.
    assert!(claimed["environment"].contains("COLOUR=blue") && claimed["environment"].contains("LANG=de"));
    assert!(
        claimed["mounts"].contains("/workspaces/ID /home/sandbox rw,nosuid,nodev"),
        "{}",
        claimed["mounts"]
    );
    // A workspace that was made ahead takes a template all the same.
    let id = server.create(json!({ "template": "python-http" }));
    assert!(server.sh(&id, "ls ~ -A ~/workspace/app").contains("sandbox.yaml"));
    assert!(claimed["limits of the cgroups"].contains("67108864"), "{}", claimed["limits of the cgroups"]);
}

fn used() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    server.signal("TERM");
    server.set("SANDBOXD_POOL_SIZE", SIZE);
    server.boot();
    eventually("one is ready", Duration::from_secs(20), || ready(&server) == 1);
    // Far more at once than are ready: each gets one of its own, and the rest is launched.
    let ids: Vec<String> = std::thread::scope(|scope| {
        let creates: Vec<_> = (0..8).map(|_| scope.spawn(|| server.create(json!({})))).collect();
        creates.into_iter().map(|create| create.join().unwrap()).collect()
    });
    for id in &ids {
        assert_eq!(server.sh(id, "hostname; ls ~/workspace/app"), format!("s-{}\n", id.to_lowercase()));
        server.sh(id, &format!("echo {id} > mine"));
    }
    let misses = metric(&server, "sandboxd_pool_claims_total{outcome=\"miss\"}");
    assert!(hits(&server) >= 1 && misses >= 1, "{} {misses}", hits(&server));
    eventually("demand has made it grow", Duration::from_secs(20), || ready(&server) == 4);
    // One that wakes is another process with the same files.
    let seen = hits(&server);
    server.api("POST", &format!("/v1/sandboxes/{}/stop", ids[0]), Value::Null);
    assert_eq!(
        server.sh(&ids[0], "cat mine; hostname"),
        format!("{}\ns-{}\n", ids[0], ids[0].to_lowercase())
    );
    assert_eq!(hits(&server), seen + 1);
    // What runs is adopted, what was ready is not: nobody knows what became of it.
    server.kill();
    server.set("SANDBOXD_POOL_SIZE", "0");
    server.boot();
    eventually("what was ready is gone", Duration::from_secs(20), || {
        HostSnapshot::take(&server).inits == before.inits + ids.len()
    });
    assert!(ids.iter().all(|id| server.sh(id, "cat mine").trim() == id));
    ids.iter().for_each(|id| server.purge(id));
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}

fn unusable() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    server.signal("TERM");
    server.set("SANDBOXD_POOL_SIZE", SIZE);
    server.set("FAILPOINTS", "provision-claim=1*return");
    server.boot();
    eventually("one is ready", Duration::from_secs(20), || ready(&server) == 1);
    let failed = |server: &Server| metric(server, "sandboxd_pool_claims_total{outcome=\"failed\"}");
    let id = server.create(json!({}));
    assert_eq!((server.sh(&id, "echo works"), failed(&server)), ("works\n".to_owned(), 1));
    eventually("another is ready", Duration::from_secs(20), || ready(&server) >= 1);
    // Killed while they waited.
    let mine =
        server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["live_state"]["pid"].to_string();
    let pids = std::process::Command::new("pgrep").args(["-x", "sandbox-init"]).output().unwrap();
    for pid in String::from_utf8(pids.stdout).unwrap().lines().filter(|pid| *pid != mine) {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if cgroup.contains(&format!("/{INSTANCE}/")) {
            assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
        }
    }
    let other = server.create(json!({}));
    assert_eq!((server.sh(&other, "echo works"), failed(&server)), ("works\n".to_owned(), 2));
    server.purge(&id);
    server.purge(&other);
    server.signal("TERM");
    server.set("SANDBOXD_POOL_SIZE", "0");
    server.unset("FAILPOINTS");
    server.boot();
    eventually("nothing is left", Duration::from_secs(20), || HostSnapshot::take(&server) == before);
}

fn leaves_nothing(server: &Server, before: &HostSnapshot, what: &str) {
    eventually_seen(&format!("{what} leaves nothing"), Duration::from_secs(20), || {
        let now = HostSnapshot::take(server);
        if now == *before { Ok(()) } else { Err(format!("{now:?} instead of {before:?}")) }
    });
}

fn crash() {
    for signal in ["KILL", "TERM", "USR2"] {
        let mut server = Server::start(&[]);
        let before = HostSnapshot::take(&server);
        server.signal("TERM");
        server.set("SANDBOXD_POOL_SIZE", SIZE);
        server.set("SANDBOXD_LAUNCH_SPARES", "2");
        server.boot();
        eventually("one is ready", Duration::from_secs(20), || ready(&server) >= 1);
        server.signal(signal);
        if signal != "KILL" {
            eventually("it ends in order", Duration::from_secs(20), || {
                HostSnapshot::take(&server).inits == before.inits
            });
        }
        server.set("SANDBOXD_POOL_SIZE", "0");
        server.set("SANDBOXD_LAUNCH_SPARES", "0");
        server.boot();
        leaves_nothing(&server, &before, signal);
    }
}

/// What a create does when all that it needs was made ahead: each step fails, and the daemon is killed at each.
fn each_step() {
    let mut server = Server::start(&[]);
    let before = HostSnapshot::take(&server);
    let returns =
        ["provision-record", "record-running", "provision-workspace", "provision-claim", "provision-claimed"];
    let dies = ["record-running", "provision-workspace", "provision-claim", "provision-claimed"];
    let cases =
        returns.map(|step| (step, "return")).into_iter().chain(dies.map(|step| (step, "sleep(60000)")));
    for (step, action) in cases {
        server.signal("TERM");
        for (name, value) in [("SANDBOXD_POOL_SIZE", "1"), ("SANDBOXD_LAUNCH_SPARES", "1")] {
            server.set(name, value);
        }
        server.set("FAILPOINTS", &format!("{step}={action}"));
        server.boot();
        let is_there = |kind| metric(&server, &format!("sandboxd_pool_members{{kind=\"{kind}\"}}")) >= 1;
        eventually("all is ready", Duration::from_secs(20), || is_there("blank") && is_there("workspace"));
        for name in ["SANDBOXD_POOL_SIZE", "SANDBOXD_LAUNCH_SPARES"] {
            server.set(name, "0");
        }
        if action == "return" {
            let answer = server.api("POST", "/sandbox", json!({}));
            assert_eq!(answer.status, 500, "{step}: {}", answer.text());
            assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]), "{step}");
            server.signal("TERM");
            server.unset("FAILPOINTS");
            server.boot();
        } else {
            dies_during(&mut server, |server| server.api("POST", "/sandbox", json!({})));
        }
        leaves_nothing(&server, &before, &format!("{step}={action}"));
        assert_eq!(server.api("GET", "/sandboxes", Value::Null).json(), json!([]), "{step}={action}");
    }
    let id = server.create(json!({}));
    server.purge(&id);
}

fn traced() {
    let server = Server::start(&[]);
    let key = format!("Bearer {}", server.key());
    let ask = |headers: &[(&str, &str)], path: &str, body: &[u8]| {
        crate::support::http::request(crate::support::server::API, "localhost", "POST", path, headers, body)
    };
    let authorized = ("Authorization", key.as_str());
    assert!(ask(&[authorized], "/sandbox", b"{}").header("server-timing").is_none());
    let answer = ask(&[authorized, ("X-Sandboxd-Trace", "1")], "/sandbox", b"{}");
    let timing = answer.header("server-timing").unwrap().to_owned();
    for phase in ["total", "record", "workspace", "network", "cgroup", "launch", "furnish", "identity"] {
        assert!(timing.contains(&format!("{phase};dur=")), "{phase} is not in {timing}");
    }
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let answer = ask(
        &[authorized, ("X-Sandboxd-Trace", "1")],
        &format!("/sandbox/{id}/exec"),
        b"{\"cmd\":[\"true\"]}",
    );
    assert!(answer.header("server-timing").unwrap().contains("spawn;dur="));
    let text = server.api("GET", "/metrics", Value::Null).text();
    for series in ["operation=\"create\",phase=\"launch\"", "operation=\"exec\",phase=\"spawn\""] {
        assert!(text.contains(&format!("sandboxd_phase_duration_seconds_count{{{series}}}")), "{series}");
    }
}

/// For whoever looks at the log in the night: nobody had asked for it.
fn told() {
    let server = Server::start(&[("FAILPOINTS", "provision-claim=sleep(1100)")]);
    let id = server.create(json!({}));
    let has_line =
        |words: &[&str]| server.log_text().lines().any(|line| words.iter().all(|w| line.contains(w)));
    eventually("it is told of the sandbox", Duration::from_secs(10), || {
        has_line(&["took long", &id, "\"operation\":\"create\"", "\"phases\":\"turn "])
    });
    assert!(has_line(&["\"endpoint\":\"/sandbox\"", "request_id", ", launch "]), "{}", server.log_text());
    eventually("what is quick is not", Duration::from_secs(20), || {
        assert_eq!(server.api("GET", "/v1/sandboxes", Value::Null).status, 200);
        let log = server.log_text();
        log.lines().any(|line| line.contains("\"endpoint\":\"/v1/sandboxes\"") && !line.contains("phases"))
    });
}
