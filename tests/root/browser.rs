//! The presets, each live at its preview in a real browser, and what follows a change of its source.
//!
//! They need Chromium and its driver, which `scripts/test browser` installs.

use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::server::{PREVIEWS, Server, preview_host};

pub(crate) const TESTS: &[Test] = &[
    ("browser::react_vite_follows_its_source_without_a_reload", react_vite),
    ("browser::nextjs_follows_its_source_without_a_reload", nextjs),
    ("browser::node_express_starts_anew_when_its_source_changes", node_express),
    ("browser::fastapi_starts_anew_when_its_source_changes", fastapi),
    ("browser::worker_does_its_jobs_and_starts_anew_when_its_source_changes", worker),
];

/// For a development server that starts on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);

struct Live {
    preset: &'static str,
    server: Server,
    id: String,
    url: String,
    browser: Browser,
}

/// Makes a sandbox of a preset and opens its preview.
fn live(preset: &'static str, port: u16) -> Live {
    // A development server takes more than a test's sandbox has.
    let server = Server::start(&[("SANDBOXD_MEMORY_MAX", "2G")]);
    let id = server.create(json!({ "runtime_preset": preset }));
    let url = format!("http://{}:{PREVIEWS}", preview_host(&id, port));
    let view = server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json();
    assert_eq!(view["preview"]["url"], url);
    let browser = Browser::start();
    // At once: it is held, or shown the page that reloads itself, until the app is up.
    browser.open(&url);
    Live { preset, server, id, url, browser }
}

impl Live {
    fn source(&self, path: &str) -> String {
        let path = format!("/v1/sandboxes/{}/files/content?path={path}", self.id);
        let answer = self.server.api("GET", &path, Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Changes a source file through the API.
    fn change(&self, path: &str, from: &str, to: &str) {
        let source = self.source(path);
        assert!(source.contains(from), "{path} has no {from:?}");
        let answer = self.server.put(&self.id, path, source.replace(from, to).as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn wait_for(&self, selector: &str, text: &str) {
        self.browser.wait_for(selector, text, DEADLINE);
    }

    /// Loads the page again until it says something.
    fn reload_until(&self, selector: &str, text: &str) {
        eventually(text, DEADLINE, || {
            self.browser.open(&self.url);
            self.browser.text(selector).is_some_and(|t| t.contains(text))
        });
    }

    fn is_the_same_page(&self) -> bool {
        self.browser.run("return window.mark === 1") == true
    }
}

/// A page that keeps its state while two of its files change.
fn hot_reload(live: &Live, page: &str, button: &str, greeting: &str) {
    live.wait_for("h1", greeting);
    live.browser.run("window.mark = 1");
    // Until the page is alive a click is nobody's.
    eventually("a click counts", DEADLINE, || {
        live.browser.click("button");
        live.browser.text("button").is_some_and(|t| !t.contains(" 0 "))
    });
    let clicked = live.browser.text("button").unwrap();
    live.browser.picture(live.preset);
    live.change(page, greeting, "Changed through the API");
    live.wait_for("h1", "Changed through the API");
    assert!(live.is_the_same_page(), "the page was loaded again");
    assert_eq!(live.browser.text("button").as_ref(), Some(&clicked), "its state is kept");
    // From inside, as an editor or an agent does.
    live.server.sh(&live.id, &format!("cd app && sed -i 's/clicked/pressed/' {button}"));
    live.wait_for("button", &clicked.replace("clicked", "pressed"));
    assert!(live.is_the_same_page(), "the page was loaded again");
    assert_eq!(live.browser.complaints(), [""; 0]);
}

fn react_vite() {
    let live = live("react-vite", 3000);
    hot_reload(&live, "src/App.jsx", "src/App.jsx", "Hello from React");
    // Asleep, and opened again: the same app, with the change.
    let stop = format!("/v1/sandboxes/{}/stop", live.id);
    assert_eq!(live.server.api("POST", &stop, Value::Null).status, 200);
    live.browser.open(&live.url);
    live.wait_for("h1", "Changed through the API");
}

fn nextjs() {
    let live = live("nextjs", 3000);
    hot_reload(&live, "app/page.js", "app/counter.js", "Hello from Next.js");
}

fn node_express() {
    let live = live("node-express", 3000);
    live.wait_for("h1", "Hello from Express");
    live.browser.picture("node-express");
    live.change("server.js", "Hello from Express", "Changed");
    live.reload_until("h1", "Changed");
    let time = live.server.preview(&live.id, 3000, "GET", "/api/time", &[], b"");
    assert!(time.json()["now"].is_string());
}

fn fastapi() {
    let live = live("fastapi", 8000);
    live.wait_for("h1", "Hello from FastAPI");
    live.browser.picture("fastapi");
    live.change("main.py", "Hello from FastAPI", "Changed");
    live.reload_until("h1", "Changed");
    let time = live.server.preview(&live.id, 8000, "GET", "/api/time", &[], b"");
    assert!(time.json()["now"].is_string());
}

fn worker() {
    let live = live("worker", 3000);
    live.wait_for("h1", "Hello from the worker");
    live.browser.click("button");
    live.wait_for("li", "squared is");
    live.browser.picture("worker");
    live.change("worker.py", "squared is {number * number}", "doubled is {number * 2}");
    eventually("the new worker works", DEADLINE, || {
        live.browser.open(&live.url);
        live.browser.click("button");
        std::thread::sleep(Duration::from_millis(500));
        live.browser.open(&live.url);
        live.browser.text("ol").is_some_and(|t| t.contains("doubled is"))
    });
    let log = format!("/v1/sandboxes/{}/processes/worker/logs", live.id);
    let lines = live.server.api("GET", &log, Value::Null).json()["lines"].to_string();
    assert!(lines.contains("squared is") && lines.contains("doubled is"), "{lines}");
}
