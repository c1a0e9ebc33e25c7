//! Unix sockets that carry descriptors: sendmsg(2), recvmsg(2), unix(7).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 16;

/// `sendmsg(socket, bytes + SCM_RIGHTS, MSG_NOSIGNAL)`: sends bytes with descriptors; returns how many bytes went.
///
/// # Errors
/// The kernel's; `WouldBlock` on a non-blocking socket that is full.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let slices = [IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// `sendmsg(socket(AF_UNIX, SOCK_DGRAM), address, bytes + SCM_RIGHTS, MSG_DONTWAIT)`: sends one datagram with descriptors.
///
/// # Errors
/// The kernel's; `WouldBlock` when the receiver has many waiting, `ConnectionRefused` when it is gone.
pub fn send_to(
    address: &rustix::net::SocketAddrUnix,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM);
    let socket = rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg_addr(&socket, address, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}

/// `recvmsg(socket, MSG_CMSG_CLOEXEC)`: receives bytes and whatever descriptors ride with them; 0 bytes is the end.
///
/// # Errors
/// The kernel's; `WouldBlock` on a non-blocking socket that has nothing.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for received in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = received {
            descriptors.extend(fds);
        }
    }
    Ok((message.bytes, descriptors))
}

/// `getsockopt(SO_TYPE)`: says whether a socket is one for datagrams.
///
/// # Errors
/// The kernel's; it is no socket.
pub fn is_datagram(socket: impl AsFd) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_type(socket)? == rustix::net::SocketType::DGRAM)
}

/// Takes over a descriptor that the process was started with.
///
/// # Errors
/// `EBADF` when there is none of that number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks the kernel whether the number is an open descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, and whoever started this process gave it to this caller alone.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// `dup3(source, number, 0)`: puts a copy at a fixed number, to be kept across an exec; whatever was there is closed.
///
/// # Errors
/// The kernel's.
pub fn place(source: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the number becomes a descriptor that this call itself makes; it is given up again below.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let result = rustix::io::dup3(source, &mut target, rustix::io::DupFlags::empty());
    // Not closed here: it is meant for the program that is executed next.
    let _kept: RawFd = target.into_raw_fd();
    Ok(result?)
}
