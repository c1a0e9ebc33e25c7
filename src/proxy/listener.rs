//! Accepts connections, for the API and for previews.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::Proxy;
use super::error::{Failure, is_browser};
use super::route::{Host, Route};

/// The most connections of one listener.
const CONNECTIONS_MAX: usize = 16_384;
/// How long a client may take to send the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 128;
/// The pause after the kernel refused a connection for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A failure of a body on its way.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Serves a listener until told to end; then what is open may go on for `drain`.
///
/// Requests for previews are forwarded; everything else goes to `inner`, or is not found.
pub async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    inner: Option<Router>,
    ending: CancellationToken,
    drain: Duration,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, client, permit)) = accepted else {
            // Without descriptors the next attempt fails too: not at full speed.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (proxy, inner, ending) = (Arc::clone(&proxy), inner.clone(), ending.clone());
        tasks.spawn(async move {
            connection(stream, client, proxy, inner, ending).await;
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "connections are still open after the drain time");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // Beyond the limit connections wait in the kernel's backlog.
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, client)) => {
            // Without it answers in two pieces wait for the client's acknowledgement. A connection
            // for which it cannot be set is broken already.
            let _ignored: std::io::Result<()> = stream.set_nodelay(true);
            Some((stream, client, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    proxy: Arc<Proxy>,
    inner: Option<Router>,
    ending: CancellationToken,
) {
    let service = service_fn(move |request| {
        let (proxy, inner) = (Arc::clone(&proxy), inner.clone());
        async move { Ok::<_, Infallible>(dispatch(request, client, proxy, inner).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).half_close(false);
    let serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = ending.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Decides who answers.
async fn dispatch(
    request: Request<Incoming>,
    client: SocketAddr,
    proxy: Arc<Proxy>,
    inner: Option<Router>,
) -> Response<Body> {
    let for_browser = is_browser(request.method(), request.headers());
    let refuse = |failure: Failure| {
        let mut response = failure.response(for_browser);
        // What a client that is refused sends next cannot be trusted to be where it seems.
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        response
    };
    if let Some(problem) = ambiguity(&request) {
        return refuse(Failure::new(StatusCode::BAD_REQUEST, "bad_request", problem));
    }
    let Some(host) = Host::of(request.uri(), request.headers()) else {
        return refuse(Failure::new(
            StatusCode::BAD_REQUEST,
            "bad_host",
            "A request names exactly one host.",
        ));
    };
    match host.route(&proxy.config.domain) {
        Route::Preview { id, port } => proxy.preview(request, &host, client, (id, port)).await,
        Route::NoPreview => {
            refuse(Failure::new(StatusCode::NOT_FOUND, "no_such_preview", "There is no such preview."))
        }
        Route::Other => match inner {
            Some(mut router) => match router.call(request.map(axum::body::Body::new)).await {
                Ok(response) => {
                    response.map(|body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync())
                }
            },
            None => Failure::new(StatusCode::NOT_FOUND, "no_such_preview", "There is no such preview.")
                .response(for_browser),
        },
    }
}

/// Finds what two servers could read in two ways: RFC 9112, 6.1 and 6.3.
fn ambiguity(request: &Request<Incoming>) -> Option<&'static str> {
    let headers = request.headers();
    if matches!(*request.method(), Method::TRACE | Method::CONNECT) {
        return Some("This method is not supported.");
    }
    // Of a length beside chunks hyper keeps the chunks alone, as RFC 9112 says.
    if headers.contains_key(header::TRANSFER_ENCODING) && request.version() == http::Version::HTTP_10 {
        return Some("A request of HTTP/1.0 cannot be chunked.");
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Some("A request has one length.");
    }
    None
}
