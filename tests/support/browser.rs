//! A real browser: headless Chromium, driven by chromedriver over the protocol of W3C WebDriver.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::eventually;

const DRIVER: u16 = 19_515;

/// A browser with one window; it ends with the value.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("sandboxd-browser").tempdir().unwrap();
        // A group of its own: what the driver starts is ended with it, whatever happens.
        let spawned = Command::new("setsid")
            .arg("chromedriver")
            .arg(format!("--port={DRIVER}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("HOME", profile.path())
            .spawn();
        let driver =
            spawned.unwrap_or_else(|e| panic!("chromedriver: {e}; `scripts/test browser` installs it"));
        let mut browser = Self { driver, session: String::new(), profile };
        eventually("the driver is ready", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", DRIVER)).is_ok()
        });
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1000,700",
            &format!("--user-data-dir={}", browser.profile.path().join("profile").display()),
        ];
        let options = json!({ "binary": "/usr/bin/chromium", "args": arguments });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let made = browser.ask("POST", "/session", json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session =
            made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}")).to_owned();
        browser
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "url", json!({ "url": url }));
    }

    /// Runs a script in the page; the value of its `return`.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", "execute/sync", json!({ "script": script, "args": [] }))
    }

    /// The text of the first element that matches, if there is one.
    pub(crate) fn text(&self, selector: &str) -> Option<String> {
        let script = format!("return document.querySelector({})?.textContent", json!(selector));
        self.run(&script).as_str().map(str::to_owned)
    }

    pub(crate) fn click(&self, selector: &str) {
        self.run(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Waits for a text, and says what was there instead.
    pub(crate) fn wait_for(&self, selector: &str, text: &str, deadline: Duration) {
        let end = std::time::Instant::now() + deadline;
        while !self.text(selector).is_some_and(|t| t.contains(text)) {
            if std::time::Instant::now() > end {
                let page = self.run("return document.documentElement.outerHTML");
                panic!(
                    "{text:?} is not in {selector} within {deadline:?}: {page}\n{}",
                    self.complaints().join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the page's console has complained of since the last call.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("POST", "se/log", json!({ "type": "browser" }));
        let severe = log.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].to_string()).collect()
    }

    /// Saves a picture of the page where `SANDBOXD_TEST_SCREENSHOTS` names a directory.
    pub(crate) fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("SANDBOXD_TEST_SCREENSHOTS") else { return };
        let picture = self.command("GET", "screenshot", Value::Null);
        let encoded = Path::new(&directory).join(format!("{name}.base64"));
        std::fs::write(&encoded, picture.as_str().unwrap()).unwrap();
        let file = std::fs::File::create(encoded.with_extension("png")).unwrap();
        assert!(Command::new("base64").arg("-d").arg(&encoded).stdout(file).status().unwrap().success());
        std::fs::remove_file(encoded).unwrap();
    }

    fn command(&self, method: &str, name: &str, body: Value) -> Value {
        self.ask(method, &format!("/session/{}/{name}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, value) = ask(method, path, &body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert_eq!(status, 200, "{method} {path}: {value}");
        value
    }
}

/// One command to the driver, which speaks HTTP/1.1 and keeps connections open.
fn ask(method: &str, path: &str, body: &Value) -> std::io::Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(("127.0.0.1", DRIVER))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost:{DRIVER}\r\nContent-Type: application/json\r\n");
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer: Value = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
    Ok((status, answer["value"].clone()))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser may be in a group of its own: its driver ends it.
        if !self.session.is_empty() {
            let _gone = ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let group = format!("-{}", self.driver.id());
        let _ignored = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ignored = self.driver.wait();
    }
}
