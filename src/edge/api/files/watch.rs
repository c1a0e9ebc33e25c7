//! Changes of files as server-sent events.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use crate::api::app::App;
use crate::api::error::ApiError;
use crate::api::extract::{Id, Query};
use crate::api::files::terms::{base_of, core};
use sandbox::FileNews;
use wire::{FileChange, FileQuery, V1Error};

/// Follow changes in a directory
///
/// A stream of server-sent events that ends with the directory.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/watch", tag = "files", params(("id" = String, Path), FileQuery), responses(
    (status = 200, description = "Server-sent events: `change` with a FileChange, and `overflow` where some were missed. With `recursive` also in directories beneath, without node_modules, .git, dist and .vite. It ends with the directory",
        content_type = "text/event-stream", body = FileChange),
    (status = 400, body = V1Error), (status = 404, body = V1Error), (status = 413, body = V1Error), (status = 429, body = V1Error)))]
pub(in crate::api) async fn watch(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<FileQuery>,
) -> Result<Response, ApiError> {
    let base = base_of(query.base.as_deref())?;
    let watch = app.supervisor.watch_files(id, base, &query.path, query.recursive).await.map_err(core)?;
    let events = stream::unfold(watch, |mut watch| async {
        let news = watch.next().await?;
        Some((Ok::<_, Infallible>(event(news)), watch))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(app.config.keep_alive)).into_response())
}

fn event(news: FileNews) -> Event {
    match news {
        FileNews::Change { path, kind, from } => {
            let data = serde_json::to_string(&FileChange { path, kind, from }).unwrap_or_default();
            Event::default().event("change").data(data)
        }
        FileNews::Overflow => Event::default().event("overflow").data("{}"),
    }
}
