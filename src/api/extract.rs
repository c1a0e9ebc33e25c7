//! Bodies, ids and queries, with errors in the style of the route.

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Style};
use crate::model::SandboxId;

/// A JSON answer: compact, with a newline at its end.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// A JSON body that has to be there.
#[derive(Debug)]
pub(super) struct Body1<T>(pub(super) T);

/// A JSON body that may be left out.
#[derive(Debug)]
pub(super) struct OptionalBody<T>(pub(super) T);

/// The sandbox that the path names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Id(pub(super) SandboxId);

/// The query, parsed.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let Ok(mut text) = serde_json::to_vec(&self.0) else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        text.push(b'\n');
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body1<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let style = Style::of(request.uri().path());
        let bytes = read(request, state, style).await?;
        parse(&bytes, style).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let style = Style::of(request.uri().path());
        let bytes = read(request, state, style).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        parse(&bytes, style).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let style = Style::of(parts.uri.path());
        let path = Path::<String>::from_request_parts(parts, state).await;
        // What is not an id is the id of nothing.
        let id = path.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| style.not_found("sandbox not found"))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let style = Style::of(parts.uri.path());
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|q| Self(q.0)).map_err(|e| style.invalid(format!("bad query: {}", e.body_text())))
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S, style: Style) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|rejection: BytesRejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            style.too_large("the body has more than 1 MiB")
        } else {
            style.invalid("the body could not be read")
        }
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8], style: Style) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| style.invalid(format!("bad JSON: {e}")))
}
