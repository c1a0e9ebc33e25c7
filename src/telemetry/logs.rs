//! Structured logs on standard error: text on a terminal, JSON otherwise.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Why logs cannot be written as asked.
#[derive(Debug, thiserror::Error)]
#[error("use the log filter {0:?}: it is error, warn, info, debug, or like info,sandbox=debug")]
pub struct LogError(String);

/// Begins to log; `json` decides the form, `None` by whether standard error is a terminal.
///
/// # Errors
/// The filter is not one.
pub fn init(json: Option<bool>, filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(filter).map_err(|_e| LogError(filter.to_owned()))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(StandardError).with_target(false);
    if json.unwrap_or_else(|| !io::stderr().is_terminal()) {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(io::stderr().is_terminal()).init();
    }
    Ok(())
}

/// Standard error that cannot fail: a full disk or a closed pipe must not end the daemon.
#[derive(Debug)]
struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Lossy;

    fn make_writer(&'a self) -> Lossy {
        Lossy
    }
}

#[derive(Debug)]
struct Lossy;

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One write for a whole line, so that lines of several threads do not mix.
        Ok(io::stderr().write_all(bytes).map_or(bytes.len(), |()| bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
