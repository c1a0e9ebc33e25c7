//! What tests of the real server need: the server itself, a client, and the host to compare.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "test code: a failure is the message"
)]

pub(crate) mod browser;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod server;
pub(crate) mod terminal;
pub(crate) mod world;

use std::time::{Duration, Instant};

/// Says something to whoever reads what the tests print.
pub(crate) fn tell(text: &str) {
    use std::io::Write as _;
    // Whether anybody reads is nothing to fail for.
    let _unread: std::io::Result<()> = writeln!(std::io::stdout(), "{text}");
}

/// Waits until something holds; panics with what was waited for when it does not in time.
pub(crate) fn eventually(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    eventually_seen(what, deadline, || if holds() { Ok(()) } else { Err("it never did".to_owned()) });
}

/// The same; what was seen last instead is told too.
pub(crate) fn eventually_seen(what: &str, deadline: Duration, mut holds: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + deadline;
    while let Err(seen) = holds() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}: {seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
