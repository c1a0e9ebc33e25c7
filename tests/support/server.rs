//! The real server on directories and cgroups of its own.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{self, Answer};
use super::{eventually, host};

/// Names the cgroups, links and firewall table of the tests; another name lets two checkouts be tested at once.
pub(crate) const INSTANCE: &str = match option_env!("SANDBOXD_TEST_INSTANCE") {
    Some(name) => name,
    None => "sbtest",
};
pub(crate) const API: u16 = 19_090;
pub(crate) const PREVIEWS: u16 = 18_080;

thread_local! {
    /// What every server is started with now.
    static FURTHER: Cell<&'static [(&'static str, &'static str)]> = const { Cell::new(&[]) };
}

/// Runs a test whose servers all have further settings.
pub(crate) fn with(settings: &'static [(&'static str, &'static str)], test: fn()) {
    FURTHER.set(settings);
    test();
    FURTHER.set(&[]);
}

/// A server and its data; killed and removed with the value.
pub(crate) struct Server {
    pub directory: tempfile::TempDir,
    child: Option<Child>,
    settings: Vec<(String, String)>,
    log: PathBuf,
    /// The program, where it is not the one that is built with the tests.
    program: Option<PathBuf>,
}

impl Server {
    /// Starts a server with further settings.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        // The kernel takes the cables of the last test's sandboxes away in its own time; a test that compares the
        // host before and after must not begin with them.
        eventually("the last test's cables are gone", Duration::from_secs(90), || host::cables().is_empty());
        let mut server = Self::prepare(settings);
        server.boot();
        server
    }

    /// Makes the directories only.
    pub(crate) fn prepare(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("sandboxd-test").tempdir().unwrap();
        let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        let further = FURTHER.get();
        let settings = further.iter().chain(settings).map(owned).collect();
        let log = directory.path().join("log");
        Self { directory, child: None, settings, log, program: None }
    }

    /// What is run: another build of it, where figures are what is looked for.
    pub(crate) fn program(&self) -> PathBuf {
        let built = || std::env::var_os("SANDBOXD_TEST_SERVER").map(PathBuf::from);
        self.program.clone().or_else(built).unwrap_or_else(|| env!("CARGO_BIN_EXE_sandboxd").into())
    }

    /// Has another file run from now on.
    pub(crate) fn use_program(&mut self, path: &Path) {
        self.program = Some(path.to_owned());
    }

    /// Has the optimised server run, where it is built: an unoptimised one is slow at what it does for clients.
    pub(crate) fn use_optimised(&mut self) {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/sandboxd");
        // Whoever names a server wants that one measured.
        let is_named = std::env::var_os("SANDBOXD_TEST_SERVER").is_some();
        self.program = (built.exists() && !is_named).then_some(built);
    }

    /// Has the server write its log to another file.
    pub(crate) fn log_to(&mut self, path: &str) {
        self.log = path.into();
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(n, _)| n != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.settings.iter().any(|(n, _)| n == name)
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.settings.retain(|(n, _)| n != name);
    }

    /// Starts the process and waits until it is ready.
    pub(crate) fn boot(&mut self) {
        self.boot_as("serve");
    }

    /// The same beneath the supervisor, whose process is the one that is known then.
    pub(crate) fn boot_supervised(&mut self) {
        self.boot_as("supervise");
    }

    /// The same without waiting until something can be created: the server only has to answer.
    pub(crate) fn boot_unready(&mut self) {
        let mut command = self.command_under("serve", &["env", "--ignore-signal=HUP,INT,QUIT"]);
        self.child = Some(command.stdout(Stdio::null()).stderr(self.log()).spawn().unwrap());
        self.wait_until("/healthz");
    }

    /// The same by a program that changes what the server finds.
    pub(crate) fn boot_under(&mut self, wrapper: &[&str]) {
        self.boot_by("serve", wrapper);
    }

    fn boot_as(&mut self, subcommand: &str) {
        // As nohup or a script's `&` starts it: what is ignored then must not be ignored in sandboxes.
        self.boot_by(subcommand, &["env", "--ignore-signal=HUP,INT,QUIT"]);
    }

    fn boot_by(&mut self, subcommand: &str, wrapper: &[&str]) {
        let mut command = self.command_under(subcommand, wrapper);
        self.child = Some(command.stdout(Stdio::null()).stderr(self.log()).spawn().unwrap());
        self.wait_until_ready();
    }

    pub(crate) fn wait_until_ready(&self) {
        self.wait_until("/readyz");
    }

    fn wait_until(&self, path: &str) {
        let this = self;
        eventually("the server is ready", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", API)).is_ok()
                && http::try_request(API, "localhost", "GET", path, &[], b"").is_some_and(|a| a.status == 200)
                || {
                    assert!(this.is_alive(), "the server ended:\n{}", this.log_text());
                    false
                }
        });
    }

    /// Runs a subcommand to its end.
    pub(crate) fn run(&self, subcommand: &str) -> (Option<i32>, String) {
        self.run_under(subcommand, &[])
    }

    /// The same with arguments.
    pub(crate) fn run_with(&self, subcommand: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self
            .command(subcommand)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        (output.status.code(), text.into_owned())
    }

    /// The same, by a program that changes what it finds.
    pub(crate) fn run_under(&self, subcommand: &str, wrapper: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command_under(subcommand, wrapper);
        let output = command.stderr(Stdio::piped()).stdout(Stdio::piped()).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        (output.status.code(), text)
    }

    fn command_under(&self, subcommand: &str, wrapper: &[&str]) -> Command {
        let bare = self.command(subcommand);
        let words: Vec<_> =
            wrapper.iter().map(|w| (*w).into()).chain([bare.get_program().to_owned()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(bare.get_args()).stdin(Stdio::null());
        for (name, value) in bare.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.program());
        let path = self.directory.path();
        command.arg(subcommand).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("SANDBOXD_DATA_DIR", path.join("data")).env("SANDBOXD_RUN_DIR", path.join("run"));
        command
            .env("SANDBOXD_ROOTFS", rootfs())
            .env("SANDBOXD_INIT", init())
            .env("SANDBOXD_INSTANCE", INSTANCE);
        command
            .env("SANDBOXD_ADDR", format!("0.0.0.0:{API}"))
            .env("SANDBOXD_PREVIEW_ADDR", format!("127.0.0.1:{PREVIEWS}"));
        command.env("SANDBOXD_NETWORK_POOL", "10.97.0.0/16").env("SANDBOXD_MEMORY_MAX", "256M");
        // What is made ahead would be in the way of tests that compare the host before and after.
        command.env("SANDBOXD_POOL_SIZE", "0").env("SANDBOXD_LAUNCH_SPARES", "0");
        command.env("SANDBOXD_LOG", "debug").env_remove("SANDBOXD_CA_BUNDLE");
        command.envs(self.settings.iter().map(|(n, v)| (n, v)));
        command
    }

    fn log(&self) -> Stdio {
        std::fs::File::options().create(true).append(true).open(&self.log).unwrap().into()
    }

    pub(crate) fn log_text(&self) -> String {
        if self.log.is_file() {
            std::fs::read_to_string(&self.log).unwrap_or_default()
        } else {
            String::new()
        }
    }

    fn is_alive(&self) -> bool {
        let Some(child) = &self.child else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends the process at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn signal(&mut self, name: &str) -> ExitStatus {
        self.tell(name);
        self.wait()
    }

    /// Sends a signal.
    pub(crate) fn tell(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    /// Ends the supervisor and its daemon, and leaves what runs alone.
    pub(crate) fn part(&mut self, daemon: &str) {
        self.kill();
        let sent = Command::new("kill").args(["-USR2", daemon]).status().unwrap();
        assert!(sent.success());
        eventually("the daemon has ended", Duration::from_secs(20), || {
            let stat = std::fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }

    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("data/api-key")).unwrap().trim().to_owned()
    }

    /// Asks the API.
    pub(crate) fn api(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.api_bytes(method, path, &body)
    }

    pub(crate) fn api_bytes(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let key = format!("Bearer {}", self.key());
        http::request(API, "localhost", method, path, &[("Authorization", &key)], body)
    }

    /// Creates a sandbox and returns its id.
    pub(crate) fn create(&self, body: Value) -> String {
        let answer = self.api("POST", "/sandbox", body);
        assert_eq!(answer.status, 201, "{}\n{}", answer.text(), self.log_text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Runs a shell command; returns its output and status.
    pub(crate) fn exec(&self, id: &str, command: &str) -> (String, i64) {
        let answer =
            self.api("POST", &format!("/sandbox/{id}/exec"), json!({ "cmd": ["bash", "-c", command] }));
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.log_text());
        let value = answer.json();
        let text = format!("{}{}", value["stdout"].as_str().unwrap(), value["stderr"].as_str().unwrap());
        (text, value["exit_code"].as_i64().unwrap())
    }

    /// Runs a shell command that has to succeed.
    pub(crate) fn sh(&self, id: &str, command: &str) -> String {
        let (text, code) = self.exec(id, command);
        assert_eq!(code, 0, "{command}: {text}");
        text
    }

    pub(crate) fn status(&self, id: &str) -> String {
        self.api("GET", &format!("/sandbox/{id}"), Value::Null).json()["row"]["status"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn put(&self, id: &str, path: &str, content: &[u8]) -> Answer {
        self.api_bytes("PUT", &format!("/v1/sandboxes/{id}/files?path={path}"), content)
    }

    /// Asks a preview.
    pub(crate) fn preview(
        &self,
        id: &str,
        port: u16,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        http::request(PREVIEWS, &preview_host(id, port), method, path, headers, body)
    }

    pub(crate) fn purge(&self, id: &str) {
        let answer = self.api("POST", &format!("/sandbox/{id}/purge"), Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            // TERM stops every sandbox, so that nothing is left of a test that failed.
            let _ignored = self.signal("TERM");
        }
    }
}

pub(crate) fn preview_host(id: &str, port: u16) -> String {
    format!("s-{}-{port}.preview.localhost", id.to_ascii_lowercase())
}

/// What the tests need and a machine may lack; the text says what is missing.
pub(crate) fn missing() -> Option<String> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return Some("root is needed".to_owned());
    }
    for (name, path) in
        [("SANDBOXD_TEST_ROOTFS", rootfs()), ("SANDBOXD_TEST_INIT", init()), ("SANDBOXD_TEST_PROBE", probe())]
    {
        if !path.exists() {
            return Some(format!(
                "{name} names nothing that exists ({}); scripts/test builds and sets it",
                path.display()
            ));
        }
    }
    None
}

pub(crate) fn rootfs() -> PathBuf {
    PathBuf::from(std::env::var_os("SANDBOXD_TEST_ROOTFS").unwrap_or_default())
}

/// The hostile program: `tests/probe`.
pub(crate) fn probe() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/sandbox-probe");
    let path = std::env::var_os("SANDBOXD_TEST_PROBE").map_or(built, PathBuf::from);
    assert!(path.exists(), "{} is not there: bash -c '. scripts/common.sh; build_probe'", path.display());
    path
}

fn init() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/sandbox-init");
    std::env::var_os("SANDBOXD_TEST_INIT").map_or(built, PathBuf::from)
}
