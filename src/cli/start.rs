//! `sandboxctl start`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;

const EXAMPLES: &str = "\
Examples:
  sandboxctl start ID
  sandboxctl ls -q | xargs sandboxctl start";

/// Wake sandboxes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Start {
    /// The sandboxes
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Start {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        for given in &self.ids {
            let id = resolve(context, given).await?;
            let answer = match context.client.start(&id).await {
                Ok(answer) => answer,
                Err(error) => return Err(context.failure_about(&id, "start", error).await),
            };
            context.emit_status(&id, &answer)?;
        }
        Ok(())
    }
}
