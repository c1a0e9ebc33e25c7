//! One connection of the daemon: frames in, replies out.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use crate::protocol::{Decoder, Reply, Request, encode};
use crate::sys::socket;

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// A connection and what has arrived on it so far.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    descriptors: Vec<OwnedFd>,
    /// The process whose end is to be told here.
    pub(super) exec_pid: Option<i32>,
    /// Whether changes of the app are to be told here.
    pub(super) watches_app: bool,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            descriptors: Vec::new(),
            exec_pid: None,
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
            while let Some(request) = self.decoder.take().map_err(io::Error::other)? {
                requests.push((request, std::mem::take(&mut self.descriptors)));
            }
        }
    }

    /// Sends a reply.
    ///
    /// # Errors
    /// The daemon is gone, or does not read: a connection that is full is given up rather than waited
    /// for, since the sandbox must go on.
    pub(super) fn reply(&self, reply: &Reply) -> io::Result<()> {
        let frame = encode(reply).map_err(io::Error::other)?;
        let sent = socket::send(&self.socket, &frame, &[])?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
