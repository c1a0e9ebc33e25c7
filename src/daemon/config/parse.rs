//! From texts to the typed tree, in one pass that collects every complaint.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::settings::{SETTINGS, Setting, variable};
use super::source::{Sources, Value};
use super::tree::{Config, ConfigError, Edge, OWN_KEY, Secret, UserNamespaces};
use model::{ByteSize, Isolation};
use sys::memory;

/// The default limit of a sandbox's memory, on a host that is large enough.
const MEMORY_MAX: ByteSize = ByteSize::mib(4096);
/// The longest duration that can be set, in seconds: a year.
const SECONDS_MAX: u64 = 366 * 86_400;

pub(super) fn parse(sources: &Sources) -> Result<Config, ConfigError> {
    let mut p = Parser::of(sources);
    let data_dir = p.path("data_dir");
    let preview_addr: SocketAddr = p.value("preview_addr");
    let rootfs = p.path("rootfs");
    let config = Config {
        api_addr: p.value("addr"),
        preview_addr,
        database: p.optional_path("db").unwrap_or_else(|| data_dir.join("sandboxd.db")),
        backup_interval: p.duration("backup_interval_seconds"),
        data_dir,
        run_dir: p.path("run_dir"),
        image: p.text("image"),
        init: p.optional_path("init").unwrap_or_else(init_beside),
        templates_dir: p.optional_path("templates_dir").unwrap_or_else(|| rootfs.join("opt/templates")),
        rootfs,
        instance: p.checked("instance", "1 to 8 of a-z and 0-9, a letter first", is_instance),
        preview_domain: p.checked("preview_domain", "a domain name", is_domain).to_ascii_lowercase(),
        preview_tls: p.flag("preview_tls"),
        public_http_port: p.optional("public_http_port").unwrap_or_else(|| preview_addr.port()),
        api_tokens: p.tokens(),
        require_isolation: p.flag("require_isolation"),
        isolation_waivers: p.list("isolation_waivers"),
        min_isolation: p.min_isolation(),
        token_min_isolation: p.minimums(),
        nested_namespaces: p.flag("nested_namespaces"),
        api_auth_disabled: p.flag("api_auth_disabled"),
        memory_max: p.optional("memory_max").unwrap_or_else(default_memory),
        set_memory_high: p.flag("set_memory_high"),
        sandboxes_max: p.value("max_sandboxes"),
        freeze_after: p.duration("freeze_after_seconds"),
        idle_threshold: p.duration("idle_threshold_seconds"),
        silent_connection: p.duration("silent_connection_seconds"),
        probe_user_agents: p.list("probe_user_agents"),
        probe_paths: p.list("probe_paths"),
        idle_reap_interval: p.duration("idle_reap_interval_seconds"),
        keepalive_max: p.duration("keepalive_max_seconds"),
        sweep_interval: p.duration("sweep_interval_seconds"),
        pressure_interval: p.duration("pressure_interval_seconds"),
        headroom_percent: p.percent("mem_headroom_pct"),
        refuse_wakes_percent: p.percent("mem_refuse_wakes_pct"),
        emergency_percent: p.percent("mem_emergency_pct"),
        pressure_percent: p.percent("mem_pressure_pct"),
        wake_cost: p.wake_cost(),
        pool_size: p.value("pool_size"),
        pool_memory: p.value("pool_memory"),
        launch_spares: p.value("launch_spares"),
        ready_timeout: p.duration("wake_tcp_ready_timeout_seconds"),
        wake_timeout: p.duration("wake_timeout_seconds"),
        stop_grace: p.duration("stop_grace_seconds"),
        edge: p.edge(),
        drain: p.duration("drain_seconds"),
        files_max: p.value("files_max_bytes"),
        tree_bytes_max: p.value("tree_max_bytes"),
        tree_entries_max: p.value("tree_max_entries"),
        processes_max: p.value("processes_max"),
        process_output: p.value("process_output_bytes"),
        process_stall: p.duration("process_stall_seconds"),
        process_input: p.some_duration("process_input_seconds"),
        terminal_hang_up: p.some_duration("terminal_hang_up_seconds"),
        keep_alive: p.some_duration("keep_alive_seconds"),
        ca_bundle: p.optional_path("ca_bundle"),
        network_pool: p.value("network_pool"),
        networks_open: p.values("networks_open"),
        user_namespaces: p.user_namespaces(),
        id_base: p.value("id_base"),
        runsc: p.text("runsc").into(),
        log_filter: p.text("log"),
        log_json: p.log_format(),
        ignored: sources.ignored.clone(),
        warnings: sources.warnings.clone(),
        described: describe(sources),
    };
    p.check_together(&config);
    if p.problems.is_empty() { Ok(config) } else { Err(ConfigError(p.problems)) }
}

struct Parser<'a> {
    sources: &'a Sources,
    problems: Vec<String>,
}

impl<'a> Parser<'a> {
    /// Begins with what is known to be wrong: unknown names, those of the environment too if that is demanded.
    fn of(sources: &'a Sources) -> Self {
        let mut parser = Self { sources, problems: sources.problems.clone() };
        if parser.flag("strict_config") {
            parser.problems.extend(sources.warnings.iter().cloned());
        }
        parser
    }

    /// A number that cannot overflow when it becomes bytes.
    fn wake_cost(&mut self) -> ByteSize {
        ByteSize::mib(self.value::<u32>("wake_cost_mb").into())
    }

    fn given(&self, name: &str) -> Option<&Value> {
        self.sources.values.get(name).filter(|v| !v.text.is_empty())
    }

    fn default(name: &str) -> &'static str {
        SETTINGS.iter().find(|s| s.name == name).map_or("", |s| s.default)
    }

    fn text(&self, name: &str) -> String {
        self.given(name).map_or_else(|| Self::default(name).to_owned(), |v| v.text.clone())
    }

    fn complain(&mut self, name: &str, problem: &str) {
        let origin = self.given(name).map_or_else(|| "default".to_owned(), |v| v.origin.clone());
        self.problems.push(format!("{} ({origin}): {problem}", variable(name)));
    }

    /// A value, or after a complaint the default, so that the rest can be checked too.
    fn value<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> T {
        match self.text(name).parse() {
            Ok(value) => value,
            Err(error) => {
                let problem = format!("{:?}: {error}", self.text(name));
                self.complain(name, &problem);
                match Self::default(name).parse() {
                    Ok(value) => value,
                    Err(_) => unreachable_default(name),
                }
            }
        }
    }

    fn optional<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.given(name)?.text.clone();
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.complain(name, &format!("{text:?}: {error}"));
                None
            }
        }
    }

    fn path(&mut self, name: &str) -> PathBuf {
        let path = PathBuf::from(self.text(name));
        if !path.is_absolute() {
            self.complain(name, "is an absolute path");
        }
        path
    }

    fn optional_path(&mut self, name: &str) -> Option<PathBuf> {
        self.given(name)?;
        Some(self.path(name))
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.text(name).to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.complain(name, "is true or false");
                false
            }
        }
    }

    fn user_namespaces(&mut self) -> UserNamespaces {
        match self.text("user_namespaces").as_str() {
            "auto" => UserNamespaces::Auto,
            "require" => UserNamespaces::Require,
            "off" => UserNamespaces::Off,
            _ => {
                self.complain("user_namespaces", "is auto, require or off");
                UserNamespaces::Auto
            }
        }
    }

    fn checked(&mut self, name: &str, what: &str, holds: fn(&str) -> bool) -> String {
        let text = self.text(name);
        if !holds(&text) {
            self.complain(name, &format!("{text:?} is not {what}"));
        }
        text
    }

    fn duration(&mut self, name: &str) -> Duration {
        let text = self.text(name);
        let (number, factor) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
            Some(number) => (
                number,
                match text.as_bytes().last() {
                    Some(b'm') => 60,
                    Some(b'h') => 3600,
                    Some(b'd') => 86_400,
                    _ => 1,
                },
            ),
            None => (text.as_str(), 1),
        };
        let seconds =
            number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|s| *s <= SECONDS_MAX);
        if seconds.is_none() {
            self.complain(name, &format!("{text:?} is not a number of seconds, nor like 30s, 5m, 2h"));
        }
        Duration::from_secs(seconds.unwrap_or_default())
    }

    fn some_duration(&mut self, name: &str) -> Duration {
        let duration = self.duration(name);
        if duration.is_zero() {
            self.complain(name, "is at least a second");
        }
        duration
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name);
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// Names as they are compared: in lower case.
    fn hosts(&mut self, name: &str) -> Vec<String> {
        let hosts = self.list(name);
        if let Some(bad) = hosts.iter().find(|host| !is_domain(host)) {
            self.complain(name, &format!("{bad:?} is not a host name"));
        }
        hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
    }

    fn edge(&mut self) -> Edge {
        // Nought is no bound.
        let most =
            self.optional("client_connections_max").map(|most| if most == 0 { usize::MAX } else { most });
        Edge {
            client_connections: most,
            preview_requests: self.value("preview_requests_max"),
            preview_answer: self.some_duration("preview_answer_seconds"),
            api_hosts: self.hosts("api_hosts"),
        }
    }

    /// A list of values; those that are none are told.
    fn values<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str) -> Vec<T> {
        let mut values = Vec::new();
        for text in self.list(name) {
            match text.parse::<T>() {
                Ok(value) => values.push(value),
                Err(error) => self.complain(name, &error.to_string()),
            }
        }
        values
    }

    fn percent(&mut self, name: &str) -> u8 {
        let number: u8 = self.value(name);
        if number > 100 {
            self.complain(name, "is from 0 to 100");
        }
        number
    }

    fn tokens(&mut self) -> Vec<(String, Secret)> {
        let mut tokens = Vec::new();
        for entry in self.text("api_tokens").split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let (name, value) = entry.split_once(['=', ':']).unwrap_or((entry, ""));
            let named = (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            if !named || !(16..=256).contains(&value.len()) || !value.bytes().all(|b| b.is_ascii_graphic()) {
                // Neither is shown: what stands before the sign may be the secret.
                self.complain("api_tokens", "is name=value,…; a value has 16 to 256 printable characters");
                continue;
            }
            tokens.push((name.to_owned(), Secret::new(value.to_owned())));
        }
        tokens
    }

    /// What the former product calls a runtime demands the same.
    fn min_isolation(&mut self) -> Isolation {
        let least: Isolation = self.value("min_isolation");
        match self.text("runtime").as_str() {
            "" => least,
            "runsc" => least.max(Isolation::Gvisor),
            _ => {
                self.complain("runtime", "is runsc, which is the same as min_isolation = gvisor, or empty");
                least
            }
        }
    }

    fn minimums(&mut self) -> Vec<(String, Isolation)> {
        let mut minimums = Vec::new();
        for entry in self.list("token_min_isolation") {
            match entry.split_once('=').map(|(name, tier)| (name.to_owned(), tier.parse())) {
                Some((name, Ok(tier))) => minimums.push((name, tier)),
                Some((_, Err(_))) | None => {
                    self.complain("token_min_isolation", "is name=container or name=gvisor, …");
                }
            }
        }
        minimums
    }

    fn log_format(&mut self) -> Option<bool> {
        match self.text("log_format").as_str() {
            "auto" => None,
            "text" => Some(false),
            "json" => Some(true),
            _ => {
                self.complain("log_format", "is auto, text or json");
                None
            }
        }
    }

    /// What is wrong only in connection.
    fn check_together(&mut self, config: &Config) {
        if config.emergency_percent > config.refuse_wakes_percent
            || config.refuse_wakes_percent > config.headroom_percent
        {
            self.complain(
                "mem_emergency_pct",
                "is at most mem_refuse_wakes_pct, and that at most mem_headroom_pct",
            );
        }
        let is_key = |name: &str| name == OWN_KEY || config.api_tokens.iter().any(|(known, _)| known == name);
        if config.token_min_isolation.iter().any(|(name, _)| !is_key(name)) {
            self.complain("token_min_isolation", "names a key that api_tokens does not have");
        }
        if let Some(bundle) = config.ca_bundle.as_ref().filter(|b| !b.is_file()) {
            self.complain("ca_bundle", &format!("there is no file {}", bundle.display()));
        }
        // A launch lays devices of its own over it, which would hide what lies beneath.
        for (name, path) in
            [("run_dir", &config.run_dir), ("data_dir", &config.data_dir), ("rootfs", &config.rootfs)]
        {
            if path.starts_with("/dev") {
                self.complain(name, "lies beneath /dev, which launches cover; choose another directory");
            }
        }
        if config.api_addr == config.preview_addr && config.api_addr.port() != 0 {
            self.complain("preview_addr", "is the same as addr");
        }
    }
}

/// A default that does not parse is a mistake in the table, which the tests find.
fn unreachable_default<T>(name: &str) -> T {
    unreachable!("the default of {name} does not parse")
}

fn describe(sources: &Sources) -> Vec<(&'static str, String, String)> {
    let row = |setting: &Setting| match sources.values.get(setting.name) {
        Some(_) if setting.is_secret => (setting.name, "(secret)".to_owned(), String::new()),
        Some(value) => (setting.name, value.text.clone(), value.origin.clone()),
        None => (setting.name, setting.default.to_owned(), "default".to_owned()),
    };
    SETTINGS.iter().map(row).collect()
}

fn is_instance(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=8).contains(&bytes.len())
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_domain(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 180 && text.split('.').all(label)
}

fn init_beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().map(|directory| directory.join("sandbox-init")).unwrap_or_default()
}

fn default_memory() -> ByteSize {
    let half = memory::host().map_or(MEMORY_MAX.as_u64(), |host| host.total_bytes / 2);
    ByteSize::bytes(half).min(MEMORY_MAX)
}
