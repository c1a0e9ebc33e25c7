//! One connection of the daemon: frames in, replies out.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use protocol::{Decoder, Reply, Request, encode};
use sys::socket;

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection and what has arrived on it so far.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    descriptors: Vec<OwnedFd>,
    /// Whether this is the connection about processes.
    pub(super) is_attached: bool,
    /// Whether changes of the app are to be told here.
    pub(super) watches_app: bool,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            descriptors: Vec::new(),
            is_attached: false,
            watches_app: false,
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// The connection has ended or failed, or sent what is not a request: it is of no use any more.
    pub(super) fn receive(&mut self) -> io::Result<Vec<(Request, Vec<OwnedFd>)>> {
        let mut buffer = [0; READ_BYTES];
        let mut requests = Vec::new();
        loop {
            match socket::receive(&self.socket, &mut buffer) {
                // What arrived before the end still counts; the end is seen again by the next call.
                Ok((0, _)) if !requests.is_empty() => return Ok(requests),
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, descriptors)) => {
                    self.descriptors.extend(descriptors);
                    self.decoder.push(&buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(requests),
                Err(error) => return Err(error),
            }
            while let Some(request) = self.decoder.take::<Request>().map_err(io::Error::other)? {
                // In order, so that each request gets its own even if several arrive at once.
                if request.descriptors() > self.descriptors.len() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let rest = self.descriptors.split_off(request.descriptors());
                requests.push((request, std::mem::replace(&mut self.descriptors, rest)));
            }
        }
    }

    /// Sends a reply.
    ///
    /// # Errors
    /// The daemon is gone, or does not read: a connection that is full is given up rather than waited
    /// for, since the sandbox must go on.
    pub(super) fn reply(&self, reply: &Reply) -> io::Result<()> {
        self.reply_with(reply, &[])
    }

    /// Sends a reply with descriptors.
    ///
    /// # Errors
    /// As [`Connection::reply`].
    pub(super) fn reply_with(&self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(&encode(reply).map_err(io::Error::other)?, descriptors)
    }

    /// Sends replies at once: each would take a kilobyte of the socket's room by itself.
    ///
    /// # Errors
    /// As [`Connection::reply`].
    pub(super) fn reply_all(&self, replies: &[Reply]) -> io::Result<()> {
        let frames: Result<Vec<_>, _> = replies.iter().map(encode).collect();
        self.send(&frames.map_err(io::Error::other)?.concat(), &[])
    }

    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = socket::send(&self.socket, bytes, descriptors)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
