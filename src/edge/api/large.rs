//! Answers that may be large: never whole in memory.

use std::convert::Infallible;
use std::io::{self, Write};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;

use sandbox::Kept;

/// How much of a list is written at once.
const PIECE_BYTES: usize = 32 * 1024;

/// Sends JSON that is kept.
pub(super) fn kept(kept: Kept) -> Response {
    let length = kept.length();
    let pieces = stream::unfold(kept.pieces(), |mut pieces| async move {
        pieces.next().await.map(|piece| (piece, pieces))
    });
    let mut response = json(Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// Sends a list with what stands before and behind it; each item is made when it is its turn.
pub(super) fn list<T: Serialize + Send + 'static>(
    before: &'static str,
    items: impl Iterator<Item = T> + Send + 'static,
    behind: String,
) -> Response {
    let begin = Some((before, items.peekable(), behind));
    let pieces = stream::unfold(begin, |rest| async move {
        let (before, mut items, behind) = rest?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        piece.extend_from_slice(before.as_bytes());
        while piece.len() < PIECE_BYTES {
            let Some(item) = items.next() else {
                piece.extend_from_slice(behind.as_bytes());
                return Some((Ok::<_, Infallible>(Bytes::from(piece)), None));
            };
            // Nothing here fails to be written: keys are strings, and memory takes everything.
            let _written: serde_json::Result<()> = serde_json::to_writer(&mut piece, &item);
            if items.peek().is_some() {
                piece.push(b',');
            }
        }
        Some((Ok(Bytes::from(piece)), Some(("", items, behind))))
    });
    json(Body::from_stream(pieces))
}

/// Writes a list into what is kept.
pub(super) fn write_list<T: Serialize>(
    into: &mut impl Write,
    items: impl Iterator<Item = T>,
) -> io::Result<()> {
    into.write_all(b"[")?;
    for (number, item) in items.enumerate() {
        if number > 0 {
            into.write_all(b",")?;
        }
        serde_json::to_writer(&mut *into, &item)?;
    }
    into.write_all(b"]")
}

fn json(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_list_is_json_whatever_its_length() {
        for length in [0_usize, 1, 2, 10_000] {
            let text = "x".repeat(20);
            let items = (0..length).map(move |_| text.clone());
            let body = list("{\"list\":[", items, "],\"more\":true}\n".to_owned()).into_body();
            let bytes = body.collect().await.unwrap().to_bytes();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((value["list"].as_array().unwrap().len(), &value["more"]), (length, &true.into()));
            assert!(bytes.ends_with(b"}\n"));
        }
    }

    #[tokio::test]
    async fn a_list_comes_in_pieces() {
        let mut body = list("[", (0..10_000).map(|_| "x".repeat(20)), "]\n".to_owned()).into_body();
        let mut pieces = 0;
        while let Some(frame) = body.frame().await {
            pieces += 1;
            assert!(frame.unwrap().into_data().unwrap().len() < PIECE_BYTES + 100);
        }
        assert!(pieces > 5);
    }
}
