//! `sandboxctl stop`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::printable;
use super::resolve::resolve;

/// Put sandboxes to sleep: processes end, files stay
#[derive(Debug, Args)]
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
            if context.is_json {
                context.emit_json(&answer.json)?;
            } else {
                let status = printable(&answer.value.status);
                context.emit(format!("{id} {status}\n").as_bytes())?;
            }
        }
        Ok(())
    }
}
