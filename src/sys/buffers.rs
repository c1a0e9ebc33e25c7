//! Kernel memory of sockets that no control group is charged for: what lies unread in netlink sockets.
//!
//! An answer of netlink is allocated without `__GFP_ACCOUNT` (`netlink_dump`, `nlmsg_new`) and stays in its socket until
//! it is read, up to `SO_RCVBUF`, which is twice `net.core.rmem_max` at most. Neither version of control groups counts it.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};

use super::netns;

/// Where `Rmem` stands in a line of `/proc/net/netlink`.
const RMEM_FIELD: usize = 4;

/// Reads how many bytes of memory the host's kernel holds that it cannot give back (`SUnreclaim`); what lies in
/// sockets is part of it. `None` where `/proc/meminfo` has no such line.
pub fn unreclaimable() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads how many bytes lie unread in the netlink sockets of a network namespace. Starts a thread, and goes through all
/// such sockets of the machine.
///
/// # Errors
/// The kernel's.
pub fn netlink(namespace: &OwnedFd) -> io::Result<u64> {
    netns::run_in(namespace.as_fd(), || {
        let file = fs::File::open("/proc/thread-self/net/netlink")?;
        // Line by line: there may be tens of thousands.
        BufReader::new(file).lines().map(|line| line.map(|line| unread(&line))).sum()
    })
}

/// What a line says lies unread; the head of the table says nothing.
fn unread(line: &str) -> u64 {
    line.split_ascii_whitespace().nth(RMEM_FIELD).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_unread_is_read_from_its_column() {
        let head = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode";
        let line =
            "00000000b0505ec0 0   4242       00000000 8388608  0        0     2        0        4       ";
        assert_eq!((unread(head), unread(line), unread("")), (0, 8_388_608, 0));
        assert!(unreclaimable().is_some_and(|bytes| bytes > 0));
    }
}
