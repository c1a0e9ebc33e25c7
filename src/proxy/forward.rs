//! One request on its way to an app and back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::error::{Failure, is_browser, warming};
use super::headers;
use super::listener::{Body, BoxError};
use super::meter::{Metered, MeteredIo, Side};
use super::route::Host;
use super::{BROWSER_BUDGET, Proxy};
use crate::model::{HostHeader, SandboxId};
use crate::sandbox::{ConnectError, Counted, Intent, Upstream};

/// The most bytes of an app's answer's head.
const APP_HEAD_BYTES_MAX: usize = 256 * 1024;
/// A request that is held for so long is told of in the log.
const HELD_LONG: Duration = Duration::from_secs(1);
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
        let intent = if self.config.probes.is_probe(&request) { Intent::Probe } else { Intent::Use };
        let connected = self.connect((id, port), intent, budget).await;
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
    upstream: Upstream,
    (host, port): (&Host, u16),
    client: SocketAddr,
) -> Result<Response<Body>, Failure> {
    // Let go of once the app has begun to answer: from then on its bytes count.
    let Upstream { stream, counted, busy: _busy, host_header } = upstream;
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
    let request = Request::from_parts(parts, Metered::new(body, counted.clone(), Side::Client));
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
        let is_websocket = given.as_bytes().eq_ignore_ascii_case(b"websocket");
        proxy.tasks.spawn(tunnel(client_side, app_side, counted, is_websocket));
        let (mut parts, _) = response.into_parts();
        headers::to_client(&mut parts.headers, Some(&given));
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        return Ok(Response::from_parts(parts, empty));
    }
    // Anything but 101 is an ordinary answer: whatever the client sent behind its request is not forwarded.
    let (mut parts, body) = response.into_parts();
    headers::to_client(&mut parts.headers, None);
    let body = Metered::new(body, counted, Side::App).map_err(|e| -> BoxError { e.into() }).boxed_unsync();
    Ok(Response::from_parts(parts, body))
}

/// Moves bytes both ways until either side ends.
async fn tunnel(
    client: hyper::upgrade::OnUpgrade,
    app: hyper::upgrade::OnUpgrade,
    counted: Option<Counted>,
    is_websocket: bool,
) {
    let (Ok(client), Ok(app)) = tokio::join!(client, app) else { return };
    let mut client = MeteredIo::new(TokioIo::new(client), counted.clone(), Side::Client, is_websocket);
    let mut app = MeteredIo::new(TokioIo::new(app), counted, Side::App, is_websocket);
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
