//! A TCP connection that gives other tasks their turn, whatever its peer sends.
//!
//! tokio's budget counts 128 operations a turn. hyper works through everything that one of them has read before it
//! comes back, and a peer chooses what that is: a quarter of a mebibyte may be ten thousand interim answers or chunks
//! of one byte. So a turn ends after a number of bytes, too. The value also holds what the connection takes up, for
//! exactly as long as its descriptor is open: through an upgrade too, which hyper hands the connection on to.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::error;
use super::heads::Heads;
use crate::proxy::requests::Requests;

/// After so many bytes read the task comes to an end of its turn. With the smallest chunks, of six bytes, that is a
/// millisecond or two of work; of a large transfer it costs one more pass through the run queue in 64 KiB.
const TURN_BYTES: usize = 64 * 1024;
/// The most interim answers (100, 102, 103) before the final one. Servers send one or two.
const INTERIM_MAX: u32 = 32;

/// hyper's answer to a head that it cannot parse is shorter.
const HYPERS_ANSWER_MAX: usize = 256;

/// Looks at what passes through a connection.
pub(super) trait Watch: Unpin {
    /// Is asked before each read.
    ///
    /// # Errors
    /// The peer has sent too much; nothing more is read.
    fn before_read(&mut self) -> io::Result<()>;
    fn was_read(&mut self, bytes: &[u8]);
    /// What is written in the place of bytes that hyper has made up by itself.
    fn instead(&self, bytes: &[u8]) -> Option<Vec<u8>>;
    fn was_written(&mut self);
}

/// A connection, what watches it and what it takes up.
pub(super) struct Paced<S, W> {
    stream: S,
    watch: W,
    turn_bytes: usize,
    /// What is written in the place of something, and how much of it has been.
    instead: Option<(Vec<u8>, usize)>,
    /// How long the peer may take nothing of what is written to it.
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: Watch> Paced<S, W> {
    /// Watches a stream; a peer that takes nothing for `stall` is cut off.
    pub(super) fn new(stream: S, watch: W, stall: Duration) -> Self {
        Self { stream, watch, turn_bytes: 0, instead: None, stall, stalled: None }
    }

    /// What a write has come to; one that has to wait does so for a time only.
    fn written(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.stalled = None;
            self.watch.was_written();
            return polled;
        }
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        std::task::ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes what stands in the place of `length` bytes, to its end.
    fn write_instead(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        while let Some((bytes, done)) = &mut self.instead {
            let rest = bytes.get(*done..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => *done += count.max(1),
                other => return self.written(cx, other),
            }
        }
        self.instead = None;
        self.written(cx, Poll::Ready(Ok(length)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: Watch> AsyncRead for Paced<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.watch.before_read()?;
        if this.turn_bytes >= TURN_BYTES {
            this.turn_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        // With nothing there the task waits, which is the end of a turn.
        this.turn_bytes = if polled.is_pending() { 0 } else { this.turn_bytes + bytes.len() };
        this.watch.was_read(bytes);
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: Watch> AsyncWrite for Paced<S, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.instead = self.watch.instead(bytes).map(|bytes| (bytes, 0));
        }
        if self.instead.is_some() {
            return self.write_instead(cx, bytes.len());
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // What hyper makes up is one slice.
        if let [first] = slices {
            return self.poll_write(cx, first);
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client's connection that somebody else can look at while hyper has it. Both are one task, so that the lock is
/// always free.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<TcpStream>>);

impl Shared {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Says whether the peer has closed its side, whatever it sent before that is not read yet.
    pub(super) fn is_left(&self) -> bool {
        let stream = self.lock();
        let ready = stream.ready(Interest::READABLE).now_or_never();
        matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
    }

    fn lock(&self) -> MutexGuard<'_, TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

/// Watches a client: finds requests with two lengths, and tells why hyper refuses others.
#[derive(Debug)]
pub(super) struct FromClient<G> {
    heads: Heads,
    requests: Arc<Requests>,
    /// What the connection takes up.
    _held: G,
}

impl<G: Unpin> FromClient<G> {
    pub(super) fn new(requests: Arc<Requests>, held: G) -> Self {
        Self { heads: Heads::default(), requests, _held: held }
    }
}

impl<G: Unpin> Watch for FromClient<G> {
    fn before_read(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn was_read(&mut self, bytes: &[u8]) {
        self.heads.feed(bytes);
        if let Some(request) = self.heads.ambiguous() {
            self.requests.ambiguous.store(request, Ordering::Release);
        }
    }

    /// hyper answers a head that it cannot parse by itself, without a body; then there is no request to be answered.
    fn instead(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !bytes.starts_with(b"HTTP/1.") || self.requests.is_due.swap(false, Ordering::AcqRel) {
            return None;
        }
        if bytes.len() > HYPERS_ANSWER_MAX || self.requests.is_working() {
            return None;
        }
        error::instead_of(std::str::from_utf8(bytes).ok()?)
    }

    fn was_written(&mut self) {}
}

/// Watches an app: bounds its interim answers, and knows when it was last sent something.
pub(super) struct FromApp<G> {
    exchange: Arc<Exchange>,
    /// What the connection takes up.
    _held: G,
}

impl<G: Unpin> FromApp<G> {
    pub(super) fn new(exchange: Arc<Exchange>, held: G) -> Self {
        Self { exchange, _held: held }
    }
}

impl<G: Unpin> Watch for FromApp<G> {
    fn before_read(&mut self) -> io::Result<()> {
        if self.exchange.is_flooded() { Err(io::Error::other("too many interim answers")) } else { Ok(()) }
    }

    fn was_read(&mut self, _bytes: &[u8]) {}

    fn instead(&self, _bytes: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn was_written(&mut self) {
        self.exchange.wrote();
    }
}

/// What is known of one request to an app until its final answer begins.
#[derive(Debug)]
pub(super) struct Exchange {
    begun: Instant,
    interim: AtomicU32,
    /// When the app was last sent something, in milliseconds after the beginning.
    wrote_ms: AtomicU64,
}

impl Exchange {
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), interim: AtomicU32::new(0), wrote_ms: AtomicU64::new(0) })
    }

    /// Takes an interim answer down.
    pub(super) fn interim(&self) {
        self.interim.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.interim.load(Ordering::Relaxed) > INTERIM_MAX
    }

    fn wrote(&self) {
        let after = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.wrote_ms.store(after, Ordering::Relaxed);
    }

    /// Waits until the app has been silent for a time since it was last sent something.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn silence(&self, longest: Duration) {
        loop {
            let end = self.begun + Duration::from_millis(self.wrote_ms.load(Ordering::Relaxed)) + longest;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    struct Nothing;

    impl Watch for Nothing {
        fn before_read(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn was_read(&mut self, _bytes: &[u8]) {}
        fn instead(&self, _bytes: &[u8]) -> Option<Vec<u8>> {
            None
        }
        fn was_written(&mut self) {}
    }

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (client, _server) = pair().await;
        let mut paced = Paced::new(client, Nothing, Duration::from_millis(50));
        let error = paced.write_all(&vec![7; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_has_left_is_seen_behind_what_is_not_read() {
        let (mut client, server) = pair().await;
        let server = Shared::new(server);
        client.write_all(b"unread").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!server.is_left());
        drop(client);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(server.is_left());
    }

    /// A peer that always has more does not keep a task of the same thread from its turn.
    #[tokio::test]
    async fn a_turn_ends_after_so_many_bytes() {
        let (client, mut server) = pair().await;
        let mut paced = Paced::new(client, Nothing, Duration::MAX);
        // Everything is there before the reader begins.
        server.write_all(&vec![7; 256 * 1024]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut turns = 0;
        let mut have = 0;
        let mut buffer = vec![0; 16 * 1024];
        while have < 256 * 1024 {
            let mut reading = Box::pin(paced.read(&mut buffer));
            let polled = std::future::poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
            drop(reading);
            match polled {
                Poll::Ready(read) => have += read.unwrap(),
                Poll::Pending => {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        assert!(turns >= 3, "{turns}");
    }

    #[tokio::test]
    async fn silence_begins_anew_with_what_is_sent() {
        let exchange = Exchange::begin();
        let longest = Duration::from_millis(80);
        let silence = exchange.silence(longest);
        tokio::pin!(silence);
        let early = tokio::time::timeout(Duration::from_millis(40), silence.as_mut()).await;
        assert!(early.is_err());
        exchange.wrote();
        let before = Instant::now();
        silence.await;
        assert!(before.elapsed() >= Duration::from_millis(75), "{:?}", before.elapsed());
    }
}
