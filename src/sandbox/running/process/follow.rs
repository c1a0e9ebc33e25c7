//! Following a process's output.

use std::sync::Arc;

use tokio::sync::watch;

use crate::base::error::Error;
use crate::running::process::child::Process;
use crate::running::process::nouns::ProcessEnd;
use crate::running::process::output::Seen;
use engine::Stream;

/// How much a follower holds at once: any number of clients may follow, each as slowly as it likes.
const PIECE_BYTES: u64 = 64 * 1024;

/// What a follower gets.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of one stream; `bytes` begins with as many zeros as were asked for.
    Output { stream: Stream, offset: u64, bytes: Vec<u8> },
    /// Bytes that are not there any more.
    Dropped { from: u64, to: u64 },
    /// The last piece: the process has ended, and this was all of its output.
    Ended(ProcessEnd),
    /// The last piece: this follower had held up the process for too long. It may come again with its offset.
    Cut,
}

/// Reads a process's output from an offset on; while it lives nothing is dropped that it has not read.
#[derive(Debug)]
pub struct Follower {
    process: Arc<Process>,
    id: u64,
    offset: u64,
    seen: watch::Receiver<Seen>,
    /// What is not there any more, to be told first.
    dropped: Option<u64>,
    piece_bytes: u64,
    is_done: bool,
    is_place_kept: bool,
}

impl Follower {
    /// Follows a process from an offset; what is older than the ring is told as dropped.
    ///
    /// # Errors
    /// There is no such offset yet.
    pub fn new(process: Arc<Process>, from: u64) -> Result<Self, Error> {
        let seen = process.output.watch();
        let Some(id) = process.output.attach(from) else {
            let (_, end) = process.output.range();
            return Err(Error::Invalid(format!("\"from\" is at most {end}, the end of the output")));
        };
        let start = process.output.range().0;
        let dropped = (from < start).then_some(from);
        let (offset, piece_bytes) = (from.max(start), PIECE_BYTES);
        Ok(Self { process, id, offset, seen, dropped, piece_bytes, is_done: false, is_place_kept: false })
    }

    /// Makes pieces of output smaller: for a client to whom they grow on their way.
    pub fn in_pieces_of(mut self, bytes: u64) -> Self {
        self.piece_bytes = bytes.min(PIECE_BYTES);
        self
    }

    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Leaves its place to whoever follows next: between the start of a process and its first reader nothing is
    /// dropped. If nobody comes the process is soon held up no longer.
    pub fn keep_place(mut self) {
        self.is_place_kept = true;
        self.process.output.keep_place(self.id);
    }

    /// Waits until this follower is let go because it has held up the process for too long.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cut(&self) {
        let mut seen = self.seen.clone();
        while self.process.output.is_attached(self.id) {
            // The sender lives as long as the process, which is held here.
            let _always: Result<(), _> = seen.changed().await;
        }
    }

    /// Waits for the next piece; without `waits` there is none once all that is there has been read. Bytes
    /// come after `headroom` zeros.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self, waits: bool, headroom: usize) -> Option<Piece> {
        loop {
            if self.is_done {
                return None;
            }
            if let Some(from) = self.dropped.take() {
                return Some(Piece::Dropped { from, to: self.offset });
            }
            let seen = *self.seen.borrow_and_update();
            if !self.process.output.is_attached(self.id) {
                self.is_done = true;
                return Some(Piece::Cut);
            }
            if self.offset < seen.end {
                return Some(self.read(headroom, seen.end));
            }
            if let Some(ended) = seen.ended.filter(|_| seen.is_complete || !waits) {
                self.is_done = true;
                return Some(Piece::Ended(ProcessEnd::of(&ended)));
            }
            if !waits || self.seen.changed().await.is_err() {
                self.is_done = true;
            }
        }
    }

    fn read(&mut self, headroom: usize, end: u64) -> Piece {
        let offset = self.offset;
        let piece = match self.process.output.read(offset, self.piece_bytes, headroom) {
            Ok((stream, bytes)) if bytes.len() > headroom => {
                self.offset += (bytes.len() - headroom) as u64;
                Piece::Output { stream, offset, bytes }
            }
            // The file system had no room for them.
            Ok(_) | Err(_) => {
                self.offset = end;
                Piece::Dropped { from: offset, to: end }
            }
        };
        self.process.output.advance(self.id, self.offset);
        piece
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if !self.is_place_kept {
            self.process.output.leave(self.id);
        }
    }
}
