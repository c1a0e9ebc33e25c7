//! Reads the text stream of a compatible exec apart again.
//!
//! ```text
//! <stdout as it comes>[---stderr---\n<stderr>]exit_code: <n>\n
//! ```
//!
//! The form is not framed, so two things cannot be told from the command's own output: a marker
//! that the command itself writes, and an `exit_code:` line as its last words. The first marker
//! divides and the last line counts; no byte is lost or shown twice either way. Where exactness matters,
//! [`super::Client::exec`] returns both outputs apart.
//!
//! Output is passed on at once, but for a tail that could be the beginning of a marker or of the last line.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{Exchange, TransportError};

const MARKER: &[u8] = b"---stderr---\n";
const TRAILER: &[u8] = b"exit_code: ";
/// Digits and sign of the longest code, and the newline.
const CODE_BYTES_MAX: usize = 12;

/// A piece of what a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecChunk {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// Why a stream did not end as a command does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecStreamError {
    #[error("follow the command to its end: the server closed the stream without an exit code")]
    Unfinished,
}

/// A command that runs: its output, then its exit code.
#[derive(Debug)]
pub struct ExecStream<'a> {
    exchange: Exchange<'a>,
    decoder: ExecDecoder,
}

impl<'a> ExecStream<'a> {
    pub(super) fn new(exchange: Exchange<'a>) -> Self {
        Self { exchange, decoder: ExecDecoder::default() }
    }

    /// Returns the next pieces of output; `None` when the command has ended.
    ///
    /// # Errors
    /// The connection broke.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Vec<ExecChunk>>, TransportError> {
        match self.exchange.chunk().await? {
            Some(data) => Ok(Some(self.decoder.push(&data))),
            None => Ok(None),
        }
    }

    /// Returns the last pieces of output and the exit code; call it after [`ExecStream::next`] said `None`.
    ///
    /// # Errors
    /// The stream had no exit code at its end.
    pub fn finish(self) -> Result<(Option<ExecChunk>, i64), ExecStreamError> {
        self.exchange.finish();
        self.decoder.finish()
    }
}

/// The decoder alone: bytes in, pieces out.
#[derive(Debug, Default)]
pub struct ExecDecoder {
    held: BytesMut,
    is_stderr: bool,
}

impl ExecDecoder {
    /// Takes bytes and returns what is certainly output.
    pub fn push(&mut self, data: &[u8]) -> Vec<ExecChunk> {
        self.held.extend_from_slice(data);
        let mut chunks = Vec::new();
        if !self.is_stderr
            && let Some(at) = find(&self.held, MARKER)
        {
            chunks.extend(self.release(at));
            self.held.advance(MARKER.len());
            self.is_stderr = true;
        }
        let certain = self.held.len() - self.tail();
        chunks.extend(self.release(certain));
        chunks
    }

    /// Ends the stream: what is left is the last of the output and the exit code.
    ///
    /// # Errors
    /// There is no exit code.
    pub fn finish(mut self) -> Result<(Option<ExecChunk>, i64), ExecStreamError> {
        let at = rfind(&self.held, TRAILER).ok_or(ExecStreamError::Unfinished)?;
        let code = self.held.get(at + TRAILER.len()..).and_then(|digits| digits.strip_suffix(b"\n"));
        let code = code
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .ok_or(ExecStreamError::Unfinished)?;
        Ok((self.release(at), code))
    }

    fn release(&mut self, length: usize) -> Option<ExecChunk> {
        let data = self.held.split_to(length).freeze();
        match (data.is_empty(), self.is_stderr) {
            (true, _) => None,
            (false, false) => Some(ExecChunk::Stdout(data)),
            (false, true) => Some(ExecChunk::Stderr(data)),
        }
    }

    /// Returns the length of the longest end of what is held that may not be output.
    fn tail(&self) -> usize {
        let longest = (TRAILER.len() + CODE_BYTES_MAX).min(self.held.len());
        (1..=longest)
            .rev()
            .find(|length| self.may_be_form(&self.held[self.held.len() - length..]))
            .unwrap_or(0)
    }

    fn may_be_form(&self, end: &[u8]) -> bool {
        if !self.is_stderr && MARKER.starts_with(end) {
            return true;
        }
        match end.strip_prefix(TRAILER) {
            None => TRAILER.starts_with(end),
            Some(code) => {
                let digits = code.strip_suffix(b"\n").unwrap_or(code);
                let digits = digits.strip_prefix(b"-").unwrap_or(digits);
                digits.iter().all(u8::is_ascii_digit)
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn rfind(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Result<i64, ExecStreamError>) {
        let mut decoder = ExecDecoder::default();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut take = |chunk| match chunk {
            ExecChunk::Stdout(data) => stdout.extend_from_slice(&data),
            ExecChunk::Stderr(data) => stderr.extend_from_slice(&data),
        };
        for piece in pieces {
            decoder.push(piece).into_iter().for_each(&mut take);
        }
        let code = decoder.finish().map(|(rest, code)| {
            rest.into_iter().for_each(&mut take);
            code
        });
        (stdout, stderr, code)
    }

    #[test]
    fn divides_at_the_marker_wherever_the_pieces_break() {
        let check = |text: &str, stdout: &str, stderr: &str, code: i64| {
            for at in 0..=text.len() {
                let (a, b) = text.as_bytes().split_at(at);
                assert_eq!(decode(&[a, b]), (stdout.into(), stderr.into(), Ok(code)), "{text:?} at {at}");
            }
            let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
            assert_eq!(decode(&bytes), (stdout.into(), stderr.into(), Ok(code)), "{text:?} by bytes");
        };
        check("exit_code: 0\n", "", "", 0);
        check("hi\nexit_code: 127\n", "hi\n", "", 127);
        check("no newlineexit_code: -1\n", "no newline", "", -1);
        check("out\n---stderr---\nerr\nexit_code: 2\n", "out\n", "err\n", 2);
        check("out---stderr---\n---stderr---\nexit_code: 2\n", "out", "---stderr---\n", 2);
        check("exit_code: 3\nexit_code: 0\n", "exit_code: 3\n", "", 0);
        check("--stderr---\n-exit_code: 0\n", "--stderr---\n-", "", 0);
    }

    #[test]
    fn says_when_the_end_is_missing() {
        for text in
            ["", "output", "exit_code: ", "exit_code: 1", "exit_code: x\n", "exit_code: 99999999999999\n"]
        {
            assert_eq!(decode(&[text.as_bytes()]).2, Err(ExecStreamError::Unfinished), "{text:?}");
        }
    }

    #[test]
    fn holds_nothing_back_that_is_output() {
        let mut decoder = ExecDecoder::default();
        assert_eq!(decoder.push(b"Password: "), [ExecChunk::Stdout(Bytes::from_static(b"Password: "))]);
        assert_eq!(decoder.push(b"exit"), []);
        assert_eq!(decoder.push(b"s\n"), [ExecChunk::Stdout(Bytes::from_static(b"exits\n"))]);
    }

    proptest! {
        #[test]
        fn loses_no_byte(stdout in "[a-z_: \n-]{0,60}", stderr in "[a-z_: \n-]{1,60}", cut in 0_usize..200) {
            prop_assume!(!stdout.contains("---stderr---\n"));
            let text = format!("{stdout}---stderr---\n{stderr}exit_code: 7\n");
            // A run of dashes before the marker moves it; the bytes stay.
            prop_assume!(find(text.as_bytes(), MARKER) == Some(stdout.len()));
            let (a, b) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(decode(&[a, b]), (stdout.into_bytes(), stderr.into_bytes(), Ok(7)));
        }
    }
}
