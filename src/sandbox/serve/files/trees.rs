//! Trees on their way in and out: a thread that packs or unpacks, and a short queue to the connection.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use crate::base::error::Error;
use crate::serve::files::entries::{tree_limits, with_files};
use crate::serve::serving::Serving;
use model::{ArchiveFormat, FileBase, SandboxId};
use storage::{FilePath, Unpacked, View, Waiting, Wanted};
use sys::memory;
use sys::priority::Yielding;

/// Pieces between the thread and the connection.
const QUEUE: usize = 2;
/// How much is gathered before it is handed on: small files make small pieces.
const PIECE_BYTES: usize = 64 * 1024;
/// How long a client that downloads may take nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A tree that is being packed; dropped, that ends.
#[derive(Debug)]
pub struct Packed {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    _waiting: Waiting,
}

/// A tree that is being unpacked; dropped before [`Unpacking::finish`], nothing is changed.
#[derive(Debug)]
pub struct Unpacking {
    pieces: mpsc::Sender<Piece>,
    thread: JoinHandle<Result<Unpacked, Error>>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

impl Packed {
    /// Returns the next piece, or `None` at the end.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.pieces.recv().await
    }
}

impl Unpacking {
    /// Hands on a piece of the archive; says whether more is wanted. When not, [`Unpacking::finish`] says why.
    ///
    /// # Cancel safety
    /// Cancel safe: a piece that is given up has not been taken.
    pub async fn write(&self, piece: Bytes) -> bool {
        self.pieces.send(Piece::Bytes(piece)).await.is_ok()
    }

    /// Says that the archive is complete and waits until the tree is in place.
    ///
    /// # Errors
    /// The archive is refused, the disk is full, or something is in the way; then nothing is changed.
    pub async fn finish(self) -> Result<(u64, u64), Error> {
        // A thread that has ended already tells why.
        self.pieces.send(Piece::End).await.ok();
        let unpacked = self.thread.await.unwrap_or(Err(Error::Panicked))?;
        Ok((unpacked.entries, unpacked.bytes))
    }
}

/// The thread's end of a download.
struct Sink {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    gathered: BytesMut,
}

impl Sink {
    fn send(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        let sent = self.runtime.block_on(tokio::time::timeout(SILENCE_MAX, self.sender.send(piece)));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.gathered, BytesMut::with_capacity(PIECE_BYTES * 2));
        self.send(Ok(piece.freeze()))
    }
}

/// The thread's end of an upload. A queue that closes without its end is a client that went away.
struct Source {
    receiver: mpsc::Receiver<Piece>,
    at_hand: Bytes,
    ended: bool,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at_hand.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.at_hand = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let count = self.at_hand.len().min(buffer.len());
        let piece = self.at_hand.split_to(count);
        if let Some(to) = buffer.get_mut(..count) {
            to.copy_from_slice(&piece);
        }
        Ok(count)
    }
}

/// Begins to pack what is in a directory; `all` with what listings hide.
pub(crate) async fn pack(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    format: ArchiveFormat,
    all: bool,
) -> Result<Packed, Error> {
    let path = FilePath::parse_directory(path).map_err(Error::File)?;
    let view = if all { View::Everything } else { View::Project };
    let limits = tree_limits(serving);
    let permits = transfer(serving, id)?;
    let measured = path.clone();
    let files = with_files(serving, id, base, move |files| {
        files.measure(&measured, view, limits).map_err(Error::File)?;
        files.try_clone().map_err(Error::File)
    })
    .await?;
    let (sender, pieces) = mpsc::channel(QUEUE);
    let wanted = Wanted::default();
    let waiting = wanted.waiting();
    serving.ground.tasks.spawn_blocking(move || {
        let _yielding = Yielding::begin();
        let mut sink = Sink { sender, runtime: Handle::current(), gathered: BytesMut::new() };
        let packed = files.while_wanted(&wanted).pack(&path, view, format, limits, &mut sink);
        let ended = packed.map_err(io::Error::other).and_then(|()| sink.flush());
        if let Err(error) = ended {
            // The answer breaks off, so that nobody takes a part for the whole.
            sink.send(Err(error)).ok();
        }
        drop(sink);
        memory::give_back();
        drop(permits);
    });
    Ok(Packed { pieces, _waiting: waiting })
}

/// Begins to unpack an archive into a directory.
pub(crate) async fn unpack(
    serving: &Arc<Serving>,
    id: SandboxId,
    base: FileBase,
    path: &str,
    format: ArchiveFormat,
) -> Result<Unpacking, Error> {
    let path = FilePath::parse_directory(path).map_err(Error::File)?;
    let limits = tree_limits(serving);
    let permits = transfer(serving, id)?;
    let files = with_files(serving, id, base, |files| files.try_clone().map_err(Error::File)).await?;
    let (pieces, receiver) = mpsc::channel(QUEUE);
    let thread = serving.ground.tasks.spawn_blocking(move || {
        let _yielding = Yielding::begin();
        let mut source = Source { receiver, at_hand: Bytes::new(), ended: false };
        let unpacked = files.unpack(&path, format, limits, &mut source);
        memory::give_back();
        drop(permits);
        unpacked.map_err(Error::File)
    });
    Ok(Unpacking { pieces, thread })
}

/// One of the sandbox's own transfers, and one of all.
pub(crate) fn transfer(serving: &Arc<Serving>, id: SandboxId) -> Result<[OwnedSemaphorePermit; 2], Error> {
    let own = serving.ground.books.find(id)?.share.transfer();
    let all = Arc::clone(&serving.transfers).try_acquire_owned().ok();
    let both = own.zip(all).map(|(own, all)| [own, all]);
    both.ok_or(Error::Busy("too many trees are being transferred already; try again"))
}
