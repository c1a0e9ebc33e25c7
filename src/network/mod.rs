//! Gives a sandbox a network namespace, an address and the way out, and takes them away again.
//!
//! ```text
//!  sandbox's netns          host's netns
//!   lo  eth0 ═════════ sbxp… ─┐ isolated ports
//!              veth           ├─ bridge sbx0 (a /22 of the pool; up to 1,000 ports)
//!                    sbxp… ───┘      │ forward: nftables table inet sandboxd
//!                                    ▼ masquerade
//!                                  uplink
//! ```
//!
//! The firewall is one static table: nothing in it names a sandbox, so a sandbox comes and goes
//! without it being touched. To detach is to drop the namespace's last descriptor: the kernel takes
//! the cable away in the background, where deleting it in so many words would take 30 ms.

pub mod dns;
mod host;
mod pool;
mod rules;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::netlink::{self, LOOPBACK_INDEX, Netlink, Veth};
use crate::sys::netns;

pub use host::missing_features;
pub use pool::{Pool, PoolError};
pub use rules::RulesState;

/// The index of `eth0` in a sandbox: high, since some kernels put tunnel devices of their own into
/// every namespace.
const ETH0_INDEX: u32 = 1000;
/// The indices of the host's ends begin here, far above those that the kernel gives by itself.
const CABLE_INDEX_FIRST: u32 = 1 << 30;

/// What the network is made of.
#[derive(Debug, Clone)]
pub struct Config {
    pub pool: Pool,
    /// Begins the names of bridges and cables; at most 6 of `[a-z0-9]`.
    pub name_prefix: String,
    /// The name of the nftables table.
    pub table: String,
}

/// Why a sandbox has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "use the network pool {pool}: the host has a route to {taken} already; choose another by SANDBOXD_NETWORK_POOL"
    )]
    Overlap { pool: String, taken: String },
    #[error("{action}")]
    Kernel {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("run nft: install the package nftables")]
    NftMissing(#[source] io::Error),
    #[error("{action} the firewall's table: {message}")]
    Nft { action: &'static str, message: String },
}

/// The host's side of all sandboxes' networks.
#[derive(Debug)]
pub struct Network {
    config: Config,
    netlink: Mutex<Netlink>,
    /// The bridges that are there, by number, with their link index.
    bridges: Mutex<Vec<Option<u32>>>,
    rules: rules::Rules,
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
    /// Prepares the host: forwarding, the first bridge, the firewall. What is there already is used.
    ///
    /// # Errors
    /// The pool is in use by somebody else, nft is missing, or the kernel refuses.
    pub fn open(config: Config) -> Result<Self, NetworkError> {
        if let Some(taken) = host::overlapping_route(config.pool, &config.name_prefix) {
            return Err(NetworkError::Overlap { pool: config.pool.to_string(), taken });
        }
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let rules = rules::Rules::new(&config);
        let network = Self {
            netlink: Mutex::new(netlink),
            bridges: Mutex::default(),
            rules,
            mtu: host::uplink_mtu(),
            // Names of cables that are still being taken down must not be used again.
            cables: AtomicU32::new(rustix::process::getpid().as_raw_pid().unsigned_abs() << 8),
            config,
        };
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(kernel("turn on forwarding"))?;
        host::make_room_for_neighbours();
        network.rules.install()?;
        network.bridge(0)?;
        host::open_forward_chain(&network.config.name_prefix)?;
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
        let number = self.cables.fetch_add(1, Ordering::Relaxed);
        let veth = Veth {
            name: &format!("{}p{number:x}", self.config.name_prefix),
            index: CABLE_INDEX_FIRST | (number % CABLE_INDEX_FIRST),
            bridge_index,
            peer_name: "eth0",
            peer_index: ETH0_INDEX,
            peer_netns: netns.as_fd(),
            mtu: self.mtu,
        };
        self.netlink
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add_veth(&veth)
            .map_err(kernel("make a veth pair"))?;
        let address = self.address(index);
        let mut configure = || {
            inside.add_address(ETH0_INDEX, address, pool::BRIDGE_PREFIX_LEN)?;
            inside.set_up(ETH0_INDEX)?;
            inside.add_default_route(self.config.pool.gateway(index / pool::PER_BRIDGE))
        };
        configure().map_err(kernel("configure eth0 in a sandbox"))?;
        Ok(Attachment { netns: Arc::new(netns), address })
    }

    /// Looks whether the firewall is as it was made, and makes it so again if not.
    ///
    /// # Errors
    /// nft fails.
    pub fn check_rules(&self) -> Result<RulesState, NetworkError> {
        host::open_forward_chain(&self.config.name_prefix)?;
        self.rules.check()
    }

    /// Takes the bridges and the table away, when no sandbox is left.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is.
    pub fn remove(&self) -> Result<(), NetworkError> {
        let mut failure = None;
        let bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner).len();
        for number in 0..bridges {
            let name = self.bridge_name(u32::try_from(number).unwrap_or_default());
            let deleted = self.netlink.lock().unwrap_or_else(PoisonError::into_inner).delete_link(&name);
            failure = failure.or_else(|| deleted.map_err(kernel("delete a bridge")).err());
        }
        host::close_forward_chain(&self.config.name_prefix);
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
        let name = self.bridge_name(number);
        let gateway = self.config.pool.gateway(number);
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let mut make = || {
            netlink.add_bridge(&name)?;
            let index = netlink::index_of(&name)?;
            netlink.add_address(index, gateway, pool::BRIDGE_PREFIX_LEN)?;
            netlink.set_up(index)?;
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

    fn bridge_name(&self, number: u32) -> String {
        format!("{}{number}", self.config.name_prefix)
    }
}

fn kernel(action: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel { action, source }
}
