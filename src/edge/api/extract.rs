//! Bodies, ids and queries, with errors in the style of the route.

use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::{ApiError, Style};
use super::unknown::Ignored;
use model::SandboxId;

/// Bodies up to this size are read at once: nearly all are.
const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;
/// How many larger ones are in memory at once, each with up to 1 MiB and what it is parsed into.
static LARGE_BODIES: Semaphore = Semaphore::const_new(2);
/// Beneath it every whole number is one of a double's.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
/// How long a body may wait for its turn, and how long it may take.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A JSON body that has to be there.
#[derive(Debug)]
pub(super) struct Body1<T>(pub(super) T);

/// The sandbox that the path names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Id(pub(super) SandboxId);

/// The query, parsed.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body1<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let style = Style::of(request.uri().path());
        let (bytes, _turn) = read(request, state, style).await?;
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
        query.map(|q| Self(q.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            style.invalid(format!("bad query: {text}"))
        })
    }
}

/// Reads a body. Of those that may be large only so many are in memory at once, and none for longer than it may take.
pub(super) async fn read<S: Send + Sync>(
    request: Request,
    state: &S,
    style: Style,
) -> Result<(Bytes, Option<SemaphorePermit<'static>>), ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let is_small = length.map_or(!chunked, |length: usize| length <= SMALL_BODY_BYTES_MAX);
    let turn = async { if is_small { Ok(None) } else { LARGE_BODIES.acquire().await.map(Some) } };
    let busy =
        || style.error(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many large requests; try again");
    let turn = tokio::time::timeout(BODY_DEADLINE, turn).await.map_err(|_elapsed| busy())?;
    let turn = turn.map_err(|_nobody_closes_it| busy())?;
    let slow = |_elapsed| style.error(StatusCode::REQUEST_TIMEOUT, "invalid_request", "the body stalled");
    let bytes =
        tokio::time::timeout(BODY_DEADLINE, Bytes::from_request(request, state)).await.map_err(slow)?;
    let bytes = bytes.map_err(|rejection: BytesRejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            style.too_large("the body has more than 1 MiB")
        } else {
            style.invalid("the body could not be read")
        }
    })?;
    Ok((bytes, turn))
}

/// Says whether there is no body. `null` is none either: the document has a body that may be left out as one that
/// may be null.
pub(super) fn is_absent(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii(), b"" | b"null")
}

fn parse<T: DeserializeOwned>(bytes: &[u8], style: Style) -> Result<T, ApiError> {
    parse_noting(bytes, style, &mut Ignored::default())
}

/// Reads an object and notes its unknown fields, also when it is refused. A list is refused: serde would take its
/// items as the fields in the order of their declaration.
pub(super) fn parse_noting<T: DeserializeOwned>(
    bytes: &[u8],
    style: Style,
    ignored: &mut Ignored,
) -> Result<T, ApiError> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => return Err(style.invalid("bad JSON: the body is not an object, {…}")),
        None => return Err(style.invalid("the body is missing: a JSON object")),
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut note = |path: serde_ignored::Path<'_>| ignored.note(&path);
    let noting = serde_ignored::Deserializer::new(&mut reader, &mut note);
    let parsed = serde_path_to_error::deserialize(noting).map_err(|error| {
        let path = error.path().to_string();
        (path, error.into_inner())
    });
    let rest = |value| reader.end().map(|()| value).map_err(|error| (".".to_owned(), error));
    let parsed = parsed.and_then(rest).or_else(|failed| whole_numbers(bytes, ignored).ok_or(failed));
    parsed.map_err(|(path, error)| {
        let text = without_rust(&error.to_string());
        style.invalid(match error.classify() {
            serde_json::error::Category::Data if path != "." => format!("{path}: {text}"),
            _ => format!("bad JSON: {text}"),
        })
    })
}

/// Reads once more what was refused, with 7 in the place of 7.0: to JSON Schema both are the same whole number.
fn whole_numbers<T: DeserializeOwned>(bytes: &[u8], ignored: &mut Ignored) -> Option<T> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let mut is_changed = false;
    let mut rest = vec![&mut value];
    while let Some(value) = rest.pop() {
        match value {
            Value::Number(number) => {
                let whole =
                    number.as_f64().filter(|n| number.is_f64() && n.fract() == 0.0 && n.abs() < WHOLE_MAX);
                // As text: what is whole and small enough is written without a fraction.
                let Some(whole) = whole.and_then(|n| format!("{n:.0}").parse::<i64>().ok()) else { continue };
                *value = whole.into();
                is_changed = true;
            }
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.values_mut()),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }
    if !is_changed {
        return None;
    }
    ignored.forget();
    serde_ignored::deserialize(value, |path| ignored.note(&path)).ok()
}

/// Says in JSON's words what serde says in Rust's.
fn without_rust(text: &str) -> String {
    let Some((before, expected)) = text.split_once("expected ") else { return text.to_owned() };
    let (what, after) = expected.split_once(" at line ").unwrap_or((expected, ""));
    let what = match what {
        "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if what.starts_with("struct ") => "an object",
        other => other,
    };
    let after = if after.is_empty() { String::new() } else { format!(" at line {after}") };
    format!("{before}expected {what}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{CreateBody, CreateV1Body};

    fn complaint<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        parse::<T>(text.as_bytes(), Style::V1).unwrap_err().message().to_owned()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_without_rust() {
        let check = |text: &str, words: &str| {
            let said = complaint::<CreateBody>(text);
            assert!(said.starts_with(words), "{text}: {said}");
        };
        check("", "the body is missing");
        check("[]", "bad JSON: the body is not an object");
        check("null", "bad JSON: the body is not an object");
        check("{", "bad JSON: EOF");
        check("{} {}", "bad JSON: trailing characters");
        check(
            r#"{"ports":["80"]}"#,
            r#"ports[0]: invalid type: string "80", expected a whole number at line 1"#,
        );
        check(r#"{"ports":{}}"#, "ports: invalid type: map, expected a list at line 1");
        check(r#"{"env":{"A":1}}"#, "env.A: invalid type: integer `1`, expected a string");
        check(r#"{"external":1}"#, "external: invalid type: integer `1`, expected an object");
        let said = complaint::<CreateV1Body>(r#"{"project":{"id":"a","user_id":"b","x":1}}"#);
        assert!(said.starts_with("project.x: unknown field `x`, expected `id` or `user_id`"), "{said}");
    }

    #[test]
    fn a_whole_number_may_have_a_fraction_of_nothing() {
        let body: CreateBody =
            parse(br#"{"ports":[80.0,8e1,443],"limits":{"pids_max":64.0}}"#, Style::V1).unwrap();
        assert_eq!(body.ports, Some(vec![80, 80, 443]));
        for bad in [r#"{"ports":[80.5]}"#, r#"{"ports":[1e300]}"#, r#"{"ports":["80.0"]}"#] {
            assert!(parse::<CreateBody>(bad.as_bytes(), Style::V1).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_is_no_object_however_long() {
        let list = format!("[{}]", vec!["null"; 16].join(","));
        assert!(parse::<CreateBody>(list.as_bytes(), Style::Compat).is_err());
    }
}
