//! A process over a WebSocket: its output to the client, the client's input to it.
//!
//! Both directions go on by themselves: a client that writes much before it reads, and a process that
//! writes much before it reads, do not lock each other out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::process_events::exit;
use sandbox::{Follower, Piece, Process, Stream, Target};
use wire::SizeBody;

/// The protocol that is chosen if it is offered.
const PROTOCOL: &str = "sandboxd.v1";
/// The most that a client sends at once.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// In front of a piece of output: stream and offset.
const HEADROOM: usize = 9;
/// A client that has said nothing for so many keep-alives has gone.
const SILENCES_MAX: u32 = 4;
/// How long a client may take to answer the close, or to take what is last sent to it.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How many complaints may wait to be sent.
const COMPLAINTS: usize = 8;

/// How output is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// With stream and offset in front.
    Framed,
    /// As it is.
    Raw,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The client has closed it.
    Closed,
    /// The client was cut off, or has fallen silent.
    Vanished,
    /// The process has ended, or the client was let go.
    Ended,
}

/// What a client says in a text frame.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    eof: Option<bool>,
    signal: Option<String>,
    target: Option<String>,
    resize: Option<SizeBody>,
}

/// Takes the upgrade.
pub(super) fn accept<F>(
    upgrade: WebSocketUpgrade,
    serve: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    upgrade
        .protocols([PROTOCOL])
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .on_upgrade(serve)
}

/// Serves a client until it or the process has gone.
pub(super) async fn serve(
    socket: WebSocket,
    follower: Follower,
    form: Form,
    waits: bool,
    keep_alive: Duration,
) -> Left {
    let (sink, stream) = socket.split();
    let (complain, complaints) = mpsc::channel(COMPLAINTS);
    let process = Arc::clone(follower.process());
    let mut reading = std::pin::pin!(read(stream, process, complain, keep_alive * SILENCES_MAX));
    let writing = write(sink, follower, form, waits, keep_alive, complaints);
    tokio::select! {
        left = &mut reading => left,
        sink = writing => {
            // The client's answer to the close; whatever else it says is late.
            drop(tokio::time::timeout(CLOSE_DEADLINE, reading).await);
            drop(sink);
            Left::Ended
        }
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut follower: Follower,
    form: Form,
    waits: bool,
    keep_alive: Duration,
    mut complaints: mpsc::Receiver<String>,
) -> SplitSink<WebSocket, Message> {
    let headroom = if form == Form::Framed { HEADROOM } else { 0 };
    let mut keep_alive = tokio::time::interval(keep_alive);
    keep_alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    keep_alive.reset();
    let (code, reason) = loop {
        let message = tokio::select! {
            piece = follower.next(waits, headroom) => match piece {
                Some(Piece::Output { stream, offset, bytes }) => framed(form, stream, offset, bytes),
                Some(Piece::Dropped { .. }) if form == Form::Raw => continue,
                Some(Piece::Dropped { from, to }) => text(&json!({ "dropped": { "from": from, "to": to } })),
                Some(Piece::Ended(_)) if form == Form::Raw => break (close_code::NORMAL, "the process has ended"),
                Some(Piece::Ended(end)) => text(&json!({ "exit": exit(&end) })),
                Some(Piece::Cut) => break (close_code::AGAIN, "the output was not read for too long"),
                None => break (close_code::NORMAL, ""),
            },
            Some(complaint) = complaints.recv() => text(&json!({ "error": { "message": complaint } })),
            _ = keep_alive.tick() => Message::Ping(Bytes::new()),
        };
        let sent = tokio::select! {
            sent = sink.send(message) => sent,
            () = follower.cut() => break (close_code::AGAIN, "the output was not read for too long"),
        };
        if sent.is_err() {
            // The other half sees it too.
            std::future::pending::<()>().await;
        }
    };
    drop(follower);
    let close = Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }));
    drop(tokio::time::timeout(CLOSE_DEADLINE, sink.send(close)).await);
    sink
}

async fn read(
    mut stream: SplitStream<WebSocket>,
    process: Arc<Process>,
    complain: mpsc::Sender<String>,
    patience: Duration,
) -> Left {
    loop {
        let Ok(Some(Ok(message))) = tokio::time::timeout(patience, stream.next()).await else {
            return Left::Vanished;
        };
        let done = match message {
            Message::Binary(bytes) => process.write(&bytes).await.map_err(|e| e.message()),
            Message::Text(text) => obey(&process, &text).await,
            Message::Ping(_) | Message::Pong(_) => Ok(()),
            Message::Close(_) => {
                // The answer goes out with the next read.
                drop(tokio::time::timeout(CLOSE_DEADLINE, stream.next()).await);
                return Left::Closed;
            }
        };
        if let Err(complaint) = done {
            // Beyond a few that wait the client does not read them anyway.
            let _full: Result<(), _> = complain.try_send(complaint);
        }
    }
}

async fn obey(process: &Process, text: &str) -> Result<(), String> {
    let order: Order = serde_json::from_str(text).map_err(|e| format!("bad text frame: {e}"))?;
    if let Some(size) = order.resize {
        process.resize(size.cols, size.rows).await.map_err(|e| e.message())?;
    }
    if let Some(signal) = order.signal {
        let target = match order.target.as_deref() {
            None | Some("group") => Target::Group,
            Some("process") => Target::Process,
            Some("tree") => Target::Tree,
            Some(_) => return Err("\"target\" is process, group or tree".to_owned()),
        };
        process.signal(&signal, target).await.map_err(|e| e.message())?;
    }
    if order.eof == Some(true) {
        process.close_input().await.map_err(|e| e.message())?;
    }
    Ok(())
}

fn framed(form: Form, stream: Stream, offset: u64, mut bytes: Vec<u8>) -> Message {
    if form == Form::Framed
        && let Some((head, _)) = bytes.split_first_chunk_mut::<HEADROOM>()
    {
        head[0] = match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        head[1..].copy_from_slice(&offset.to_be_bytes());
    }
    Message::Binary(bytes.into())
}

fn text(value: &Value) -> Message {
    Message::Text(value.to_string().into())
}
