//! The host's name servers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PATH: &str = "/etc/resolv.conf";
/// How long what the file says is believed: it is small and may change at any time.
const BELIEVED: Duration = Duration::from_secs(1);
/// How many servers are asked: as many as the C library asks (`MAXNS`, man 5 resolv.conf).
const SERVERS_MAX: usize = 3;

/// What the file said last, and when.
#[derive(Debug)]
pub(super) struct Servers {
    own: Ipv4Addr,
    read: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

impl Servers {
    /// `own` is the relay's address, which is never asked.
    pub(super) fn new(own: Ipv4Addr) -> Self {
        Self { own, read: Mutex::default() }
    }

    /// Reads the file at most once a second. On the thread that asks: those for files may all be busy with files of
    /// tenants, on which names must not wait.
    pub(super) fn list(&self) -> Vec<IpAddr> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, servers)) = &*read
            && when.elapsed() < BELIEVED
        {
            return servers.clone();
        }
        let servers = parse(&std::fs::read_to_string(PATH).unwrap_or_default(), self.own);
        *read = Some((Instant::now(), servers.clone()));
        servers
    }
}

fn parse(text: &str, own: Ipv4Addr) -> Vec<IpAddr> {
    let address = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines().filter_map(address).filter(|a| *a != IpAddr::V4(own)).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_never_ourselves() {
        let own = Ipv4Addr::new(10, 88, 0, 1);
        let text =
            "# x\nsearch a\nnameserver 10.88.0.1\nnameserver 127.0.0.11\n nameserver ::1\nnameserver x\n";
        assert_eq!(parse(text, own), ["127.0.0.11".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }
}
