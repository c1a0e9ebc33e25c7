//! `serve`: build, spawn, wait for a signal, drain.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check;
use super::directories;
use super::exit::{Exit, complain};
use super::isolation;
use super::key;
use super::lock;
use super::memory;
use super::record;
use super::reload::Reload;
use super::rootfs;
use super::tables;
use crate::config::Config;
use crate::key::keys;
use crate::limits::hard_limit;
use crate::settings::read_config;
use edge::api::{self, Auth};
use edge::proxy;
use engine::bundle::Template;
use engine::{Runtime, launcher};
use metadata::{Contents, Metadata, Recovered};
use model::{Finding, Limits};
use network::Network;
use network::dns::{self, DnsSockets};
use sandbox::{Parts, Supervisor};
use storage::Storage;
use sys::capabilities;
use sys::cgroup::Hierarchy;
use sys::netns::SocketMaker;
use sys::process;
use telemetry::Metrics;

/// How many threads may wait for the kernel at once; what tenants' files may take of them is bounded by
/// `sandbox::share`.
const BLOCKING_THREADS_MAX: usize = 128;
/// How many of them are made at the start and stay: where the host has no process left for one more, work waits for one of
/// these. Without any tokio panics, which would end the daemon.
const BLOCKING_THREADS_MIN: usize = 4;
/// So long a thread that has nothing to do stays.
const IDLE_THREAD_KEPT: Duration = Duration::from_secs(3600);
/// How long threads that still wait for a disk are waited for at the end.
const THREADS_DEADLINE: Duration = Duration::from_secs(2);
/// tokio's own threads: the daemon waits far more than it computes.
const WORKER_THREADS_MAX: usize = 4;

/// An address on which the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}")]
struct Unheard {
    addr: SocketAddr,
    source: io::Error,
}

/// How the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Sandboxes are stopped: the machine or container ends with the daemon.
    ShutDown,
    /// Sandboxes run on and are adopted by the next daemon.
    Detach,
}

/// Serves until told to end.
pub(super) fn run(flags: &[(String, String)]) -> Exit {
    let config = match read_config(flags) {
        Ok(config) => config,
        Err(error) => {
            return Exit::Config.because(&error, "see `sandboxd check-config` and docs/configuration.md");
        }
    };
    let is_root = rustix::process::geteuid().is_root();
    if config.require_isolation && is_root {
        // While there is one thread, which some of it takes, and before anything is laid down that is looked for.
        let weaknesses = check::weaknesses(&config);
        if !weaknesses.is_empty() {
            return refuse(&weaknesses);
        }
    }
    let reduced =
        if is_root { capabilities::keep(capabilities::DAEMON, capabilities::REACHABLE) } else { Ok(()) };
    if let Err(error) = telemetry::init(config.log_json, &config.log_filter) {
        return Exit::Config.because(&error, "");
    }
    if let Err(error) = reduced {
        tracing::warn!(%error, "the daemon cannot lay down what it does not need");
    }
    sys::memory::keep_little();
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let workers =
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(2, WORKER_THREADS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(IDLE_THREAD_KEPT)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            keep_threads(&runtime);
            let exit = runtime.block_on(serve(config, flags));
            // What a disk never answers must not keep the next daemon from its place.
            runtime.shutdown_timeout(THREADS_DEADLINE);
            exit
        }
        Err(error) => Exit::Software.because(&error, "the tokio runtime could not be started"),
    }
}

/// Has as many threads for blocking work made as are always there: each waits until all are.
fn keep_threads(runtime: &tokio::runtime::Runtime) {
    let all = Arc::new(std::sync::Barrier::new(BLOCKING_THREADS_MIN));
    for _thread in 0..BLOCKING_THREADS_MIN {
        let all = Arc::clone(&all);
        drop(runtime.spawn_blocking(move || all.wait().is_leader()));
    }
}

/// Says what is weaker than require_isolation allows.
fn refuse(weaknesses: &[Finding]) -> Exit {
    complain("sandboxd: isolation on this host is weaker than require_isolation allows:");
    for Finding { feature, detail, consequence, remedy, .. } in weaknesses {
        complain(&format!("sandboxd:   {feature}: {detail}; without it {consequence}; remedy: {remedy}"));
    }
    complain("sandboxd: name what you accept by isolation_waivers; see `sandboxd check`");
    Exit::Isolation
}

/// Runs the launcher.
pub(super) fn launcher(init: PathBuf, writable: Vec<PathBuf>) -> Exit {
    match launcher::run(&launcher::Options { init, writable }) {
        Ok(()) => Exit::Success,
        Err(error) => Exit::Software.because(&error, ""),
    }
}

async fn serve(mut config: Config, flags: &[(String, String)]) -> Exit {
    if !config.ignored.is_empty() {
        let names = config.ignored.join(", ");
        tracing::warn!(names, "settings of the compatible product have no meaning here and are ignored");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}; it is ignored (strict_config refuses it)");
    }
    if !rustix::process::geteuid().is_root() {
        complain(
            "sandboxd: needs root: it makes namespaces, mounts and control groups; run it with sudo, or the image with --privileged",
        );
        return Exit::Permission;
    }
    if let Err(error) = directories::make(&config.data_dir, &config.run_dir) {
        return Exit::of(&error)
            .because(&error, "the data or run directory cannot be made; see data_dir and run_dir");
    }
    // Four descriptors for each sandbox that runs; many systems start a program with a limit of 1024.
    if let Err(error) = process::raise_open_files() {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
    tables::make_room();
    let lock = match lock::take(&config.data_dir) {
        Ok(lock) => lock,
        Err(error) => {
            return Exit::Unavailable.because(&error, "end the other one, or choose another data_dir");
        }
    };
    // This daemon may have been killed while the disk was full.
    Storage::make_room(&config.data_dir);
    // From here on HUP ends nothing, also while the daemon starts.
    let hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return Exit::Software.because(&error, "signals cannot be received"),
    };
    // Bound first: a port that is taken must be known before anything is made.
    let listeners = tokio::try_join!(listen(config.api_addr), listen(config.preview_addr));
    let (api_listener, preview_listener) = match listeners {
        Ok(both) => both,
        Err(error) => {
            let remedy = "is it taken? Choose another by SANDBOXD_ADDR or SANDBOXD_PREVIEW_ADDR";
            return Exit::Unavailable.because(&error, remedy);
        }
    };
    let (metadata, contents) = match open_record(&config) {
        Ok(opened) => opened,
        Err(exit) => return exit,
    };
    // Nobody is served yet who could wait for it.
    config.rootfs = rootfs::place(&config);
    let code = match build(&config, metadata.clone(), contents).await {
        Ok(app) => {
            let reload = Reload { flags, running: &config, auth: app.auth.clone(), hangup };
            app.run(&config, api_listener, preview_listener, reload).await
        }
        Err(exit) => exit,
    };
    metadata.close();
    drop(lock);
    code
}

/// Opens the record, by what else there is of sandboxes, and tells what had to be done for that.
fn open_record(config: &Config) -> Result<(Metadata, Contents), Exit> {
    let evidence = record::evidence(config).map_err(|e| Exit::TryAgain.because(&e, "see data_dir"))?;
    let metadata_config =
        metadata::Config { path: config.database.clone(), backup_interval: config.backup_interval };
    let (metadata, contents) =
        Metadata::open(&metadata_config, &evidence).map_err(|e| record::because(&e))?;
    if let Some(recovered) = &contents.recovered {
        tell_recovered(recovered);
    }
    Ok((metadata, contents))
}

/// Says as loudly as it can what has become of the record.
fn tell_recovered(recovered: &Recovered) {
    let Recovered { problem, kept_as, age, restored, unknown } = recovered;
    let age = age.map_or_else(|| "unknown".to_owned(), |age| format!("{} s", age.as_secs()));
    let kept_as = kept_as.as_ref().map(|path| path.display().to_string());
    tracing::error!(
        problem,
        kept_as,
        age,
        restored,
        "THE RECORD WAS DAMAGED: the last good one is used, and what happened since that was made is not known, but for what runs"
    );
    for id in unknown {
        tracing::error!(%id, "a workspace has lost its record: it is a stopped sandbox of nobody from now on");
    }
}

struct App {
    supervisor: Supervisor,
    auth: Auth,
    metrics: Metrics,
    dns: DnsSockets,
}

/// Builds every part, from the bottom to the top; what fails says so, with its remedy.
async fn build(config: &Config, metadata: Metadata, contents: Contents) -> Result<App, Exit> {
    let auth = auth(config)?;
    let cgroups = Hierarchy::open(&config.instance).map_err(|e| {
        Exit::Permission.because(
            &e,
            "control groups cannot be written; in a container use --privileged. See `sandboxd check`",
        )
    })?;
    let storage_config = storage::Config {
        data_dir: config.data_dir.clone(),
        rootfs: config.rootfs.clone(),
        templates_dir: config.templates_dir.clone(),
    };
    let storage = Storage::open(storage_config).map_err(|e| Exit::of(&e).because(&e, ""))?;
    let network_config = network::Config {
        pool: config.network_pool,
        names: network::LinkNames::of(&config.instance),
        table: config.instance.clone(),
        networks_open: config.networks_open.clone(),
    };
    let network =
        Network::open(network_config).map_err(|e| Exit::Unavailable.because(&e, "see `sandboxd check`"))?;
    let resolver = network.resolver();
    let dns = DnsSockets::bind(resolver, network.live().clone()).await.map_err(|e| {
        Exit::Unavailable
            .because(&e, &format!("the name server for sandboxes cannot listen on {resolver}:53"))
    })?;
    let runtime_config = engine::Config {
        executable: "/proc/self/exe".into(),
        init: config.init.clone(),
        run_dir: config.run_dir.clone(),
        runsc: config.runsc.clone(),
    };
    let runtime = Runtime::start(runtime_config).map_err(|e| Exit::Unavailable.because(&e, ""))?;
    let own = isolation::own(config, &runtime, &storage.workspaces_dir()).await?;
    let sockets = SocketMaker::start().map_err(|e| Exit::Software.because(&e, ""))?;
    let template = Template::embedded().map_err(|e| Exit::Software.because(&e, ""))?.within(hard_limit);
    let metrics = Metrics::new();
    let parts =
        Parts { storage, network, metadata, runtime, cgroups, sockets, template, metrics: metrics.clone() };
    let supervisor = Supervisor::start(sandbox_config(config, &own), parts, contents).await.map_err(|e| {
        let remedy = match Exit::of(&e) {
            Exit::TryAgain => "free space, or make the disk writable, and start again",
            _ => "is the rootfs built? `scripts/build-rootfs` builds it; name it by SANDBOXD_ROOTFS",
        };
        Exit::of(&e).because(&e, remedy)
    })?;
    Ok(App { supervisor, auth, metrics, dns })
}

impl App {
    async fn run(
        self,
        config: &Config,
        api_listener: TcpListener,
        preview_listener: TcpListener,
        mut reload: Reload<'_>,
    ) -> Exit {
        let ending = CancellationToken::new();
        let api_config = api::Config {
            auth: self.auth,
            hosts: api::Hosts::new(&config.preview_domain, &config.edge.api_hosts),
            files_bytes_max: config.files_max.as_u64(),
            keep_alive: config.keep_alive,
            image: config.image.clone(),
            preview_domain: config.preview_domain.clone(),
            preview_tls: config.preview_tls,
            public_port: config.public_http_port,
            version: env!("CARGO_PKG_VERSION"),
        };
        let router = api::router(api_config, self.supervisor.clone(), self.metrics.clone());
        let probes = proxy::Probes::new(config.probe_user_agents.clone(), config.probe_paths.clone());
        let bounds = proxy::Bounds {
            open_files: process::open_files(),
            client_connections: config.edge.client_connections,
            sandbox_requests: config.edge.preview_requests,
            answer: config.edge.preview_answer,
        };
        let proxy_config =
            proxy::Config::new(config.preview_domain.clone(), config.preview_tls, probes, bounds);
        let proxy = Arc::new(proxy::Proxy::new(proxy_config, self.supervisor.clone(), self.metrics.clone()));
        let mut parts = JoinSet::new();
        parts.spawn(proxy::serve(
            api_listener,
            Arc::clone(&proxy),
            Some(router),
            ending.clone(),
            config.drain,
        ));
        parts.spawn(proxy::serve(preview_listener, Arc::clone(&proxy), None, ending.clone(), config.drain));
        parts.spawn(memory::give_back(proxy, ending.clone()));
        parts.spawn(dns::serve(self.dns, ending.clone()));
        tracing::info!(api = %config.api_addr, previews = %config.preview_addr, version = env!("CARGO_PKG_VERSION"), "ready");

        let how = tokio::select! {
            how = wait_for_signal() => how,
            never = reload.watch() => match never {},
        };
        let how = match how {
            Ok(how) => how,
            Err(error) => return Exit::Software.because(&error, "signals cannot be received"),
        };
        tracing::info!(?how, "ending");
        // Requests that are open get their answers while the sandboxes are still there.
        ending.cancel();
        let drained = parts.join_all();
        match how {
            Ending::ShutDown => {
                tokio::join!(drained, self.supervisor.shut_down());
            }
            Ending::Detach => {
                drained.await;
                self.supervisor.detach().await;
            }
        }
        tracing::info!("ended");
        Exit::Success
    }
}

fn sandbox_config(config: &Config, own: &isolation::Own) -> sandbox::Config {
    sandbox::Config {
        run_dir: config.run_dir.clone(),
        rootfs: config.rootfs.clone(),
        user_spaces: own.user_spaces,
        covers_rootfs: own.covers_rootfs,
        nested_namespaces: config.nested_namespaces,
        ca_bundle: config.ca_bundle.clone(),
        limits: Limits::with_memory(config.memory_max),
        set_memory_high: config.set_memory_high,
        sandboxes_max: config.sandboxes_max,
        freeze_after: config.freeze_after,
        idle_threshold: config.idle_threshold,
        silent_connection: config.silent_connection,
        idle_interval: config.idle_reap_interval,
        sweep_interval: config.sweep_interval,
        pressure_interval: config.pressure_interval,
        keepalive_max: config.keepalive_max,
        stop_grace: config.stop_grace,
        ready_timeout: config.ready_timeout,
        wake_timeout: config.wake_timeout,
        processes: sandbox::ProcessConfig {
            running_max: config.processes_max,
            output_bytes: config.process_output.as_u64(),
            stall: config.process_stall,
            input: config.process_input,
            hang_up: config.terminal_hang_up,
        },
        admission: sandbox::AdmissionConfig {
            headroom_percent: config.headroom_percent,
            refuse_wakes_percent: config.refuse_wakes_percent,
            emergency_percent: config.emergency_percent,
            pressure_percent: config.pressure_percent,
            start_cost: config.wake_cost,
        },
        tree_entries_max: config.tree_entries_max,
        tree_bytes_max: config.tree_bytes_max,
        pool: sandbox::PoolConfig {
            blanks_max: config.pool_size,
            memory: config.pool_memory,
            sites: config.launch_spares,
        },
    }
}

/// The keys; the first start makes one and shows it, this once.
fn auth(config: &Config) -> Result<Auth, Exit> {
    let key = key::load_or_make(&config.data_dir).map_err(|e| Exit::of(&e).because(&e, ""))?;
    if key.is_new {
        complain(&format!(
            "sandboxd: made the API key, kept in {}:\nsandboxd:   {}",
            key.path.display(),
            key.text
        ));
    }
    if config.api_auth_disabled {
        tracing::warn!(
            "AUTHENTICATION IS OFF: anybody who reaches the API rules every sandbox (SANDBOXD_API_AUTH_DISABLED)"
        );
    }
    let (keys, anybody) = keys(config, &key.text);
    Ok(Auth::new(&keys, anybody))
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, Unheard> {
    TcpListener::bind(addr).await.map_err(|source| Unheard { addr, source })
}

async fn wait_for_signal() -> io::Result<Ending> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut handover = signal(SignalKind::user_defined2())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Ending::ShutDown,
        _ = interrupt.recv() => Ending::ShutDown,
        _ = handover.recv() => Ending::Detach,
    })
}
