//! `sandboxctl events`

use clap::Args;
use serde_json::{Map, Value, json};

use client::{ClientError, ServerEvent};

use super::context::Context;
use super::failure::Failure;
use super::reconnect::{self, Patience};
use super::resolve::resolve;
use super::text::printable;

const EXAMPLES: &str = "\
Examples:
  sandboxctl events --from 0 --limit 1
  sandboxctl events --sandbox ID --from 0 --limit 1
  sandboxctl --json events --from 0 --limit 1

It runs until Ctrl-C or the limit. A connection that breaks is made again where it was.";

/// Show what happens to sandboxes, as it happens
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Events {
    /// Of one sandbox only
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Begin after the event of this number, as far as the server remembers; 0 for all
    #[arg(long, value_name = "NUMBER")]
    from: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// What has been seen.
#[derive(Debug, Default)]
struct Seen {
    is_connected: bool,
    last: Option<String>,
    count: u64,
}

impl Events {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let sandbox = match &self.sandbox {
            Some(given) => Some(resolve(context, given).await?),
            None => None,
        };
        let (mut seen, mut patience) = (Seen::default(), Patience::default());
        while let Some(error) = self.watch(context, sandbox.as_deref(), &mut seen, &mut patience).await? {
            patience.wait(context, error).await.map_err(|error| context.failure("watch events", error))?;
        }
        Ok(())
    }

    /// Shows events of one connection; `None` when the limit is reached.
    async fn watch(
        &self,
        context: &Context,
        sandbox: Option<&str>,
        seen: &mut Seen,
        patience: &mut Patience,
    ) -> Result<Option<ClientError>, Failure> {
        let mut stream = match context.client.events(sandbox, self.from, seen.last.as_deref()).await {
            Ok(stream) => stream,
            // The first connection is not tried twice: whoever typed the address sees at once that it is wrong.
            Err(error) if !seen.is_connected => return Err(context.failure("watch events", error)),
            Err(error) => return Ok(Some(error)),
        };
        seen.is_connected = true;
        patience.renew();
        loop {
            let events = match reconnect::next(&mut stream).await {
                Ok(events) => events,
                Err(error) => return Ok(Some(error)),
            };
            for event in events {
                seen.last.clone_from(&event.id);
                seen.count += 1;
                context.emit(shown(context.is_json, &event).as_bytes())?;
                if self.limit == Some(seen.count) {
                    return Ok(None);
                }
            }
        }
    }
}

fn shown(is_json: bool, event: &ServerEvent) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_else(|_| json!(event.data));
    if is_json {
        let number = event.id.as_deref().and_then(|id| id.parse::<u64>().ok());
        return format!("{}\n", json!({"seq": number, "event": event.event, "data": data}));
    }
    let empty = Map::new();
    let fields = data.as_object().unwrap_or(&empty);
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("-");
    let rest = fields.iter().filter(|(name, value)| {
        !matches!(name.as_str(), "at" | "sandbox_id" | "event" | "type" | "seq") && !value.is_null()
    });
    let rest: String = rest
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("  {name}={value}")
        })
        .collect();
    let line = format!("{}  {}  {}{rest}", text("at"), text("sandbox_id"), event.event);
    format!("{}\n", printable(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = ServerEvent {
            id: Some("7".to_owned()),
            event: "sandbox.oom".to_owned(),
            data: r#"{"sandbox_id":"01A","at":"2026-01-02T03:04:05Z","reason":"a\u001bb","n":1}"#.to_owned(),
        };
        assert_eq!(shown(false, &event), "2026-01-02T03:04:05Z  01A  sandbox.oom  n=1  reason=a\u{fffd}b\n");
        let value: Value = serde_json::from_str(&shown(true, &event)).unwrap();
        assert_eq!((value["seq"].as_u64(), value["data"]["n"].as_u64()), (Some(7), Some(1)));
    }
}
