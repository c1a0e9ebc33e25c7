//! `sandboxctl stats`

use clap::Args;
use serde_json::{Value, json};

use client::{Answer, Stats as Figures};

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;
use super::table::{Cell, Table, Tone, age, size};

const EXAMPLES: &str = "\
Examples:
  sandboxctl stats
  sandboxctl stats ID
  sandboxctl --json stats ID";

/// Show what sandboxes use; all that run, or those that are named
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stats {
    /// The sandboxes
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

impl Stats {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut ids = Vec::new();
        for given in &self.ids {
            ids.push(resolve(context, given).await?);
        }
        if self.ids.is_empty() {
            let rows = context.client.list().await.map_err(|e| context.failure("list the sandboxes", e))?;
            ids.extend(rows.value.into_iter().filter(|row| row.status == "running").map(|row| row.id));
        }
        let mut figures = Vec::new();
        for id in ids {
            match context.client.stats(&id).await {
                Ok(answer) => figures.push((id, answer)),
                // It went away between the list and here.
                Err(error) if self.ids.is_empty() && error.refusal().is_some() => {}
                Err(error) => return Err(context.failure_about(&id, "measure", error).await),
            }
        }
        if context.is_json {
            return figures.iter().try_for_each(|(id, answer)| {
                let stats: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
                context.emit_value(&json!({"id": id, "stats": stats}))
            });
        }
        context.emit(table(&figures).render(context.is_coloured).as_bytes())
    }
}

fn table(figures: &[(String, Answer<Figures>)]) -> Table {
    let mut table = Table::with_head(&["ID", "MEMORY", "PEAK", "LIMIT", "CPU", "PROCESSES", "IDLE", "STATE"]);
    for (id, Answer { value, .. }) in figures {
        let bytes = |bytes: Option<u64>| Cell::new(&bytes.map(size).unwrap_or_default());
        let cpu = value.cpu.usage_seconds.map(|seconds| format!("{seconds:.1}s"));
        let processes = match (value.pids.current, value.pids.max) {
            (Some(current), Some(max)) => format!("{current}/{max}"),
            (current, _) => current.map(|current| current.to_string()).unwrap_or_default(),
        };
        let idle = value.idle_for_s.map(|seconds| age(i64::try_from(seconds).unwrap_or(i64::MAX)));
        table.push(vec![
            Cell::new(id),
            bytes(value.memory.current),
            bytes(value.memory.peak),
            bytes(value.memory.max),
            Cell::new(&cpu.unwrap_or_default()),
            Cell::new(&processes),
            Cell::new(&idle.unwrap_or_default()),
            if value.throttled { Cell::toned("throttled", Tone::Bad) } else { Cell::new("") },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_is_known() {
        let json = r#"{"memory":{"current":1572864,"max":268435456},"cpu":{"usage_seconds":1.26},
            "pids":{"current":3,"max":1024},"idle_for_s":65,"throttled":true,"later":{}}"#;
        let value = serde_json::from_str(json).unwrap();
        let figures = [("01A".to_owned(), Answer { value, json: json.into() })];
        assert_eq!(
            table(&figures).render(false),
            "ID   MEMORY  PEAK  LIMIT   CPU   PROCESSES  IDLE  STATE\n\
             01A  1.5 MiB  -    256 MiB  1.3s  3/1024     1m    throttled\n"
                .replace("MEMORY  PEAK  LIMIT ", "MEMORY   PEAK  LIMIT  ")
                .replace("1.5 MiB  -    256", "1.5 MiB  -     256")
        );
    }
}
