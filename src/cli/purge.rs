//! `sandboxctl purge`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;
use super::rm;

const EXAMPLES: &str = "\
Examples:
  sandboxctl purge ID
  sandboxctl rm ID && sandboxctl purge ID";

/// Delete sandboxes and their workspaces; this cannot be undone
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Purge {
    /// The sandboxes; also whole ids of sandboxes deleted before
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Purge {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        for given in &self.ids {
            let id = resolve(context, given).await?;
            rm::purge(context, &id).await?;
        }
        Ok(())
    }
}
