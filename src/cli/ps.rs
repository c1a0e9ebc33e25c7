//! `sandboxctl ps`

use clap::Args;
use serde_json::Value;

use client::{AppProcess, Process};

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;
use super::table::{Cell, Table, Tone};

/// The most characters of a command line in the table.
const COMMAND_CHARACTERS_MAX: usize = 60;

const EXAMPLES: &str = "\
Examples:
  sandboxctl ps ID
  sandboxctl ps --all ID
  sandboxctl ps --json ID";

/// List the processes of a sandbox: those of its app, and those that were started
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ps {
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
    /// Print ids of started processes only, one a line
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
}

impl Ps {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = resolve(context, &self.id).await?;
        let started = match context.client.processes(&id).await {
            Ok(started) => started,
            Err(error) => return Err(context.failure_about(&id, "list the processes of", error).await),
        };
        let sandbox = match context.client.show_v1(&id).await {
            Ok(sandbox) => sandbox,
            Err(error) => return Err(context.failure_about(&id, "show", error).await),
        };
        if context.is_json {
            return context.emit_value(&self.json(&started.json, &sandbox.json));
        }
        let started: Vec<&Process> =
            started.value.processes.iter().filter(|p| self.shows(&p.status)).collect();
        if self.quiet {
            let mut ids = Table::default();
            started.iter().for_each(|process| ids.push(vec![Cell::new(&process.id)]));
            return context.emit(ids.render(false).as_bytes());
        }
        context.emit(table(&sandbox.value.processes, &started).render(context.is_coloured).as_bytes())
    }

    fn shows(&self, status: &str) -> bool {
        self.all || status == "running"
    }

    /// The server's own objects: `app` as in the sandbox, `processes` as they were started.
    fn json(&self, started: &[u8], sandbox: &[u8]) -> Value {
        let list = |json: &[u8]| {
            let value: Value = serde_json::from_slice(json).unwrap_or_default();
            value.get("processes").and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let is_shown = |process: &Value| self.shows(process["status"].as_str().unwrap_or_default());
        let started: Vec<Value> = list(started).into_iter().filter(is_shown).collect();
        serde_json::json!({"app": list(sandbox), "processes": started})
    }
}

fn table(app: &[AppProcess], started: &[&Process]) -> Table {
    let mut table = Table::with_head(&["PROCESS", "STATUS", "PID", "EXIT", "STARTED", "COMMAND"]);
    let pid = |pid: Option<i64>| Cell::new(&pid.map(|pid| pid.to_string()).unwrap_or_default());
    for process in app {
        let (status, tone) = if process.running { ("running", Tone::Good) } else { ("down", Tone::Quiet) };
        table.push(vec![
            Cell::new(&process.name),
            Cell::toned(status, tone),
            pid(process.pid),
            Cell::new(""),
            Cell::new(""),
            Cell::new(&format!("({} of the app, {} restarts)", process.kind, process.restarts)),
        ]);
    }
    for process in started {
        let exit = match (&process.signal, process.exit_code) {
            (Some(signal), _) => signal.clone(),
            (None, code) => code.map(|code| code.to_string()).unwrap_or_default(),
        };
        let running = process.status == "running";
        table.push(vec![
            Cell::new(&process.id),
            Cell::toned(&process.status, if running { Tone::Good } else { Tone::Quiet }),
            pid(process.pid.filter(|_| running)),
            Cell::new(&exit),
            Cell::new(process.started_at.as_deref().unwrap_or_default()),
            Cell::new(&command(&process.cmd)),
        ]);
    }
    table
}

fn command(words: &[String]) -> String {
    let line = words.join(" ");
    if line.chars().count() <= COMMAND_CHARACTERS_MAX {
        return line;
    }
    line.chars().take(COMMAND_CHARACTERS_MAX - 1).chain(['\u{2026}']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_app_and_what_was_started() {
        let app: Vec<AppProcess> =
            serde_json::from_str(r#"[{"name":"web","kind":"web","running":true,"pid":7,"restarts":2}]"#)
                .unwrap();
        let started: Process = serde_json::from_str(
            r#"{"id":"01P","status":"exited","pid":9,"cmd":["sh","-c","exit\n3"],"exit_code":3}"#,
        )
        .unwrap();
        assert_eq!(
            table(&app, &[&started]).render(false),
            "PROCESS  STATUS   PID  EXIT  STARTED  COMMAND\n\
             web      running  7    -     -        (web of the app, 2 restarts)\n\
             01P      exited   -    3     -        sh -c exit\u{fffd}3\n"
        );
        assert_eq!(command(&["x".repeat(100)]).chars().count(), COMMAND_CHARACTERS_MAX);
    }
}
