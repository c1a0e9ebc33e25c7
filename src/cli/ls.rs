//! `sandboxctl ls`

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use client::Row;

use super::context::Context;
use super::failure::Failure;
use super::table::{Cell, Table, Tone, age, limit};

const EXAMPLES: &str = "\
Examples:
  sandboxctl ls
  sandboxctl ls -q
  sandboxctl ls --json";

/// List the sandboxes, newest first
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ls {
    /// Print ids only, one a line
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

impl Ls {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let rows = context.client.list().await.map_err(|e| context.failure("list the sandboxes", e))?;
        if context.is_json {
            return context.emit_json(&rows.json);
        }
        if self.quiet {
            let mut ids = Table::default();
            rows.value.iter().for_each(|row| ids.push(vec![Cell::new(&row.id)]));
            return context.emit(ids.render(false).as_bytes());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        context.emit(table(&rows.value, now).render(context.is_coloured).as_bytes())
    }
}

fn table(rows: &[Row], now: i64) -> Table {
    let mut table = Table::with_head(&["ID", "STATUS", "PORTS", "MEMORY", "ACTIVE", "OWNER", "CREATED"]);
    for row in rows {
        let ports: Vec<String> = row.ports.iter().map(u16::to_string).collect();
        let active = row.last_active_at.map(|at| format!("{} ago", age(now.saturating_sub(at))));
        table.push(vec![
            Cell::new(&row.id),
            Cell::toned(&row.status, Tone::of_status(&row.status)),
            Cell::new(&ports.join(",")),
            Cell::new(&limit(row.memory_high.as_deref().unwrap_or_default())),
            Cell::new(&active.unwrap_or_default()),
            Cell::new(&owner(row)),
            Cell::new(row.created_at.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// Writes `user/project`, or what there is of it.
pub(super) fn owner(row: &Row) -> String {
    match (row.external_user_id.as_deref(), row.external_project_id.as_deref()) {
        (None, None) => String::new(),
        (user, None) => user.unwrap_or_default().to_owned(),
        (user, Some(project)) => format!("{}/{project}", user.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_line() {
        let json = r#"[{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","status":"running","ports":[3000,8080],
            "memory_high":"1G","last_active_at":900,"external_user_id":"u1","external_project_id":"p1",
            "created_at":"2026-01-02T03:04:05Z"},{"id":"01B","status":"paused"}]"#;
        let rows: Vec<Row> = serde_json::from_str(json).unwrap();
        assert_eq!(
            table(&rows, 1_020).render(false),
            "ID                          STATUS   PORTS      MEMORY  ACTIVE  OWNER  CREATED\n\
             01ARZ3NDEKTSV4RRFFQ69G5FAV  running  3000,8080  1G      2m ago  u1/p1  2026-01-02T03:04:05Z\n\
             01B                         paused   -          -       -       -      -\n"
        );
    }
}
