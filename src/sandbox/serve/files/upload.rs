//! A file on its way in.

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::base::error::Error;
use crate::base::share::{Counted, Offloaded, Share};

/// How much of an upload is gathered before it is written: one change of threads for so much.
const WRITE_BYTES: usize = 256 * 1024;
/// The least that is gathered, however many uploads there are.
const WRITE_BYTES_MIN: usize = 16 * 1024;
/// What all uploads may have gathered together: the more of them, the smaller their pieces.
const WRITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much more may gather while the disk is still busy with what came before, in such pieces.
const GATHERED_PIECES_MAX: usize = 4;
/// How many pieces may gather, however small: each costs memory of its own, and writev(2) takes 1024.
const GATHERED_MAX: usize = 1024;

/// A file that is being written; dropped before [`Upload::commit`], nothing is changed.
#[derive(Debug)]
pub struct Upload {
    share: Share,
    counted: Counted,
    writing: Writing,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

#[derive(Debug)]
enum Writing {
    Idle(Written),
    Busy(AbortOnDropHandle<Result<Written, Error>>),
    Given,
}

/// What is written of a file; its end removes what is not whole.
type Written = Offloaded<Box<storage::Upload>>;

impl Upload {
    /// Begins to write; `upload` is the file's new content.
    pub(crate) fn new(upload: storage::Upload, share: Share) -> Self {
        let writing = Writing::Idle(Offloaded::new(Box::new(upload), &share));
        let counted = share.writing.begin();
        Self { share, counted, writing, gathered: Vec::new(), gathered_bytes: 0 }
    }

    /// Adds to the file. Bytes are written while further ones are received.
    ///
    /// # Errors
    /// The disk is full or fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: a write that is given up ends the upload.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.gathered_bytes += bytes.len();
        self.gathered.push(bytes);
        let piece = self.counted.fair(WRITING_BYTES_MAX).clamp(WRITE_BYTES_MIN, WRITE_BYTES);
        let full = self.gathered_bytes >= piece * GATHERED_PIECES_MAX || self.gathered.len() >= GATHERED_MAX;
        let busy = matches!(&self.writing, Writing::Busy(writing) if !writing.is_finished());
        // The client is not made to wait for one slow write, and the next one is larger.
        if !full && (busy || self.gathered_bytes < piece) {
            return Ok(());
        }
        let (mut upload, pieces) = (self.idle().await?, std::mem::take(&mut self.gathered));
        self.gathered_bytes = 0;
        let (share, tasks) = (self.share.clone(), self.share.clone());
        let write = move || {
            upload.get()?.write(&pieces).map_err(Error::File)?;
            Ok(upload)
        };
        let writing = tasks.spawn(async move { share.run(write).await });
        self.writing = Writing::Busy(AbortOnDropHandle::new(writing));
        Ok(())
    }

    /// Puts the file in place of what was there; returns its size.
    ///
    /// # Errors
    /// The disk is full or fails, or a directory is in the way.
    pub async fn commit(mut self) -> Result<u64, Error> {
        let (upload, pieces) = (self.idle().await?, std::mem::take(&mut self.gathered));
        let write = move || {
            let mut upload = upload.take().ok_or(Error::Ending)?;
            upload.write(&pieces).map_err(Error::File)?;
            upload.commit().map_err(Error::File)
        };
        self.share.run(write).await
    }

    async fn idle(&mut self) -> Result<Written, Error> {
        match std::mem::replace(&mut self.writing, Writing::Given) {
            Writing::Idle(upload) => Ok(upload),
            Writing::Busy(writing) => writing.await.unwrap_or(Err(Error::Panicked)),
            // A write before this one failed.
            Writing::Given => Err(Error::Ending),
        }
    }
}
