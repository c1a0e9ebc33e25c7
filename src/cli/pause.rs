//! `sandboxctl pause`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;

const EXAMPLES: &str = "\
Examples:
  sandboxctl pause ID
  sandboxctl pause ID && sandboxctl resume ID";

/// Freeze sandboxes: processes stand still, memory is kept
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Pause {
    /// The sandboxes
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Pause {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        for given in &self.ids {
            let id = resolve(context, given).await?;
            let answer = match context.client.pause(&id).await {
                Ok(answer) => answer,
                Err(error) => return Err(context.failure_about(&id, "pause", error).await),
            };
            context.emit_status(&id, &answer)?;
        }
        Ok(())
    }
}
