//! A file on its way out.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::base::share::{Counted, Offloaded, Share};
use storage::Content;

/// How much of a file is read at once: what fits into a core's cache beside what is being sent.
const READ_BYTES: usize = 256 * 1024;
/// The least that is read at once, however many files are being read.
const READ_BYTES_MIN: usize = 16 * 1024;
/// What all files that are being read may have in memory together: the more of them, the smaller their pieces.
const READING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A file that is open for reading.
#[derive(Debug)]
pub struct Download {
    pub(crate) open: Arc<Open>,
    pub size: u64,
    /// Changes when the content does.
    pub version: String,
}

/// A part of a file on its way out, in pieces. What is in memory is taken from there at once; once something is not,
/// a thread reads the next piece while the last one is sent.
#[derive(Debug)]
pub struct Pieces {
    open: Arc<Open>,
    at: u64,
    end: u64,
    ahead: Option<AbortOnDropHandle<io::Result<Bytes>>>,
}

/// A file that is being read, and whose threads read it.
#[derive(Debug)]
pub(crate) struct Open {
    content: Option<Arc<Content>>,
    share: Share,
    reading: Counted,
}

impl Download {
    /// Reads a part; less comes if the file becomes shorter meanwhile.
    pub fn pieces(&self, start: u64, length: u64) -> Pieces {
        let end = start.saturating_add(length);
        Pieces { open: Arc::clone(&self.open), at: start, end, ahead: None }
    }
}

impl Open {
    pub(crate) fn new(content: Content, share: &Share) -> Self {
        let reading = share.reading.begin();
        Self { content: Some(Arc::new(content)), share: share.clone(), reading }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(content) = self.content.take().filter(|content| content.is_removed()) {
            drop(Offloaded::new(content, &self.share));
        }
    }
}

impl Pieces {
    /// Returns the next piece, or `None` at the end.
    ///
    /// # Cancel safety
    /// Not cancel safe: a piece that is given up is lost.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let (piece, from_disk) = match self.ahead.take() {
            Some(reading) => (reading.await, true),
            None => match self.cached()? {
                Ok(Some(piece)) => (Ok(Ok(piece)), false),
                Ok(None) => (self.read()?.await, true),
                Err(error) => (Ok(Err(error)), false),
            },
        };
        let piece = piece.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let length = piece.as_ref().map_or(0, Bytes::len);
        self.at = self.at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if length == 0 {
            // The file is shorter than it was: the answer breaks off, since its length was announced.
            self.end = self.at;
            return piece.is_err().then_some(piece);
        }
        if from_disk {
            self.ahead = self.read();
        }
        Some(piece)
    }

    /// How much comes next; `None` at the end.
    fn wanted(&self) -> Option<usize> {
        let left = self.end.saturating_sub(self.at);
        let piece = self.open.reading.fair(READING_BYTES_MAX).clamp(READ_BYTES_MIN, READ_BYTES);
        (left > 0).then(|| usize::try_from(left).unwrap_or(usize::MAX).min(piece))
    }

    /// Takes the next piece from memory, if it is there: no thread has to be asked, and none waits.
    fn cached(&self) -> Option<io::Result<Option<Bytes>>> {
        let piece = self.open.content.as_ref()?.read_cached(self.at, self.wanted()?);
        Some(piece.map(|found| found.map(Bytes::from)))
    }

    /// Given up while it waits for a thread, it is not begun.
    fn read(&self) -> Option<AbortOnDropHandle<io::Result<Bytes>>> {
        let (content, at, wanted) = (Arc::clone(self.open.content.as_ref()?), self.at, self.wanted()?);
        let share = self.open.share.clone();
        let read = move || Ok(content.read(at, wanted).map(Bytes::from));
        let reading = async move { share.run(read).await.unwrap_or_else(|busy| Err(io::Error::other(busy))) };
        Some(AbortOnDropHandle::new(self.open.share.spawn(reading)))
    }
}
