//! Gives a sandbox a network namespace, an address and the way out, and takes them away again.
//!
//! ```text
//!  sandbox's netns              host's netns
//!   lo  eth0 /32 ══════ sb3k9x2p… ─┐ isolated ports
//!              veth                ├─ bridge sb3k9x2b0 (a /22 of the pool; up to 1,000 ports)
//!                       sb3k9x2p… ─┘      │ forward: nftables table inet sandboxd
//!                                         ▼ masquerade
//!                                       uplink
//! ```
//!
//! Neither end asks the other for its Ethernet address: each knows it from the beginning, since it is made of the
//! IPv4 address. So no sandbox can fill the table of neighbours, of which the kernel has one for all namespaces.
//!
//! The firewall is one static table: nothing in it names a sandbox, so a sandbox comes and goes
//! without it being touched. To detach is to drop the namespace's last descriptor: the kernel takes
//! the cable away in the background, where deleting it in so many words would take 30 ms.

mod closed;
mod config;
pub mod dns;
mod error;
mod host;
mod live;
mod names;
mod pool;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sys::netlink::{self, LOOPBACK_INDEX, Mac, Netlink, Veth};
use sys::{conntrack, netns};

use live::Link;
use rules::Surroundings;

pub use closed::{Net, NetError};
pub use config::Config;
pub use error::NetworkError;
pub use host::missing_features;
pub use live::Live;
pub use names::LinkNames;
pub use pool::{Pool, PoolError};
pub use rules::RulesState;

/// The index of `eth0` in a sandbox: high, since some kernels put tunnel devices of their own into
/// every namespace.
const ETH0_INDEX: u32 = 1000;
/// The indices of the host's ends begin here, far above those that the kernel gives by itself.
const CABLE_INDEX_FIRST: u32 = 1 << 30;

/// The host's side of all sandboxes' networks.
#[derive(Debug)]
pub struct Network {
    config: Config,
    netlink: Mutex<Netlink>,
    /// The bridges that are there, by number, with their link index.
    bridges: Mutex<Vec<Option<u32>>>,
    rules: rules::Rules,
    /// Links on which forwarding was turned on by us.
    opened: Mutex<BTreeSet<String>>,
    live: Live,
    mtu: u32,
    cables: AtomicU32,
}

/// A sandbox's network; dropping `netns` takes it away.
#[derive(Debug)]
pub struct Attachment {
    pub netns: Arc<OwnedFd>,
    pub address: Ipv4Addr,
}

impl Network {
    /// Prepares the host: the first bridge, forwarding, the firewall. What is there already is used.
    ///
    /// # Errors
    /// The pool is in use by somebody else, nft is missing, or the kernel refuses.
    pub fn open(config: Config) -> Result<Self, NetworkError> {
        let mut netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let links = netlink.links().map_err(kernel("list the links"))?;
        rename_former(&mut netlink, &config, &links)
            .map_err(kernel("rename the links of an earlier version"))?;
        if let Some(taken) = host::overlapping_route(config.pool, config.names.prefix()) {
            return Err(NetworkError::Overlap { pool: config.pool.to_string(), taken });
        }
        let network = Self {
            netlink: Mutex::new(netlink),
            bridges: Mutex::default(),
            rules: rules::Rules::new(&config),
            opened: Mutex::default(),
            live: Live::default(),
            mtu: host::uplink_mtu(&links),
            // Names of cables that are still being taken down must not be used again.
            cables: AtomicU32::new(rustix::process::getpid().as_raw_pid().unsigned_abs() << 8),
            config,
        };
        host::make_room_for_neighbours();
        *network.opened() = network.rules.opened_before()?;
        // The table is there before anything can be forwarded.
        network.rules.install(&network.surroundings(&network.to_open()))?;
        network.bridge(0)?;
        network.open_links()?;
        host::open_forward_chain(network.config.names.prefix())?;
        Ok(network)
    }

    /// How many sandboxes can have an address at once.
    pub fn capacity(&self) -> u32 {
        self.config.pool.capacity()
    }

    pub fn address(&self, index: u32) -> Ipv4Addr {
        self.config.pool.address(index)
    }

    /// The name server of all sandboxes.
    pub fn resolver(&self) -> Ipv4Addr {
        self.config.pool.gateway(0)
    }

    /// Brings the loopback device and `eth0` up in a namespace, which is made if none is given, with an address and
    /// a default route.
    ///
    /// # Errors
    /// The kernel's; nothing is left.
    pub fn attach(&self, index: u32, given: Option<OwnedFd>) -> Result<Attachment, NetworkError> {
        let bridge_index = self.bridge(index / pool::PER_BRIDGE)?;
        let inside = || {
            // Before there is a link that could have it. What is told apart here is only this namespace's default.
            host::disable_ipv6("default")?;
            // Port 80 is as good as 3000 in a network of one's own; nothing else is granted by it.
            fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
            let mut netlink = Netlink::open()?;
            netlink.set_up(LOOPBACK_INDEX)?;
            Ok(netlink)
        };
        let (netns, mut inside) = match given {
            Some(netns) => {
                let inside = netns::run_in(netns.as_fd(), inside);
                (netns, inside.map_err(kernel("enter a network namespace"))?)
            }
            None => netns::create(inside).map_err(kernel("make a network namespace"))?,
        };
        let address = self.address(index);
        self.cable(&netns, bridge_index, address).map_err(kernel("make a veth pair"))?;
        let gateway = self.config.pool.gateway(index / pool::PER_BRIDGE);
        let mut configure = || {
            // Alone on its link: with the bridge's prefix every address of that would be asked for by Ethernet.
            inside.add_address(ETH0_INDEX, address, 32)?;
            inside.set_up_without_arp(ETH0_INDEX)?;
            inside.set_neighbour(ETH0_INDEX, gateway, mac(gateway))?;
            inside.add_routes_through(ETH0_INDEX, gateway)
        };
        configure().map_err(kernel("configure eth0 in a sandbox"))?;
        self.live.add(address, Link::Told);
        Ok(Attachment { netns: Arc::new(netns), address })
    }

    /// Joins a namespace to a bridge by a cable.
    fn cable(&self, netns: &OwnedFd, bridge_index: u32, address: Ipv4Addr) -> io::Result<()> {
        let number = self.cables.fetch_add(1, Ordering::Relaxed);
        let name = self.config.names.cable(number);
        let veth = Veth {
            name: &name,
            index: CABLE_INDEX_FIRST | (number % CABLE_INDEX_FIRST),
            bridge_index,
            peer_name: "eth0",
            peer_index: ETH0_INDEX,
            peer_netns: netns.as_fd(),
            peer_mac: mac(address),
            mtu: self.mtu,
        };
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        netlink.add_veth(&veth, || host::disable_ipv6(&name))?;
        // It outlives the sandbox and does no harm: the address's next holder has the same Ethernet address.
        netlink.set_neighbour(bridge_index, address, mac(address))
    }

    /// Takes over a sandbox that an earlier daemon attached. Up to version 0.1 it was given IPv6 and the prefix of its
    /// bridge; these are taken from it, and its connections go on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn adopt(&self, index: u32, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let (address, gateway) = (self.address(index), self.config.pool.gateway(index / pool::PER_BRIDGE));
        self.live.add(address, Link::Asks);
        let bridge_index = self.bridge(index / pool::PER_BRIDGE)?;
        let narrow = move || {
            host::disable_ipv6("eth0")?;
            let mut inside = Netlink::open()?;
            inside.add_address(ETH0_INDEX, address, 32)?;
            match inside.delete_address(ETH0_INDEX, address, pool::BRIDGE_PREFIX_LEN) {
                // It was attached by this version.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Ok(Link::Told),
                deleted => deleted?,
            }
            inside.add_routes_through(ETH0_INDEX, gateway)?;
            Ok(Link::Asks)
        };
        let link = netns::run_in(netns, narrow).map_err(kernel("take over the network of a sandbox"))?;
        self.live.add(address, link);
        if link == Link::Told {
            self.netlink()
                .set_neighbour(bridge_index, address, mac(address))
                .map_err(kernel("tell the host a sandbox's Ethernet address"))?;
        }
        Ok(())
    }

    /// Tells the host the Ethernet addresses of sandboxes again where it has forgotten them, which it does when
    /// somebody sets a bridge down. Whether it has is seen by one entry of each bridge that never changes.
    fn restore_neighbours(&self) -> io::Result<()> {
        let bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (number, index) in (0..).zip(bridges) {
            let (Some(index), spare) = (index, self.config.pool.spare(number)) else { continue };
            let mut netlink = self.netlink();
            if netlink.has_neighbour(index, spare)? {
                continue;
            }
            tracing::warn!(
                number,
                "somebody has reset a bridge: its sandboxes are made known to the host again"
            );
            let gateway = self.config.pool.gateway(number);
            let is_here = |address: &Ipv4Addr| address.to_bits() >> 10 == gateway.to_bits() >> 10;
            for address in self.live.told().into_iter().filter(is_here).chain([spare]) {
                netlink.set_neighbour(index, address, mac(address))?;
            }
        }
        Ok(())
    }

    fn netlink(&self) -> std::sync::MutexGuard<'_, Netlink> {
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down that the processes of a sandbox have ended: its questions are not answered any more.
    pub fn depart(&self, index: u32) {
        self.live.remove(self.address(index));
    }

    /// Has the kernel forget the connections of all that do not live, once it is known who does. So the next holder of
    /// an address neither hears from the other ends of the last one's connections nor is counted them. It looks through
    /// the kernel's whole table, which takes milliseconds.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget_departed(&self) -> Result<(), NetworkError> {
        let is_departed = |source| self.config.pool.has(source) && !self.live.has(source);
        conntrack::forget(is_departed).map(drop).map_err(kernel("forget connections of the past"))
    }

    /// Who may ask the relay.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Turns forwarding on where it has to be, links that are new among them; returns what of the host the firewall
    /// depends on.
    fn open_links(&self) -> Result<Surroundings, NetworkError> {
        let to_open = self.to_open();
        let before = std::mem::replace(&mut *self.opened(), to_open.clone());
        if !host::forwards_everything() {
            for link in before.difference(&to_open) {
                close_link(link)?;
            }
        }
        let bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let made =
            (0..).zip(bridges).filter_map(|(number, made)| made.map(|_| self.config.names.bridge(number)));
        for link in to_open.iter().cloned().chain(made) {
            if !host::is_forwarding(&link) {
                host::set_forwarding(&link, true).map_err(kernel("turn on forwarding"))?;
            }
        }
        Ok(self.surroundings(&to_open))
    }

    /// The host's links that answers come in by and that would not be forwarded but for us. Where the host forwards
    /// everything, somebody else wanted that, and nothing is ours.
    fn to_open(&self) -> BTreeSet<String> {
        if host::forwards_everything() {
            return BTreeSet::new();
        }
        let opened = self.opened();
        let uplinks = host::uplinks(self.config.names.prefix());
        uplinks.into_iter().filter(|link| opened.contains(link) || !host::is_forwarding(link)).collect()
    }

    fn surroundings(&self, opened: &BTreeSet<String>) -> Surroundings {
        Surroundings { gateways: host::gateways(), opened: opened.clone() }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether the firewall is as it was made, and makes it so again if not.
    ///
    /// # Errors
    /// nft fails.
    pub fn check_rules(&self) -> Result<RulesState, NetworkError> {
        host::open_forward_chain(self.config.names.prefix())?;
        let surroundings = self.open_links()?;
        let state = self.rules.check(&surroundings)?;
        self.restore_neighbours().map_err(kernel("restore the Ethernet addresses of sandboxes"))?;
        Ok(state)
    }

    /// Takes the bridges and the table away, when no sandbox is left, and turns forwarding off where it was turned on.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is.
    pub fn remove(&self) -> Result<(), NetworkError> {
        let mut failure = None;
        // Those that an earlier daemon made and this one had no use for are among them.
        let links = self.netlink().links().map_err(kernel("list the links"))?;
        let prefix = self.config.names.bridge_prefix();
        for link in links.into_iter().filter(|link| link.is_bridge && link.name.starts_with(&prefix)) {
            let deleted = self.netlink().delete_link(&link.name);
            failure = failure.or_else(|| deleted.map_err(kernel("delete a bridge")).err());
        }
        for link in std::mem::take(&mut *self.opened()) {
            let closed = close_link(&link).err();
            failure = failure.or(closed);
        }
        host::close_forward_chain(self.config.names.prefix());
        let removed = self.rules.remove().err();
        failure = failure.or(removed);
        failure.map_or(Ok(()), Err)
    }

    /// Makes a bridge when it is first needed; returns its link index.
    fn bridge(&self, number: u32) -> Result<u32, NetworkError> {
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        let mut bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(index)) = bridges.get(slot) {
            return Ok(*index);
        }
        let name = self.config.names.bridge(number);
        let gateway = self.config.pool.gateway(number);
        let alias = self.config.names.alias();
        let mut netlink = self.netlink();
        let links = netlink.links().map_err(kernel("list the links"))?;
        let found = links.into_iter().find(|link| link.name == name);
        if let Some(found) = found.as_ref().filter(|link| !link.alias.is_empty() && link.alias != alias) {
            return Err(NetworkError::NotOurs { link: name, owner: found.alias.clone() });
        }
        let make = || {
            netlink.add_bridge(&name)?;
            let index = netlink::index_of(&name)?;
            // Of its own accord a bridge has the lowest address of its ports, and so another every now and then. Set
            // once: with each change the kernel forgets all neighbours of the link.
            if found.is_none_or(|link| link.mac != mac(gateway) || link.alias != alias) {
                netlink.mark(index, mac(gateway), &alias)?;
            }
            host::disable_ipv6(&name)?;
            netlink.add_address(index, gateway, pool::BRIDGE_PREFIX_LEN)?;
            netlink.set_up(index)?;
            let spare = self.config.pool.spare(number);
            netlink.set_neighbour(index, spare, mac(spare))?;
            host::set_forwarding(&name, true)?;
            Ok(index)
        };
        let index = make().map_err(kernel("make a bridge"))?;
        if bridges.len() <= slot {
            bridges.resize(slot + 1, None);
        }
        if let Some(place) = bridges.get_mut(slot) {
            *place = Some(index);
        }
        Ok(index)
    }
}

/// The Ethernet address of an IPv4 address on our links: locally administered (IEEE 802), and so nobody's product.
fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x53, a, b, c, d]
}

fn close_link(link: &str) -> Result<(), NetworkError> {
    match host::set_forwarding(link, false) {
        // It has gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        turned => turned.map_err(kernel("turn off forwarding")),
    }
}

/// Gives the links of a version up to 0.1 the names that they have now: the firewall then covers what is attached
/// to them.
fn rename_former(netlink: &mut Netlink, config: &Config, links: &[netlink::Link]) -> io::Result<()> {
    let former = config.names.former_prefix();
    for (number, bridge) in host::former_bridges(config.pool, &former, links) {
        for port in links.iter().filter(|link| link.controller == bridge.index) {
            let cable = port.name.strip_prefix(&*former).and_then(|rest| rest.strip_prefix('p'));
            if let Some(cable) = cable.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
                netlink.rename(port.index, &config.names.cable(cable))?;
            }
        }
        netlink.rename(bridge.index, &config.names.bridge(number))?;
        host::close_forward_chain(&former);
        tracing::info!(bridge = bridge.name, number, "links of an earlier version are renamed");
    }
    Ok(())
}

fn kernel(action: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel { action, source }
}
