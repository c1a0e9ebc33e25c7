//! What the host's network looks like before us.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Stdio;

use super::pool::Pool;
use super::{NetworkError, rules};
use crate::model::Finding;
use crate::sys::process;

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
pub(super) fn uplink_mtu() -> u32 {
    let uplink = routes().into_iter().find(|r| r.mask == 0 && r.destination == 0);
    let read = |route: Route| {
        fs::read_to_string(format!("/sys/class/net/{}/mtu", route.interface)).ok()?.trim().parse().ok()
    };
    uplink.and_then(read).unwrap_or(MTU_DEFAULT)
}

/// Makes room for the neighbours of many sandboxes: the kernel keeps one table for all network namespaces, and
/// beyond 1,024 entries in use it refuses new ones (`gc_thresh3`, man 7 arp). Each sandbox that talks takes two.
/// Only the host's own namespace can set it; where the daemon lives in another one, the host's value stays.
pub(super) fn make_room_for_neighbours() {
    for (name, least) in [("gc_thresh1", 1024), ("gc_thresh2", 16_384), ("gc_thresh3", 32_768)] {
        let path = format!("/proc/sys/net/ipv4/neigh/default/{name}");
        let Ok(text) = fs::read_to_string(&path) else { return };
        if text.trim().parse().is_ok_and(|set: u64| set < least)
            && let Err(error) = fs::write(&path, least.to_string())
        {
            tracing::warn!(%error, path, "the table of neighbours stays small: beyond a thousand sandboxes that talk at once, some cannot");
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
    vec![Finding {
        feature: "nftables",
        found: nft.is_some(),
        detail: nft.unwrap_or_else(|| "no program nft, or the kernel refuses it".to_owned()),
        consequence: "sandboxes cannot be kept from one another and from the host's network: the server does not start",
        remedy: "install the package nftables; the kernel needs CONFIG_NF_TABLES_INET and CONFIG_NFT_MASQ",
        required: true,
    }]
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
