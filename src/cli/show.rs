//! `sandboxctl show`

use clap::Args;

use client::{Row, SandboxV1};

use super::context::Context;
use super::failure::Failure;
use super::ls::owner;
use super::resolve::resolve;
use super::table::{Cell, Table, Tone, limit};

const EXAMPLES: &str = "\
Examples:
  sandboxctl show ID
  sandboxctl --json show ID";

/// Show one sandbox
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
}

impl Show {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = resolve(context, &self.id).await?;
        let view = match context.client.show(&id).await {
            Ok(view) => view,
            Err(error) => return Err(context.failure_about(&id, "show", error).await),
        };
        if context.is_json {
            return context.emit_json(&view.json);
        }
        // The preview's address is an extra: a server that cannot say it still has the rest to show.
        let v1 = context.client.show_v1(&id).await.ok().map(|answer| answer.value);
        context.emit(table(&view.value.row, v1.as_ref()).render(context.is_coloured).as_bytes())
    }
}

fn table(row: &Row, v1: Option<&SandboxV1>) -> Table {
    let preview = v1.and_then(|v1| v1.preview.as_ref());
    let ports: Vec<String> = row.ports.iter().map(u16::to_string).collect();
    let mut table = Table::default();
    let mut line = |name: &str, value: Option<&str>, tone: Tone| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            table.push(vec![Cell::toned(name, Tone::Head), Cell::toned(value, tone)]);
        }
    };
    line("id", Some(&row.id), Tone::Plain);
    line("status", Some(&row.status), Tone::of_status(&row.status));
    line("error", row.error_message.as_deref(), Tone::Bad);
    line("preview", preview.and_then(|p| p.url.as_deref()), Tone::Plain);
    line("app", preview.and_then(|p| p.status.as_deref()), Tone::Plain);
    line("ports", Some(&ports.join(",")), Tone::Plain);
    line("memory", row.memory_high.as_deref().map(limit).as_deref(), Tone::Plain);
    line("workspace", row.workspace_mnt.as_deref(), Tone::Plain);
    line("owner", Some(&owner(row)), Tone::Plain);
    line("visibility", row.visibility.as_deref(), Tone::Plain);
    line("idle policy", row.idle_policy.as_deref(), Tone::Plain);
    line("created", row.created_at.as_deref(), Tone::Plain);
    line("stopped", row.stopped_at.as_deref(), Tone::Plain);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_there_is_and_no_more() {
        let row =
            serde_json::from_str(r#"{"id":"01A","status":"stopped","ports":[3000],"error_message":""}"#);
        let v1 = serde_json::from_str(
            r#"{"id":"01A","status":"stopped","preview":{"url":"http://s-01a-3000.preview.localhost","port":3000,"status":"down"}}"#,
        );
        assert_eq!(
            table(&row.unwrap(), Some(&v1.unwrap())).render(false),
            "id       01A\nstatus   stopped\npreview  http://s-01a-3000.preview.localhost\napp      down\nports    3000\n"
        );
    }
}
