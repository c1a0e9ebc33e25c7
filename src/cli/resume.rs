//! `sandboxctl resume`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;

const EXAMPLES: &str = "\
Examples:
  sandboxctl resume ID
  sandboxctl pause ID && sandboxctl resume ID";

/// Let paused sandboxes go on
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Resume {
    /// The sandboxes
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Resume {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        for given in &self.ids {
            let id = resolve(context, given).await?;
            let answer = match context.client.resume(&id).await {
                Ok(answer) => answer,
                Err(error) => return Err(context.failure_about(&id, "resume", error).await),
            };
            context.emit_status(&id, &answer)?;
        }
        Ok(())
    }
}
