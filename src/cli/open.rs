//! `sandboxctl open`

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde_json::json;

use sys::process;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;
use super::text::printable;

const EXAMPLES: &str = "\
Examples:
  sandboxctl open ID
  sandboxctl open --port 8080 ID
  curl -s \"$(sandboxctl open --port 3000 ID)\"";

/// Print where a sandbox's previews are, and show the first in a browser if there is one
///
/// A browser is opened on a desktop only, and only when the result goes to a terminal.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Open {
    /// This port only
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only print
    #[arg(long)]
    no_browser: bool,
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
}

impl Open {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = resolve(context, &self.id).await?;
        let (view, v1) = match (context.client.show(&id).await, context.client.show_v1(&id).await) {
            (Ok(view), Ok(v1)) => (view.value, v1.value),
            (Err(error), _) | (_, Err(error)) => {
                return Err(context.failure_about(&id, "show", error).await);
            }
        };
        let preview = v1.preview.and_then(|preview| Some((preview.url?, preview.port?)));
        let ports: Vec<u16> = match self.port {
            Some(port) if !view.row.ports.contains(&port) => {
                return Err(Failure::Usage(format!(
                    "open port {port}: the sandbox shows {}",
                    if view.row.ports.is_empty() { "none".to_owned() } else { list(&view.row.ports) }
                )));
            }
            Some(port) => vec![port],
            None => view.row.ports,
        };
        let urls: Vec<(u16, String)> = match &preview {
            Some((url, main)) => {
                ports.iter().filter_map(|port| Some((*port, address(url, *main, *port)?))).collect()
            }
            None => Vec::new(),
        };
        if context.is_json {
            let previews: Vec<_> = urls.iter().map(|(port, url)| json!({"port": port, "url": url})).collect();
            return context.emit_value(&json!({"id": id, "previews": previews}));
        }
        if urls.is_empty() {
            return Err(Failure::Usage(format!(
                "open sandbox {id}: it shows no port; make one with `sandboxctl create --port 3000`"
            )));
        }
        let lines: String = urls.iter().map(|(_, url)| format!("{}\n", printable(url))).collect();
        context.emit(lines.as_bytes())?;
        if let Some((_, url)) = urls.first().filter(|_| !self.no_browser && io::stdout().is_terminal()) {
            browse(url);
        }
        Ok(())
    }
}

/// Returns the address of another port, given that of one: `…s-<id>-<port>.…`.
fn address(url: &str, main: u16, port: u16) -> Option<String> {
    if port == main {
        return Some(url.to_owned());
    }
    let mark = format!("-{main}.");
    let (before, after) = url.split_once(&mark)?;
    Some(format!("{before}-{port}.{after}"))
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Opens a browser where there is a desktop; that there is none is no failure.
fn browse(url: &str) {
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if has_desktop && url.starts_with("http") {
        process::command("xdg-open").envs(std::env::vars_os()).arg(url).spawn().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_have_addresses_too() {
        let url = "http://s-01arz3-3000.preview.localhost:8080";
        assert_eq!(address(url, 3000, 3000).unwrap(), url);
        assert_eq!(address(url, 3000, 8080).unwrap(), "http://s-01arz3-8080.preview.localhost:8080");
        assert_eq!(address("http://elsewhere", 3000, 8080), None);
    }
}
