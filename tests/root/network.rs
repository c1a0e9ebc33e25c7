//! Who reaches whom.

use serde_json::json;

use super::Test;
use crate::support::eventually;
use crate::support::server::{API, INSTANCE, Server};

pub(crate) const TESTS: &[Test] = &[
    ("network::sandboxes_reach_neither_one_another_nor_the_host", kept_apart),
    ("network::a_flushed_firewall_is_put_back", flushed),
];

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

fn nft(arguments: &[&str]) {
    assert!(std::process::Command::new("nft").args(arguments).status().unwrap().success());
}
