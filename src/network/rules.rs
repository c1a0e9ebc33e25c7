//! The firewall: one static nftables table, man 5 libnftables-json.
//!
//! It is written as JSON values, never as text that is put together, and put in place in one
//! transaction. Everything that comes from a sandbox is matched by the names of our bridges. What has to be
//! counted for each sandbox is counted by its address, in sets that the kernel fills and empties itself.
//!
//! ```text
//! from a sandbox:  fragments ─► raw ─► (the kernel's table of connections) ─► forward: out ─► uplink
//!                  few          closed ranges: dropped                         new ones: rate, number
//!                                └─► resolver: rate, not tracked ─► input: to_host
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::closed::{self, METADATA, NEVER, Net, PRIVATE};
use super::pool::{BRIDGE_PREFIX_LEN, GATEWAY};
use crate::config::Config;
use crate::error::NetworkError;
use sys::process;

/// The port of the domain name system.
const DNS: u16 = 53;
/// Questions of one sandbox to the resolver, in a second and at once: more than a package manager asks, and too few
/// to fill the queue of the relay's socket, which all sandboxes share. The same for its connections over TCP.
const QUESTIONS: Rate = Rate { a_second: 200, burst: 200 };
/// New connections of one sandbox to the outside. Closed ones stay in the kernel's table for up to two minutes
/// (`nf_conntrack_tcp_timeout_time_wait`) and are not counted there as held, so their rate bounds their number.
const NEW_CONNECTIONS: Rate = Rate { a_second: 50, burst: 1000 };
/// Fragments of one sandbox: the host puts them together in memory of 4 MiB for all (`ipfrag_high_thresh`) and
/// waits 30 s for what is missing; 30 s of these are less than that.
const FRAGMENTS: Rate = Rate { a_second: 50, burst: 100 };
/// Connections of one sandbox at once.
const CONNECTIONS: u32 = 1024;
/// Sandboxes are dealt into so many groups by the last bits of their address, and each group has its share of the
/// kernel's table: so all together never fill it, however many there are.
const GROUPS: u32 = 64;
/// What is assumed of the kernel's table where it does not tell.
const TABLE_DEFAULT: u32 = 65_536;
/// A sandbox without a question or a new connection for so long is forgotten by the rates: longer than any of
/// them takes to be as new.
const RATE_TIMEOUT_SECS: u32 = 60;

/// So many packets in a second, and at once.
#[derive(Debug, Clone, Copy)]
struct Rate {
    a_second: u32,
    burst: u32,
}

/// How many connections may be held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    of_sandbox: u32,
    of_group: u32,
}

impl Shares {
    /// A quarter of the kernel's table is left to the host, whatever sandboxes do; two of three places of a
    /// group can be one sandbox's.
    fn of(table: u32) -> Self {
        let of_group = (table / 4 * 3 / GROUPS).max(16);
        Self { of_sandbox: CONNECTIONS.min(of_group / 3 * 2), of_group }
    }

    fn of_host() -> Self {
        let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
        Self::of(text.trim().parse().unwrap_or(TABLE_DEFAULT))
    }
}

/// What of the host the table depends on; it is made anew when this changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// The host's own gateways. In a container one of them is the host itself, whose published ports lead back to the
    /// daemon.
    pub(super) gateways: Vec<Ipv4Addr>,
    /// Links on which forwarding was turned on for us: nothing but sandboxes' connections passes them.
    pub(super) opened: BTreeSet<String>,
}

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
    /// As many as there are addresses: whom a set has no room for would not be counted.
    size: u32,
    resolver: Ipv4Addr,
    networks_open: Vec<Net>,
    surroundings: Mutex<Surroundings>,
    /// The table as nft lists it, without what changes by itself.
    installed: Mutex<Option<Value>>,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            table: config.table.clone(),
            links: format!("{}*", config.names.prefix()),
            pool: prefix(config.pool.base(), config.pool.prefix_len()),
            size: config.pool.size(),
            resolver: config.pool.gateway(0),
            networks_open: config.networks_open.clone(),
            surroundings: Mutex::default(),
            installed: Mutex::default(),
        }
    }

    /// Puts the table in place of whatever has its name.
    pub(super) fn install(&self, surroundings: &Surroundings) -> Result<(), NetworkError> {
        surroundings.clone_into(&mut self.surroundings.lock().unwrap_or_else(PoisonError::into_inner));
        let shares = Shares::of_host();
        nft("install", &["-j", "-f", "-"], &self.document(surroundings, shares))?;
        // Where nothing tracked connections before, the kernel tells the size of their table only now.
        let known = Shares::of_host();
        if known != shares {
            nft("install", &["-j", "-f", "-"], &self.document(surroundings, known))?;
        }
        let listed = self.list()?;
        *self.installed.lock().unwrap_or_else(PoisonError::into_inner) = listed;
        Ok(())
    }

    pub(super) fn check(&self, surroundings: &Surroundings) -> Result<RulesState, NetworkError> {
        if *surroundings != *self.surroundings.lock().unwrap_or_else(PoisonError::into_inner) {
            tracing::info!(?surroundings, "the host's network has changed: the firewall follows");
            self.install(surroundings)?;
            return Ok(RulesState::Intact);
        }
        let listed = self.list()?;
        if listed.is_some() && listed == *self.installed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(RulesState::Intact);
        }
        self.install(surroundings)?;
        Ok(RulesState::Restored)
    }

    /// The links that a table of an earlier daemon, if it is there, says it had opened.
    pub(super) fn opened_before(&self) -> Result<BTreeSet<String>, NetworkError> {
        let listed = self.list()?.unwrap_or_default();
        let rules = listed["nftables"].as_array().into_iter().flatten().map(|item| &item["rule"]);
        let names = rules.filter(|rule| rule["chain"] == "opened").filter_map(|rule| {
            let first = &rule["expr"][0]["match"];
            first["right"].as_str().filter(|_| first["left"] == meta("iifname")).map(str::to_owned)
        });
        Ok(names.collect())
    }

    pub(super) fn remove(&self) -> Result<(), NetworkError> {
        let table = self.table_id();
        let commands = [json!({ "add": { "table": table } }), json!({ "delete": { "table": table } })];
        nft("remove", &["-j", "-f", "-"], &json!({ "nftables": commands })).map(drop)
    }

    /// Lists the table without the contents of its sets, which the kernel fills; `None` when it is not there.
    fn list(&self) -> Result<Option<Value>, NetworkError> {
        match nft("list", &["-j", "-t", "list", "table", "inet", &self.table], &Value::Null) {
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

    fn document(&self, surroundings: &Surroundings, shares: Shares) -> Value {
        let table = self.table_id();
        // Adding first makes the deletion valid whether or not the table is there.
        let mut commands = vec![
            json!({ "add": { "table": table } }),
            json!({ "delete": { "table": table } }),
            json!({ "add": { "table": table } }),
        ];
        for name in ["fragments", "questions", "calls", "news"] {
            commands.push(self.set(name, self.size, Some(RATE_TIMEOUT_SECS)));
        }
        commands.extend([self.set("held", self.size, None), self.set("held_by_group", GROUPS, None)]);
        for (name, kind, hook, priority) in [
            // Before the kernel puts fragments together (-400).
            ("fragments", "filter", "prerouting", -450),
            // Before it looks up the connection (-200): what is dropped here costs no entry, not even for a moment.
            ("raw", "filter", "prerouting", -300),
            ("raw_out", "filter", "output", -300),
            ("input", "filter", "input", 0),
            ("forward", "filter", "forward", 0),
            ("postrouting", "nat", "postrouting", 100),
        ] {
            commands.push(self.chain(name, Some((hook, kind, priority))));
        }
        for name in ["from_sandbox", "ask", "closed", "to_host", "out", "in", "opened"] {
            commands.push(self.chain(name, None));
        }
        let mut rules = self.hooks(surroundings);
        rules.extend(self.leaving().into_iter().map(|e| ("from_sandbox", e)));
        rules.extend(self.ask().into_iter().map(|e| ("ask", e)));
        rules.extend(self.closed(&surroundings.gateways).into_iter().map(|e| ("closed", e)));
        rules.extend(self.to_host().into_iter().map(|e| ("to_host", e)));
        rules.extend(self.out(shares).into_iter().map(|e| ("out", e)));
        rules.extend([("in", vec![established(), verdict("accept")]), ("in", drop_counted())]);
        commands.extend(rules.into_iter().map(|(chain, expression)| self.rule(chain, expression)));
        json!({ "nftables": commands })
    }

    /// What leads from the kernel's hooks to the chains.
    fn hooks(&self, surroundings: &Surroundings) -> Vec<(&'static str, Vec<Value>)> {
        let (from, to) =
            (equal(meta("iifname"), json!(self.links)), equal(meta("oifname"), json!(self.links)));
        let (not_from, not_to) =
            (differ(meta("iifname"), json!(self.links)), differ(meta("oifname"), json!(self.links)));
        let in_pool = equal(payload("ip", "saddr"), self.pool.clone());
        let is_fragment = differ(json!({ "&": [payload("ip", "frag-off"), 0x3fff] }), json!(0));
        let answer = |protocol: &str| {
            let source = equal(payload("ip", "saddr"), json!(self.resolver));
            let port = equal(payload(protocol, "sport"), json!(DNS));
            ("raw_out", vec![to.clone(), source, port, verdict("notrack")])
        };
        let limited = over_rate("fragments", FRAGMENTS);
        let mut all = vec![
            ("fragments", [vec![from.clone(), is_fragment, limited], drop_counted()].concat()),
            ("raw", vec![from.clone(), jump("from_sandbox")]),
            // Who is not behind our links does not speak for a sandbox.
            (
                "raw",
                [
                    vec![not_from.clone(), differ(meta("iifname"), json!("lo")), in_pool.clone()],
                    drop_counted(),
                ]
                .concat(),
            ),
            answer("udp"),
            answer("tcp"),
            ("input", vec![from.clone(), jump("to_host")]),
            ("forward", vec![from, jump("out")]),
            ("forward", vec![to, jump("in")]),
            ("forward", vec![jump("opened")]),
            ("postrouting", vec![in_pool, not_to.clone(), json!({ "masquerade": null })]),
        ];
        // Nothing was forwarded there before us, and nothing else is now. Connections of another instance's
        // sandboxes are no new ones on their way back.
        all.extend(surroundings.opened.iter().map(|link| {
            let by_it = vec![equal(meta("iifname"), json!(link)), not_to.clone(), is_new()];
            ("opened", [by_it, drop_counted()].concat())
        }));
        all
    }

    /// Everything that comes from a sandbox, before the kernel has done anything with it.
    fn leaving(&self) -> Vec<Vec<Value>> {
        let source = payload("ip", "saddr");
        let destination = payload("ip", "daddr");
        let to_resolver = |protocol: &str| {
            let to = equal(destination.clone(), json!(self.resolver));
            vec![to, equal(payload(protocol, "dport"), json!(DNS)), jump("ask")]
        };
        let in_bridge = Ipv4Addr::from_bits(!(u32::MAX << (32 - u32::from(BRIDGE_PREFIX_LEN))));
        let is_gateway =
            equal(json!({ "&": [destination.clone(), in_bridge] }), json!(Ipv4Addr::from_bits(GATEWAY)));
        let to_pool = equal(destination.clone(), self.pool.clone());
        vec![
            // Our links have no IPv6.
            with_drop(vec![equal(meta("nfproto"), json!("ipv6"))]),
            with_drop(vec![differ(source, self.pool.clone())]),
            to_resolver("udp"),
            to_resolver("tcp"),
            // Answers to what the host itself has asked a sandbox; anything else ends at `to_host`.
            vec![to_pool.clone(), is_gateway, verdict("accept")],
            // To another sandbox, also across bridges.
            with_drop(vec![to_pool]),
            vec![jump("closed")],
        ]
    }

    /// To the resolver. These are not tracked: there is nothing to translate, and each question would be an entry.
    fn ask(&self) -> Vec<Vec<Value>> {
        let is_udp = equal(meta("l4proto"), json!("udp"));
        let is_call = equal(json!({ "&": [payload("tcp", "flags"), ["syn", "ack"]] }), json!("syn"));
        vec![
            with_drop(vec![is_udp, over_rate("questions", QUESTIONS)]),
            with_drop(vec![is_call, over_rate("calls", QUESTIONS)]),
            vec![verdict("notrack")],
            vec![verdict("accept")],
        ]
    }

    /// Drops what goes where no sandbox has business. Asked twice: of the address that a sandbox names, and of the one
    /// that somebody's rules make of it, such as a published port of a container beside the host.
    fn closed(&self, gateways: &[Ipv4Addr]) -> Vec<Vec<Value>> {
        let to = |nets: &[Net]| {
            let elements: Vec<_> = nets.iter().map(|net| prefix(net.base(), net.length())).collect();
            equal(payload("ip", "daddr"), json!({ "set": elements }))
        };
        let gateways = gateways.iter().map(|gateway| Net::host(*gateway));
        let special = closed::outermost(&METADATA.into_iter().chain(gateways).collect::<Vec<_>>());
        let (opened_special, opened) = closed::part(&self.networks_open, &special);
        let mut rules = vec![with_drop(vec![to(&NEVER)])];
        if !opened_special.is_empty() {
            rules.push(vec![to(&opened_special), verdict("return")]);
        }
        rules.push(with_drop(vec![to(&special)]));
        if !opened.is_empty() {
            rules.push(vec![to(&opened), verdict("return")]);
        }
        rules.push(with_drop(vec![to(&PRIVATE)]));
        rules
    }

    /// From a sandbox to the host itself: the resolver, and nothing else.
    fn to_host(&self) -> Vec<Vec<Value>> {
        let dns = |protocol: &str| {
            vec![
                equal(payload("ip", "saddr"), self.pool.clone()),
                equal(payload("ip", "daddr"), json!(self.resolver)),
                equal(payload(protocol, "dport"), json!(DNS)),
                verdict("accept"),
            ]
        };
        vec![vec![established(), verdict("accept")], dns("udp"), dns("tcp"), drop_counted()]
    }

    /// From a sandbox to anywhere else. A connection that is refused here was not yet entered in the kernel's table.
    fn out(&self, shares: Shares) -> Vec<Vec<Value>> {
        let group = json!({ "&": [payload("ip", "saddr"), Ipv4Addr::from_bits(GROUPS - 1)] });
        let over = |set: &str, key: Value, most: u32| {
            counted("add", set, key, json!({ "ct count": { "val": most, "inv": true } }))
        };
        vec![
            vec![established(), verdict("accept")],
            // What raw has dropped, in case it was addressed otherwise.
            with_drop(vec![equal(meta("oifname"), json!(self.links))]),
            with_drop(vec![differ(ct_state(), json!("new"))]),
            vec![jump("closed")],
            // In this order: a rate costs the same however many there are, a number is counted.
            with_drop(vec![over_rate("news", NEW_CONNECTIONS)]),
            with_drop(vec![over("held", payload("ip", "saddr"), shares.of_sandbox)]),
            with_drop(vec![over("held_by_group", group, shares.of_group)]),
            vec![verdict("accept")],
        ]
    }

    /// A set of addresses that rules add to; nft marks it as dynamic by itself.
    fn set(&self, name: &str, size: u32, timeout_secs: Option<u32>) -> Value {
        let mut set = json!({
            "family": "inet", "table": self.table, "name": name, "type": "ipv4_addr", "size": size,
        });
        if let (Some(timeout), Some(fields)) = (timeout_secs, set.as_object_mut()) {
            fields.insert("flags".to_owned(), json!(["timeout"]));
            fields.insert("timeout".to_owned(), json!(timeout));
        }
        json!({ "add": { "set": set } })
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

fn jump(chain: &str) -> Value {
    json!({ "jump": { "target": chain } })
}

fn verdict(name: &str) -> Value {
    json!({ name: null })
}

fn ct_state() -> Value {
    json!({ "ct": { "key": "state" } })
}

fn is_new() -> Value {
    equal(ct_state(), json!("new"))
}

fn established() -> Value {
    json!({ "match": { "op": "in", "left": ct_state(), "right": ["established", "related"] } })
}

/// Adds a packet's key to a set, with a statement that is kept for each key; matches when that does.
fn counted(operation: &str, set: &str, key: Value, statement: Value) -> Value {
    json!({ "set": { "op": operation, "elem": key, "set": format!("@{set}"), "stmt": [statement] } })
}

/// Matches what goes beyond a rate, by source address.
fn over_rate(set: &str, rate: Rate) -> Value {
    let limit = json!({ "rate": rate.a_second, "per": "second", "burst": rate.burst, "inv": true });
    counted("update", set, payload("ip", "saddr"), json!({ "limit": limit }))
}

fn with_drop(conditions: Vec<Value>) -> Vec<Value> {
    [conditions, drop_counted()].concat()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_groups_together_leave_the_host_a_quarter() {
        for table in [8_192, 32_768, 65_536, 262_144, 1 << 20] {
            let shares = Shares::of(table);
            assert!(shares.of_group * GROUPS <= table / 4 * 3, "{table}: {shares:?}");
            assert!(shares.of_sandbox < shares.of_group && shares.of_sandbox >= 64, "{table}: {shares:?}");
        }
        assert_eq!(Shares::of(262_144), Shares { of_sandbox: 1024, of_group: 3072 });
    }
}
