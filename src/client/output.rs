//! Follows a process over a WebSocket: its output by offset, and the way to its input.
//!
//! ```text
//! from the server: binary = stream (1 byte) + offset (8, big-endian) + bytes · text = {"dropped"} {"exit"}
//! to the server:   binary = input                                       · text = {"eof"} {"signal"} {"resize"}
//! ```
//!
//! The two directions are two values, so that a process that does not read its input never keeps its
//! output from being read. A mark ([`ProcessInput::mark`]) is a ping whose answer says that the server has taken
//! everything that was sent before it.

use bytes::{Buf as _, Bytes};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::processes::one;
use crate::error::ClientError;
use crate::error::OutputError;
use crate::processes::TerminalSize;
use crate::requests::Client;

/// The most bytes of one message; the server's pieces are far smaller.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a process did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    Output {
        stream: OutputStream,
        /// Of the first byte in the process's whole output.
        offset: u64,
        data: Bytes,
    },
    /// These bytes are no longer kept and will not come.
    Dropped { from: u64, to: u64 },
    /// The server has taken all input up to this mark.
    Marked(u64),
    /// The connection lives.
    Alive,
    /// The server could not do what it was sent.
    Complaint(String),
    /// Its end; nothing follows.
    Exit(ProcessExit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// A terminal's output too.
    Stdout,
    Stderr,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProcessExit {
    /// 128 + n after signal n.
    pub exit_code: i64,
    #[serde(default)]
    pub signal: Option<String>,
    #[serde(default)]
    pub timed_out: bool,
}

/// What a process writes.
#[derive(Debug)]
pub struct ProcessOutput(SplitStream<Socket>);

/// The way to a process's input.
#[derive(Debug)]
pub struct ProcessInput(SplitSink<Socket, Message>);

#[derive(Deserialize)]
struct Said {
    dropped: Option<Range>,
    exit: Option<ProcessExit>,
    error: Option<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

#[derive(Deserialize)]
struct Range {
    from: u64,
    to: u64,
}

impl Client {
    /// `GET …/processes/{process}/output?from=&follow=true` as a WebSocket.
    ///
    /// # Errors
    /// No connection, a refusal, or a server that does not speak WebSocket.
    pub async fn follow_process(
        &self,
        id: &str,
        process: &str,
        from: u64,
        follow: bool,
    ) -> Result<(ProcessInput, ProcessOutput), ClientError> {
        let key = generate_key();
        let path = format!("{}/output?from={from}&follow={follow}", one(id, process));
        let call = self
            .call(Method::GET, path)
            .with(CONNECTION, "Upgrade")
            .with(UPGRADE, "websocket")
            .with(SEC_WEBSOCKET_VERSION, "13")
            .with(SEC_WEBSOCKET_KEY, key.as_str());
        let exchange = self.exchange(call).await?;
        let accept = exchange.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().to_vec());
        if accept.as_deref() != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(OutputError::Form("it did not switch to WebSocket".to_owned()).into());
        }
        let upgraded = exchange.upgrade().await?;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
        let (sink, stream) = socket.split();
        Ok((ProcessInput(sink), ProcessOutput(stream)))
    }
}

impl ProcessOutput {
    /// Returns the next thing that happens; waits as long as it takes.
    ///
    /// # Errors
    /// The connection ended before the process did, or what came is not understood.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<ProcessEvent, OutputError> {
        match self.0.next().await {
            None => Err(OutputError::Closed),
            Some(Err(error)) => Err(OutputError::Socket(Box::new(error))),
            Some(Ok(message)) => read(message),
        }
    }
}

impl ProcessInput {
    /// Sends input.
    ///
    /// # Errors
    /// The connection ended.
    ///
    /// # Cancel safety
    /// None: a part may have been sent.
    pub async fn send(&mut self, data: Bytes) -> Result<(), OutputError> {
        self.message(Message::Binary(data)).await
    }

    /// Says that no more input comes.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn finish(&mut self) -> Result<(), OutputError> {
        self.text(&json!({"eof": true})).await
    }

    /// Tells the size of the terminal.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), OutputError> {
        self.text(&json!({"resize": size})).await
    }

    /// Asks for [`ProcessEvent::Marked`] when the server has taken everything sent so far.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn mark(&mut self, mark: u64) -> Result<(), OutputError> {
        self.message(Message::Ping(Bytes::copy_from_slice(&mark.to_be_bytes()))).await
    }

    async fn text(&mut self, value: &serde_json::Value) -> Result<(), OutputError> {
        self.message(Message::Text(Utf8Bytes::from(value.to_string()))).await
    }

    async fn message(&mut self, message: Message) -> Result<(), OutputError> {
        self.0.send(message).await.map_err(|error| OutputError::Socket(Box::new(error)))
    }
}

fn read(message: Message) -> Result<ProcessEvent, OutputError> {
    match message {
        Message::Binary(mut data) => {
            let stream = match data.first() {
                Some(1) => OutputStream::Stdout,
                Some(2) => OutputStream::Stderr,
                _ => return Err(OutputError::Form("a frame of no known stream".to_owned())),
            };
            if data.len() < 9 {
                return Err(OutputError::Form("a frame without an offset".to_owned()));
            }
            data.advance(1);
            let offset = data.get_u64();
            Ok(ProcessEvent::Output { stream, offset, data })
        }
        Message::Text(text) => {
            let said: Said =
                serde_json::from_str(&text).map_err(|error| OutputError::Form(error.to_string()))?;
            Ok(match said {
                Said { exit: Some(exit), .. } => ProcessEvent::Exit(exit),
                Said { dropped: Some(Range { from, to }), .. } => ProcessEvent::Dropped { from, to },
                Said { error: Some(Complaint { message }), .. } => ProcessEvent::Complaint(message),
                // What a later server may say besides.
                Said { .. } => ProcessEvent::Alive,
            })
        }
        Message::Pong(mark) => Ok(match <[u8; 8]>::try_from(mark.as_ref()) {
            Ok(bytes) => ProcessEvent::Marked(u64::from_be_bytes(bytes)),
            Err(_) => ProcessEvent::Alive,
        }),
        Message::Ping(_) | Message::Frame(_) => Ok(ProcessEvent::Alive),
        Message::Close(_) => Err(OutputError::Closed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_read() {
        let check = |message, event| assert_eq!(read(message).unwrap(), event);
        check(
            Message::Binary(Bytes::from_static(b"\x02\0\0\0\0\0\0\x01\x00err\xff")),
            ProcessEvent::Output {
                stream: OutputStream::Stderr,
                offset: 256,
                data: Bytes::from_static(b"err\xff"),
            },
        );
        check(
            Message::Text(r#"{"dropped":{"from":1,"to":9}}"#.into()),
            ProcessEvent::Dropped { from: 1, to: 9 },
        );
        let exit = ProcessExit { exit_code: 137, signal: Some("KILL".to_owned()), timed_out: true };
        check(
            Message::Text(r#"{"exit":{"exit_code":137,"signal":"KILL","timed_out":true}}"#.into()),
            ProcessEvent::Exit(exit),
        );
        check(
            Message::Text(r#"{"error":{"message":"it has no input"}}"#.into()),
            ProcessEvent::Complaint("it has no input".to_owned()),
        );
        check(Message::Text(r#"{"later":1}"#.into()), ProcessEvent::Alive);
        check(Message::Pong(Bytes::copy_from_slice(&7_u64.to_be_bytes())), ProcessEvent::Marked(7));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for message in [
            Message::Binary(Bytes::from_static(b"")),
            Message::Binary(Bytes::from_static(b"\x03\0\0\0\0\0\0\0\0x")),
            Message::Binary(Bytes::from_static(b"\x01\0\0\0")),
            Message::Text("nonsense".into()),
            Message::Text(r#"{"exit":{}}"#.into()),
        ] {
            assert!(matches!(read(message.clone()), Err(OutputError::Form(_))), "{message:?}");
        }
        assert!(matches!(read(Message::Close(None)), Err(OutputError::Closed)));
    }

    proptest! {
        #[test]
        fn no_frame_panics(data in proptest::collection::vec(any::<u8>(), 0..40), text in ".{0,40}") {
            drop(read(Message::Binary(data.into())));
            drop(read(Message::Text(text.into())));
        }
    }
}
