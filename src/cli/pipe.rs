//! Between code that waits for the network and code that waits for the disk: bounded, in both directions.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::mpsc;

/// What goes through in one piece.
const PIECE_BYTES: usize = 128 * 1024;
/// How many pieces may wait.
const PIECES_MAX: usize = 8;

/// A piece, or what went wrong on the other side.
pub(super) type Piece = io::Result<Bytes>;

pub(super) fn pipe() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(PIECES_MAX)
}

/// Writes into a pipe from a thread.
#[derive(Debug)]
pub(super) struct PipeWriter {
    sender: mpsc::Sender<Piece>,
    held: BytesMut,
}

impl PipeWriter {
    pub(super) fn new(sender: mpsc::Sender<Piece>) -> Self {
        Self { sender, held: BytesMut::with_capacity(PIECE_BYTES) }
    }

    /// Ends the stream as a failure: what was sent must not be taken for the whole.
    pub(super) fn fail(self, reason: &str) {
        // Nobody listens: then nobody takes it for the whole either.
        self.sender.blocking_send(Err(io::Error::other(reason.to_owned()))).ok();
    }
}

impl Write for PipeWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.get(..PIECE_BYTES - self.held.len()).unwrap_or(data);
        self.held.extend_from_slice(taken);
        if self.held.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.held, BytesMut::with_capacity(PIECE_BYTES)).freeze();
        self.sender.blocking_send(Ok(piece)).map_err(|_closed| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads from a pipe on a thread.
#[derive(Debug)]
pub(super) struct PipeReader {
    receiver: mpsc::Receiver<Piece>,
    held: Bytes,
}

impl PipeReader {
    pub(super) fn new(receiver: mpsc::Receiver<Piece>) -> Self {
        Self { receiver, held: Bytes::new() }
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.held = piece?,
            }
        }
        let length = buffer.len().min(self.held.len());
        self.held.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_through_in_order_and_a_failure_is_no_end() {
        let (sender, receiver) = pipe();
        let data: Vec<u8> = (0..400_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let sent = data.clone();
        let writing = std::thread::Builder::new().spawn(move || {
            let mut writer = PipeWriter::new(sender);
            writer.write_all(&sent).unwrap();
            writer.flush().unwrap();
            writer.fail("cut");
        });
        let mut reader = PipeReader::new(receiver);
        let mut read = vec![0; data.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read == data);
        assert_eq!(reader.read(&mut [0; 1]).unwrap_err().to_string(), "cut");
        writing.unwrap().join().unwrap();
    }

    #[test]
    fn nobody_who_listens_ends_the_writing() {
        let (sender, receiver) = pipe();
        drop(receiver);
        let error = PipeWriter::new(sender).write_all(&vec![0; PIECE_BYTES]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
