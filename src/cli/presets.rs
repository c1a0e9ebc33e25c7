//! `sandboxctl presets`

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::table::{Cell, Table};

const EXAMPLES: &str = "\
Examples:
  sandboxctl presets
  sandboxctl --json presets";

/// List what a sandbox may begin as, for `create --preset`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Presets {}

impl Presets {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let presets = context.client.presets().await.map_err(|e| context.failure("list the presets", e))?;
        if context.is_json {
            return context.emit_json(&presets.json);
        }
        let mut table = Table::with_head(&["NAME", "PORTS", "DESCRIPTION"]);
        for preset in &presets.value.presets {
            let ports: Vec<String> = preset.ports.iter().map(u16::to_string).collect();
            table.push(vec![
                Cell::new(&preset.name),
                Cell::new(&ports.join(",")),
                Cell::new(&preset.description),
            ]);
        }
        context.emit(table.render(context.is_coloured).as_bytes())
    }
}
