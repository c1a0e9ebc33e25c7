//! `sandboxctl limits`

use clap::Args;
use serde_json::{Map, Value};

use super::context::Context;
use super::failure::Failure;
use super::resolve::resolve;
use super::table::{Cell, Table};

const EXAMPLES: &str = "\
Examples:
  sandboxctl limits ID
  sandboxctl limits ID memory_max=1G cpu_max=0.5
  sandboxctl limits ID cpu_max=null io_max.write_bps=20M";

/// Show what a sandbox may use, or change it while it runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Limits {
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
    /// What to change; `null` for no limit
    #[arg(value_name = "NAME=VALUE", value_parser = parse_limit)]
    changes: Vec<Limit>,
}

/// A limit as a user writes it.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    name: String,
    value: Value,
}

impl Limits {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let id = resolve(context, &self.id).await?;
        let answered = match object(&self.changes) {
            Some(limits) => context.client.limit(&id, &limits).await,
            None => context.client.show_v1(&id).await,
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) => return Err(context.failure_about(&id, "limit", error).await),
        };
        let sandbox: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
        let limits = sandbox.get("limits").unwrap_or(&Value::Null);
        if context.is_json {
            return context.emit_value(limits);
        }
        context.emit(table(limits).render(context.is_coloured).as_bytes())
    }
}

/// The body of a request; `None` when nothing is to change.
pub(super) fn object(limits: &[Limit]) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    for Limit { name, value } in limits {
        match name.split_once('.') {
            None => {
                object.insert(name.clone(), value.clone());
            }
            Some((outer, inner)) => {
                let inside = object.entry(outer.to_owned()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(inside) = inside {
                    inside.insert(inner.to_owned(), value.clone());
                }
            }
        }
    }
    (!object.is_empty()).then_some(object)
}

/// Reads `NAME=VALUE`; which names there are is the server's to say.
pub(super) fn parse_limit(text: &str) -> Result<Limit, String> {
    let (name, value) = text.split_once('=').ok_or("it has the form NAME=VALUE")?;
    // Numbers, `true` and `null` are what they look like in JSON; a size is a text, of whatever digits.
    let is_size = ["memory_max", "memory_high", "swap_max"].contains(&name) || name.ends_with("_bps");
    let parsed = serde_json::from_str(value).ok().filter(|v: &Value| !is_size || v.is_null());
    Ok(Limit { name: name.to_owned(), value: parsed.unwrap_or_else(|| Value::String(value.to_owned())) })
}

fn table(limits: &Value) -> Table {
    let mut table = Table::with_head(&["LIMIT", "VALUE", "NOTE"]);
    let Value::Object(limits) = limits else { return table };
    let lacking = limits.get("not_enforced").and_then(Value::as_array).cloned().unwrap_or_default();
    for (name, value) in limits.iter().filter(|(name, _)| *name != "not_enforced") {
        let note = if lacking.iter().any(|l| l == name) { "not enforced by this host" } else { "" };
        let inner: Vec<_> = match value {
            Value::Object(inner) => inner.iter().map(|(n, v)| (format!("{name}.{n}"), v)).collect(),
            _ => vec![(name.clone(), value)],
        };
        for (name, value) in inner {
            let shown = match value {
                Value::String(text) => text.clone(),
                Value::Null => "-".to_owned(),
                other => other.to_string(),
            };
            table.push(vec![Cell::new(&name), Cell::new(&shown), Cell::new(note)]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_become_the_body_that_the_server_takes() {
        let words = [
            "memory_max=1048576",
            "cpu_max=0.5",
            "io_max.write_bps=20M",
            "io_max.read_iops=50",
            "oom_group=true",
        ];
        let limits: Vec<_> = words.iter().map(|w| parse_limit(w).unwrap()).collect();
        let wanted = json!({ "memory_max": "1048576", "cpu_max": 0.5, "oom_group": true,
            "io_max": { "write_bps": "20M", "read_iops": 50 } });
        assert_eq!(Value::Object(object(&limits).unwrap()), wanted);
        assert_eq!(
            object(&[parse_limit("cpu_max=null").unwrap()]),
            Some(Map::from_iter([("cpu_max".to_owned(), Value::Null)]))
        );
        assert!(object(&[]).is_none() && parse_limit("cpu_max").is_err());
    }

    #[test]
    fn what_the_host_cannot_enforce_is_marked() {
        let limits = json!({ "memory_max": "1G", "cpu_max": null, "io_max": { "read_bps": "1M" }, "not_enforced": ["io_max"] });
        let shown = table(&limits).render(false);
        let lines: Vec<_> =
            shown.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines.contains(&"io_max.read_bps 1M not enforced by this host".to_owned()), "{shown}");
        assert!(
            lines.contains(&"cpu_max - -".to_owned()) && lines.contains(&"memory_max 1G -".to_owned()),
            "{shown}"
        );
    }
}
