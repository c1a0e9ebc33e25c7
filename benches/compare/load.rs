//! The server under many clients, with many sandboxes, and with many that do nothing.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use tokio::task::JoinSet;

use super::ours::{LIMIT, Server, connect, create};
use super::stats::{Burst, Crowd, Load, Summary, Throughput};
use super::{Trouble, note};

/// How many clients make and fill crowds.
pub(crate) const CLIENTS: u32 = 8;
/// How many creates with an exec are timed at each size of a crowd.
const SAMPLES: usize = 20;

/// How much is tried.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// With how many clients at once.
    pub(crate) clients: Vec<u32>,
    /// How many sandboxes all of them create together.
    pub(crate) creates: u32,
    pub(crate) burst: u32,
    /// At how many live sandboxes a create is timed; in order.
    pub(crate) crowds: Vec<u32>,
    /// For how long the server's processor time is looked at.
    pub(crate) idle: Duration,
}

/// Measures one server; `pid` is its process, if it runs here.
pub(crate) fn measure(
    server: &Server,
    contender: &'static str,
    pid: Option<u32>,
    plan: &Plan,
) -> Result<Load, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Trouble::because("start a runtime", &e))?;
    let mut load = Load::new(contender);
    for purges in [false, true] {
        for &clients in &plan.clients {
            let each = (plan.creates / clients).max(1);
            let (took, ids) = runtime.block_on(many(server, clients, each, purges))?;
            runtime.block_on(on_each(server, ids, Action::Purge))?;
            let per_second = f64::from(clients * each) / took.as_secs_f64();
            note(&format!(
                "{contender}: {per_second:.1} sandboxes per second, {clients} clients, purged: {purges}"
            ));
            load.throughput.push(Throughput { clients, purges, per_second });
        }
    }
    // What the last load has used up is there again.
    std::thread::sleep(Duration::from_secs(5).min(plan.idle * 2));
    let (took, ids) = runtime.block_on(many(server, plan.burst, 1, false))?;
    load.burst = Some(Burst { count: plan.burst, seconds: took.as_secs_f64() });
    runtime.block_on(on_each(server, ids, Action::Purge))?;
    crowds(&runtime, server, pid, plan, &mut load)?;
    Ok(load)
}

/// Creates a sandbox and runs a command, `each` times with each client at once; returns how long all took, and
/// the sandboxes that are left.
pub(crate) async fn many(
    server: &Server,
    clients: u32,
    each: u32,
    purges: bool,
) -> Result<(Duration, Vec<String>), Trouble> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        // Each with a connection of its own, as separate clients have.
        connected.push(connect(server)?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for client in connected {
        tasks.spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..each {
                let id = create_exec(&client).await?;
                if purges {
                    client.purge(&id).await.map_err(|e| Trouble::because("purge", &e))?;
                } else {
                    ids.push(id);
                }
            }
            Ok::<_, Trouble>(ids)
        });
    }
    let ids = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((started.elapsed(), ids.into_iter().flatten().collect()))
}

pub(crate) async fn create_exec(client: &Client) -> Result<String, Trouble> {
    let id = create(client).await?;
    let command = ["echo".to_owned(), "ready".to_owned()];
    let answer = client.exec(&id, &command, LIMIT).await.map_err(|e| Trouble::because("exec", &e))?.value;
    if answer.stdout != "ready\n" {
        return Err(Trouble::new(format!("the first command of {id} said {:?}", answer.stdout)));
    }
    Ok(id)
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Pause,
    Stop,
    Purge,
}

/// Does the same to many, with a few clients at once.
pub(crate) async fn on_each(server: &Server, ids: Vec<String>, action: Action) -> Result<(), Trouble> {
    let ids = Arc::new(std::sync::Mutex::new(ids));
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, ids) = (connect(server)?, Arc::clone(&ids));
        tasks.spawn(async move {
            let next = || ids.lock().ok()?.pop();
            while let Some(id) = next() {
                let done = match action {
                    Action::Pause => client.pause(&id).await.map(|_| ()),
                    Action::Stop => client.stop(&id).await.map(|_| ()),
                    Action::Purge => client.purge(&id).await.map(|_| ()),
                };
                done.map_err(|e| Trouble::because(format!("{action:?} {id}"), &e))?;
            }
            Ok::<_, Trouble>(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// Lets the number of live sandboxes grow and times creates at each size.
fn crowds(
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    pid: Option<u32>,
    plan: &Plan,
    load: &mut Load,
) -> Result<(), Trouble> {
    let mut live = Vec::new();
    let grown = plan.crowds.iter().try_for_each(|&size| {
        let missing = size.saturating_sub(u32::try_from(live.len()).unwrap_or(u32::MAX));
        if missing > 0 {
            let (_, ids) = runtime.block_on(many(server, CLIENTS, missing.div_ceil(CLIENTS), false))?;
            live.extend(ids);
        }
        let client = connect(server)?;
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            std::thread::sleep(Duration::from_millis(60));
            let started = Instant::now();
            let id = runtime.block_on(create_exec(&client))?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
            runtime.block_on(client.purge(&id)).map_err(|e| Trouble::because("purge", &e))?;
        }
        let Some(Summary { p50, p95, .. }) = Summary::of(samples) else { return Ok(()) };
        note(&format!("{}: {p50:.1} ms with {} live sandboxes", load.contender, live.len()));
        load.crowds.push(Crowd { live: u32::try_from(live.len()).unwrap_or(u32::MAX), p50, p95 });
        Ok(())
    });
    if let (Ok(()), Some(pid)) = (&grown, pid) {
        std::thread::sleep(plan.idle.min(Duration::from_secs(2)));
        let before = processor_seconds(pid);
        std::thread::sleep(plan.idle);
        load.idle_percent =
            before.zip(processor_seconds(pid)).map(|(a, b)| (b - a) / plan.idle.as_secs_f64() * 100.0);
    }
    runtime.block_on(on_each(server, live, Action::Purge))?;
    grown
}

/// The processor time of a process, from /proc/<pid>/stat — man 5 proc_pid_stat.
pub(crate) fn processor_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    // The kernel tells it in hundredths of a second, whatever its own clock is.
    Some(f64::from(ticks) / 100.0)
}
