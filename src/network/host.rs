//! What the host's network looks like before us.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;

use super::pool::Pool;
use crate::error::NetworkError;
use crate::rules;
use model::Finding;
use sys::netlink::Link;
use sys::process;

/// The MTU of Ethernet, when the host has no default route to learn one from.
const MTU_DEFAULT: u32 = 1500;

/// One line of `/proc/net/route` — man 5 proc_pid_net; addresses in host order.
struct Route {
    interface: String,
    destination: u32,
    gateway: u32,
    mask: u32,
}

/// Finds a route of the host's that has addresses in common with the pool.
pub(super) fn overlapping_route(pool: Pool, name_prefix: &str) -> Option<String> {
    let taken = |route: &Route| {
        route.mask != 0
            && !route.interface.starts_with(name_prefix)
            && pool.overlaps(route.destination, route.mask)
    };
    routes().into_iter().find(taken).map(|route| {
        format!(
            "{}/{} by {}",
            Ipv4Addr::from_bits(route.destination),
            route.mask.count_ones(),
            route.interface
        )
    })
}

/// Lists the host's own gateways. In a container one of them is the host itself, whose published ports
/// lead back to the daemon.
pub(super) fn gateways() -> Vec<Ipv4Addr> {
    let mut all: Vec<_> =
        routes().iter().filter(|r| r.gateway != 0).map(|r| Ipv4Addr::from_bits(r.gateway)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Reads the MTU of the link of the default route: larger packets than that would have to be fragmented.
pub(super) fn uplink_mtu(links: &[Link]) -> u32 {
    let uplink = routes().into_iter().find(|r| r.mask == 0 && r.destination == 0);
    let mtu = |route: Route| Some(links.iter().find(|link| link.name == route.interface)?.mtu);
    uplink.and_then(mtu).unwrap_or(MTU_DEFAULT)
}

/// Lists the links that routes lead out by, but for ours.
pub(super) fn uplinks(name_prefix: &str) -> BTreeSet<String> {
    let names = routes().into_iter().map(|route| route.interface);
    names.filter(|name| name != "lo" && !name.starts_with(name_prefix)).collect()
}

/// Says whether the host forwards packets of every link.
pub(super) fn forwards_everything() -> bool {
    is_forwarding("all")
}

/// Says whether packets that come in by a link are forwarded — `forwarding`, `ip-sysctl` of the kernel's documents.
pub(super) fn is_forwarding(link: &str) -> bool {
    fs::read_to_string(setting("ipv4", link, "forwarding")).is_ok_and(|text| text.trim() == "1")
}

/// Turns forwarding on or off for what comes in by one link.
pub(super) fn set_forwarding(link: &str, is_on: bool) -> io::Result<()> {
    fs::write(setting("ipv4", link, "forwarding"), if is_on { "1" } else { "0" })
}

/// Takes IPv6 from a link, or with `default` from those that a network namespace is yet to get. A link with IPv6 has
/// addresses nobody gave it, and each that is spoken to takes a place in the one table of neighbours that all network
/// namespaces share (`gc_thresh3`, man 7 arp). A kernel without IPv6 is as good.
pub(super) fn disable_ipv6(link: &str) -> io::Result<()> {
    match fs::write(setting("ipv6", link, "disable_ipv6"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn setting(family: &str, link: &str, name: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{link}/{name}")
}

/// Finds the bridges that a version up to 0.1 made for the same pool, under names that another instance or a link of
/// the host could have had too: by the gateway's address, which nobody else's bridge has.
pub(super) fn former_bridges(pool: Pool, former_prefix: &str, links: &[Link]) -> Vec<(u32, Link)> {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let of_ours = addresses.filter_map(|one| {
        let number = one.interface_name.strip_prefix(former_prefix)?.parse().ok()?;
        let address = one.address?.as_sockaddr_in()?.ip();
        let link = links.iter().find(|link| link.is_bridge && link.name == one.interface_name)?;
        (number < pool.bridges() && address == pool.gateway(number)).then(|| (number, link.clone()))
    });
    of_ours.collect()
}

/// Makes room for many neighbours: the kernel keeps one table for all network namespaces, and beyond 1,024 entries in
/// use it refuses new ones (`gc_thresh3`, man 7 arp). Sandboxes take none of its places: theirs are permanent entries,
/// which do not count. Those of a version up to 0.1 that still run take two.
/// Only the host's own namespace can set it; where the daemon lives in another one, the host's value stays.
pub(super) fn make_room_for_neighbours() {
    for (name, least) in [("gc_thresh1", 1024), ("gc_thresh2", 16_384), ("gc_thresh3", 32_768)] {
        let path = format!("/proc/sys/net/ipv4/neigh/default/{name}");
        let Ok(text) = fs::read_to_string(&path) else { return };
        if text.trim().parse().is_ok_and(|set: u64| set < least)
            && let Err(error) = fs::write(&path, least.to_string())
        {
            tracing::warn!(%error, path, "failed to enlarge the table of neighbours");
        }
    }
}

/// Lets our traffic pass a FORWARD chain whose policy is to drop, as Docker sets it up.
///
/// A packet has to be accepted by every chain: our table decides what may pass, and this keeps
/// another one from dropping it all.
pub(super) fn open_forward_chain(name_prefix: &str) -> Result<(), NetworkError> {
    let Some(rules) = iptables(&["-S", "FORWARD"]) else { return Ok(()) };
    if !rules.lines().any(|line| line == "-P FORWARD DROP") {
        return Ok(());
    }
    for rule in forward_rules(name_prefix) {
        let check: Vec<&str> = ["-C", "FORWARD"].into_iter().chain(rule.iter().map(String::as_str)).collect();
        let insert: Vec<&str> =
            ["-I", "FORWARD"].into_iter().chain(rule.iter().map(String::as_str)).collect();
        if iptables(&check).is_none() && iptables(&insert).is_none() {
            let message = "iptables refuses a rule for sandboxes while its FORWARD policy is DROP".to_owned();
            return Err(NetworkError::Nft { action: "open", message });
        }
    }
    Ok(())
}

/// Takes away what [`open_forward_chain`] added.
pub(super) fn close_forward_chain(name_prefix: &str) {
    for rule in forward_rules(name_prefix) {
        let delete: Vec<&str> =
            ["-D", "FORWARD"].into_iter().chain(rule.iter().map(String::as_str)).collect();
        // It was never there on most hosts.
        let _absent: Option<String> = iptables(&delete);
    }
}

/// Names what the network needs, for `sandboxd check`.
pub fn missing_features() -> Vec<Finding> {
    let nft = rules::nft_version();
    vec![
        Finding {
            feature: "nftables",
            found: nft.is_some(),
            detail: nft.unwrap_or_else(|| "no program nft, or the kernel refuses it".to_owned()),
            consequence: "sandboxes cannot be kept from one another and from the host's network: the server does not start",
            remedy: "install the package nftables; the kernel needs CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ, CONFIG_NFT_LIMIT and CONFIG_NFT_CONNLIMIT",
            required: true,
        },
        connections(),
        neighbours(),
    ]
}

/// The kernel's table of connections: what sandboxes may hold is a share of it.
fn connections() -> Finding {
    const ENOUGH: u64 = 65_536;
    let most = number("/proc/sys/net/netfilter/nf_conntrack_max");
    Finding {
        feature: "connection tracking",
        // A kernel that has not been asked to track yet does not tell.
        found: most.is_none_or(|most| most >= ENOUGH),
        detail: most.map_or_else(|| "not in use yet".to_owned(), |most| format!("{most} connections")),
        consequence: "each sandbox may hold few connections to the outside at once, since a quarter of the table is the host's",
        remedy: "raise the sysctl net.netfilter.nf_conntrack_max to 262144",
        required: false,
    }
}

/// The kernel's tables of neighbours, one of each family for all network namespaces.
fn neighbours() -> Finding {
    const ENOUGH: u64 = 1024;
    let most = |family: &str| number(&format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"));
    let (v4, v6) = (most("ipv4"), most("ipv6"));
    let told = |most: Option<u64>| most.map_or_else(|| "not told here".to_owned(), |most| most.to_string());
    Finding {
        feature: "neighbour tables",
        found: [v4, v6].into_iter().flatten().all(|most| most >= ENOUGH),
        detail: format!("IPv4 {}, IPv6 {}", told(v4), told(v6)),
        consequence: "the host itself runs short of neighbours on a large network; sandboxes have permanent entries, which do not count",
        remedy: "raise the sysctls net.ipv4.neigh.default.gc_thresh3 and net.ipv6.neigh.default.gc_thresh3 to 1024 or more",
        required: false,
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn forward_rules(name_prefix: &str) -> [Vec<String>; 2] {
    let links = format!("{name_prefix}+");
    let words = |direction: &str| {
        ["-m", "comment", "--comment", "sandboxd", direction, &links, "-j", "ACCEPT"]
            .map(str::to_owned)
            .to_vec()
    };
    [words("-i"), words("-o")]
}

/// Runs iptables; `None` when it is not there or fails.
fn iptables(arguments: &[&str]) -> Option<String> {
    let output =
        process::command("iptables").arg("-w").args(arguments).stdout(Stdio::piped()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn routes() -> Vec<Route> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    text.lines().skip(1).filter_map(parse_route).collect()
}

fn parse_route(line: &str) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let interface = fields.next()?.to_owned();
    let mut address = || Some(u32::from_str_radix(fields.next()?, 16).ok()?.swap_bytes());
    let (destination, gateway) = (address()?, address()?);
    // Flags, RefCnt, Use, Metric lie between.
    let mask = u32::from_str_radix(line.split_ascii_whitespace().nth(7)?, 16).ok()?.swap_bytes();
    Some(Route { interface, destination, gateway, mask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_in_host_order() {
        let route = parse_route("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0").unwrap();
        assert_eq!(Ipv4Addr::from_bits(route.destination), Ipv4Addr::new(192, 0, 2, 0));
        assert_eq!((route.mask, route.gateway, route.interface.as_str()), (0xffff_ff00, 0, "eth0"));
        assert!(parse_route("garbage").is_none());
    }
}
