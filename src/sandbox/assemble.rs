//! How the rooms of one instance are put together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::base::events::Events;
use crate::base::records::Records;
use crate::base::share::Threads;
use crate::base::tasks::Tasks;
use crate::books::kept::KeptWorkspaces;
use crate::books::leases::Leases;
use crate::books::ledger::Books;
use crate::books::registry::Registry;
use crate::launch::admission::{self, Admission};
use crate::launch::ground::Ground;
use crate::launch::host::{Host, HostConfig, HostParts};
use crate::launch::launching::Launching;
use crate::launch::pool::{self, Pool};
use crate::launch::spaces::UserSpaces;
use crate::life::announce::Announce;
use crate::life::create::Bounds;
use crate::life::lives::Life;
use crate::life::rules::SleepRules;
use crate::running::process;
use crate::running::process::rings::Rings;
use crate::running::process::table::ProcessHost;
use crate::serve::app;
use crate::serve::serving::{Serving, ServingConfig};
use engine::Runtime;
use engine::bundle::Template;
use metadata::Metadata;
use model::{ByteSize, Limits};
use network::Network;
use storage::Storage;
use sys::cgroup::Hierarchy;
use sys::netns::SocketMaker;
use telemetry::Metrics;

/// How sandboxes are kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// One directory per running sandbox beneath it.
    pub run_dir: PathBuf,
    pub rootfs: PathBuf,
    /// How sandboxes get ids of their own; `None`: their processes have the host's.
    pub user_spaces: Option<UserSpaces>,
    /// Whether each sandbox has inodes of its own for the root file system.
    pub covers_rootfs: bool,
    /// Whether a sandbox may be asked for whose programs may make namespaces.
    pub nested_namespaces: bool,
    /// Certificates bound over the sandbox's own, for hosts behind an inspecting proxy.
    pub ca_bundle: Option<PathBuf>,
    /// The limits of a sandbox that does not ask for others.
    pub limits: Limits,
    /// Whether `memory.high` is written at all.
    pub set_memory_high: bool,
    pub sandboxes_max: usize,
    /// After this a sandbox that nobody uses is frozen; zero, or not before the next: it is not.
    pub freeze_after: Duration,
    /// After this it is stopped.
    pub idle_threshold: Duration,
    /// For how long an open connection without bytes keeps a sandbox awake.
    pub silent_connection: Duration,
    /// How often idle sandboxes are looked for; zero: never.
    pub idle_interval: Duration,
    /// How often memory pressure is looked for.
    pub pressure_interval: Duration,
    /// How often the host is compared with the record; zero: at the start only.
    pub sweep_interval: Duration,
    pub keepalive_max: Duration,
    /// Between TERM and KILL when a sandbox is stopped.
    pub stop_grace: Duration,
    /// How long a request is held for a sandbox that was just started and whose app says nothing of itself.
    pub ready_timeout: Duration,
    /// How long a request is held for an app that is known to be starting.
    pub wake_timeout: Duration,
    pub admission: admission::Config,
    /// The most files, directories and links of a tree that is copied, packed or unpacked.
    pub tree_entries_max: u64,
    /// The most bytes of its content.
    pub tree_bytes_max: ByteSize,
    pub pool: pool::Config,
    pub processes: process::nouns::Config,
}

/// What sandboxes are made with.
#[derive(Debug)]
pub struct Parts {
    pub storage: Storage,
    pub network: Network,
    pub metadata: Metadata,
    pub runtime: Runtime,
    pub cgroups: Hierarchy,
    pub sockets: SocketMaker,
    pub template: Template,
    pub metrics: Metrics,
}

/// What the rooms need of one instance.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) life: Arc<Life>,
    pub(crate) serving: Arc<Serving>,
    pub(crate) bounds: Bounds,
    pub(crate) keepalive_max: Duration,
}

/// Puts the rooms together; nothing runs yet.
pub(crate) fn assemble(config: Config, parts: Parts, given_out: u64) -> Assembled {
    let Parts { storage, network, metadata, runtime, cgroups, sockets, template, metrics } = parts;
    let tasks = Tasks::default();
    let records = Records::new(metadata);
    let rings = Arc::new(Rings::within(&config.run_dir));
    let host = HostConfig {
        run_dir: config.run_dir,
        rootfs: config.rootfs,
        user_spaces: config.user_spaces,
        covers_rootfs: config.covers_rootfs,
        nested_namespaces: config.nested_namespaces,
        ca_bundle: config.ca_bundle,
        limits: config.limits,
        set_memory_high: config.set_memory_high,
    };
    let host = Host::new(host, HostParts { storage, network, runtime, cgroups, sockets, template });
    let books = Books {
        registry: Registry::default(),
        kept: KeptWorkspaces::default(),
        leases: Leases::new(host.capacity()),
        events: Events::new(given_out, records.clone(), metrics.clone()),
        records,
        metrics,
        threads: Threads::new(tasks.tracker()),
        processes: Arc::new(ProcessHost { tasks: tasks.clone(), config: config.processes, rings }),
    };
    let sleep = SleepRules {
        freeze_after: config.freeze_after,
        idle_threshold: config.idle_threshold,
        silent_connection: config.silent_connection,
        can_freeze: host.can_freeze,
    };
    let ground = Ground { tasks, host: Arc::new(host), books: Arc::new(books) };
    let serving = Arc::new(Serving::new(
        ground.clone(),
        ServingConfig {
            ready_timeout: config.ready_timeout,
            wake_timeout: config.wake_timeout,
            tree_entries_max: config.tree_entries_max,
            tree_bytes_max: config.tree_bytes_max,
        },
    ));
    let launching = Launching {
        ground: ground.clone(),
        pool: Pool::new(config.pool),
        admission: Admission::new(config.admission),
    };
    let listener = Arc::clone(&serving);
    let life = Arc::new(Life {
        ground,
        launching: Arc::new(launching),
        sleep,
        stop_grace: config.stop_grace,
        reclaiming: Semaphore::new(1),
        announce: Announce::to(move |began| app::begin(&listener, began)),
    });
    let bounds = Bounds { sandboxes_max: config.sandboxes_max };
    Assembled { life, serving, bounds, keepalive_max: config.keepalive_max }
}
