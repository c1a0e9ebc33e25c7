//! One request on its way to an app and back.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::task::AbortOnDropHandle;

use super::error::{Failure, is_browser, warming};
use super::headers;
use super::meter::{Held, Metered, MeteredIo, Side};
use super::paced::{Exchange, FromApp, Paced};
use super::room::Share;
use super::route::Host;
use super::{BROWSER_BUDGET, Proxy};
use crate::proxy::body::{Body, BoxError};
use model::{HostHeader, SandboxId};
use sandbox::{ConnectError, Counted, Intent, Upstream};

/// The most bytes of an app's answer's head.
const APP_HEAD_BYTES_MAX: usize = 256 * 1024;
/// A request that is held for so long is told of in the log.
const HELD_LONG: Duration = Duration::from_secs(1);
/// The most headers of an app's answer.
const APP_HEADERS_MAX: usize = 200;
/// How long the head of an app's answer waits for the beginning of its body. Most bodies begin in the same packet; a
/// stream whose first event comes later gets its head so much later.
const FIRST_FRAME_WAIT: Duration = Duration::from_millis(10);
/// How long an app may take nothing of what is sent to it: one that is frozen with its sandbox takes nothing either.
const APP_STALL: Duration = Duration::from_secs(3600);
/// How long one direction of a tunnel may go on when the other has ended.
const HALF_OPEN_MAX: Duration = Duration::from_secs(60);

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
        let intent = if self.config.probes.is_probe(&request) { Intent::Probe } else { Intent::Use };
        let connected = match self.apps.take(id) {
            Ok(share) => self.connect((id, port), intent, budget).await.map(|up| up.map(|up| (up, share))),
            Err(short) => Err(Failure::no_share(short)),
        };
        let held = begun.elapsed();
        let response = match connected {
            Ok(Some(upstream)) => forward(self, request, upstream, (host, port), client)
                .await
                .unwrap_or_else(|failure| failure.response(for_browser)),
            Ok(None) => warming(),
            Err(failure) => failure.response(for_browser),
        };
        let (code, took) = (response.status().as_u16(), begun.elapsed());
        self.metrics.observe_preview(code, took);
        if held >= HELD_LONG {
            let held_ms = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(%id, port, code, held_ms, "a preview waited long for its app");
        }
        tracing::debug!(%id, port, code, micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), "preview");
        response
    }

    /// Connects to the app; `None` when the budget is spent first: the sandbox goes on waking.
    async fn connect(
        &self,
        (id, port): (SandboxId, u16),
        intent: Intent,
        budget: Option<Duration>,
    ) -> Result<Option<Upstream>, Failure> {
        let _held = self.held.try_acquire().map_err(|_e| Failure::too_many_held())?;
        let connecting = self.supervisor.connect(id, port, intent);
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
    (upstream, share): (Upstream, Share),
    (host, port): (&Host, u16),
    client: SocketAddr,
) -> Result<Response<Body>, Failure> {
    // Let go of once the app has begun to answer: from then on its bytes count.
    let Upstream { stream, counted, busy: _busy, host_header } = upstream;
    let wanted = headers::upgrade_of(request.headers());
    // Taken before the request is: it becomes the client's side of a tunnel, if there is to be one.
    let client_side = wanted.as_ref().map(|_| hyper::upgrade::on(&mut request));

    let exchange = Exchange::begin();
    let stream = Paced::new(stream, FromApp::new(Arc::clone(&exchange), share), APP_STALL);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(APP_HEAD_BYTES_MAX).max_headers(APP_HEADERS_MAX);
    let handshake = builder.handshake::<_, Metered<Incoming>>(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|_e| Failure::broken_app())?;
    // Ends with the request, whatever the app does: it is held by whatever is left of that.
    let driver = AbortOnDropHandle::new(proxy.tasks.spawn(connection.with_upgrades()));

    let (mut parts, body) = request.into_parts();
    headers::to_app(&mut parts.headers, wanted.as_ref(), client, host.authority(), proxy.config.scheme);
    if host_header == HostHeader::Upstream {
        headers::as_localhost(&mut parts.headers, port);
    }
    parts.uri = origin_form(&parts.uri);
    parts.version = http::Version::HTTP_11;
    let request = Request::from_parts(parts, Metered::new(body, counted.clone(), Side::Client));
    let mut response = ask(sender, request, exchange, proxy.config.bounds.answer).await?;

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
        let is_websocket = given.as_bytes().eq_ignore_ascii_case(b"websocket");
        proxy.tasks.spawn(tunnel((client_side, app_side), driver, counted, is_websocket));
        let (mut parts, _) = response.into_parts();
        headers::to_client(&mut parts.headers, Some(&given));
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        return Ok(Response::from_parts(parts, empty));
    }
    // Anything but 101 is an ordinary answer: whatever the client sent behind its request is not forwarded.
    let (mut parts, body) = response.into_parts();
    headers::frame(&mut parts.headers).map_err(Failure::app)?;
    headers::to_client(&mut parts.headers, None);
    let body = Begun::of(Metered::new(body, counted, Side::App)).await?;
    let body = Held::new(body, driver).map_err(|e| -> BoxError { e.into() }).boxed_unsync();
    Ok(Response::from_parts(parts, body))
}

/// Sends a request and waits for the final answer's head.
async fn ask(
    mut sender: http1::SendRequest<Metered<Incoming>>,
    mut request: Request<Metered<Incoming>>,
    exchange: Arc<Exchange>,
    longest: Duration,
) -> Result<Response<Incoming>, Failure> {
    let is_broken = request.body().is_broken();
    let seen = Arc::clone(&exchange);
    hyper::ext::on_informational(&mut request, move |_interim| seen.interim());
    let answer = tokio::select! {
        answer = sender.send_request(request) => answer,
        () = exchange.silence(longest) => return Err(Failure::silent_app(longest)),
    };
    if exchange.is_flooded() {
        return Err(Failure::app("The app in the sandbox sent interim answers without end."));
    }
    answer.map_err(|error| {
        tracing::debug!(%error, "an app broke off");
        if is_broken.load(Ordering::Acquire) { Failure::bad_body() } else { Failure::broken_app() }
    })
}

/// A body whose beginning has been looked at.
struct Begun {
    first: Option<Frame<Bytes>>,
    rest: Metered<Incoming>,
}

impl Begun {
    /// Waits a little for the beginning of an app's body: one that is malformed from its first byte on, or is missing,
    /// can be told of only as long as no head has been sent.
    async fn of(mut rest: Metered<Incoming>) -> Result<Self, Failure> {
        if rest.is_end_stream() {
            return Ok(Self { first: None, rest });
        }
        match tokio::time::timeout(FIRST_FRAME_WAIT, rest.frame()).await {
            Ok(Some(Ok(first))) => Ok(Self { first: Some(first), rest }),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "an app's body is malformed");
                Err(Failure::app(
                    "The body of the answer of the app in the sandbox is malformed or was cut off.",
                ))
            }
            // It is empty, or comes later.
            Ok(None) | Err(_) => Ok(Self { first: None, rest }),
        }
    }
}

impl HttpBody for Begun {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let here = self.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(here));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(here)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// Moves bytes both ways until either side ends; the other may then finish for a while.
async fn tunnel(
    (client, app): (OnUpgrade, OnUpgrade),
    driver: AbortOnDropHandle<hyper::Result<()>>,
    counted: Option<Counted>,
    is_websocket: bool,
) {
    let (Ok(client), Ok(app)) = tokio::join!(client, app) else { return };
    // It has handed the connection on.
    drop(driver);
    let client = MeteredIo::new(TokioIo::new(client), counted.clone(), Side::Client, is_websocket);
    let app = MeteredIo::new(TokioIo::new(app), counted, Side::App, is_websocket);
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_app, mut to_app) = tokio::io::split(app);
    let up = pass(&mut from_client, &mut to_app);
    let down = pass(&mut from_app, &mut to_client);
    tokio::pin!(up, down);
    // An app that goes on when its client has gone, or the other way round, is not waited for for ever.
    tokio::select! {
        ended = &mut up => if ended.is_ok() {
            let _late: Result<std::io::Result<()>, _> = tokio::time::timeout(HALF_OPEN_MAX, down).await;
        },
        ended = &mut down => if ended.is_ok() {
            let _late: Result<std::io::Result<()>, _> = tokio::time::timeout(HALF_OPEN_MAX, up).await;
        },
    }
}

/// Moves bytes one way to their end, and passes that on. Either side may break off at any time.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    tokio::io::copy(from, to).await?;
    to.shutdown().await
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
