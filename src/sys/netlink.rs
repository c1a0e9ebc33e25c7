//! Links, addresses and routes: rtnetlink(7), synchronously.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The address of a link on its Ethernet.
pub type Mac = [u8; 6];

/// The index of the loopback device in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// A socket that speaks to the kernel about one network namespace: that of the thread that opened it,
/// whoever uses it later.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A link of a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The text beside its name; empty where there is none.
    pub alias: String,
    pub is_bridge: bool,
    /// The index of the bridge that it is a port of, or 0.
    pub controller: u32,
    pub mac: Vec<u8>,
    /// In bytes.
    pub mtu: u32,
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
    pub peer_mac: Mac,
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

    /// Lists the links (`RTM_GETLINK`). Not from `/sys/class/net`, which shows those of the namespace in which it
    /// was mounted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.send(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let mut links = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &*datagram;
            while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
                // A link of a kind that is not understood is none of ours.
                if let Ok(reply) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
                    match reply.payload {
                        NetlinkPayload::Done(_) => return Ok(links),
                        NetlinkPayload::Error(error) => return verdict(error.code),
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                            links.push(described(link));
                        }
                        _ => {}
                    }
                }
                let length = usize::try_from(length).unwrap_or(usize::MAX).max(4).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }

    /// Makes a bridge (`RTM_NEWLINK`) that keeps no table of multicast groups; one that is there already is no error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            // Ports would fill the table by joining groups (`mcast_hash_max`, man 8 ip-link).
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
        ]));
        ignore_existing(self.ask(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL))
    }

    /// Sets a link's Ethernet address and alias, the text that `ip link` shows (`RTM_SETLINK`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn mark(&mut self, index: u32, mac: Mac, alias: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        link.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Renames a link.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when the name is taken.
    pub fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let renamed = self.ask(RouteNetlinkMessage::SetLink(link.clone()), 0);
        if !matches!(&renamed, Err(error) if error.raw_os_error() == Some(libc::EBUSY)) {
            return renamed;
        }
        // Kernels before 6.2 rename no link that is up (`dev_change_name`).
        let mut down = LinkMessage::default();
        down.header.index = index;
        down.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(down), 0)?;
        let renamed = self.ask(RouteNetlinkMessage::SetLink(link), 0);
        // Up again in any case.
        self.set_up(index).and(renamed)
    }

    /// Makes a cable whose peer is born in another namespace, and sets its own end up as a port of the
    /// bridge that may speak to the bridge itself only (`IFLA_BRPORT_ISOLATED`). `prepare` runs before it is up.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when the name is taken.
    pub fn add_veth(&mut self, veth: &Veth<'_>, prepare: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.header.index = veth.peer_index;
        peer.attributes.push(LinkAttribute::IfName(veth.peer_name.to_owned()));
        peer.attributes.push(LinkAttribute::Mtu(veth.mtu));
        peer.attributes.push(LinkAttribute::Address(veth.peer_mac.to_vec()));
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
        prepare()?;

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

    /// Sets a link up on which no address is asked for (`IFF_NOARP`, man 7 netdevice): whom it does not know by
    /// [`Netlink::set_neighbour`] it cannot reach.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up_without_arp(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        link.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Says for good which Ethernet address an address has (`RTM_NEWNEIGH`, `NUD_PERMANENT`); it replaces what was
    /// known of it. Such an entry is not counted against the limits of the kernel's table (man 7 arp).
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Says whether the Ethernet address of an address is known (`RTM_GETNEIGH`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn has_neighbour(&mut self, index: u32, address: Ipv4Addr) -> io::Result<bool> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            asked => asked.map(|()| true),
        }
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

    /// Takes an address from a link (`RTM_DELADDR`), with the routes that came with it.
    ///
    /// # Errors
    /// The kernel's; `EADDRNOTAVAIL` when the link does not have it.
    pub fn delete_address(&mut self, index: u32, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix_len;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
        // Without it the kernel does not compare the length of the prefix.
        message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
        self.ask(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Adds a route to one address on a link, and the default route through it (`RTM_NEWROUTE`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_routes_through(&mut self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        let mut on_link = route(RouteScope::Link);
        on_link.header.destination_prefix_length = 32;
        on_link.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(gateway)));
        on_link.attributes.push(RouteAttribute::Oif(index));
        self.ask(RouteNetlinkMessage::NewRoute(on_link), NLM_F_CREATE | NLM_F_REPLACE)?;
        let mut default = route(RouteScope::Universe);
        default.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        default.attributes.push(RouteAttribute::Oif(index));
        self.ask(RouteNetlinkMessage::NewRoute(default), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Sends one request and waits for the kernel's word on it.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        loop {
            let (reply, _) = self.socket.recv_from_full()?;
            let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if reply.header.sequence_number != self.sequence {
                continue;
            }
            if let NetlinkPayload::Error(error) = reply.payload {
                return verdict(error.code);
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut request = vec![0; packet.buffer_len()];
        packet.serialize(&mut request);
        self.socket.send(&request, 0).map(drop)
    }
}

/// What the kernel's word on a request comes to.
fn verdict<T: Default>(code: Option<NonZeroI32>) -> io::Result<T> {
    code.map_or_else(|| Ok(T::default()), |code| Err(io::Error::from_raw_os_error(code.get().abs())))
}

fn described(message: LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Controller(index) => link.controller = index,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    link
}

fn route(scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message
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
