//! Server-sent events (WHATWG HTML, 9.2): bytes in, events out.

use bytes::{Buf as _, BytesMut};
use http::Method;
use http::header::HeaderName;

use super::requests::segment;
use crate::error::ClientError;
use crate::error::EVENT_BYTES_MAX;
use crate::error::EventError;
use crate::requests::Client;
use crate::transport::Exchange;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerEvent {
    /// The last `id` that was seen, also of an event before: what to resume from.
    pub id: Option<String>,
    pub event: String,
    pub data: String,
}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream<'a> {
    exchange: Exchange<'a>,
    decoder: EventDecoder,
}

/// The decoder alone.
#[derive(Debug, Default)]
pub struct EventDecoder {
    held: BytesMut,
    next: ServerEvent,
    has_data: bool,
    last_id: Option<String>,
}

impl Client {
    /// `GET /v1/events?sandbox=&from=`: what happens to sandboxes, resumable by [`ServerEvent::id`].
    ///
    /// # Errors
    /// See [`ClientError`]; so for every method.
    pub async fn events(
        &self,
        sandbox: Option<&str>,
        from: Option<u64>,
        last: Option<&str>,
    ) -> Result<EventStream<'_>, ClientError> {
        let sandbox = sandbox.map(|id| format!("sandbox={}", segment(id)));
        let query: Vec<String> = sandbox.into_iter().chain(from.map(|from| format!("from={from}"))).collect();
        let mut path = "/v1/events".to_owned();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        self.event_stream(path, last).await
    }

    /// `GET /v1/sandboxes/{id}/processes/{name}/logs?tail=&follow=true`: lines of an app's process, resumable by
    /// [`ServerEvent::id`].
    pub async fn follow_logs(
        &self,
        id: &str,
        name: &str,
        tail: u32,
        last: Option<&str>,
    ) -> Result<EventStream<'_>, ClientError> {
        let path =
            format!("/v1/sandboxes/{}/processes/{}/logs?tail={tail}&follow=true", segment(id), segment(name));
        self.event_stream(path, last).await
    }

    async fn event_stream(&self, path: String, last: Option<&str>) -> Result<EventStream<'_>, ClientError> {
        let mut call = self.call(Method::GET, path).with(http::header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            call = call.with(HeaderName::from_static("last-event-id"), last);
        }
        Ok(EventStream { exchange: self.exchange(call).await?, decoder: EventDecoder::default() })
    }
}

impl EventStream<'_> {
    /// The last id that was sent, with an event or alone: what to resume from.
    pub fn last_id(&self) -> Option<&str> {
        self.decoder.last_id.as_deref()
    }

    /// Returns the next events, none for a keep-alive, and `None` at the stream's end.
    ///
    /// # Errors
    /// The connection broke, or an event is too large.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Vec<ServerEvent>>, ClientError> {
        match self.exchange.chunk().await? {
            Some(data) => Ok(Some(self.decoder.push(&data)?)),
            None => Ok(None),
        }
    }
}

impl EventDecoder {
    /// Takes bytes and returns the events that are complete.
    ///
    /// # Errors
    /// An event is too large.
    pub fn push(&mut self, data: &[u8]) -> Result<Vec<ServerEvent>, EventError> {
        self.held.extend_from_slice(data);
        let mut events = Vec::new();
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let line = self.held.split_to(end);
            self.held.advance(1);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            events.extend(self.line(&line));
            if self.next.data.len() > EVENT_BYTES_MAX {
                return Err(EventError::TooLarge);
            }
        }
        if self.held.len() > EVENT_BYTES_MAX {
            return Err(EventError::TooLarge);
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Option<ServerEvent> {
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.next);
            // Only now: what it stands on has been seen as a whole.
            self.last_id = event.id.take().or_else(|| self.last_id.take());
            return std::mem::take(&mut self.has_data)
                .then(|| ServerEvent { id: self.last_id.clone(), ..event });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => self.next.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.next.event),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.next.data.push('\n');
                }
                self.next.data.push_str(value);
            }
            // A comment keeps the connection alive; other fields are to be ignored.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_once_its_event_is_whole() {
        let mut decoder = EventDecoder::default();
        assert!(decoder.push(b"id: 1\n\nid: 2\nevent: line\nda").unwrap().is_empty());
        assert_eq!(decoder.last_id.as_deref(), Some("1"));
        assert_eq!(decoder.push(b"ta: x\n\n").unwrap(), [event(Some("2"), "line", "x")]);
        assert_eq!(decoder.last_id.as_deref(), Some("2"));
    }

    fn event(id: Option<&str>, event: &str, data: &str) -> ServerEvent {
        ServerEvent { id: id.map(str::to_owned), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_read_wherever_the_pieces_break() {
        let text = ": hello\n\nid: 7\r\nevent: line\r\ndata: {\"a\":1}\r\n\r\ndata:x\ndata:  y\nretry: 5\n\nid: 9\n\nevent: late\ndata\n\ndata: cut";
        let expected = [
            event(Some("7"), "line", "{\"a\":1}"),
            event(Some("7"), "", "x\n y"),
            event(Some("9"), "late", ""),
        ];
        for size in 1..=text.len() {
            let mut decoder = EventDecoder::default();
            let events: Vec<ServerEvent> =
                text.as_bytes().chunks(size).flat_map(|piece| decoder.push(piece).unwrap()).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_has_a_limit() {
        let mut decoder = EventDecoder::default();
        assert_eq!(decoder.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(EventError::TooLarge));
        let mut decoder = EventDecoder::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; 1024 * 1024], b"\n"].concat();
        assert!((0..8).any(|_| decoder.push(&line).is_err()), "lines without an end are kept for ever");
    }
}
