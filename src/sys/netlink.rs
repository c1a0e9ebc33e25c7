//! Links, addresses and routes: rtnetlink(7), synchronously.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The index of the loopback device in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// A socket that speaks to the kernel about one network namespace: that of the thread that opened it,
/// whoever uses it later.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// The two ends of a cable.
#[derive(Debug)]
pub struct Veth<'a> {
    /// The end in this socket's namespace, a port of the bridge.
    pub name: &'a str,
    /// Its index, which must be free: the kernel takes the peer's only together with this.
    pub index: u32,
    pub bridge_index: u32,
    /// The other end, in another namespace, where its index is free to choose.
    pub peer_name: &'a str,
    pub peer_index: u32,
    pub peer_netns: BorrowedFd<'a>,
    /// In bytes, of both ends.
    pub mtu: u32,
}

impl Netlink {
    /// `socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a bridge (`RTM_NEWLINK`); one that is there already is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        ignore_existing(self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// Makes a cable whose peer is born in another namespace, and sets its own end up as a port of the
    /// bridge that may speak to the bridge itself only (`IFLA_BRPORT_ISOLATED`).
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when the name is taken.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.header.index = veth.peer_index;
        peer.attributes.push(LinkAttribute::IfName(veth.peer_name.to_owned()));
        peer.attributes.push(LinkAttribute::Mtu(veth.mtu));
        peer.attributes.push(LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()));
        let mut link = LinkMessage::default();
        link.header.index = veth.index;
        link.attributes.push(LinkAttribute::IfName(veth.name.to_owned()));
        link.attributes.push(LinkAttribute::Mtu(veth.mtu));
        link.attributes.push(LinkAttribute::Controller(veth.bridge_index));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)?;

        // A port's own settings are taken only once it is a port.
        let mut port = LinkMessage::default();
        port.header.flags = LinkFlags::Up;
        port.header.change_mask = LinkFlags::Up;
        port.header.index = veth.index;
        port.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        self.ask(RouteNetlinkMessage::NewLink(port), 0)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Deletes a link (`RTM_DELLINK`); one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_link(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask(RouteNetlinkMessage::DelLink(link), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives a link an address (`RTM_NEWADDR`); one that it has already is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix_len;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
        message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
        ignore_existing(self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// Adds a default route (`RTM_NEWROUTE`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sends one request and waits for the kernel's word on it.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut request = vec![0; packet.buffer_len()];
        packet.serialize(&mut request);
        self.socket.send(&request, 0)?;
        loop {
            let (reply, _) = self.socket.recv_from_full()?;
            let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if reply.header.sequence_number != self.sequence {
                continue;
            }
            if let NetlinkPayload::Error(error) = reply.payload {
                return error.code.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code.get().abs())));
            }
        }
    }
}

/// `if_nametoindex(name)` — man 3 if_nametoindex.
///
/// # Errors
/// There is no such link.
pub fn index_of(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

fn ignore_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}
