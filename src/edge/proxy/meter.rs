//! Bytes on their way, which count as use of the sandbox.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::frames::Frames;
use sandbox::Counted;

/// Whose bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// They wake a sandbox that was frozen under an open connection.
    Client,
    /// What it said before it was frozen does not.
    App,
}

impl Side {
    fn note(self, counted: Option<&Counted>) {
        match (self, counted) {
            (Self::Client, Some(counted)) => counted.by_client(),
            (Self::App, Some(counted)) => counted.by_app(),
            (Self::Client | Self::App, None) => {}
        }
    }
}

/// A body whose bytes count; those of a health check do not.
pub(super) struct Metered<B> {
    inner: B,
    counted: Option<Counted>,
    side: Side,
    /// Set when the body breaks off.
    is_broken: Arc<AtomicBool>,
}

impl<B> Metered<B> {
    pub(super) fn new(inner: B, counted: Option<Counted>, side: Side) -> Self {
        Self { inner, counted, side, is_broken: Arc::default() }
    }

    /// Tells whether the body broke off, to somebody who does not have it any more.
    pub(super) fn is_broken(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_broken)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(_))) => self.side.note(self.counted.as_ref()),
            Poll::Ready(Some(Err(_))) => self.is_broken.store(true, Ordering::Release),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that holds something until it has ended.
pub(super) struct Held<B, G> {
    inner: B,
    _held: G,
}

impl<B, G> Held<B, G> {
    pub(super) fn new(inner: B, held: G) -> Self {
        Self { inner, _held: held }
    }
}

impl<B: Body<Data = Bytes> + Unpin, G: Unpin> Body for Held<B, G> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A connection whose bytes count.
pub(super) struct MeteredIo<T> {
    inner: T,
    counted: Option<Counted>,
    side: Side,
    /// Of a WebSocket: its pings and pongs only keep the connection, and are no use of anything.
    frames: Option<Frames>,
}

impl<T> MeteredIo<T> {
    pub(super) fn new(inner: T, counted: Option<Counted>, side: Side, is_websocket: bool) -> Self {
        Self { inner, counted, side, frames: is_websocket.then(Frames::default) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for MeteredIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        let counts = match &mut self.frames {
            Some(frames) => frames.feed(bytes),
            None => !bytes.is_empty(),
        };
        if counts {
            self.side.note(self.counted.as_ref());
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for MeteredIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
