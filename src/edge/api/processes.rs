//! Processes and terminals.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, Path, Request, State, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;

use super::convert::{is_root, time};
use super::error::{ApiError, Style};
use super::{large, process_events, process_socket};
use crate::api::app::App;
use crate::api::extract::{Body1, Id, Query};
use crate::api::respond::Json;
use model::{Environment, SandboxId};
use sandbox::{Error, Follower, Process, ProcessId, ProcessRequest, Purpose, Target};
use wire::{
    OutputQuery, ProcessBody, ProcessList, ProcessOutput, RunningProcess, SignalBody, SizeBody, StdinQuery,
    TerminalQuery, V1Error,
};

/// The size of a terminal whose client says none.
const TERMINAL_SIZE: (u16, u16) = (80, 24);
/// Names the process behind a terminal.
const PROCESS_ID: &str = "x-process-id";

/// The process that the path names.
#[derive(Debug)]
pub(super) struct Named(SandboxId, ProcessId);

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Start a process
///
/// It runs whether or not a client looks, and its output is kept for followers.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes", tag = "processes", params(("id" = String, Path)), request_body = ProcessBody, responses(
    (status = 201, description = "It runs, whether or not anybody looks", body = RunningProcess),
    (status = 400, description = "Or the command cannot be started", body = V1Error), (status = 404, body = V1Error),
    (status = 429, description = "Too many run in this sandbox", body = V1Error), (status = 502, body = V1Error), (status = 503, body = V1Error)))]
pub(super) async fn start(
    State(app): State<App>,
    Id(id): Id,
    Body1(body): Body1<ProcessBody>,
) -> Result<Response, ApiError> {
    let root = is_root(body.user.as_deref()).map_err(|text| Style::V1.invalid(text))?;
    let env = Environment::new(body.env).map_err(|e| Style::V1.invalid(format!("env: {e}")))?;
    let request = ProcessRequest {
        env,
        cwd: body.cwd,
        root,
        tty: body.tty.map(|size| (size.cols, size.rows)),
        input: body.stdin,
        timeout: body.timeout_s.map(Duration::from_secs),
        detach: body.detach,
        output_bytes: body.output_bytes,
        ..ProcessRequest::of(body.cmd, Purpose::Process)
    };
    let is_awaited = !request.detach;
    let follower = app.supervisor.start_process(id, request).await.map_err(core)?;
    let answer = (StatusCode::CREATED, Json(view(follower.process()))).into_response();
    if is_awaited {
        follower.keep_place();
    }
    Ok(answer)
}

/// List processes
///
/// Those that clients have started, the newest first; ended ones are kept for a while.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes", tag = "processes", params(("id" = String, Path)), responses(
    (status = 200, description = "The newest first; ended ones are kept for a while", body = ProcessList), (status = 404, body = V1Error)))]
pub(super) async fn list(State(app): State<App>, Id(id): Id) -> Result<Response, ApiError> {
    let found = app.supervisor.processes(id).await.map_err(core)?;
    let found = found.into_iter().map(|process| view(&process));
    Ok(large::list("{\"processes\":[", found, "]}\n".to_owned()))
}

/// Show a process
///
/// Whether it runs, and how it ended.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{pid}", tag = "processes",
    params(("id" = String, Path), ("pid" = String, Path, description = "The process's id")), responses(
    (status = 200, body = RunningProcess), (status = 404, body = V1Error)))]
pub(super) async fn show(State(app): State<App>, named: Named) -> Result<Json<RunningProcess>, ApiError> {
    Ok(Json(view(&find(&app, &named).await?)))
}

/// Kill a process and forget it
///
/// With everything that it has started.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/processes/{pid}", tag = "processes",
    params(("id" = String, Path), ("pid" = String, Path)), responses(
    (status = 204, description = "It is killed with everything that it had started, and forgotten"),
    (status = 404, body = V1Error), (status = 409, body = V1Error)))]
pub(super) async fn delete(
    State(app): State<App>,
    Named(id, process): Named,
) -> Result<StatusCode, ApiError> {
    app.supervisor.delete_process(id, process).await.map_err(core)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Follow a process's output
///
/// From its beginning or from an offset, as server-sent events or over a WebSocket.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{pid}/output", tag = "processes",
    params(("id" = String, Path), ("pid" = String, Path), OutputQuery), responses(
    (status = 200, description = "Server-sent events: `stdout` and `stderr` with `{\"offset\",\"text\"}` or `{\"offset\",\"base64\"}`, `dropped` with `{\"from\",\"to\"}`, at last `exit` with `{\"exit_code\",\"signal\"?,\"timed_out\"?}`; the id of each is the offset after it",
        content_type = "text/event-stream"),
    (status = 101, description = "A WebSocket. From the server: binary frames of one byte stream (1 stdout, 2 stderr), eight bytes offset (big-endian) and the bytes; text frames `{\"dropped\":{\"from\",\"to\"}}` and `{\"exit\":{…}}`. From the client: binary frames are input; text frames `{\"eof\":true}`, `{\"signal\":\"INT\"}`, `{\"resize\":{\"cols\",\"rows\"}}`"),
    (status = 400, body = V1Error), (status = 404, body = V1Error)))]
pub(super) async fn output(
    State(app): State<App>,
    named: Named,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let process = find(&app, &named).await?;
    let resumed = headers.get("last-event-id").and_then(|v| v.to_str().ok()?.parse().ok());
    let follower = Follower::new(process, resumed.unwrap_or(query.from)).map_err(core)?;
    let waits = query.follow.unwrap_or(true);
    if !headers.contains_key(header::UPGRADE) {
        return Ok(process_events::stream(follower, waits, app.config.keep_alive));
    }
    let keep_alive = app.config.keep_alive;
    Ok(match upgrade {
        Ok(upgrade) => process_socket::accept(upgrade, move |socket| async move {
            // Whoever leaves, and why, changes nothing for the process.
            let _any: process_socket::Left =
                process_socket::serve(socket, follower, process_socket::Form::Framed, waits, keep_alive)
                    .await;
        }),
        Err(rejection) => return Err(Style::V1.no_socket(&rejection)),
    })
}

/// Write to a process's standard input
///
/// The body is written as it is.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{pid}/stdin", tag = "processes",
    params(("id" = String, Path), ("pid" = String, Path), StdinQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 204, description = "The process has room for all of it"), (status = 404, body = V1Error),
    (status = 409, description = "It has no input, has closed it, or does not read it", body = V1Error)))]
pub(super) async fn stdin(
    State(app): State<App>,
    named: Named,
    Query(query): Query<StdinQuery>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let process = find(&app, &named).await?;
    let mut body = request.into_body();
    // No faster than the process reads: what is not taken stays with the client.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_e| Style::V1.invalid("the body broke off"))?;
        if let Ok(bytes) = frame.into_data() {
            process.write(&bytes).await.map_err(core)?;
        }
    }
    if query.eof {
        process.close_input().await.map_err(core)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Send a signal to a process
///
/// To the process, to its group, or to everything that it has ever started.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{pid}/signal", tag = "processes",
    params(("id" = String, Path), ("pid" = String, Path)), request_body = SignalBody, responses(
    (status = 204, description = "Sent"), (status = 400, body = V1Error), (status = 404, body = V1Error),
    (status = 409, description = "It has ended; `tree` still reaches what it has left", body = V1Error)))]
pub(super) async fn signal(
    State(app): State<App>,
    named: Named,
    Body1(body): Body1<SignalBody>,
) -> Result<StatusCode, ApiError> {
    let target = match body.target.as_deref() {
        None | Some("group") => Target::Group,
        Some("process") => Target::Process,
        Some("tree") => Target::Tree,
        Some(_) => return Err(Style::V1.invalid("\"target\" is process, group or tree")),
    };
    find(&app, &named).await?.signal(&body.signal, target).await.map_err(core)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resize a process's terminal
///
/// Only a process with `tty` has one.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{pid}/resize", tag = "processes",
    params(("id" = String, Path), ("pid" = String, Path)), request_body = SizeBody, responses(
    (status = 204, description = "Done"), (status = 400, body = V1Error), (status = 404, body = V1Error),
    (status = 409, description = "It has no terminal", body = V1Error)))]
pub(super) async fn resize(
    State(app): State<App>,
    named: Named,
    Body1(size): Body1<SizeBody>,
) -> Result<StatusCode, ApiError> {
    find(&app, &named).await?.resize(size.cols, size.rows).await.map_err(core)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Open a terminal
///
/// A shell over a WebSocket.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/terminal", tag = "processes", params(("id" = String, Path), TerminalQuery), responses(
    (status = 101, description = "A WebSocket: binary frames both ways; the client's text frame `{\"resize\":{\"cols\",\"rows\"}}`. The header `X-Process-Id` names the shell, which can be followed again if the connection breaks"),
    (status = 400, body = V1Error), (status = 404, body = V1Error)))]
pub(super) async fn terminal(
    State(app): State<App>,
    Id(id): Id,
    Query(query): Query<TerminalQuery>,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| Style::V1.no_socket(&rejection))?;
    let root = is_root(query.user.as_deref()).map_err(|text| Style::V1.invalid(text))?;
    let size = (query.cols.unwrap_or(TERMINAL_SIZE.0), query.rows.unwrap_or(TERMINAL_SIZE.1));
    let cmd = vec!["bash".to_owned(), "-l".to_owned()];
    let env = [("TERM".to_owned(), "xterm-256color".to_owned())].into_iter().collect();
    let env = Environment::new(env).map_err(|e| Style::V1.invalid(e.to_string()))?;
    let request = ProcessRequest { env, root, tty: Some(size), ..ProcessRequest::of(cmd, Purpose::Terminal) };
    let follower = app.supervisor.start_process(id, request).await.map_err(core)?;
    let process = Arc::clone(follower.process());
    let name = process.id().to_string();
    let mut response = process_socket::accept(upgrade, move |socket| async move {
        let left =
            process_socket::serve(socket, follower, process_socket::Form::Raw, true, app.config.keep_alive)
                .await;
        match left {
            // Whoever closes the window has done with what is in it.
            process_socket::Left::Closed => app.supervisor.hang_up(id, &process),
            // Somebody may come back; until then nobody keeps the sandbox awake.
            process_socket::Left::Vanished => process.detach(),
            process_socket::Left::Ended => {}
        }
    });
    response
        .headers_mut()
        .extend(name.parse().ok().map(|value| (header::HeaderName::from_static(PROCESS_ID), value)));
    Ok(response)
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Ok(Path((id, process))) = path else { return Err(Style::V1.not_found("process not found")) };
        let id = id.parse().map_err(|_e| Style::V1.not_found("sandbox not found"))?;
        let process = process.parse().map_err(|()| Style::V1.not_found("process not found"))?;
        Ok(Self(id, process))
    }
}

async fn find(app: &App, Named(id, process): &Named) -> Result<Arc<Process>, ApiError> {
    app.supervisor.process(*id, *process).await.map_err(core)
}

fn view(process: &Arc<Process>) -> RunningProcess {
    let seen = process.snapshot();
    let ended = seen.ended.as_ref();
    let (start, end) = seen.output;
    RunningProcess {
        id: seen.id.to_string(),
        status: match ended {
            None => "running",
            Some(ended) if ended.is_lost => "lost",
            Some(_) => "exited",
        },
        pid: seen.pid,
        exited_at: ended.map(|ended| time(ended.at)),
        exit_code: ended.map(|ended| ended.exit_code),
        signal: ended.and_then(|ended| ended.signal.clone()),
        timed_out: ended.filter(|ended| ended.timed_out).map(|_| true),
        cmd: seen.cmd,
        cwd: seen.cwd,
        user: if seen.root { "root" } else { "sandbox" },
        tty: seen.tty,
        started_at: time(seen.started_at),
        output: ProcessOutput { start, end, dropped_bytes: start },
    }
}

fn core(error: Error) -> ApiError {
    Style::V1.of_core(&error)
}
