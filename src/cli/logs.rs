//! `sandboxctl logs`

use clap::Args;
use http::StatusCode;

use client::{ClientError, EventStream, ServerEvent};

use super::attached::{Attached, Outcome};
use super::context::Context;
use super::failure::Failure;
use super::reconnect::{self, Patience};
use super::resolve::{resolve, resolve_process};
use super::session::{Kept, Sink};
use super::signals::Signals;
use super::text::printable;

/// The most lines that a server shows at once.
const TAIL_MAX: u32 = 10_000;

const EXAMPLES: &str = "\
Examples:
  sandboxctl logs ID
  sandboxctl logs --tail 20 ID web
  sandboxctl logs -f ID web
  sandboxctl logs ID PROCESS

Without a NAME it is the app's web process, or its only one. A connection that breaks is made again
where it was.";

/// Show what a process of the app wrote, or one that was started
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Logs {
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many lines from the end to begin with; not for started processes, which are shown whole
    #[arg(long, value_name = "LINES", default_value_t = 200)]
    tail: u32,
    /// The sandbox
    #[arg(value_name = "ID")]
    id: String,
    /// A process of the app by its name, or a started one by its id
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Logs {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, Failure> {
        let id = resolve(context, &self.id).await?;
        let sandbox = match context.client.show_v1(&id).await {
            Ok(sandbox) => sandbox.value,
            Err(error) => return Err(context.failure_about(&id, "show", error).await),
        };
        let names: Vec<&str> = sandbox.processes.iter().map(|process| process.name.as_str()).collect();
        let name = match &self.name {
            Some(name) => name.as_str(),
            None => choose(&names)?,
        };
        let shown = if self.follow {
            self.follow(context, &id, name).await
        } else {
            self.print(context, &id, name).await
        };
        match shown {
            // Not a name of the app's: then perhaps the id of a process.
            Err(Shown::Client(error)) if is_not_found(&error) => {
                self.started(context, &id, name, &names).await.map(|()| 0)
            }
            Err(Shown::Client(error)) => {
                Err(context.failure(format!("show the log of {name} in sandbox {id}"), error))
            }
            Err(Shown::Failure(failure)) => Err(failure),
            Ok(()) => Ok(0),
        }
    }

    async fn print(&self, context: &Context, id: &str, name: &str) -> Result<(), Shown> {
        let logs = context.client.logs(id, name, self.tail).await?;
        if context.is_json {
            return Ok(context.emit_json(&logs.json)?);
        }
        let lines: String = logs.value.lines.iter().map(|line| line_of(line)).collect();
        Ok(context.emit(lines.as_bytes())?)
    }

    async fn follow(&self, context: &Context, id: &str, name: &str) -> Result<(), Shown> {
        let (mut patience, mut place, mut tail) = (Patience::default(), None::<String>, None);
        loop {
            let opened =
                context.client.follow_logs(id, name, tail.unwrap_or(self.tail), place.as_deref()).await;
            let error = match opened {
                Ok(mut stream) => {
                    // Without a place there was no log: all of it is new.
                    tail = Some(TAIL_MAX);
                    patience.renew();
                    show_until_lost(context, &mut stream, &mut place).await?
                }
                // The first connection is not tried twice.
                Err(error) if tail.is_none() => return Err(error.into()),
                // The sandbox is gone, and its log with it.
                Err(error) if error.refusal().is_some_and(|r| r.status == StatusCode::NOT_FOUND) => {
                    return Ok(());
                }
                Err(error) => error,
            };
            let failed = |error| context.failure(format!("follow the log of {name} in sandbox {id}"), error);
            patience.wait(context, error).await.map_err(failed)?;
        }
    }

    /// Shows the output of a process that was started.
    async fn started(&self, context: &Context, id: &str, given: &str, names: &[&str]) -> Result<(), Failure> {
        let process = match resolve_process(context, id, given).await {
            Ok(process) => process,
            Err(Failure::NoProcess { .. }) => {
                return Err(Failure::NoLog {
                    given: given.to_owned(),
                    names: names.iter().map(|&name| name.to_owned()).collect(),
                });
            }
            Err(failure) => return Err(failure),
        };
        let mut signals = Signals::catch()?;
        let attached = Attached {
            context,
            sandbox: id,
            process: &process.id,
            from: 0,
            follow: self.follow,
            is_tty: false,
            forwards: false,
            owns: false,
        };
        let mut sink = if context.is_json { Sink::Kept(Kept::default()) } else { Sink::through() };
        let outcome = attached.run(&mut signals, &mut sink).await?;
        if let (Sink::Kept(kept), Outcome::Exit(_) | Outcome::Left) = (&sink, outcome) {
            let text = [kept.stdout.as_slice(), kept.stderr.as_slice()].concat();
            let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
            context.emit_value(&serde_json::json!({"lines": lines, "process": process.id}))?;
        }
        Ok(())
    }
}

/// Shows what comes until the connection is lost, and says why it is; `place` is where to go on.
async fn show_until_lost(
    context: &Context,
    stream: &mut EventStream<'_>,
    place: &mut Option<String>,
) -> Result<ClientError, Failure> {
    loop {
        let events = match reconnect::next(stream).await {
            Ok(events) => events,
            Err(error) => return Ok(error),
        };
        for event in events {
            show(context, &event)?;
        }
        *place = stream.last_id().map(str::to_owned);
    }
}

/// What kept a log from being shown.
enum Shown {
    Client(ClientError),
    Failure(Failure),
}

impl From<ClientError> for Shown {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<Failure> for Shown {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

fn is_not_found(error: &ClientError) -> bool {
    error.refusal().is_some_and(|refusal| matches!(refusal.status.as_u16(), 400 | 404))
}

fn choose<'a>(names: &[&'a str]) -> Result<&'a str, Failure> {
    match names {
        names if names.contains(&"web") => Ok("web"),
        [] => Err(Failure::Usage(
            "show a log: no app runs there (`sandbox.yaml` in its app directory would say what to run); \
             give the id of a process that was started, as `sandboxctl ps` shows it"
                .to_owned(),
        )),
        [name] => Ok(name),
        names => Err(Failure::Usage(format!("choose a log: there are {}", names.join(", ")))),
    }
}

fn show(context: &Context, event: &ServerEvent) -> Result<(), Failure> {
    if event.event == "gap" {
        context.note("sandboxctl: more was written than is kept; some lines are missing here");
        return Ok(());
    }
    if context.is_json {
        return context.emit_json(event.data.as_bytes());
    }
    let data: serde_json::Value = serde_json::from_str(&event.data).unwrap_or_default();
    match data.get("line").and_then(serde_json::Value::as_str) {
        Some(line) => context.emit(line_of(line).as_bytes()),
        None => Ok(()),
    }
}

/// A line of a log, without what would drive the terminal; tabs and colours stay out of logs for people too.
fn line_of(line: &str) -> String {
    format!("{}\n", line.split('\t').map(printable).collect::<Vec<_>>().join("\t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_that_is_meant_is_chosen() {
        assert_eq!(choose(&["worker", "web"]).unwrap(), "web");
        assert_eq!(choose(&["worker"]).unwrap(), "worker");
        assert!(matches!(choose(&[]), Err(Failure::Usage(text)) if text.contains("sandbox.yaml")));
        assert!(matches!(choose(&["a", "b"]), Err(Failure::Usage(text)) if text.contains("a, b")));
    }

    #[test]
    fn lines_keep_their_tabs_only() {
        assert_eq!(line_of("a\tb\x1b[2J"), "a\tb\u{fffd}[2J\n");
    }
}
