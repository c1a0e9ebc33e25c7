//! A process's output as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use sandbox::{Follower, Piece, ProcessEnd, Stream};

/// How much output one event has: a byte of a program is up to six of JSON.
const PIECE_BYTES: u64 = 16 * 1024;
/// How long the rest of a character is waited for.
const REST_OF_CHARACTER: Duration = Duration::from_millis(50);

/// What is still to be sent.
struct Events {
    follower: Follower,
    waits: bool,
    /// How often something is sent when nothing happens.
    keep_alive: Duration,
    /// The beginning of a character whose rest has not come yet, and where it lies.
    begun: Option<(Stream, u64, Vec<u8>)>,
}

/// Streams it; without `waits` it ends with what is there.
pub(super) fn stream(follower: Follower, waits: bool, keep_alive: Duration) -> Response {
    let begin = Events { follower: follower.in_pieces_of(PIECE_BYTES), waits, keep_alive, begun: None };
    let events = stream::unfold(begin, |mut events| async {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(bytes), events))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // For nginx, which would gather it otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let patience = if self.begun.is_some() { REST_OF_CHARACTER } else { self.keep_alive };
            let piece = match tokio::time::timeout(patience, self.follower.next(self.waits, 0)).await {
                Ok(piece) => piece,
                Err(_elapsed) => match self.begun.take() {
                    Some((stream, offset, bytes)) => return Some(output(stream, offset, &bytes)),
                    None => return Some(Bytes::from_static(b": keep-alive\n\n")),
                },
            };
            let early = match &piece {
                Some(Piece::Output { stream, .. }) => self.begun.take_if(|(begun, _, _)| begun != stream),
                Some(Piece::Dropped { .. } | Piece::Ended(_) | Piece::Cut) | None => self.begun.take(),
            };
            let mut sent = early.map(|(stream, offset, bytes)| output(stream, offset, &bytes).to_vec());
            match piece {
                Some(Piece::Output { stream, offset, bytes }) => {
                    if let Some(whole) = self.characters(stream, offset, bytes) {
                        sent.get_or_insert_default().extend_from_slice(&whole);
                    }
                }
                Some(Piece::Dropped { from, to }) => {
                    let text = event(to, "dropped", &json!({ "from": from, "to": to }));
                    sent.get_or_insert_default().extend_from_slice(&text);
                }
                Some(Piece::Ended(end)) => {
                    let text = event(self.follower.process().output_end(), "exit", &exit(&end));
                    sent.get_or_insert_default().extend_from_slice(&text);
                }
                Some(Piece::Cut) | None => return sent.map(Bytes::from),
            }
            if let Some(sent) = sent {
                return Some(sent.into());
            }
        }
    }

    /// The piece without the character that it may end within, which is kept for the next one.
    fn characters(&mut self, stream: Stream, offset: u64, bytes: Vec<u8>) -> Option<Bytes> {
        let (offset, bytes) = match self.begun.take() {
            Some((_, begun_at, mut begun)) => {
                begun.extend_from_slice(&bytes);
                (begun_at, begun)
            }
            None => (offset, bytes),
        };
        let cut = match std::str::from_utf8(&bytes) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => bytes.len(),
        };
        let (whole, begun) = bytes.split_at(cut);
        if !begun.is_empty() {
            self.begun = Some((stream, offset + cut as u64, begun.to_vec()));
        }
        (!whole.is_empty()).then(|| output(stream, offset, whole))
    }
}

/// How a process ended, for clients.
pub(super) fn exit(end: &ProcessEnd) -> Value {
    let mut value = json!({ "exit_code": end.exit_code });
    if let Some(signal) = &end.signal {
        value["signal"] = signal.as_str().into();
    }
    if end.timed_out {
        value["timed_out"] = true.into();
    }
    value
}

fn output(stream: Stream, offset: u64, bytes: &[u8]) -> Bytes {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let data = match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "offset": offset, "text": text }),
        Err(_) => {
            json!({ "offset": offset, "base64": base64::engine::general_purpose::STANDARD.encode(bytes) })
        }
    };
    event(offset + bytes.len() as u64, name, &data)
}

/// JSON has no line breaks of its own, so one `data` line holds it.
fn event(id: u64, name: &str, data: &Value) -> Bytes {
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_text_or_base64() {
        let text = output(Stream::Stdout, 7, "zwei\nZeilen ü".as_bytes());
        assert_eq!(text, "id: 21\nevent: stdout\ndata: {\"offset\":7,\"text\":\"zwei\\nZeilen ü\"}\n\n");
        let bytes = output(Stream::Stderr, 0, b"\xff\n");
        assert_eq!(bytes, "id: 2\nevent: stderr\ndata: {\"base64\":\"/wo=\",\"offset\":0}\n\n");
    }
}
