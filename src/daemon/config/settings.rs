//! The names, defaults and meanings of all settings.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// In the file and for `--set`; in the environment upper-case and with the prefix `SANDBOXD_`, but
    /// for `preview_domain` and `preview_tls`, which have none.
    pub name: &'static str,
    /// Empty: derived, as the meaning says.
    pub default: &'static str,
    pub meaning: &'static str,
    pub is_secret: bool,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning, is_secret: false }
}

/// Every setting, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    setting("addr", "127.0.0.1:9090", "where the API listens; 0.0.0.0:9090 in the image"),
    setting("preview_addr", "127.0.0.1:8080", "where previews listen; 0.0.0.0:80 in the image"),
    setting("data_dir", "/var/lib/sandboxd", "everything that lasts: database, key, workspaces"),
    setting("run_dir", "/run/sandboxd", "what is there only while sandboxes run"),
    setting("db", "", "the database; default: sandboxd.db in the data directory"),
    setting(
        "backup_interval_seconds",
        "60",
        "how often the database is copied to a file beside it (.backup; earlier copies of an hour and a day are .backup.1 and .backup.2) while it changes, which takes its place if it is damaged, gone or older than it must be; 0: never",
    ),
    setting(
        "rootfs",
        "/usr/share/sandboxd/rootfs",
        "the root file system of all sandboxes, built by scripts/build-rootfs",
    ),
    setting("image", "sandboxd-rootfs", "the name of the root file system that clients are shown"),
    setting("init", "", "the program sandbox-init; default: beside sandboxd"),
    setting(
        "templates_dir",
        "",
        "one directory per template; default: opt/templates in the root file system",
    ),
    setting("library_dir", "", "accepted for compatibility; not used"),
    setting(
        "instance",
        "sandboxd",
        "1 to 8 of a-z and 0-9: names cgroups, links and firewall table; give each daemon of a host its own",
    ),
    setting(
        "preview_domain",
        "localhost",
        "previews are s-<id>-<port>.preview.<domain> and <port>-<id>.<domain>",
    ),
    setting(
        "preview_tls",
        "false",
        "whether preview URLs are shown with https, for a proxy in front that ends TLS",
    ),
    setting("public_http_port", "", "the port in preview URLs; default: that of preview_addr"),
    Setting {
        name: "api_tokens",
        default: "",
        meaning: "further keys: name=value,…; values have 16 to 256 characters",
        is_secret: true,
    },
    setting(
        "require_isolation",
        "false",
        "true: the server does not start where sandboxes would be isolated less than they can be (exit code 79); `sandboxd check` names what is weaker",
    ),
    setting(
        "isolation_waivers",
        "",
        "what require_isolation puts up with, separated by commas: names that `sandboxd check` shows, such as memory.high",
    ),
    setting(
        "min_isolation",
        "container",
        "the weakest isolation that a new sandbox may have, which is also the default: container, or gvisor",
    ),
    setting(
        "token_min_isolation",
        "",
        "the same for single keys, in its place: name=gvisor,…; the name of the server's own key is api-key",
    ),
    setting(
        "nested_namespaces",
        "true",
        "whether a sandbox of the isolation container may be created with nested_namespaces, whose programs may make user, pid and network namespaces: false forbids it, as on a host for strangers",
    ),
    setting(
        "api_auth_disabled",
        "false",
        "true: the API needs no key. Anybody who reaches it rules the sandboxes",
    ),
    setting(
        "memory_max",
        "",
        "hard limit of a sandbox's memory; default: 4G, or half of the host's if that is less",
    ),
    setting("set_memory_high", "true", "whether memory.high is set, past which a sandbox is slowed down"),
    setting("max_sandboxes", "5000", "how many sandboxes there may be, asleep or not"),
    setting(
        "freeze_after_seconds",
        "300",
        "a sandbox that nobody uses for so long is frozen: no time is spent on it, its memory is kept; 0, or not before idle_threshold_seconds: never",
    ),
    setting("idle_threshold_seconds", "2100", "a sandbox that nobody uses for so long is stopped"),
    setting(
        "silent_connection_seconds",
        "0",
        "for how long an open connection through which nothing goes, such as a WebSocket, counts as a use; its bytes always do, pings and pongs never",
    ),
    setting(
        "probe_user_agents",
        "kube-probe/,ELB-HealthChecker/,GoogleHC/,Consul Health Check",
        "parts of User-Agent, separated by commas: requests of such health checkers neither wake a sandbox nor keep it awake; one that sleeps answers 503",
    ),
    setting("probe_paths", "", "paths, separated by commas: the same for requests to them"),
    setting("idle_reap_interval_seconds", "30", "how often idle sandboxes are looked for; 0: never"),
    setting("keepalive_max_seconds", "86400", "the longest that a client may keep a sandbox awake ahead"),
    setting(
        "sweep_interval_seconds",
        "15",
        "how often the host is compared with the record; what is in no record at four looks in a row is removed; 0: at the start only",
    ),
    setting("pressure_interval_seconds", "10", "how often the host's memory is looked at; 0: never"),
    setting(
        "mem_headroom_pct",
        "15",
        "with less of the host's memory available, in percent, no sandbox is created",
    ),
    setting(
        "mem_refuse_wakes_pct",
        "10",
        "with less, no sandbox is woken, and those that nobody uses are frozen before their time",
    ),
    setting(
        "mem_emergency_pct",
        "5",
        "with less, sandboxes are stopped one by one: what frees most for least harm first (idle before in use, and not what frees next to nothing), always_on ones last",
    ),
    setting(
        "mem_pressure_pct",
        "20",
        "when all tasks of the host waited for memory for so much of the last ten seconds (PSI), in percent, and less than mem_headroom_pct is available, nothing is woken and one sandbox after another is stopped; 0: never",
    ),
    setting("wake_cost_mb", "64", "what a start is expected to take until it shows in the host's figures"),
    setting(
        "pool_size",
        "16",
        "the most sandboxes that are launched before anybody asks for them; as demand goes, at least a quarter of it; 0: none",
    ),
    setting("pool_memory", "64M", "what these may take together, at 2M each"),
    setting(
        "launch_spares",
        "4",
        "how many networks and control groups are made ahead for when none of these is left; 0: none",
    ),
    setting(
        "wake_tcp_ready_timeout_seconds",
        "8",
        "how long after a start requests are held for an app that sandbox.yaml does not name",
    ),
    setting(
        "wake_timeout_seconds",
        "30",
        "how long requests are held for an app that is known to be starting",
    ),
    setting("stop_grace_seconds", "5", "between TERM and KILL when a sandbox is stopped"),
    setting(
        "ca_bundle",
        "",
        "certificates bound over those of every sandbox, for a network behind an inspecting proxy",
    ),
    setting(
        "network_pool",
        "10.213.0.0/16",
        "the addresses of sandboxes: a private IPv4 network from /12 to /22",
    ),
    setting(
        "networks_open",
        "",
        "what sandboxes may connect to although it is closed: IPv4 networks separated by commas, such as 192.168.7.0/24. Closed are private, shared and link-local networks, metadata services and the host's gateways; the last two are opened only by naming them or a part of them. The host itself, other sandboxes and IPv6 cannot be opened",
    ),
    setting(
        "user_namespaces",
        "auto",
        "a user namespace for each sandbox, in which its root is nobody outside: auto, where the host can; require: the server does not start without; off",
    ),
    setting(
        "id_base",
        "1879048192",
        "the first of the host's user and group ids that sandboxes are given, 65536 each; files are stored with the first 65536 of them, and a change converts what is stored at the next wake of each sandbox",
    ),
    setting(
        "runsc",
        "runsc",
        "gVisor's program, for sandboxes with isolation \"gvisor\": a path, or a name that is looked for in PATH",
    ),
    setting(
        "runtime",
        "",
        "of the former product: runsc, which is the same as min_isolation = gvisor, or empty",
    ),
    setting(
        "client_connections_max",
        "",
        "the most connections that one client address (of IPv6, one network of 64 bits) may have open to each listener; behind a proxy all clients have its address; default: half of what the limit on open files allows the listener; 0: no bound of its own",
    ),
    setting(
        "preview_requests_max",
        "1024",
        "the most requests and tunnels that may be open to the apps of one sandbox, but never more than a quarter of what the limit on open files allows all",
    ),
    setting(
        "preview_answer_seconds",
        "300",
        "how long an app may take to begin its answer since it was last sent something; then the client gets a 504",
    ),
    setting(
        "api_hosts",
        "",
        "with api_auth_disabled, further host names by which the API may be reached, separated by commas: otherwise only IP addresses, names without a dot, and preview_domain and names beneath it, since any page can give its own name the address of this server (DNS rebinding)",
    ),
    setting("drain_seconds", "8", "how long open requests may go on when the daemon is told to end"),
    setting("processes_max", "512", "how many processes clients may have running in one sandbox at once"),
    setting(
        "process_output_bytes",
        "1M",
        "how much output of each process is kept while nobody reads it; a request may ask for less",
    ),
    setting(
        "process_stall_seconds",
        "60",
        "how long a client that follows a process and reads nothing may hold it up",
    ),
    setting(
        "process_input_seconds",
        "30",
        "how long a process may leave its input unread while a client writes to it",
    ),
    setting(
        "terminal_hang_up_seconds",
        "300",
        "how long a terminal whose client was cut off waits for somebody to come back",
    ),
    setting(
        "keep_alive_seconds",
        "15",
        "how often something is sent on an event stream or WebSocket of the API on which nothing happens, so that nothing on the way cuts it; a client that answers none of four is gone",
    ),
    setting("files_max_bytes", "25M", "the largest file that can be uploaded"),
    setting(
        "tree_max_bytes",
        "2G",
        "the most content, unpacked, of a tree that is uploaded, downloaded or copied",
    ),
    setting("tree_max_entries", "200000", "the most files, directories and links of such a tree"),
    setting(
        "strict_config",
        "false",
        "refuse to start when the environment has a name that begins with SANDBOXD_ and is no setting; otherwise it is a warning",
    ),
    setting("log", "info", "what is logged: error, warn, info, debug, or a tracing filter"),
    setting("log_format", "auto", "text, json, or auto: text on a terminal"),
];

/// Names that the compatible product reads from the environment and that mean nothing here. Its environment files
/// can be used as they are: each name found is told in one line of the log.
pub(super) const FORMER: [&str; 48] = [
    "access_log",
    "agent_proxy_addr",
    "agent_proxy_url",
    "api_bind",
    "auth_redirect_url",
    "bin",
    "claude_authorize_url",
    "claude_client_id",
    "claude_redirect_uri",
    "claude_scopes",
    "claude_token_url",
    "console",
    "debug",
    "default_agent",
    "dns",
    "event_retention_days",
    "forward_auth_deny_mode",
    "git_commit",
    "install_method",
    "llm_txt_path",
    "log_dir",
    "migrations",
    "minimax_region",
    "network",
    "no_sponsor",
    "opencode_free_model",
    "opencode_model",
    "opencode_zen_path",
    "poller_interval_seconds",
    "poller_metric_re",
    "poller_service_label",
    "poller_url",
    "posthog_host",
    "posthog_key",
    "preview_token_secrets",
    "repo_branch",
    "repo_ref",
    "repo_url",
    "secrets_key",
    "snapshot_idle_hours",
    "snapshot_retention_days",
    "src",
    "src_dir",
    "tailer_offset",
    "telemetry",
    "userns",
    "version",
    "wake_grace_seconds",
];

/// The environment's name of a setting.
pub(super) fn variable(name: &str) -> String {
    match name {
        "preview_domain" | "preview_tls" => name.to_ascii_uppercase(),
        _ => format!("SANDBOXD_{}", name.to_ascii_uppercase()),
    }
}

/// The document of all settings.
#[cfg(test)]
pub(super) fn table() -> String {
    let mut text = String::from(
        "# Settings\n\nIn a TOML file (`--config`, `SANDBOXD_CONFIG`, or `/etc/sandboxd/config.toml`), in the environment, or by\n\
         `--set name=value`; the later of these wins. `SANDBOXD_ENV_FILE` names a file of variables (default, if it is there:\n\
         `/etc/sandboxed/sandboxd.env`), which win over those of the environment. It is read again on HUP, for the keys and what they may do. Durations are seconds, or `30s`, `5m`, `2h`; sizes are bytes, or `512M`, `4G`.\n\
         `sandboxd check-config` prints them all with their values. This page is made from the code.\n\n\
         | name | environment | default | meaning |\n| --- | --- | --- | --- |\n",
    );
    use std::fmt::Write as _;
    for s in SETTINGS {
        let default = if s.default.is_empty() { String::new() } else { format!("`{}`", s.default) };
        writeln!(text, "| `{}` | `{}` | {default} | {} |", s.name, variable(s.name), s.meaning).unwrap();
    }
    text
}
