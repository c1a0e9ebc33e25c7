//! Frames: a length and that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame: an exec's arguments and environment, which execve(2) limits to 2 MiB.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;
const HEADER_BYTES: usize = 4;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("parse a frame")]
    Parse(#[source] serde_json::Error),
}

/// Writes a message as a frame.
///
/// # Errors
/// The message is longer than [`FRAME_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Parse)?;
    let length = bytes.len() - HEADER_BYTES;
    let header = u32::try_from(length)
        .ok()
        .filter(|_| length <= FRAME_BYTES_MAX)
        .ok_or(FrameError::TooLong(length))?;
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_le_bytes());
    Ok(bytes)
}

/// Puts frames together from the pieces in which they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` until it has arrived.
    ///
    /// # Errors
    /// A frame that is too long or not the expected JSON; the stream is of no use after that.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(FrameError::Parse)?;
        self.buffer.drain(..HEADER_BYTES + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let bytes = [encode(&"first").unwrap(), encode(&vec![1, 2, 3]).unwrap()].concat();
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            decoder.push(&bytes[..cut]);
            let early: Option<String> = decoder.take().unwrap();
            decoder.push(&bytes[cut..]);
            let first = early.or_else(|| decoder.take().unwrap());
            assert_eq!(first.as_deref(), Some("first"));
            assert_eq!(decoder.take::<Vec<u8>>().unwrap(), Some(vec![1, 2, 3]));
            assert_eq!(decoder.take::<String>().unwrap(), None);
        }
    }

    #[test]
    fn hostile_frames_are_refused() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.take::<String>().unwrap_err()
        };
        assert!(matches!(refused(&[0xff; 4]), FrameError::TooLong(_)));
        assert!(matches!(refused(&[2, 0, 0, 0, b'{', b'}']), FrameError::Parse(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_a_message_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), piece in 1_usize..64, short in proptest::bool::ANY) {
            let mut bytes = bytes;
            if short && bytes.len() > 4 {
                // Lengths that can be, or nearly every input ends at the first one.
                bytes[2..4].fill(0);
            }
            let mut decoder = Decoder::default();
            'all: for piece in bytes.chunks(piece) {
                decoder.push(piece);
                loop {
                    match decoder.take::<crate::Reply>() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
            }
        }
    }
}
