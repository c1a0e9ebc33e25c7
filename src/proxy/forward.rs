//! One request on its way to an app and back.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{Failure, is_browser, warming};
use super::headers;
use super::listener::{Body, BoxError};
use super::route::Host;
use super::{BROWSER_BUDGET, Proxy};
use crate::model::{HostHeader, SandboxId};
use crate::sandbox::{Activity, ConnectError, Upstream};

/// The most bytes of an app's answer's head.
const APP_HEAD_BYTES_MAX: usize = 256 * 1024;
/// The most headers of an app's answer.
const APP_HEADERS_MAX: usize = 200;

impl Proxy {
    /// Answers a request for a preview.
    pub(super) async fn preview(
        self: &std::sync::Arc<Self>,
        request: Request<Incoming>,
        host: &Host,
        client: SocketAddr,
        (id, port): (SandboxId, u16),
    ) -> Response<Body> {
        let begun = Instant::now();
        let for_browser = is_browser(request.method(), request.headers());
        let wants_upgrade = headers::upgrade_of(request.headers()).is_some();
        let budget = (for_browser && !wants_upgrade).then_some(BROWSER_BUDGET);
        let response = match self.connect(id, port, budget).await {
            Ok(Some(upstream)) => forward(self, request, upstream, (host, port), client)
                .await
                .unwrap_or_else(|failure| failure.response(for_browser)),
            Ok(None) => warming(),
            Err(failure) => failure.response(for_browser),
        };
        let (code, took) = (response.status().as_u16(), begun.elapsed());
        self.metrics.observe_preview(code, took);
        tracing::debug!(%id, port, code, micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), "preview");
        response
    }

    /// Connects to the app; `None` when the budget is spent first: the sandbox goes on waking.
    async fn connect(
        &self,
        id: SandboxId,
        port: u16,
        budget: Option<Duration>,
    ) -> Result<Option<Upstream>, Failure> {
        let _held = self.held.try_acquire().map_err(|_e| Failure::too_many_held())?;
        let connecting = self.supervisor.connect(id, port);
        let result: Result<Upstream, ConnectError> = match budget {
            Some(budget) => match tokio::time::timeout(budget, connecting).await {
                Ok(result) => result,
                Err(_elapsed) => return Ok(None),
            },
            None => connecting.await,
        };
        result.map(Some).map_err(|error| Failure::of_connect(&error))
    }
}

/// Sends the request over a connection of its own and hands the answer back as it comes.
async fn forward(
    proxy: &Proxy,
    mut request: Request<Incoming>,
    upstream: Upstream,
    (host, port): (&Host, u16),
    client: SocketAddr,
) -> Result<Response<Body>, Failure> {
    // Let go of once the app has begun to answer: from then on its bytes count.
    let Upstream { stream, activity, busy: _busy, host_header } = upstream;
    let wanted = headers::upgrade_of(request.headers());
    // Taken before the request is: it becomes the client's side of a tunnel, if there is to be one.
    let client_side = wanted.as_ref().map(|_| hyper::upgrade::on(&mut request));

    let mut builder = http1::Builder::new();
    builder.max_buf_size(APP_HEAD_BYTES_MAX).max_headers(APP_HEADERS_MAX);
    let handshake = builder.handshake::<_, Metered<Incoming>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_e| Failure::broken_app())?;
    // Ends with the request: when its client goes, the sender and the answer's body are dropped.
    let driver = proxy.tasks.spawn(connection.with_upgrades());

    let (mut parts, body) = request.into_parts();
    headers::to_app(&mut parts.headers, wanted.as_ref(), client, host.authority(), proxy.config.scheme);
    if host_header == HostHeader::Upstream {
        headers::as_localhost(&mut parts.headers, port);
    }
    parts.uri = origin_form(&parts.uri);
    parts.version = http::Version::HTTP_11;
    let request =
        Request::from_parts(parts, Metered { inner: body, activity: activity.clone(), side: Side::Client });
    let mut response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, "an app broke off");
            driver.abort();
            return Err(Failure::broken_app());
        }
    };

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let given = headers::upgrade_of(response.headers());
        let (Some(client_side), Some(given), Some(wanted)) = (client_side, given, wanted) else {
            // Nobody asked for it.
            return Err(Failure::broken_app());
        };
        if !same_protocol(&given, &wanted) {
            return Err(Failure::broken_app());
        }
        let app_side = hyper::upgrade::on(&mut response);
        proxy.tasks.spawn(tunnel(client_side, app_side, activity));
        let (mut parts, _) = response.into_parts();
        headers::to_client(&mut parts.headers, Some(&given));
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        return Ok(Response::from_parts(parts, empty));
    }
    // Anything but 101 is an ordinary answer: whatever the client sent behind its request is not forwarded.
    let (mut parts, body) = response.into_parts();
    headers::to_client(&mut parts.headers, None);
    let body = Metered { inner: body, activity, side: Side::App }
        .map_err(|e| -> BoxError { e.into() })
        .boxed_unsync();
    Ok(Response::from_parts(parts, body))
}

/// Moves bytes both ways until either side ends.
async fn tunnel(client: hyper::upgrade::OnUpgrade, app: hyper::upgrade::OnUpgrade, activity: Activity) {
    let (Ok(client), Ok(app)) = tokio::join!(client, app) else { return };
    let mut client =
        MeteredIo { inner: TokioIo::new(client), activity: activity.clone(), side: Side::Client };
    let mut app = MeteredIo { inner: TokioIo::new(app), activity, side: Side::App };
    // Either side may break off at any time; that is how these connections end.
    let _ended: std::io::Result<(u64, u64)> = tokio::io::copy_bidirectional(&mut client, &mut app).await;
}

/// Path and query only: the app is addressed as an origin, whatever form the client used.
fn origin_form(uri: &http::Uri) -> http::Uri {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    path.parse().unwrap_or_default()
}

fn same_protocol(given: &HeaderValue, wanted: &HeaderValue) -> bool {
    let (Ok(given), Ok(wanted)) = (given.to_str(), wanted.to_str()) else { return false };
    wanted.split(',').any(|w| w.trim().eq_ignore_ascii_case(given.trim()))
}

/// Whose bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// They wake a sandbox that was frozen under an open connection.
    Client,
    /// What it said before it was frozen does not.
    App,
}

impl Side {
    fn note(self, activity: &Activity) {
        match self {
            Self::Client => activity.want(),
            Self::App => activity.mark(),
        }
    }
}

/// A body whose bytes count as use of the sandbox.
struct Metered<B> {
    inner: B,
    activity: Activity,
    side: Side,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.side.note(&self.activity);
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

/// A connection whose bytes count as use of the sandbox.
struct MeteredIo<T> {
    inner: T,
    activity: Activity,
    side: Side,
}

impl<T: AsyncRead + Unpin> AsyncRead for MeteredIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.side.note(&self.activity);
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
