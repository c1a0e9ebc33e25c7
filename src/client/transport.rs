//! HTTP/1.1 to one server: kept connections, deadlines, bounded bodies.
//!
//! ```text
//! take an idle connection, or connect → send → head → body read to its end → the connection is idle again
//! ```
//!
//! A connection is idle only after the last byte of an answer was read, so an abandoned answer costs its
//! connection and can never be taken for the next one's. A request is sent a second time only when
//! the first connection is known not to have carried any of it.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::endpoint::Endpoint;

/// The most idle connections that are kept.
const IDLE_MAX: usize = 8;
/// A connection that idled longer is not used again: servers close theirs after about half a minute,
/// and a request that crosses the close is lost without an answer.
const IDLE_AGE_MAX: Duration = Duration::from_secs(15);
/// How long an idle connection may take to say that it is ready; a live one says so at once.
const READY_WAIT: Duration = Duration::from_millis(200);

type Sender = SendRequest<RequestBody>;

/// What a request carries: bytes at hand, or a stream that may fail.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// For an answer's head, and once more for its body, of requests that name no time of their own.
    pub answer: Duration,
}

impl Default for Timeouts {
    /// A server on this machine connects in microseconds; waking or creating may be held back by a
    /// busy host, and a minute is past every deadline of the server's own.
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), answer: Duration::from_secs(60) }
    }
}

/// Why no complete answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("connect to {server}")]
    Connect {
        server: String,
        #[source]
        source: io::Error,
    },
    #[error("connect to {server} within {} s", after.as_secs_f32())]
    ConnectTimeout { server: String, after: Duration },
    #[error("get an answer from {server} within {} s", after.as_secs_f32())]
    AnswerTimeout { server: String, after: Duration },
    #[error("exchange HTTP with {server}")]
    Exchange {
        server: String,
        #[source]
        source: hyper::Error,
    },
    #[error("read an answer of more than {limit} bytes from {server}")]
    TooLarge { server: String, limit: usize },
}

/// Connections to one server.
pub struct Transport {
    endpoint: Endpoint,
    timeouts: Timeouts,
    idle: Mutex<Vec<(Sender, Instant)>>,
    /// The connections' own tasks: each ends when its connection does, and that when its sender is dropped.
    tasks: TaskTracker,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// An answer whose head has arrived; dropped early, it closes its connection.
#[derive(Debug)]
pub struct Exchange<'a> {
    transport: &'a Transport,
    sender: Sender,
    response: Response<Incoming>,
}

/// Returns a body of bytes at hand.
pub(super) fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Transport {
    pub fn new(endpoint: Endpoint, timeouts: Timeouts) -> Self {
        Self { endpoint, timeouts, idle: Mutex::new(Vec::new()), tasks: TaskTracker::new() }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends a request and returns when the answer's head is there, at the latest after `deadline`.
    ///
    /// The request's path must be complete ([`Endpoint::path`]) and it must carry a `Host`.
    ///
    /// # Errors
    /// No connection, no answer in time, or not HTTP.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the server may or may not have acted.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        deadline: Duration,
    ) -> Result<Exchange<'_>, TransportError> {
        self.within(deadline, self.send_unbounded(request)).await?
    }

    async fn send_unbounded(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Exchange<'_>, TransportError> {
        loop {
            let (mut sender, is_fresh) = match self.take_idle().await {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(Exchange { transport: self, sender, response }),
                Err(mut error) => match error.take_message() {
                    // The kept connection had been closed: nothing was sent, so nothing happens twice.
                    // Each turn uses up one idle connection, which bounds the loop.
                    Some(unsent) if !is_fresh => request = unsent,
                    _ => return Err(self.exchange_error(error.into_error())),
                },
            }
        }
    }

    /// Returns a connection that can carry a request right now.
    async fn take_idle(&self) -> Option<Sender> {
        loop {
            let (mut sender, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            // Lets the connection's task see a close that came while this thread did something else: a
            // request that is written to a closed connection is lost, and nobody can say whether it was read.
            tokio::task::yield_now().await;
            if since.elapsed() < IDLE_AGE_MAX
                && matches!(tokio::time::timeout(READY_WAIT, sender.ready()).await, Ok(Ok(())))
            {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < IDLE_MAX {
            idle.push((sender, Instant::now()));
        }
    }

    async fn connect(&self) -> Result<Sender, TransportError> {
        let connecting = TcpStream::connect((self.endpoint.host(), self.endpoint.port()));
        let stream = tokio::time::timeout(self.timeouts.connect, connecting)
            .await
            .map_err(|_elapsed| TransportError::ConnectTimeout {
                server: self.endpoint.to_string(),
                after: self.timeouts.connect,
            })?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| TransportError::Connect { server: self.endpoint.to_string(), source })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.exchange_error(e))?;
        // What ends a connection badly is told to the request on it; there is no one else to tell.
        self.tasks.spawn(async move { connection.with_upgrades().await.is_ok() });
        Ok(sender)
    }

    async fn within<F: Future>(&self, deadline: Duration, future: F) -> Result<F::Output, TransportError> {
        tokio::time::timeout(deadline, future).await.map_err(|_elapsed| TransportError::AnswerTimeout {
            server: self.endpoint.to_string(),
            after: deadline,
        })
    }

    fn exchange_error(&self, source: hyper::Error) -> TransportError {
        TransportError::Exchange { server: self.endpoint.to_string(), source }
    }
}

impl Exchange<'_> {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the next piece of the body, `None` at its end; waits as long as it takes.
    ///
    /// # Errors
    /// The connection broke.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                // Trailers carry nothing that this API uses.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => return Err(self.transport.exchange_error(source)),
            }
        }
    }

    /// Reads the rest of the body and gives the connection back.
    ///
    /// # Errors
    /// The connection broke, the deadline passed, or the body has more than `limit` bytes.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn collect(mut self, limit: usize, deadline: Duration) -> Result<Bytes, TransportError> {
        let transport = self.transport;
        let body = transport
            .within(deadline, async {
                let mut body = BytesMut::new();
                while let Some(chunk) = self.chunk().await? {
                    if body.len() + chunk.len() > limit {
                        return Err(TransportError::TooLarge {
                            server: transport.endpoint.to_string(),
                            limit,
                        });
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(body.freeze())
            })
            .await??;
        self.finish();
        Ok(body)
    }

    /// Takes over the connection of an answer `101 Switching Protocols`.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn upgrade(self) -> Result<Upgraded, TransportError> {
        hyper::upgrade::on(self.response).await.map_err(|e| self.transport.exchange_error(e))
    }

    /// Gives the connection back; the body must have been read to its end.
    pub(super) fn finish(self) {
        self.transport.keep(self.sender);
    }
}
