//! The firewall: one static nftables table, man 5 libnftables-json.
//!
//! It is written as JSON values, never as text that is put together, and put in place in one
//! transaction. Everything that comes from a sandbox is matched by the names of our bridges.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Config, NetworkError, host};
use crate::sys::process;

/// Addresses that no sandbox has business with: metadata services of clouds, and what must not be routed.
const FORBIDDEN: [(&str, u8); 6] = [
    ("0.0.0.0", 8),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("100.100.100.200", 32),
    ("168.63.129.16", 32),
    ("224.0.0.0", 3),
];
/// The port of the domain name system.
const DNS: u16 = 53;

/// What a look at the table found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesState {
    Intact,
    /// It was gone or changed, and is in place again.
    Restored,
}

#[derive(Debug)]
pub(super) struct Rules {
    table: String,
    links: String,
    pool: Value,
    resolver: Ipv4Addr,
    /// The table as nft lists it, without what changes by itself.
    installed: Mutex<Option<Value>>,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            table: config.table.clone(),
            links: format!("{}*", config.name_prefix),
            pool: prefix(config.pool.base(), config.pool.prefix_len()),
            resolver: config.pool.gateway(0),
            installed: Mutex::default(),
        }
    }

    /// Puts the table in place of whatever has its name.
    pub(super) fn install(&self) -> Result<(), NetworkError> {
        nft("install", &["-j", "-f", "-"], &self.document())?;
        let listed = self.list()?;
        *self.installed.lock().unwrap_or_else(PoisonError::into_inner) = listed;
        Ok(())
    }

    pub(super) fn check(&self) -> Result<RulesState, NetworkError> {
        let listed = self.list()?;
        if listed.is_some() && listed == *self.installed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(RulesState::Intact);
        }
        self.install()?;
        Ok(RulesState::Restored)
    }

    pub(super) fn remove(&self) -> Result<(), NetworkError> {
        let table = self.table_id();
        let commands = [json!({ "add": { "table": table } }), json!({ "delete": { "table": table } })];
        nft("remove", &["-j", "-f", "-"], &json!({ "nftables": commands })).map(drop)
    }

    /// Lists the table; `None` when it is not there.
    fn list(&self) -> Result<Option<Value>, NetworkError> {
        match nft("list", &["-j", "list", "table", "inet", &self.table], &Value::Null) {
            Ok(text) => {
                let parsed: Result<Value, _> = serde_json::from_str(&text);
                Ok(parsed.ok().map(without_handles))
            }
            Err(NetworkError::Nft { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn table_id(&self) -> Value {
        json!({ "family": "inet", "name": self.table })
    }

    fn document(&self) -> Value {
        let table = self.table_id();
        // Adding first makes the deletion valid whether or not the table is there.
        let mut commands = vec![
            json!({ "add": { "table": table } }),
            json!({ "delete": { "table": table } }),
            json!({ "add": { "table": table } }),
        ];
        for (name, hook, priority) in [("input", "input", 0), ("forward", "forward", 0)] {
            commands.push(self.chain(name, Some((hook, "filter", priority))));
        }
        commands.push(self.chain("postrouting", Some(("postrouting", "nat", 100))));
        for name in ["to_host", "out", "in"] {
            commands.push(self.chain(name, None));
        }
        let jump = |chain: &str| json!({ "jump": { "target": chain } });
        commands.extend([
            self.rule("input", vec![equal(meta("iifname"), json!(self.links)), jump("to_host")]),
            self.rule("forward", vec![equal(meta("iifname"), json!(self.links)), jump("out")]),
            self.rule("forward", vec![equal(meta("oifname"), json!(self.links)), jump("in")]),
            self.rule(
                "postrouting",
                vec![
                    equal(payload("ip", "saddr"), self.pool.clone()),
                    differ(meta("oifname"), json!(self.links)),
                    json!({ "masquerade": null }),
                ],
            ),
        ]);
        commands.extend(self.to_host().into_iter().map(|e| self.rule("to_host", e)));
        commands.extend(self.out().into_iter().map(|e| self.rule("out", e)));
        commands.extend([
            self.rule("in", vec![established(), json!({ "accept": null })]),
            self.rule("in", drop_counted()),
        ]);
        json!({ "nftables": commands })
    }

    /// From a sandbox to the host itself: the resolver, and nothing else.
    fn to_host(&self) -> Vec<Vec<Value>> {
        let dns = |protocol: &str| {
            vec![
                equal(payload("ip", "saddr"), self.pool.clone()),
                equal(payload("ip", "daddr"), json!(self.resolver)),
                equal(payload(protocol, "dport"), json!(DNS)),
                json!({ "accept": null }),
            ]
        };
        vec![vec![established(), json!({ "accept": null })], dns("udp"), dns("tcp"), drop_counted()]
    }

    /// From a sandbox to anywhere else.
    fn out(&self) -> Vec<Vec<Value>> {
        let mut forbidden: Vec<Value> = FORBIDDEN
            .iter()
            .filter_map(|(address, length)| Some(prefix(address.parse().ok()?, *length)))
            .collect();
        forbidden.extend(host::gateways().into_iter().map(|gateway| json!(gateway)));
        let with_drop = |condition: Value| [vec![condition], drop_counted()].concat();
        vec![
            // To another sandbox, also across bridges.
            with_drop(equal(meta("oifname"), json!(self.links))),
            // There is no IPv6 egress yet; what is not filtered must not pass.
            with_drop(equal(meta("nfproto"), json!("ipv6"))),
            with_drop(differ(payload("ip", "saddr"), self.pool.clone())),
            with_drop(equal(payload("ip", "daddr"), json!({ "set": forbidden }))),
            vec![json!({ "accept": null })],
        ]
    }

    fn chain(&self, name: &str, base: Option<(&str, &str, i32)>) -> Value {
        match base {
            Some((hook, kind, priority)) => json!({ "add": { "chain": {
                "family": "inet", "table": self.table, "name": name,
                "type": kind, "hook": hook, "prio": priority, "policy": "accept",
            } } }),
            None => json!({ "add": { "chain": { "family": "inet", "table": self.table, "name": name } } }),
        }
    }

    fn rule(&self, chain: &str, expression: Vec<Value>) -> Value {
        json!({ "add": { "rule": { "family": "inet", "table": self.table, "chain": chain, "expr": expression } } })
    }
}

/// Asks nft for its version and the kernel for its tables; `None` when either is missing.
pub(super) fn nft_version() -> Option<String> {
    let version = process::command("nft").arg("--version").stdout(Stdio::piped()).output().ok()?;
    nft("list", &["-j", "list", "tables"], &Value::Null).ok()?;
    Some(String::from_utf8_lossy(&version.stdout).trim().to_owned())
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn prefix(address: Ipv4Addr, length: u8) -> Value {
    if length == 32 { json!(address) } else { json!({ "prefix": { "addr": address, "len": length } }) }
}

fn equal(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn differ(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "!=", "left": left, "right": right } })
}

fn established() -> Value {
    json!({ "match": { "op": "in", "left": { "ct": { "key": "state" } }, "right": ["established", "related"] } })
}

fn drop_counted() -> Vec<Value> {
    vec![json!({ "counter": null }), json!({ "drop": null })]
}

/// Takes out of a listing what changes by itself: handles and counters.
fn without_handles(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept =
                map.into_iter().filter(|(key, _)| !matches!(key.as_str(), "handle" | "counter" | "metainfo"));
            Value::Object(kept.map(|(key, value)| (key, without_handles(value))).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(without_handles).collect()),
        other => other,
    }
}

/// Runs nft; `input` is its standard input unless it is null.
fn nft(action: &'static str, arguments: &[&str], input: &Value) -> Result<String, NetworkError> {
    let mut command = process::command("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = || -> io::Result<std::process::Output> {
        let mut child = command.spawn()?;
        if let (Some(mut stdin), false) = (child.stdin.take(), input.is_null()) {
            stdin.write_all(input.to_string().as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(NetworkError::NftMissing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(NetworkError::Nft { action, message: complaint.lines().take(3).collect::<Vec<_>>().join(" ") })
}
