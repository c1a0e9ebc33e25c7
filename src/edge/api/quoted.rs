//! Bytes of a program as a string of JSON, written down as they come.

use std::io::Write as _;

use sandbox::Spool;

/// The most bytes of one output in an answer, as they are sent: a NUL is one byte of a program, and six of the answer.
const SENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What one byte can become.
const GROWTH: usize = 6;
/// So many bytes are turned at once.
const STEP_BYTES: usize = 8 * 1024;
/// What stands for bytes that are not UTF-8.
const REPLACEMENT: &str = "\u{fffd}";

/// A string that is being written, up to the most.
#[derive(Debug)]
pub(super) struct Quoted {
    pub(super) spool: Spool,
    /// Whether something did not fit, on the disk neither.
    pub(super) truncated: bool,
    sent: usize,
    sent_max: usize,
    /// The beginning of a character whose rest has not come yet.
    begun: Vec<u8>,
}

impl Quoted {
    /// Begins behind what stands before it.
    pub(super) fn begin(mut spool: Spool, before: &[u8]) -> Self {
        spool.append(before);
        Self { spool, truncated: false, sent: 0, sent_max: SENT_BYTES_MAX, begun: Vec::new() }
    }

    /// Whether so many more bytes stay in memory whatever they are.
    pub(super) fn fits(&self, count: usize) -> bool {
        self.truncated || self.spool.has_room(count.saturating_mul(GROWTH).saturating_add(GROWTH))
    }

    /// Adds bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for step in bytes.chunks(STEP_BYTES) {
            if self.truncated {
                return;
            }
            let begun = std::mem::take(&mut self.begun);
            if begun.is_empty() { self.step(step) } else { self.step(&[begun.as_slice(), step].concat()) }
        }
    }

    /// Ends the string.
    pub(super) fn end(&mut self) {
        if !std::mem::take(&mut self.begun).is_empty() && !self.truncated {
            let mut text = String::new();
            self.add(&mut text, REPLACEMENT);
            self.spool.append(text.as_bytes());
        }
    }

    fn step(&mut self, bytes: &[u8]) {
        let mut text = String::with_capacity(bytes.len() * 2);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.escape(&mut text, chunk.valid());
            let invalid = chunk.invalid();
            let is_begun = chunks.peek().is_none()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_begun {
                self.begun = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.add(&mut text, REPLACEMENT);
            }
        }
        self.truncated |= self.spool.write_all(text.as_bytes()).is_err();
    }

    fn escape(&mut self, text: &mut String, valid: &str) {
        let mut rest = valid;
        while let Some(at) = rest.bytes().position(|b| b < b' ' || b == b'"' || b == b'\\') {
            let (plain, special) = rest.split_at(at);
            self.add_plain(text, plain);
            let (special, after) = special.split_at(1);
            match special {
                "\"" => self.add(text, "\\\""),
                "\\" => self.add(text, "\\\\"),
                "\n" => self.add(text, "\\n"),
                "\r" => self.add(text, "\\r"),
                "\t" => self.add(text, "\\t"),
                "\u{8}" => self.add(text, "\\b"),
                "\u{c}" => self.add(text, "\\f"),
                other => self.add(text, &format!("\\u{:04x}", other.as_bytes().first().unwrap_or(&0))),
            }
            rest = after;
        }
        self.add_plain(text, rest);
    }

    /// Adds characters, as many as fit.
    fn add_plain(&mut self, text: &mut String, plain: &str) {
        let room = self.sent_max - self.sent;
        if plain.len() <= room {
            return self.add(text, plain);
        }
        self.add(text, plain.get(..plain.floor_char_boundary(room)).unwrap_or_default());
        self.truncated = true;
    }

    /// Adds what belongs together, if it fits.
    fn add(&mut self, text: &mut String, whole: &str) {
        if self.truncated || whole.len() > self.sent_max - self.sent {
            self.truncated = true;
            return;
        }
        self.sent += whole.len();
        text.push_str(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In memory for as long as it is small.
    fn quoted(pieces: &[&[u8]], sent_max: usize) -> (String, bool) {
        let mut quoted = Quoted { sent_max, ..Quoted::begin(Spool::in_memory().unwrap(), b"\"") };
        pieces.iter().for_each(|piece| quoted.push(piece));
        quoted.end();
        quoted.spool.append(b"\"");
        let mut text = Vec::new();
        quoted.spool.finish().copy_to(&mut text).unwrap();
        (String::from_utf8(text).unwrap(), quoted.truncated)
    }

    proptest::proptest! {
        #[test]
        fn it_says_what_serde_says_however_it_is_cut(
            bytes in proptest::collection::vec(proptest::prop_oneof![
                0..0x30_u8, 0xc0..0xff_u8, proptest::num::u8::ANY,
            ], 0..200),
            cut in 0..200_usize,
        ) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let expected = serde_json::to_string(&String::from_utf8_lossy(&bytes)).unwrap();
            proptest::prop_assert_eq!(quoted(&[first, second], usize::MAX), (expected, false));
        }

        #[test]
        fn it_is_never_longer_than_it_may_be(
            text in ".{0,60}|[\\x00-\\x1f\"]{0,60}",
            sent_max in 0..100_usize,
        ) {
            let (said, truncated) = quoted(&[text.as_bytes()], sent_max);
            let whole: String = serde_json::from_str(&said).unwrap();
            proptest::prop_assert!(said.len() <= sent_max + 2 && text.starts_with(&whole));
            proptest::prop_assert_eq!(truncated, whole != text);
        }
    }

    #[test]
    fn nul_characters_are_counted_as_they_are_sent() {
        let (said, truncated) = quoted(&[&[0; 1000], &[0; 1000]], 6 * 1500 + 5);
        assert!(truncated && said == format!("\"{}\"", "\\u0000".repeat(1500)));
    }
}
