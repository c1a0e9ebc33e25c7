//! `sandboxctl events`

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::client::{ClientError, ServerEvent};

use super::context::Context;
use super::failure::Failure;
use super::output::printable;
use super::resolve::resolve;

/// Servers send a comment now and then; without anything for so long the connection is made again.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How long to try to reach a server that has gone.
const RECONNECT_FOR: Duration = Duration::from_secs(60);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

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
    last: Option<String>,
    count: u64,
}

impl Events {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        let sandbox = match &self.sandbox {
            Some(given) => Some(resolve(context, given).await?),
            None => None,
        };
        let mut seen = Seen::default();
        let mut give_up = None;
        loop {
            let watched = self.watch(context, sandbox.as_deref(), &mut seen, &mut give_up).await?;
            let Some(error) = watched else { return Ok(()) };
            let is_refused = error.refusal().is_some_and(|refusal| !refusal.retryable);
            let end = *give_up.get_or_insert_with(|| {
                context.note("the connection was lost; connecting again");
                Instant::now() + RECONNECT_FOR
            });
            if is_refused || Instant::now() > end {
                return Err(context.failure("watch events", error));
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Shows events of one connection; `None` when the limit is reached.
    async fn watch(
        &self,
        context: &Context,
        sandbox: Option<&str>,
        seen: &mut Seen,
        give_up: &mut Option<Instant>,
    ) -> Result<Option<ClientError>, Failure> {
        let mut stream = match context.client.events(sandbox, self.from, seen.last.as_deref()).await {
            Ok(stream) => stream,
            // The first connection is not tried twice: whoever typed the address sees at once that it is wrong.
            Err(error) if give_up.is_none() && seen.last.is_none() && seen.count == 0 => {
                return Err(context.failure("watch events", error));
            }
            Err(error) => return Ok(Some(error)),
        };
        *give_up = None;
        loop {
            let events = match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
                Ok(Ok(Some(events))) => events,
                Ok(Err(error)) => return Ok(Some(error)),
                Ok(Ok(None)) | Err(_) => return Ok(Some(crate::client::OutputError::Closed.into())),
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
