//! The kernel's table of connections: nfnetlink, `NFNL_SUBSYS_CTNETLINK`, synchronously.
//!
//! Messages are put together here: four attributes are used, and the crates for them know more than that of
//! other subsystems and less of this one. Their layout is that of `linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `struct nlmsghdr` and, behind it, `struct nfgenmsg`.
const HEADER_BYTES: usize = 16;
const FAMILY_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const DUMP: u16 = 0x300;
/// Types of replies: `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const TUPLE_ORIG: u16 = 1;
const TUPLE_IP: u16 = 1;
const IP_V4_SRC: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Deletes the entries of connections that began at chosen addresses of this network namespace; says how many.
///
/// # Errors
/// The kernel's; `EINVAL` where it cannot tell of connections (`CONFIG_NF_CT_NETLINK`).
pub fn forget(is_chosen: impl Fn(Ipv4Addr) -> bool) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message(GET, REQUEST | DUMP, &[]), 0)?;
    // Deleted only once all are known: the kernel goes on where it was, in a table that changes.
    let mut chosen = Vec::new();
    while collect(&socket.recv_from_full()?.0, &is_chosen, &mut chosen)? {}
    for entry in &chosen {
        socket.send(&message(DELETE, REQUEST | ACK, entry), 0)?;
        match collect(&socket.recv_from_full()?.0, &is_chosen, &mut Vec::new()) {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            answered => drop(answered?),
        }
    }
    Ok(chosen.len())
}

/// Takes what is chosen from a datagram of replies; false once that was the last.
fn collect(
    mut datagram: &[u8],
    is_chosen: impl Fn(Ipv4Addr) -> bool,
    chosen: &mut Vec<Vec<u8>>,
) -> io::Result<bool> {
    while let Some((kind, body, rest)) = next_message(datagram) {
        datagram = rest;
        match kind {
            DONE => return Ok(false),
            ERROR => {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return if code == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            _ => {
                let attributes = body.get(FAMILY_BYTES..).unwrap_or_default();
                if source(attributes).is_some_and(&is_chosen) {
                    chosen.push(naming(attributes));
                }
            }
        }
    }
    Ok(true)
}

/// The source of an entry's first packet.
fn source(attributes: &[u8]) -> Option<Ipv4Addr> {
    let address = find(find(find(attributes, TUPLE_ORIG)?, TUPLE_IP)?, IP_V4_SRC)?;
    Some(Ipv4Addr::from(*address.first_chunk::<4>()?))
}

/// What names an entry: its tuple, its zone, and the id that tells it from a later one of the same tuple.
fn naming(attributes: &[u8]) -> Vec<u8> {
    let mut named = Vec::new();
    for kind in [TUPLE_ORIG, ZONE, ID] {
        if let Some(value) = find(attributes, kind) {
            let nested = if kind == TUPLE_ORIG { NESTED } else { 0 };
            push(&mut named, kind | nested, value);
        }
    }
    named
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + FAMILY_BYTES + attributes.len();
    let mut message = u32::try_from(length).unwrap_or_default().to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Neither the sequence nor the port is looked at: one request at a time, on a socket of its own.
    message.extend([0; 8]);
    message.extend([libc::AF_INET.to_le_bytes()[0], 0, 0, 0]);
    message.extend(attributes);
    message
}

fn push(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).unwrap_or(u16::MAX);
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

/// The first message's type and body, and what follows it.
fn next_message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
    let body = datagram.get(HEADER_BYTES..length)?;
    Some((kind, body, datagram.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let found = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(ATTRIBUTE_BYTES..length)?;
        if found & TYPE_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tuple of a connection that began at an address.
    fn tuple(address: Ipv4Addr) -> Vec<u8> {
        let (mut addresses, mut tuple, mut all) = (Vec::new(), Vec::new(), Vec::new());
        push(&mut addresses, IP_V4_SRC, &address.octets());
        push(&mut tuple, TUPLE_IP | NESTED, &addresses);
        push(&mut all, TUPLE_ORIG | NESTED, &tuple);
        all
    }

    #[test]
    fn an_entry_is_found_by_its_source_and_named_again() {
        let address = Ipv4Addr::new(10, 213, 0, 2);
        let mut entry = tuple(address);
        push(&mut entry, ID, &[1, 2, 3, 4]);
        let mut datagram = message(GET, 0, &entry);
        datagram.extend(message(DONE, 0, &[]));
        let mut chosen = Vec::new();
        assert!(!collect(&datagram, |a| a == address, &mut chosen).unwrap());
        assert_eq!((chosen.len(), source(&chosen[0])), (1, Some(address)));
        assert_eq!(find(&chosen[0], ID), Some(&[1, 2, 3, 4][..]));
        assert!(!collect(&datagram, |a| a != address, &mut chosen).unwrap());
        assert_eq!(chosen.len(), 1);
    }

    #[test]
    fn what_is_cut_short_is_no_entry() {
        let datagram = message(GET, 0, &tuple(Ipv4Addr::LOCALHOST));
        for length in 0..datagram.len() {
            let mut chosen = Vec::new();
            assert!(collect(&datagram[..length], |_| true, &mut chosen).unwrap() && chosen.is_empty());
        }
    }
}
