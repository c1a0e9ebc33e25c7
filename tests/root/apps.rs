//! Apps: what `sandbox.yaml` declares, its logs, presets.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::eventually;
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("apps::logs_are_read_whether_the_sandbox_runs_or_sleeps", logs),
    ("apps::a_log_is_followed_until_the_client_goes", followed),
    ("apps::a_log_flood_stays_bounded", flood),
    ("apps::logs_never_lead_out_of_the_workspace", planted_logs),
    ("apps::a_process_that_keeps_failing_is_given_up_until_the_manifest_changes", given_up),
    ("apps::a_manifest_that_is_wrong_takes_nothing_down", wrong_manifest),
    ("apps::a_process_ends_by_term_then_kill_with_all_it_started", stopped),
    ("apps::a_build_runs_once_and_a_new_one_replaces_it", builds),
    ("apps::workers_alone_have_no_preview", workers),
    ("apps::an_app_starts_on_create_start_and_wake", starts),
    ("apps::presets_are_the_templates", presets),
    ("apps::the_validator_is_strict", validator),
    ("apps::packages_are_shared_until_the_app_wants_its_own", packages),
];

const DEADLINE: Duration = Duration::from_secs(20);

fn view(server: &Server, id: &str) -> Value {
    server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json()
}

fn process(server: &Server, id: &str, name: &str) -> Value {
    let processes = view(server, id)["processes"].clone();
    processes.as_array().unwrap().iter().find(|p| p["name"] == name).cloned().unwrap_or_default()
}

fn manifest(server: &Server, id: &str, text: &str) {
    let answer = server.put(id, "sandbox.yaml", text.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn tail(server: &Server, id: &str, name: &str, query: &str) -> (u16, Value) {
    let answer = server.api("GET", &format!("/v1/sandboxes/{id}/processes/{name}/logs{query}"), Value::Null);
    (answer.status, answer.json())
}

/// What the daemon has in memory, in bytes.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn lines(server: &Server, id: &str, name: &str, query: &str) -> Vec<String> {
    let (status, body) = tail(server, id, name, query);
    assert_eq!((status, body["process"].as_str()), (200, Some(name)), "{body}");
    body["lines"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect()
}

fn runtimed(server: &Server, id: &str) -> PathBuf {
    server.data().join("workspaces").join(id).join(".runtimed")
}

fn ready(server: &Server, id: &str) {
    eventually("the app is ready", DEADLINE, || view(server, id)["preview"]["status"] == "ready");
}

fn logs() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    manifest(
        &server,
        &id,
        "version: 1\nworkers:\n- name: talker\n  command: 'for i in $(seq 1000); do echo line $i; done; echo to stderr >&2; printf \"\\xff no newline\"; sleep 1000'\n- {name: silent, command: sleep 1000}\n",
    );
    eventually("it has talked", DEADLINE, || {
        tail(&server, &id, "talker", "").1["lines"].as_array().is_some_and(|l| l.len() == 200)
    });
    let check = || {
        let last = lines(&server, &id, "talker", "?tail=3");
        assert_eq!(last, ["line 1000", "to stderr", "\u{fffd} no newline"]);
        assert_eq!(lines(&server, &id, "talker", "?tail=10000").len(), 1002);
        assert_eq!(lines(&server, &id, "talker", "?tail=0"), [""; 0]);
    };
    check();
    assert_eq!(lines(&server, &id, "silent", ""), [""; 0]);
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    check();
    assert_eq!(server.status(&id), "stopped", "reading a log wakes nothing");
    for (name, query, status) in [
        ("nobody", "", 404),
        ("..%2f..%2fetc", "", 404),
        ("talker", "?tail=10001", 400),
        ("talker", "?tail=-1", 400),
        ("talker", "?colour=red", 400),
    ] {
        assert_eq!(tail(&server, &id, name, query).0, status, "{name}{query}");
    }
    let unknown = "/v1/sandboxes/01ARZ3NDEKTSV4RRFFQ69G5FAV/processes/web/logs";
    assert_eq!(server.api("GET", unknown, Value::Null).status, 404);
}

/// A client of the event stream that reads with a deadline.
struct Events {
    stream: TcpStream,
    seen: String,
}

impl Events {
    fn open(server: &Server, path: &str) -> Self {
        Self::ask(server, path, "")
    }

    /// After the place that the id of an event names.
    fn open_after(server: &Server, path: &str, place: &str) -> Self {
        Self::ask(server, path, &format!("Last-Event-ID: {place}\r\n"))
    }

    fn ask(server: &Server, path: &str, header: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", API)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: localhost\r\n{header}Authorization: Bearer {}\r\n\r\n",
            server.key()
        );
        stream.write_all(request.as_bytes()).unwrap();
        Self { stream, seen: String::new() }
    }

    fn pull(&mut self) {
        let mut buffer = [0; 65536];
        if let Ok(length) = self.stream.read(&mut buffer) {
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }

    fn wait(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.seen.contains(text) {
            assert!(Instant::now() < end, "{text:?} does not come: {}", self.seen);
            self.pull();
        }
    }

    /// Reads until the server ends the stream.
    fn ends(&mut self) {
        let end = Instant::now() + DEADLINE;
        let mut buffer = [0; 65536];
        while !matches!(self.stream.read(&mut buffer), Ok(0)) {
            assert!(Instant::now() < end, "the stream does not end");
        }
    }
}

fn followed() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    manifest(
        &server,
        &id,
        "version: 1\nworkers:\n- name: ticker\n  command: 'echo begun; touch ready; while true; do [ -e say ] && cat say && rm say; sleep 0.1; done'\n",
    );
    eventually("it has begun", DEADLINE, || server.exec(&id, "ls app/ready").1 == 0);
    let path = format!("/v1/sandboxes/{id}/processes/ticker/logs?follow=true&tail=5");
    let mut events = Events::open(&server, &path);
    events.wait("event: line\ndata: {\"line\":\"begun\"}\n\n");
    assert!(events.seen.to_lowercase().contains("content-type: text/event-stream"), "{}", events.seen);
    server.sh(&id, "echo 'hello \"you\"' > app/part && mv app/part app/say");
    events.wait(r#"data: {"line":"hello \"you\""}"#);
    // It sleeps, it wakes: the same stream goes on.
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
    server.sh(&id, "echo 'again here' > app/part && mv app/part app/say");
    events.wait("again here");
    assert_eq!(events.seen.matches("\"line\":\"begun\"").count(), 2, "once of each run: {}", events.seen);
    // Somebody who was cut off goes on after the line that they name.
    let place = |line: &str| {
        let event = events.seen.split("\n\n").find(|event| event.contains(line)).unwrap();
        event.lines().find_map(|field| field.strip_prefix("id: ")).unwrap().to_owned()
    };
    let mut resumed = Events::open_after(&server, &path, &place("hello"));
    resumed.wait("again here");
    let told = resumed.seen.lines().filter(|line| line.starts_with("data: ")).count();
    assert_eq!(told, 2, "begun, again here: {}", resumed.seen);
    Events::open_after(&server, &path, "nonsense").wait("400 Bad Request");
    // Clients that vanish leave nothing that would keep others out.
    for _ in 0..300 {
        drop(Events::open(&server, &path));
    }
    let mut other = Events::open(&server, &path);
    other.wait("again here");
    server.purge(&id);
    events.ends();
    other.ends();
}

fn flood() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    manifest(
        &server,
        &id,
        "version: 1\nworkers:\n- {name: lines, command: 'echo first; yes'}\n- {name: one, command: 'cat /dev/zero'}\n",
    );
    eventually("both print", DEADLINE, || {
        let printed =
            |name| tail(&server, &id, name, "?tail=1").1["lines"].as_array().is_some_and(|l| !l.is_empty());
        printed("lines") && printed("one")
    });
    let mut follower =
        Events::open(&server, &format!("/v1/sandboxes/{id}/processes/lines/logs?follow=true&tail=0"));
    let directory = runtimed(&server, &id);
    let before = memory(&server);
    let end = Instant::now() + Duration::from_secs(4);
    let mut largest = 0;
    while Instant::now() < end {
        follower.pull();
        follower.seen.clear();
        let used: u64 = ["lines.log", "lines.log.1", "one.log", "one.log.1"]
            .iter()
            .filter_map(|name| Some(std::fs::metadata(directory.join(name)).ok()?.len()))
            .sum();
        largest = largest.max(used);
        // Whoever reads it meanwhile gets the end of it, and the line without an end is cut.
        assert_eq!(lines(&server, &id, "lines", "?tail=2"), ["y", "y"]);
        let endless = lines(&server, &id, "one", "?tail=5");
        assert!(endless.iter().map(String::len).sum::<usize>() < 100_000, "{}", endless.len());
    }
    assert!((4 << 20..=16 << 20).contains(&largest), "{largest} bytes of logs");
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 64 << 20, "the daemon grew by {grown} bytes");
    // And the sandbox answers.
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
}

fn planted_logs() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let secret = server.data().join("secret");
    std::fs::write(&secret, "not yours\n").unwrap();
    server.sh(
        &id,
        &format!(
            "mkdir -p ~/.runtimed && cd ~/.runtimed && ln -s {} a.log && mkfifo b.log && mkdir c.log && ln -s /etc/passwd d.log && ln -s /proc/1/environ e.log && truncate -s 1T f.log && ln f.log g.log",
            secret.display()
        ),
    );
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(tail(&server, &id, name, "").0, 404, "{name}");
    }
    assert!(lines(&server, &id, "f", "").iter().map(String::len).sum::<usize>() < 100_000);
    // The writing side trusts what lies there no more than the reading one.
    let workers: String = ["a", "b", "c", "d"]
        .iter()
        .map(|n| format!("- {{name: {n}, command: 'echo pwned; sleep 1000'}}\n"))
        .collect();
    manifest(
        &server,
        &id,
        &format!("version: 1\nworkers:\n{workers}- {{name: ok, command: 'echo fine; sleep 1000'}}\n"),
    );
    eventually("the good one talks", DEADLINE, || tail(&server, &id, "ok", "").1["lines"] == json!(["fine"]));
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "not yours\n");
    for name in ["a", "b", "c", "d"] {
        assert_eq!(process(&server, &id, name)["running"], true, "{name}");
    }
    // The whole directory as a link out.
    server.sh(&id, "cd ~ && mv .runtimed old && ln -s /etc .runtimed");
    assert_eq!(tail(&server, &id, "passwd", "").0, 404);
}

fn given_up() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    manifest(&server, &id, "version: 1\nweb: {command: 'date +%s.%N >> starts; echo broken; exit 3'}\n");
    eventually("it is given up", Duration::from_secs(40), || {
        process(&server, &id, "web")["given_up"] == true
    });
    let web = process(&server, &id, "web");
    assert_eq!(
        (web["running"].clone(), web["restarts"].clone(), web["last_exit_code"].clone()),
        (json!(false), json!(4), json!(3))
    );
    assert_eq!(view(&server, &id)["preview"]["status"], "error");
    assert_eq!(lines(&server, &id, "web", ""), ["broken"; 5]);
    // 1, 2, 4 and 8 s lie between the five starts.
    let starts: Vec<f64> = server.sh(&id, "cat app/starts").lines().map(|l| l.parse().unwrap()).collect();
    for (pair, pause) in starts.windows(2).zip([1.0, 2.0, 4.0, 8.0]) {
        let waited = pair[1] - pair[0];
        assert!(waited >= pause && waited < pause + 1.5, "{starts:?}");
    }
    // Its preview says so at once instead of holding the request.
    let begun = Instant::now();
    assert_eq!(server.preview(&id, 3000, "GET", "/", &[], b"").status, 502);
    assert!(begun.elapsed() < Duration::from_secs(5));
    // A manifest that is saved again is another chance.
    server.sh(&id, "touch app/sandbox.yaml");
    eventually("it is tried again", DEADLINE, || server.sh(&id, "wc -l < app/starts").trim() == "6");
}

fn wrong_manifest() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "template": "python-http" }));
    ready(&server, &id);
    let pid = process(&server, &id, "web")["pid"].clone();
    let message = || {
        let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["row"].clone();
        row["error_message"].as_str().map(str::to_owned)
    };
    let mut events = Events::open(&server, &format!("/v1/events?sandbox={id}"));
    for bad in [
        "version: 1\nweb: [\n",
        "version: 1\nwebb: {command: x}\n",
        "\u{0}",
        "version: 1\nweb: {command: x, port: 99999}\n",
    ] {
        manifest(&server, &id, bad);
        eventually("the mistake is shown", DEADLINE, || {
            message().is_some_and(|m| m.contains("sandbox.yaml"))
        });
        assert_eq!(process(&server, &id, "web")["pid"], pid, "{bad}: the app runs on");
    }
    events.wait("event: sandbox.error");
    events.wait("99999");
    manifest(&server, &id, "version: 1\nweb:\n  command: python3 app.py\n  port: 3000\n");
    eventually("the mistake is gone", DEADLINE, || message().is_none());
    assert_eq!(process(&server, &id, "web")["pid"], pid, "what is the same runs on");
    assert_eq!(server.preview(&id, 3000, "GET", "/", &[], b"").status, 200);
    // A link to somewhere else is no manifest, and is not read again and again either.
    server.sh(&id, "cd app && ln -sf /etc/hostname sandbox.yaml");
    eventually("nothing is declared", DEADLINE, || view(&server, &id)["processes"] == json!([]));
    let before = view(&server, &id);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(view(&server, &id)["preview"], before["preview"]);
    // With a wrong one from the start nothing runs, and that is said.
    manifest(&server, &id, "version: 7\n");
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    assert_eq!(server.api("POST", &format!("/wake/{id}"), Value::Null).status, 200);
    eventually("the mistake is shown", DEADLINE, || message().is_some_and(|m| m.contains("version")));
    assert_eq!(view(&server, &id)["preview"]["status"], "error");
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
}

fn stopped() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let stubborn = "version: 1\nworkers:\n- name: stubborn\n  command: 'trap \"echo TERM >> terms\" TERM; (trap \"\" TERM; sleep 1234) & while true; do sleep 0.1; done'\n";
    manifest(&server, &id, stubborn);
    eventually("it runs", DEADLINE, || server.exec(&id, "pgrep -f 'sleep 1234'").1 == 0);
    let begun = Instant::now();
    manifest(&server, &id, "version: 1\nworkers:\n- {name: stubborn, command: 'echo new; sleep 5678'}\n");
    eventually("the new one runs", Duration::from_secs(20), || {
        server.exec(&id, "pgrep -f 'sleep 5678'").1 == 0
    });
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(5), "TERM had its 5 s: {took:?}");
    assert_eq!(server.sh(&id, "cat app/terms"), "TERM\n");
    assert_eq!(server.exec(&id, "pgrep -f 'sleep 1234'").1, 1, "what it started is gone too");
    // No manifest: nothing runs.
    server.sh(&id, "rm app/sandbox.yaml");
    eventually("nothing runs", DEADLINE, || server.exec(&id, "pgrep -f 'sleep 5678'").1 == 1);
    assert_eq!(view(&server, &id)["processes"], json!([]));
}

fn builds() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "ports": [3000] }));
    let web = "web: {command: python3 -m http.server 3000 --bind 127.0.0.1}\n";
    // One that would take an hour is replaced by one that works.
    manifest(
        &server,
        &id,
        &format!("version: 1\nbuild: {{command: 'echo slow >> builds; sleep 3600'}}\n{web}"),
    );
    eventually("the slow one runs", DEADLINE, || server.exec(&id, "pgrep -f 'sleep 3600'").1 == 0);
    assert_eq!(view(&server, &id)["preview"]["status"], "starting");
    manifest(
        &server,
        &id,
        &format!("version: 1\nbuild: {{command: 'echo quick >> builds; echo built'}}\n{web}"),
    );
    ready(&server, &id);
    assert_eq!(server.sh(&id, "cat app/builds"), "slow\nquick\n");
    assert_eq!(server.exec(&id, "pgrep -f 'sleep 3600'").1, 1);
    assert_eq!(lines(&server, &id, "build", ""), ["built"]);
    let preview = view(&server, &id)["preview"].clone();
    assert!(preview["last_http_status"] == 200 && preview["last_checked_at"].is_string(), "{preview}");
    // It is not repeated at a wake.
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    server.api("POST", &format!("/wake/{id}"), Value::Null);
    ready(&server, &id);
    assert_eq!(server.sh(&id, "cat app/builds"), "slow\nquick\n");
    // One that takes too long is ended, and that is said.
    manifest(
        &server,
        &id,
        &format!("version: 1\nbuild: {{command: 'sleep 3601', timeout_seconds: 1}}\n{web}"),
    );
    eventually("it is ended", DEADLINE, || {
        view(&server, &id)["preview"]["build_error_message"].as_str().is_some_and(|m| m.contains("too long"))
    });
    assert_eq!(view(&server, &id)["preview"]["status"], "error");
}

fn workers() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    manifest(
        &server,
        &id,
        "version: 1\nbuild: {command: 'true'}\nworkers:\n- {name: a, command: 'sleep 1000', restart_after_task: true}\n- {name: b, command: 'sleep 1000'}\n",
    );
    eventually("both run", DEADLINE, || process(&server, &id, "b")["running"] == true);
    let seen = view(&server, &id);
    assert_eq!(seen["preview"]["status"], "none");
    assert_eq!(seen["processes"][0]["kind"], "worker");
    let detail = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    assert_eq!(detail["runtime"]["processes"], seen["processes"]);
    assert_eq!(detail["runtime"]["preview"]["status"], "none");
}

fn starts() {
    let mut server = Server::start(&[]);
    // Ports are not named: they are the template's, so that its preview wakes it whatever the server remembers.
    let id = server.create(json!({ "template": "node-http" }));
    ready(&server, &id);
    let stop = |server: &Server| {
        assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null).status, 200);
        assert_eq!(process(server, &id, "web")["running"], false);
        assert_eq!(view(server, &id)["preview"]["status"], "down");
    };
    stop(&server);
    assert_eq!(server.api("POST", &format!("/v1/sandboxes/{id}/start"), Value::Null).status, 200);
    ready(&server, &id);
    stop(&server);
    assert_eq!(server.preview(&id, 3000, "GET", "/", &[], b"").status, 200);
    ready(&server, &id);
    // The server comes and goes, the app runs on and is known again.
    let pid = process(&server, &id, "web")["pid"].clone();
    server.signal("USR2");
    server.boot();
    ready(&server, &id);
    assert_eq!(process(&server, &id, "web")["pid"], pid);
    stop(&server);
    server.signal("TERM");
    server.boot();
    assert_eq!(server.preview(&id, 3000, "GET", "/", &[], b"").status, 200);
}

fn presets() {
    let server = Server::start(&[]);
    let presets = server.api("GET", "/v1/presets", Value::Null).json()["presets"].clone();
    let find = |name: &str| presets.as_array().unwrap().iter().find(|p| p["name"] == name).cloned().unwrap();
    for preset in presets.as_array().unwrap() {
        assert!(!preset["description"].as_str().unwrap().is_empty(), "{preset}");
        assert_eq!(preset["template"], preset["name"]);
    }
    let node = find("node-http");
    assert_eq!((node["ports"].clone(), node["process_names"].clone()), (json!([3000]), json!(["web"])));
    assert_eq!(find("blank")["ports"], json!([]));
    assert_eq!(find("worker")["process_names"], json!(["web", "worker"]));
    assert_eq!(find("fastapi")["ports"], json!([8000]));
    for name in ["react-vite", "nextjs", "node-express"] {
        assert_eq!(find(name)["ports"], json!([3000]), "{name}");
    }
    let row = |body: Value| server.api("POST", "/sandbox", body).json();
    assert_eq!(row(json!({ "runtime_preset": "node-http" }))["ports"], json!([3000]));
    assert_eq!(row(json!({ "runtime_preset": "node-http", "ports": [8080] }))["ports"], json!([8080]));
    let id = row(json!({ "runtime_preset": "node-http", "template": "python-http" }))["id"].clone();
    assert_eq!(view(&server, id.as_str().unwrap())["template"], "python-http", "the template wins");
    assert_eq!(server.api("POST", "/sandbox", json!({ "runtime_preset": "no-such" })).status, 400);
    let project = json!({ "project": { "id": "p", "user_id": "u" }, "runtime_preset": "blank" });
    let made = server.api("POST", "/v1/sandboxes", project).json();
    assert_eq!((made["template"].clone(), made["preview"]["port"].clone()), (json!("blank"), json!(3000)));
}

fn packages() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "runtime_preset": "node-express" }));
    ready(&server, &id);
    let used =
        |path: &str| -> u64 { server.sh(&id, &format!("du -sk {path} | cut -f1")).trim().parse().unwrap() };
    assert!(used("app") < 300, "{} KiB: a new app costs next to nothing", used("app"));
    // A package from a directory: what is there already is not fetched, so no registry is needed.
    server.sh(
        &id,
        "mkdir more && cd more && echo '{\"name\":\"more\",\"version\":\"1.0.0\"}' > package.json && echo 'module.exports = 42' > index.js && npm pack --silent",
    );
    server.sh(&id, "cd app && npm install --silent ~/workspace/more/more-1.0.0.tgz");
    assert_eq!(
        server.sh(&id, "cd app && node -p 'require(\"more\") + typeof require(\"express\")' && ls -A node_modules | grep -c ."),
        "42function\n".to_owned() + &server.sh(&id, "ls -A /opt/modules/node-express/node_modules | wc -l | awk '{ print $1 + 1 }'")
    );
    assert_eq!(server.sh(&id, "cd app && find node_modules -maxdepth 1 -type l"), "", "they are its own now");
    // What is its own can be taken away again, and the app starts with it.
    server.sh(
        &id,
        "cd app && npm uninstall --silent more && npm ls --silent > /dev/null && pkill -f server.js",
    );
    eventually("the app is back", DEADLINE, || {
        process(&server, &id, "web")["restarts"] == 1
            && server.preview(&id, 3000, "GET", "/", &[], b"").status == 200
    });
    // Python's are the system's.
    server.sh(&id, "cd /opt/templates/fastapi && pip install --quiet --no-index -r requirements.txt");
}

fn validator() {
    let server = Server::start(&[]);
    let check = |text: &str| {
        let body = json!({ "manifest": text });
        let report = server.api("POST", "/v1/runtime/manifest/validate", body).json();
        assert_eq!(report["valid"] == true, report["errors"] == json!([]), "{report}");
        report["errors"].as_array().unwrap().len()
    };
    for good in [
        "version: 1\n",
        "version: 1\nweb: {command: x}\n",
        "version: 1\nweb: {command: x, port: 65535, health_path: /up, restart_after_task: true}\nbuild: {command: '', timeout_seconds: 5}\nworkers: [{name: A_b-9, command: y, restart_after_task: true}]\n",
    ] {
        assert_eq!(check(good), 0, "{good}");
    }
    for bad in [
        "",
        "version: 2\n",
        "web: {command: x}\n",
        "version: 1\nextra: 1\n",
        "version: 1\nweb: {port: 3000}\n",
        "version: 1\nweb: {command: x, port: 0}\n",
        "version: 1\nweb: {command: x, port: 65536}\n",
        "version: 1\nweb: {command: x, health_path: up}\n",
        "version: 1\nweb: {command: x, heath_path: /}\n",
        "version: 1\nworkers: [{name: a}]\n",
        "version: 1\nworkers: [{name: 'a b', command: x}]\n",
        "version: 1\nworkers: [{name: a, command: x}, {name: a, command: y}]\n",
        "version: 1\nweb: {command: x}\nweb: {command: y}\n",
    ] {
        assert!(check(bad) > 0, "{bad}");
    }
    for body in [&b"{}"[..], b"{\"manifest\":1}", b"{\"manifest\":\"\",\"x\":1}"] {
        assert_eq!(server.api_bytes("POST", "/v1/runtime/manifest/validate", body).status, 400);
    }
}
