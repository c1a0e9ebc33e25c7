//! `sandboxctl stop`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;

const EXAMPLES: &str = "\
Examples:
  sandboxctl stop ID
  sandboxctl ls -q | xargs sandboxctl stop";

/// Put sandboxes to sleep: processes end, files stay
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stop {
    /// The sandboxes
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Stop {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        for given in &self.ids {
            let id = resolve(context, given).await?;
            let answer = match context.client.stop(&id).await {
                Ok(answer) => answer,
                Err(error) => return Err(context.failure_about(&id, "stop", error).await),
            };
            context.emit_status(&id, &answer)?;
        }
        Ok(())
    }
}
