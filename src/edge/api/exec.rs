//! The compatible exec: an answer in one piece, or a stream.

use std::convert::Infallible;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

use super::convert::is_root;
use super::error::{ApiError, Style};
use super::extract::Id;
use super::ignored::Tolerant;
use super::large;
use super::quoted::Quoted;
use crate::api::app::App;
use sandbox::{ExecEvent, ExecRequest, Kept};
use telemetry::phase;
use wire::{CompatError, Exec, ExecBody};

/// How much of stderr a stream keeps for its end.
const STREAM_STDERR_BYTES_MAX: usize = 1024 * 1024;

/// Run a command and wait for its end
///
/// Wakes the sandbox where needed. The command runs in `~/workspace`. With `stream` the answer is plain
/// text as it comes; otherwise it is JSON, of at most 16 MiB a stream.
#[utoipa::path(post, path = "/sandbox/{id}/exec", tag = "sandboxes", params(("id" = String, Path)), request_body = ExecBody, responses(
    (status = 200, description = "The command has ended; with `stream` plain text as it comes: stdout, then `---stderr---` and stderr if there is any, then `exit_code: N`", content((Exec = "application/json"), (String = "text/plain"))),
    (status = 400, body = CompatError), (status = 404, body = CompatError), (status = 503, body = CompatError)))]
pub(super) async fn exec(
    State(app): State<App>,
    Id(id): Id,
    Tolerant { body, warnings }: Tolerant<ExecBody>,
) -> Result<Response, ApiError> {
    let begun = Instant::now();
    let failed = |error: sandbox::Error| Style::Compat.of_core(&error);
    let root = is_root(body.user.as_deref()).map_err(|text| Style::Compat.invalid(text))?;
    let request = ExecRequest { cmd: body.cmd, root, ..ExecRequest::default() };
    let exec = app.supervisor.exec(id, request).await.map_err(failed)?;
    if body.stream {
        return Ok(streamed(exec));
    }
    let answer = phase("run", collect(exec, &warnings)).await.map_err(failed)?;
    app.metrics.observe_exec(begun.elapsed());
    Ok(large::kept(answer))
}

/// Gathers all of it and makes the answer, of which what is large is kept outside the daemon's memory.
async fn collect(mut exec: sandbox::Exec, warnings: &[String]) -> Result<Kept, sandbox::Error> {
    let mut stdout = Some(Quoted::begin(exec.keep(), b"{\"stdout\":\""));
    let mut stderr = Some(Quoted::begin(exec.keep(), b"\",\"stderr\":\""));
    let mut exit_code = 0;
    while let Some(event) = exec.next().await? {
        let (kept, bytes) = match event {
            ExecEvent::Stdout(bytes) => (&mut stdout, bytes),
            ExecEvent::Stderr(bytes) => (&mut stderr, bytes),
            ExecEvent::Exited(code) => {
                exit_code = code;
                continue;
            }
        };
        let Some(mut quoted) = kept.take() else { continue };
        if quoted.fits(bytes.len()) {
            quoted.push(&bytes);
        } else {
            // It may have to wait for the disk.
            let push = move || {
                quoted.push(&bytes);
                Ok(quoted)
            };
            quoted = exec.on_a_thread(push).await?;
        }
        *kept = Some(quoted);
    }
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else { return Err(sandbox::Error::Panicked) };
    stdout.end();
    stderr.end();
    let truncated = if stdout.truncated || stderr.truncated { ",\"truncated\":true" } else { "" };
    let warnings = match serde_json::to_string(warnings) {
        Ok(list) if !warnings.is_empty() => format!(",\"warnings\":{list}"),
        _ => String::new(),
    };
    stderr.spool.append(format!("\",\"exit_code\":{exit_code}{truncated}{warnings}}}\n").as_bytes());
    Ok(exec.kept([stdout.spool, stderr.spool]))
}

/// What a stream still has to say.
enum Part {
    Running { exec: Box<sandbox::Exec>, stderr: Vec<u8>, cut: bool },
    Done,
}

fn streamed(exec: sandbox::Exec) -> Response {
    let begin = Part::Running { exec: Box::new(exec), stderr: Vec::new(), cut: false };
    let pieces = stream::unfold(begin, |part| async {
        let Part::Running { mut exec, mut stderr, mut cut } = part else { return None };
        loop {
            match exec.next().await {
                Ok(Some(ExecEvent::Stdout(bytes))) => {
                    return Some((piece(bytes), Part::Running { exec, stderr, cut }));
                }
                Ok(Some(ExecEvent::Stderr(bytes))) => {
                    cut |= !keep(&mut stderr, &bytes, STREAM_STDERR_BYTES_MAX);
                }
                Ok(Some(ExecEvent::Exited(code))) => {
                    return Some((piece(end(&stderr, cut, code)), Part::Done));
                }
                Ok(None) => return None,
                // The status has been sent: the end of the stream has to say it.
                Err(error) => {
                    tracing::error!(error = %sandbox::chain(&error), "a command's output was cut off");
                    let text = format!("---stderr---\nsandboxd: {}\nexit_code: -1\n", error.message());
                    return Some((piece(text.into()), Part::Done));
                }
            }
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn piece(bytes: Bytes) -> Result<Bytes, Infallible> {
    Ok(bytes)
}

fn end(stderr: &[u8], cut: bool, code: i32) -> Bytes {
    let mut tail = Vec::new();
    if !stderr.is_empty() {
        tail.extend_from_slice(b"---stderr---\n");
        tail.extend_from_slice(stderr);
        if cut {
            tail.extend_from_slice(b"\n(stderr was cut at 1 MiB)");
        }
        if tail.last() != Some(&b'\n') {
            tail.push(b'\n');
        }
    }
    tail.extend_from_slice(format!("exit_code: {code}\n").as_bytes());
    tail.into()
}

/// Appends as much as fits; false when something did not.
fn keep(kept: &mut Vec<u8>, bytes: &[u8], max: usize) -> bool {
    let room = max.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
    room == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_stream_has_its_form() {
        assert_eq!(end(b"", false, 0), "exit_code: 0\n");
        assert_eq!(end(b"oops", false, 3), "---stderr---\noops\nexit_code: 3\n");
    }

    #[test]
    fn output_is_cut_at_the_limit() {
        let mut kept = Vec::new();
        assert!(keep(&mut kept, b"abc", 5) && !keep(&mut kept, b"def", 5));
        assert_eq!(kept, b"abcde");
    }
}
