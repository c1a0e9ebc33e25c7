//! An answer that is kept until it is sent.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::share::Share;
use crate::serve::files::download::{Download, Open, Pieces};
use storage::Spool;

/// An answer, in memory where it is small.
#[derive(Debug)]
pub struct Kept {
    parts: VecDeque<Part>,
    length: u64,
}

/// What of an answer is still to be sent.
#[derive(Debug)]
pub struct KeptPieces(VecDeque<Part>);

#[derive(Debug)]
enum Part {
    Memory(Bytes),
    File(Pieces),
}

impl Kept {
    /// Of what was spooled, one after the other.
    pub(crate) fn new(spools: impl IntoIterator<Item = Spool>, share: &Share) -> Self {
        let (mut parts, mut length) = (VecDeque::new(), 0);
        for spooled in spools.into_iter().map(Spool::finish) {
            length += spooled.length();
            if let Some((content, size)) = spooled.file {
                let open = Arc::new(Open::new(content, share));
                let whole = Download { open, size, version: String::new() };
                parts.push_back(Part::File(whole.pieces(0, size)));
            }
            parts.push_back(Part::Memory(spooled.memory.into()));
        }
        Self { parts, length }
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Sends it, piece by piece.
    pub fn pieces(self) -> KeptPieces {
        KeptPieces(self.parts)
    }
}

impl KeptPieces {
    /// Returns the next piece, or `None` at the end.
    ///
    /// # Cancel safety
    /// Not cancel safe: a piece that is given up is lost.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.0.front_mut()? {
                Part::Memory(bytes) => {
                    let piece = std::mem::take(bytes);
                    self.0.pop_front();
                    if !piece.is_empty() {
                        return Some(Ok(piece));
                    }
                }
                Part::File(pieces) => match pieces.next().await {
                    Some(piece) => return Some(piece),
                    None => drop(self.0.pop_front()),
                },
            }
        }
    }
}
