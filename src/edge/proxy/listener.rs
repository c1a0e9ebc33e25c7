//! Accepts connections, for the API and for previews.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::Proxy;
use super::error::{self, Failure, is_browser};
use super::meter::Held;
use super::paced::{FromClient, Paced, Shared};
use super::requests::Requests;
use super::room::{Place, Rest, Room, Taken};
use super::route::{Host, Route};
use crate::proxy::body::Body;
use crate::proxy::body::BoxError;

/// How long a client may take to send the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 128;
/// The pause after the kernel refused a connection for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many clients may be told at once that there is no room for them.
const REFUSALS_MAX: usize = 8;
/// How long telling one may take.
const REFUSAL_TIME: Duration = Duration::from_millis(500);
/// How long a connection that makes room may take to send the end of its last answer.
const LEAVE_TIME: Duration = Duration::from_millis(100);

/// How often it is looked whether the client of a request has gone.
const LEFT_PAUSE: Duration = Duration::from_secs(1);
/// How long a client may take nothing of what is sent to it, while an app or a process waits behind it.
const CLIENT_STALL: Duration = Duration::from_secs(300);

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
    let room = Arc::clone(if inner.is_some() { &proxy.api_room } else { &proxy.preview_room });
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = accept(&listener, &room, &refusals) => accepted,
        };
        let Some((stream, client, refusal)) = accepted else {
            // Without descriptors the next attempt fails too: not at full speed.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = room.enter(client.ip()).await else {
            tracing::debug!(%client, "there is no room for a connection");
            tasks.spawn(async move {
                turn_away(stream).await;
                drop(refusal);
            });
            continue;
        };
        let (proxy, inner, ending) = (Arc::clone(&proxy), inner.clone(), ending.clone());
        tasks.spawn(connection(stream, client, place, proxy, inner, ending));
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "connections are still open after the drain time");
    }
}

/// Accepts a connection, and the right to refuse it.
async fn accept(
    listener: &TcpListener,
    room: &Room,
    refusals: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // While so many are being refused, further ones wait in the kernel's backlog.
    let refusal = Arc::clone(refusals).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, client)) => {
            // Without it answers in two pieces wait for the client's acknowledgement. A connection
            // for which it cannot be set is broken already.
            let _ignored: std::io::Result<()> = stream.set_nodelay(true);
            Some((stream, client, refusal))
        }
        Err(error) => {
            tracing::warn!(%error, "failed to accept a connection");
            // The descriptor of one at rest is enough for the next attempt.
            room.send_away(None);
            None
        }
    }
}

/// Tells a client that there is no room for its connection.
async fn turn_away(mut stream: TcpStream) {
    let answer = error::no_room();
    let telling = async {
        // Closed with something unread, the connection would be reset, and the answer lost with it.
        let mut request = [0; 4096];
        let _whatever: std::io::Result<usize> = stream.read(&mut request).await;
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        while stream.read(&mut request).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whether it listens is the client's affair.
    let _told: Result<std::io::Result<()>, _> = tokio::time::timeout(REFUSAL_TIME, telling).await;
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    place: Place,
    proxy: Arc<Proxy>,
    inner: Option<Router>,
    ending: CancellationToken,
) {
    let (rest, requests) = (place.rest(), Arc::new(Requests::default()));
    let stream = Shared::new(stream);
    let paced = Paced::new(stream.clone(), FromClient::new(Arc::clone(&requests), place), CLIENT_STALL);
    let of_requests = Arc::clone(&rest);
    let service = service_fn(move |request| {
        let has_two_lengths = requests.begin();
        let working = of_requests.work(Arc::clone(&requests));
        let (proxy, inner, requests) = (Arc::clone(&proxy), inner.clone(), Arc::clone(&requests));
        async move {
            let (response, quota) = dispatch(request, has_two_lengths, client, proxy, inner).await;
            requests.answer();
            Ok::<_, Infallible>(response.map(|body| Held::new(body, (working, quota))))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).half_close(false);
    let serving = builder.serve_connection(TokioIo::new(paced), service).with_upgrades();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = ending.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = left(&rest, &stream) => Ok(()),
        () = rest.leave().told() => {
            serving.as_mut().graceful_shutdown();
            let patience = if rest.leave().has_served() { LEAVE_TIME } else { Duration::ZERO };
            match tokio::time::timeout(patience, serving.as_mut()).await {
                Ok(ended) => ended,
                // A request came in that very moment.
                Err(_late) if rest.is_working() => serving.await,
                Err(_late) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Waits until the client of a request has gone. hyper sees that by itself only where nothing is left to be read: a
/// body that nobody takes yet, or the beginning of another request, hides it.
async fn left(rest: &Rest, stream: &Shared) {
    loop {
        rest.working().await;
        tokio::time::sleep(LEFT_PAUSE).await;
        if rest.is_working() && stream.is_left() {
            return;
        }
    }
}

/// Decides who answers; holds what a preview takes up of the API's connections.
async fn dispatch(
    request: Request<Incoming>,
    has_two_lengths: bool,
    client: SocketAddr,
    proxy: Arc<Proxy>,
    inner: Option<Router>,
) -> (Response<Body>, Option<Taken>) {
    let for_browser = is_browser(request.method(), request.headers());
    let refuse = |failure: Failure| {
        let mut response = failure.response(for_browser);
        // What a client that is refused sends next cannot be trusted to be where it seems.
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        (response, None)
    };
    if let Some(failure) = improper(&request, has_two_lengths) {
        return refuse(failure);
    }
    let Some(host) = Host::of(request.uri(), request.headers()) else {
        return refuse(Failure::new(
            StatusCode::BAD_REQUEST,
            "bad_host",
            "A request names exactly one host.",
        ));
    };
    match host.route(&proxy.config.domain) {
        Route::Preview { id, port } => {
            // The rest of the API's connections is for the API.
            let quota = match inner.map(|_| proxy.api_previews.take()) {
                Some(None) => return refuse(Failure::overloaded()),
                quota => quota.flatten(),
            };
            (proxy.preview(request, &host, client, (id, port)).await, quota)
        }
        Route::NoPreview => {
            refuse(Failure::new(StatusCode::NOT_FOUND, "no_such_preview", "There is no such preview."))
        }
        Route::Other => match inner {
            Some(mut router) => match router.call(request.map(axum::body::Body::new)).await {
                Ok(response) => {
                    (response.map(|body| body.map_err(|e| -> BoxError { e.into() }).boxed_unsync()), None)
                }
            },
            None => (
                Failure::new(StatusCode::NOT_FOUND, "no_such_preview", "There is no such preview.")
                    .response(for_browser),
                None,
            ),
        },
    }
}

/// Finds what no server should take, or two servers could read in two ways: RFC 9112, 3.2, 6.1 and 6.3.
fn improper(request: &Request<Incoming>, has_two_lengths: bool) -> Option<Failure> {
    let bad = |text: &str| Some(Failure::new(StatusCode::BAD_REQUEST, "bad_request", text));
    let (headers, uri) = (request.headers(), request.uri());
    if has_two_lengths {
        return bad("A request has a Content-Length or a Transfer-Encoding, not both.");
    }
    if matches!(*request.method(), Method::TRACE | Method::CONNECT) {
        return Some(Failure::no_such_method());
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && request.version() == http::Version::HTTP_10 {
        return bad("A request of HTTP/1.0 cannot be chunked.");
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return bad("A request has one length.");
    }
    if uri.path_and_query().is_none() || (uri.path() == "*" && *request.method() != Method::OPTIONS) {
        return bad("The target of a request is a path.");
    }
    None
}
