//! `sandboxctl kill`

use clap::{Args, ValueEnum};
use serde_json::json;

use client::SignalTarget;

use super::context::Context;
use super::failure::Failure;
use super::resolve::{resolve, resolve_process};

const EXAMPLES: &str = "\
Examples:
  sandboxctl kill ID PROCESS
  sandboxctl kill -s INT ID PROCESS
  sandboxctl kill -s KILL --target tree ID PROCESS";

/// Send a signal to processes that were started in a sandbox
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Kill {
    /// Which signal, with or without SIG
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = parse_signal)]
    signal: String,
    /// Whom it reaches
    #[arg(long, value_enum, default_value_t = Target::Group)]
    target: Target,
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
    /// The processes, as `exec -d` and `ps` show them
    #[arg(value_name = "PROCESS", required = true)]
    processes: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// It alone
    Process,
    /// It and its process group
    Group,
    /// Everything it ever started, also what went into the background
    Tree,
}

impl Kill {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = resolve(context, &self.id).await?;
        let target = match self.target {
            Target::Process => SignalTarget::Process,
            Target::Group => SignalTarget::Group,
            Target::Tree => SignalTarget::Tree,
        };
        for given in &self.processes {
            let process = resolve_process(context, &id, given).await?.id;
            let sent = context.client.signal_process(&id, &process, &self.signal, target).await;
            sent.map_err(|e| context.failure(format!("signal process {process} in sandbox {id}"), e))?;
            if context.is_json {
                context
                    .emit_value(&json!({"id": process, "signal": self.signal, "target": target.as_str()}))?;
            }
        }
        Ok(())
    }
}

fn parse_signal(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("it is a name such as TERM or KILL".to_owned());
    }
    Ok(name.to_owned())
}
