//! The events of sandboxes as server-sent events — html.spec.whatwg.org/multipage/server-sent-events.html.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::convert;
use super::error::{ApiError, Style};
use super::extract::Query;
use crate::api::app::App;
use model::SandboxId;
use sandbox::{Notice, Subscription};
use wire::{EventsQuery, V1Error};

/// How many readers may follow at once.
pub(super) const READERS_MAX: usize = 256;
const LAST_EVENT_ID: &str = "last-event-id";

/// Follow what happens to sandboxes
///
/// A stream of server-sent events that does not end. `Last-Event-ID` resumes it.
#[utoipa::path(get, path = "/v1/events", tag = "v1", params(EventsQuery), responses(
    (status = 200, description = "Server-sent events: `id` is the number, `event` is `sandbox.created`, `.running`, `.paused`, `.stopped`, `.deleted`, `.oom` or `.error`, `data` an EventData. `event: missed` says which numbers are not kept any more. `Last-Event-ID` resumes", content_type = "text/event-stream", body = wire::EventData),
    (status = 400, body = V1Error), (status = 429, body = V1Error)))]
pub(super) async fn follow(
    State(app): State<App>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let invalid = |text: &str| Style::V1.invalid(text);
    let sandbox: Option<SandboxId> =
        query.sandbox.map(|s| s.parse().map_err(|_e| invalid("sandbox is not an id"))).transpose()?;
    // What the client has seen last wins: a browser repeats the query when it connects again.
    let last = headers.get(LAST_EVENT_ID).map(|v| v.to_str().ok().and_then(|t| t.trim().parse::<u64>().ok()));
    let after = match last {
        Some(Some(last)) => Some(last),
        Some(None) => return Err(invalid("Last-Event-ID is not a number of ours")),
        None => query.from,
    };
    let Ok(permit) = Arc::clone(&app.event_readers).try_acquire_owned() else {
        let text = format!("{READERS_MAX} clients follow events already");
        return Err(Style::V1.error(StatusCode::TOO_MANY_REQUESTS, "rate_limited", text));
    };
    let begin = (app.supervisor.events(after, sandbox), permit);
    let keep_alive = app.config.keep_alive;
    let pieces =
        stream::unfold(begin, move |(mut events, permit): (Subscription, OwnedSemaphorePermit)| async move {
            let piece = match tokio::time::timeout(keep_alive, events.next()).await {
                Ok(notice) => text(&notice?),
                Err(_elapsed) => ": still here\n\n".to_owned(),
            };
            Some((Ok::<_, Infallible>(Bytes::from(piece)), (events, permit)))
        });
    let mut response = Response::new(Body::from_stream(pieces));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn text(notice: &Notice) -> String {
    match notice {
        Notice::Event(event) => {
            let data = serde_json::to_string(&convert::event(event)).unwrap_or_default();
            format!("id: {}\nevent: {}\ndata: {data}\n\n", event.seq, event.what.name())
        }
        // Its id is the last of the missing ones: a reader that resumes after it goes on where it should.
        Notice::Missed { from, to } => {
            format!("id: {to}\nevent: missed\ndata: {{\"from\":{from},\"to\":{to}}}\n\n")
        }
    }
}
