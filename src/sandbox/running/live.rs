//! A sandbox that runs, and how it is ended.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::base::view::{Ids, LiveView};
use crate::running::process::link::{Attaching, LinkCell};
use crate::running::throttle::Throttle;
use engine::Control;
use sys::cgroup::Cgroup;
use sys::pidfd::PidFd;
use sys::watch::Watched;

/// How long processes may take to end by themselves once they are asked to.
#[derive(Debug, Clone)]
pub(crate) struct Grace {
    pub(crate) time: Duration,
    /// Cancelled when nobody wants to wait for it any more.
    pub(crate) hurry: CancellationToken,
}

impl Grace {
    /// They are killed at once.
    pub(crate) fn none() -> Self {
        Self { time: Duration::ZERO, hurry: CancellationToken::new() }
    }
}

/// What exists of a running sandbox.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) control: Control,
    pub(crate) init_pid: i32,
    pub(crate) init: Watched<PidFd>,
    /// Keeps the network alive, and is where previews are dialled.
    pub(crate) netns: Arc<OwnedFd>,
    pub(crate) address: Ipv4Addr,
    pub(crate) address_index: u32,
    /// `None`: its processes have the host's.
    pub(crate) ids: Option<Ids>,
    pub(crate) cgroup: Cgroup,
    pub(crate) throttle: Throttle,
    /// Cancelled when the sandbox is thawed: what is done to a frozen one ends.
    pub(crate) awake: Mutex<CancellationToken>,
    /// How many kills for want of memory have been told.
    pub(crate) oom_kills: AtomicU64,
    /// Whether it is ended for what it has the kernel hold.
    pub(crate) is_hoarder: AtomicBool,
    /// Whether it has less than its weight of the processors for now.
    pub(crate) gives_way: AtomicBool,
    /// Whether its `sandbox-init` has answered this daemon: one that was adopted frozen has not.
    pub(crate) is_greeted: AtomicBool,
    /// The hold on the processes that clients have started.
    pub(crate) link: LinkCell,
    /// How that was begun before anybody needed it; taken by whoever makes it.
    pub(crate) attaching: tokio::sync::Mutex<Option<Attaching>>,
    pub(crate) run_directory: PathBuf,
    /// Unix milliseconds, to be shown.
    pub(crate) started_at: i64,
    /// The same by the clock that nobody sets.
    pub(crate) started: Instant,
    /// Cancelled when the sandbox ends: stops whatever watches it.
    pub(crate) ended: CancellationToken,
}

impl Live {
    pub(crate) fn view(&self) -> LiveView {
        LiveView {
            init_pid: self.init_pid,
            address: self.address,
            ids: self.ids,
            cgroup_path: self.cgroup.path().display().to_string(),
            started_at: self.started_at,
            memory_current: None,
            is_throttled: self.throttle.is_held(),
        }
    }

    /// For how long it has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says that it is frozen now; the value is cancelled when it is thawed.
    pub(crate) fn slumber(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.awake.lock().unwrap_or_else(PoisonError::into_inner) = token.clone();
        token
    }

    /// Ends what is done to a frozen sandbox.
    pub(crate) fn disturb(&self) {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// Waits until PID 1 has ended.
    pub(crate) async fn wait(&self) {
        // The descriptor stays readable for ever after, so a failure can only mean that it has ended.
        let _ignored: std::io::Result<()> = self.init.readable().await;
    }

    /// Ends the processes: TERM, `grace`, KILL. False when PID 1 cannot be killed.
    pub(crate) async fn end(&self, grace: &Grace) -> bool {
        let Grace { time, hurry } = grace;
        self.ended.cancel();
        self.disturb();
        if !time.is_zero() {
            // Frozen it can take no order.
            self.thaw();
        }
        if !time.is_zero() && self.control.terminate(*time).await.is_ok() {
            // sandbox-init keeps the grace time itself; the margin is for a slow machine.
            let patience = *time + Duration::from_secs(2);
            tokio::select! {
                ended = tokio::time::timeout(patience, self.wait()) => if ended.is_ok() {
                    return true;
                },
                () = hurry.cancelled() => {}
            }
        }
        if let Err(error) = self.init.get().kill() {
            tracing::warn!(pid = self.init_pid, %error, "cannot kill a sandbox's first process");
        }
        // Where frozen processes are not even killed, they are now, before they run again.
        self.thaw();
        // What cannot be killed now, such as a process in uninterruptible sleep, keeps its cgroup
        // from being removed, which is reported there.
        tokio::time::timeout(Duration::from_secs(5), self.wait()).await.is_ok()
    }

    /// A write of a few bytes to the kernel, which does not wait.
    fn thaw(&self) {
        if let Err(error) = self.cgroup.thaw() {
            tracing::warn!(pid = self.init_pid, %error, "cannot thaw a sandbox that is to end");
        }
    }
}

/// What a weight is divided by for one that gives way.
const DIVISOR: u32 = 10;

/// The weight of one that gives way.
pub(crate) fn reduced(weight: u32) -> u32 {
    (weight / DIVISOR).max(1)
}

/// What the owner of one that is ended is told.
pub(crate) const HOARDER: &str =
    "it was ended: it left more than 16 MiB of netlink messages unread, which no limit of memory counts";
