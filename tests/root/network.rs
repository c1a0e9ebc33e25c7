//! Who reaches whom.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use network::LinkNames;
use serde_json::{Value, json};

use super::Test;
use crate::support::server::{API, INSTANCE, Server};
use crate::support::world::{WEB, World, run};
use crate::support::{eventually, host};

pub(crate) const TESTS: &[Test] = &[
    ("network::sandboxes_reach_neither_one_another_nor_the_host", kept_apart),
    ("network::a_flushed_firewall_is_put_back", flushed),
    ("network::a_flood_of_connections_leaves_everybody_else_theirs", connections),
    ("network::no_destination_takes_a_place_among_the_neighbours", neighbours),
    ("network::private_networks_are_closed_until_they_are_opened", private),
    ("network::only_what_sandboxes_need_is_forwarded", forwarded),
    ("network::an_instance_s_name_is_no_link_of_the_host_s", named),
    ("network::links_of_an_earlier_version_are_taken_over", renamed),
];

/// The link to an outside world.
const UPLINK: &str = "up0";

fn address(server: &Server, id: &str) -> String {
    server.api("GET", &format!("/sandbox/{id}"), serde_json::Value::Null).json()["row"]["container_ip"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Connects from a sandbox; `open`, `refused`, or `silent` when packets are dropped.
fn connect(server: &Server, id: &str, host: &str, port: u16) -> String {
    let script = format!(
        "import socket\ns=socket.socket(socket.AF_INET6 if ':' in '{host}' else socket.AF_INET); s.settimeout(0.7)\ntry:\n  s.connect(('{host}',{port})); print('open')\nexcept ConnectionRefusedError: print('refused')\nexcept OSError: print('silent')"
    );
    server.sh(id, &format!("python3 -c \"{script}\"")).trim().to_owned()
}

fn kept_apart() {
    let server = Server::start(&[]);
    let (a, b) = (server.create(json!({})), server.create(json!({})));
    server.sh(&b, "nohup python3 -m http.server 8000 >/dev/null 2>&1 &");
    eventually("the neighbour's server listens", std::time::Duration::from_secs(20), || {
        server.exec(&b, "curl -s -o /dev/null 127.0.0.1:8000").1 == 0
    });
    let neighbour = address(&server, &b);
    assert_eq!(connect(&server, &b, &neighbour, 8000), "open", "the probe itself does not work");
    assert_eq!(connect(&server, &a, &neighbour, 8000), "silent");
    // The API listens on every address of the host; none can be reached.
    for host in ["10.97.0.1", "169.254.169.254", "100.100.100.200"] {
        assert_eq!(connect(&server, &a, host, API), "silent", "{host}");
    }
    assert_eq!(connect(&server, &a, "127.0.0.1", API), "refused");
    // Only the name server answers on the bridge.
    assert_eq!(connect(&server, &a, "10.97.0.1", 53), "open");
    assert_eq!(server.sh(&a, "cat /etc/resolv.conf"), "nameserver 10.97.0.1\n");
    assert_ne!(server.sh(&a, "getent hosts $(hostname) | wc -l"), "0\n");
    // Without the rules the API would be reached: the test can fail.
    nft(&["delete", "table", "inet", INSTANCE]);
    assert_eq!(connect(&server, &a, "10.97.0.1", API), "open");
}

fn flushed() {
    let server = Server::start(&[]);
    let a = server.create(json!({}));
    nft(&["flush", "ruleset"]);
    eventually("the firewall is back", std::time::Duration::from_secs(25), || {
        connect(&server, &a, "10.97.0.1", API) == "silent"
    });
}

/// One sandbox sends from 250 sockets to 1,200 addresses each, more than the kernel's table of connections holds.
fn connections() {
    let _world = World::make(UPLINK, "198.51.100").be_default();
    let server = Server::start(&[]);
    let (flooder, neighbour) = (server.create(json!({})), server.create(json!({})));
    let most = number("/proc/sys/net/netfilter/nf_conntrack_max");
    let held = || number("/proc/sys/net/netfilter/nf_conntrack_count");
    assert_eq!(connect(&server, &flooder, "192.0.2.9", WEB), "open", "the world cannot be reached");
    // Earlier tests have left some.
    let before = held();
    server.sh(
        &flooder,
        "python3 -c \"import socket\nfor s in [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(250)]:\n  for n in range(1200):\n    try: s.sendto(b'x', ('198.18.%d.%d' % (n // 250, n % 250 + 1), 9))\n    except OSError: pass\"",
    );
    let now = held();
    assert!(now < most / 20, "one sandbox holds {now} of {most} connections");
    assert!(now > 500, "the flood did not come through: {now}");
    // The host's own, by the loopback device too, and a neighbour's.
    for n in 0..20 {
        assert!(std::net::TcpStream::connect(("127.0.0.1", API)).is_ok());
        assert_eq!(connect(&server, &neighbour, &format!("192.0.2.{}", n + 1), WEB), "open");
    }
    // What it held goes with it: the next sandbox at its address begins with nothing.
    server.purge(&flooder);
    eventually("its connections are forgotten", Duration::from_secs(5), || held() < before + 300);
}

/// Sockets that are bound to the device and told not to route ask for any address by Ethernet, if they can.
fn neighbours() {
    let _world = World::make(UPLINK, "198.51.100").be_default();
    let server = Server::start(&[]);
    let id = server.create(json!({}));
    let address = address(&server, &id);
    assert_eq!(
        server.sh(
            &id,
            "python3 -c \"import socket; s=socket.socket(socket.AF_INET6); s.bind(('::1',0)); s.listen(); socket.create_connection(s.getsockname()[:2]); print('own')\"",
        ),
        "own\n",
        "IPv6 within a sandbox"
    );
    let sent = server.sh(
        &id,
        "python3 - <<'E'
import socket, random, time
time.sleep(2) # by then an address of IPv6 would be in use
sent = {'v6': 0, 'v4': 0}
index = socket.if_nametoindex('eth0')
def send(kind, s, to):
  try: s.sendto(b'x', to); sent[kind] += 1
  except OSError: pass
for _ in range(40):
  s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.setblocking(False)
  for _ in range(50):
    send('v6', s, ('fe80::%x:%x' % (random.randrange(1 << 16), random.randrange(1 << 16)), 9, 0, index))
    send('v6', s, ('ff02::%x' % random.randrange(1 << 16), 9, 0, index))
  plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); plain.setblocking(False)
  bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); bound.setblocking(False)
  bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
  bound.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
  for n in range(50):
    for s in plain, bound:
      send('v4', s, ('10.97.%d.%d' % (random.randrange(4), random.randrange(256)), 9))
      send('v4', s, ('239.%d.1.%d' % (random.randrange(256), random.randrange(256)), 9))
print(sent['v6'], sent['v4'] > 4000)
E",
    );
    assert_eq!(sent, "0 True\n");
    // Permanent entries do not count, and those of a device that asks nobody are given back when somebody needs the place.
    let inside = entries(&["nsenter", "--net", "--target", &first_process(&server, &id).to_string()]);
    let taken = |line: &&String| !line.contains("PERMANENT") && !line.contains("NOARP");
    assert!(inside.iter().any(|line| line.contains("PERMANENT")), "{:?} …", inside.first());
    let bad: Vec<_> = inside.iter().filter(taken).take(3).collect();
    assert!(bad.is_empty(), "of {}: {bad:?}", inside.len());
    let outside: Vec<_> = entries(&[]).into_iter().filter(|line| !line.contains(UPLINK)).collect();
    assert!(outside.iter().any(|line| line.contains(&address)), "{outside:?}");
    let bad: Vec<_> = outside.iter().filter(taken).take(3).collect();
    assert!(bad.is_empty(), "of {}: {bad:?}", outside.len());
    // Somebody sets the bridge down and up: the sandbox is reached again.
    let bridge = format!("{}b0", LinkNames::of(INSTANCE).prefix());
    run(&["ip", "link", "set", &bridge, "down"]);
    run(&["ip", "link", "set", &bridge, "up"]);
    eventually("the sandbox is known again", Duration::from_secs(25), || {
        connect(&server, &id, "192.0.2.9", WEB) == "open"
    });
    // A neighbour that nobody has spoken to is found.
    assert!(std::net::TcpStream::connect(("198.51.100.77", WEB)).is_ok());
}

fn private() {
    const CLOSED: [&str; 8] = [
        "10.200.0.1",
        "100.64.1.1",
        "100.100.100.200",
        "168.63.129.16",
        "169.254.7.7",
        "172.20.0.2",
        "192.0.0.192",
        "192.168.77.2",
    ];
    let _world = World::make(UPLINK, "198.51.100").be_default();
    // As a container engine publishes a port: who connects to the host is led to a private address.
    nft(&["add", "table", "ip", "published"]);
    nft(&["add", "chain", "ip", "published", "c", "{ type nat hook prerouting priority -100; }"]);
    let publish = format!("add rule ip published c tcp dport 8081 dnat to 172.20.0.2:{WEB}");
    nft(&publish.split(' ').collect::<Vec<_>>());
    let mut server = Server::start(&[]);
    let id = server.create(json!({}));
    for open in ["198.51.100.77", "192.0.2.1"] {
        assert_eq!(connect(&server, &id, open, WEB), "open", "{open}");
    }
    for closed in CLOSED {
        assert!(std::net::TcpStream::connect((closed, WEB)).is_ok(), "the host does not reach {closed}");
        assert_eq!(connect(&server, &id, closed, WEB), "silent", "{closed}");
    }
    // The host by its outer address, and what it publishes there.
    for port in [API, 8081] {
        assert_eq!(connect(&server, &id, "198.51.100.1", port), "silent", "{port}");
    }
    // A range does not open the special addresses in it; naming them does.
    server.kill();
    server
        .set("SANDBOXD_NETWORKS_OPEN", "192.168.77.0/24, 172.20.0.0/16,100.64.0.0/10,10.0.0.0/8,192.0.0.192");
    server.boot();
    let neighbour = server.create(json!({}));
    let opened = ["192.168.77.2", "172.20.0.2", "100.64.1.1", "10.200.0.1", "192.0.0.192"];
    for closed in CLOSED {
        let seen = if opened.contains(&closed) { "open" } else { "silent" };
        assert_eq!(connect(&server, &id, closed, WEB), seen, "{closed}");
    }
    assert_eq!(
        connect(&server, &id, "198.51.100.1", 8081),
        "open",
        "what is published is at an opened address"
    );
    assert_eq!(connect(&server, &id, "198.51.100.1", API), "silent");
    server.sh(&neighbour, &format!("nohup python3 -m http.server {WEB} >/dev/null 2>&1 &"));
    eventually("the neighbour's server listens", Duration::from_secs(20), || {
        server.exec(&neighbour, &format!("curl -s -o /dev/null 127.0.0.1:{WEB}")).1 == 0
    });
    assert_eq!(connect(&server, &id, &address(&server, &neighbour), WEB), "silent");
    nft(&["delete", "table", "ip", "published"]);
}

fn forwarded() {
    let forwarding = |link: &str| number(&format!("/proc/sys/net/ipv4/conf/{link}/forwarding"));
    run(&["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
    let world = World::make(UPLINK, "198.51.100").be_default();
    let other = World::make("up1", "192.0.2");
    for network in ["192.0.2.0/24", "10.97.0.0/16"] {
        world.inside(&["ip", "route", "add", network, "via", "198.51.100.1"]);
    }
    other.inside(&["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1"]);
    let mut server = Server::start(&[]);
    let id = server.create(json!({}));
    for host in ["198.51.100.77", "192.0.2.2"] {
        assert_eq!(connect(&server, &id, host, WEB), "open", "{host}");
    }
    assert_eq!(number("/proc/sys/net/ipv4/ip_forward"), 0, "the host forwards for everybody");
    assert!(!world.connects("192.0.2.2", WEB), "one network reaches another through the host");
    server.sh(&id, &format!("nohup python3 -m http.server {WEB} >/dev/null 2>&1 &"));
    eventually("the sandbox's server listens", Duration::from_secs(20), || {
        server.exec(&id, &format!("curl -s -o /dev/null 127.0.0.1:{WEB}")).1 == 0
    });
    assert!(!world.connects(&address(&server, &id), WEB), "a sandbox is reached from outside");
    // A daemon that is killed does not forget what it has opened.
    server.kill();
    assert_eq!([forwarding(UPLINK), forwarding("up1")], [1, 1]);
    server.boot();
    assert_eq!(connect(&server, &id, "198.51.100.77", WEB), "open");
    assert!(server.signal("TERM").success());
    assert_eq!([forwarding(UPLINK), forwarding("up1")], [0, 0]);
    let prefix = LinkNames::of(INSTANCE).prefix().to_owned();
    eventually("our links are gone", Duration::from_secs(10), || {
        !std::fs::read_to_string("/proc/net/dev").unwrap().contains(&prefix)
    });
    let table = Command::new("nft").args(["list", "table", "inet", INSTANCE]).output().unwrap();
    assert!(!table.status.success(), "the table is left");
}

fn named() {
    let world = World::make("eth0", "198.51.100").be_default();
    {
        let server = Server::start(&[("SANDBOXD_INSTANCE", "eth")]);
        let id = server.create(json!({}));
        assert_eq!(connect(&server, &id, "192.0.2.9", WEB), "open");
        assert!(world.connects("198.51.100.1", API), "the host's own link is taken for a sandbox's");
    }
    for controller in ["memory", "pids", "cpu", "cpuacct", "freezer", "unified", ""] {
        // Where there is none, nothing is left.
        let _absent = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(controller).join("eth"));
    }
}

/// Links under the names, and with the addresses, that version 0.1 gave them.
fn renamed() {
    let _world = World::make(UPLINK, "198.51.100").be_default();
    let mut server = Server::start(&[]);
    let ids = [server.create(json!({})), server.create(json!({}))];
    let names = LinkNames::of(INSTANCE);
    let former: String = INSTANCE.chars().take(6).collect();
    let pid = first_process(&server, &ids[0]).to_string();
    let own = address(&server, &ids[0]);
    server.kill();
    let rename = |from: &str, to: &str| {
        run(&["ip", "link", "set", from, "down"]);
        run(&["ip", "link", "set", from, "name", to]);
        run(&["ip", "link", "set", to, "up"]);
    };
    for (number, cable) in host::cables().into_iter().enumerate() {
        rename(&cable, &format!("{former}p{number:x}"));
    }
    rename(&format!("{}b0", names.prefix()), &format!("{former}0"));
    let inside = |words: &[&str]| run(&[&["nsenter", "--net", "--target", &pid], words].concat());
    inside(&[
        "sh",
        "-c",
        &format!(
            "ip address del {own}/32 dev eth0; ip address add {own}/22 dev eth0; ip route add default via 10.97.0.1; ip link set eth0 arp on"
        ),
    ]);
    server.boot();
    assert!(!has_link(&format!("{former}0")) && host::cables().len() == 2);
    for id in &ids {
        assert_eq!(connect(&server, id, "192.0.2.9", WEB), "open");
        assert_eq!(connect(&server, id, "10.97.0.1", API), "silent");
    }
    let addresses = Command::new("nsenter")
        .args(["--net", "--target", &pid, "ip", "-o", "address", "show", "dev", "eth0"])
        .output()
        .unwrap();
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    assert!(addresses.contains(&format!("{own}/32")) && !addresses.contains("/22"), "{addresses}");
}

fn has_link(name: &str) -> bool {
    Path::new("/proc/sys/net/ipv4/conf").join(name).exists()
}

/// Every entry of the tables of neighbours that a namespace's links have.
fn entries(enter: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for family in ["-4", "-6"] {
        let words = [enter, &["ip", family, "neighbour", "show", "nud", "all"]].concat();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}");
        all.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
    }
    all
}

/// A process of a sandbox, by the host's number.
fn first_process(server: &Server, id: &str) -> u32 {
    let row = server.api("GET", &format!("/sandbox/{id}"), Value::Null).json();
    let path = row["row"]["cgroup_path"].as_str().unwrap().to_owned();
    let processes = std::fs::read_to_string(Path::new(&path).join("cgroup.procs")).unwrap();
    processes.lines().next().unwrap().parse().unwrap()
}

fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn nft(arguments: &[&str]) {
    assert!(Command::new("nft").args(arguments).status().unwrap().success());
}
