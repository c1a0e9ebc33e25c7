//! `sandboxctl rm`

use clap::Args;
use serde_json::json;

use model::ByteSize;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;

const EXAMPLES: &str = "\
Examples:
  sandboxctl rm ID
  sandboxctl rm --purge ID";

/// Delete sandboxes; their workspaces are kept unless purged
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Rm {
    /// Delete the workspaces too; this cannot be undone
    #[arg(long)]
    purge: bool,
    /// The sandboxes; with --purge also whole ids of sandboxes deleted before
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Rm {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        for given in &self.ids {
            let id = resolve(context, given).await?;
            if self.purge {
                purge(context, &id).await?;
            } else {
                delete(context, &id).await?;
            }
        }
        Ok(())
    }
}

async fn delete(context: &Context, id: &str) -> Result<(), Failure> {
    if let Err(error) = context.client.delete(id).await {
        return Err(context.failure_about(id, "delete", error).await);
    }
    if context.is_json {
        return context.emit_value(&json!({"id": id, "deleted": true}));
    }
    context.emit(format!("{id} deleted, workspace kept\n").as_bytes())
}

pub(super) async fn purge(context: &Context, id: &str) -> Result<(), Failure> {
    let purged = match context.client.purge(id).await {
        Ok(purged) => purged,
        Err(error) => return Err(context.failure_about(id, "purge", error).await),
    };
    if context.is_json {
        return context.emit_json(&purged.json);
    }
    let freed = ByteSize::bytes(purged.value.freed_bytes);
    context.emit(format!("{id} purged, {freed} freed\n").as_bytes())
}
