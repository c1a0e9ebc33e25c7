//! What runs in a sandbox by itself: presets, the manifest's validator, the logs of its processes.

use std::convert::Infallible;
use std::io::Write as _;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, StreamExt as _};

use super::error::{ApiError, Style};
use crate::api::app::App;
use crate::api::extract::{Body1, Query};
use crate::api::large;
use crate::api::respond::Json;
use model::SandboxId;
use model::manifest::Manifest;
use sandbox::{Error, LOG_LINES_MAX, LogNews, LogStart, Spool};
use wire::{LogLine, LogLines, LogQuery, ManifestBody, ManifestReport, Preset, PresetList, V1Error};

/// How many lines are shown when the client does not say.
const LINES: usize = 200;

/// List presets
///
/// A preset is a template and its ports; `runtime_preset` of a create names one.
#[utoipa::path(get, path = "/v1/presets", tag = "apps", responses((status = 200, body = PresetList)))]
pub(super) async fn presets(State(app): State<App>) -> Result<Json<PresetList>, ApiError> {
    let found = app.supervisor.presets().await.map_err(core)?;
    let convert = |preset: sandbox::Preset| Preset {
        template: preset.name.clone(),
        name: preset.name,
        description: preset.description,
        ports: preset.ports,
        process_names: preset.process_names,
    };
    Ok(Json(PresetList { presets: found.into_iter().map(convert).collect() }))
}

/// Check a `sandbox.yaml`
///
/// Changes nothing, and names everything that is wrong at once.
#[utoipa::path(post, path = "/v1/runtime/manifest/validate", tag = "apps", request_body = ManifestBody, responses(
    (status = 200, description = "Whether the manifest can be used, and if not, everything that is wrong", body = ManifestReport),
    (status = 400, body = V1Error)))]
pub(super) async fn validate(Body1(body): Body1<ManifestBody>) -> Json<ManifestReport> {
    let errors = Manifest::parse(body.manifest.as_bytes()).err().map(|e| e.0).unwrap_or_default();
    Json(ManifestReport { valid: errors.is_empty(), errors })
}

/// Read or follow the log of an app's process
///
/// The last `tail` lines; with `follow` a stream of server-sent events.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{name}/logs", tag = "apps",
    params(("id" = String, Path), ("name" = String, Path, description = "`web`, `build` or a worker's name"), LogQuery), responses(
    (status = 200, description = "The last lines; with `follow` server-sent events: `line` with {\"line\"}, and `gap` where more was printed than is kept; the id of each is a place, after which `Last-Event-ID` goes on", body = LogLines),
    (status = 400, body = V1Error), (status = 404, body = V1Error)))]
pub(super) async fn logs(
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // What is not an id is the id of nothing.
    let id: SandboxId = id.parse().map_err(|_e| Style::V1.not_found("sandbox not found"))?;
    let count = query.tail.unwrap_or(LINES);
    if count > LOG_LINES_MAX {
        return Err(Style::V1.invalid(format!("tail is from 0 to {LOG_LINES_MAX}")));
    }
    if !query.follow {
        // A name that is not a process's is refused, and what is one needs no quoting.
        let process = name.clone();
        let write = move |lines: &[String], into: &mut Spool| {
            into.write_all(b"{\"lines\":")?;
            large::write_list(into, lines.iter())?;
            into.write_all(format!(",\"process\":\"{process}\"}}\n").as_bytes())
        };
        return Ok(large::kept(app.supervisor.log_tail(id, &name, count, write).await.map_err(core)?));
    }
    let start = match headers.get("last-event-id") {
        None => LogStart::Tail(count),
        Some(place) => {
            LogStart::After(place.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
                Style::V1.invalid("Last-Event-ID is not a place in a log, as the events' ids are")
            })?)
        }
    };
    let (lines, follower) = app.supervisor.follow_log(id, &name, start).await.map_err(core)?;
    // A place to go on from, also for whoever has been told nothing yet.
    let place = if lines.is_empty() { follower.position() } else { None };
    let place = place.map(|place| Ok::<_, Infallible>(Event::default().id(place)));
    let first = stream::once(async { LogNews { lines, gap: false } });
    let later = stream::unfold(follower, |mut follower| async { Some((follower.next().await?, follower)) });
    let events = first.chain(later).flat_map(|news| stream::iter(events(news)));
    let events = stream::iter(place).chain(events);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(app.config.keep_alive)).into_response())
}

fn events(news: LogNews) -> impl Iterator<Item = Result<Event, Infallible>> {
    let line = |line: sandbox::LogLine| {
        let data = serde_json::to_string(&LogLine { line: line.text }).unwrap_or_default();
        Ok(Event::default().id(line.after.to_string()).event("line").data(data))
    };
    let gap = news.gap.then(|| Ok(Event::default().event("gap").data("{}")));
    news.lines.into_iter().map(line).chain(gap)
}

fn core(error: Error) -> ApiError {
    Style::V1.of_core(&error)
}
