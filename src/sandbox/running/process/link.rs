//! The daemon's hold on the processes of one running sandbox, and how the next daemon gets it back.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::base::error::Error;
use crate::running::process::nouns::{ProcessId, libc_kill};
use crate::running::process::relay;
use engine::{Attached, Channel, ControlError, Journal, Way};
use protocol::Target;

/// Beneath the sandbox's run directory: one ring per process.
pub(crate) const DIRECTORY: &str = "processes";
/// Made when the first process is started, or when a sandbox is adopted.
pub(crate) type LinkCell = OnceCell<Arc<Link>>;

/// A connection about processes that is being made.
pub(crate) type Attaching = JoinHandle<Result<Attached, ControlError>>;

/// The hold on the processes of one running sandbox.
///
/// Ended processes are kept for a while, and each keeps this; what takes descriptors is closed with the sandbox.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) open: Mutex<Option<Open>>,
    pub(crate) directory: PathBuf,
    pub(crate) way: Way,
    pub(crate) input_deadline: Duration,
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) channel: Arc<Channel>,
    pub(crate) journal: Arc<Journal>,
}

impl Link {
    pub(crate) fn input_deadline(&self) -> Duration {
        self.input_deadline
    }

    /// # Errors
    /// The sandbox has ended.
    pub(crate) fn channel(&self) -> Result<Arc<Channel>, Error> {
        self.lock().as_ref().map(|open| Arc::clone(&open.channel)).ok_or(Error::Control(ControlError::Ended))
    }

    /// # Errors
    /// The sandbox has ended.
    pub(crate) fn journal(&self) -> Result<Arc<Journal>, Error> {
        self.lock().as_ref().map(|open| Arc::clone(&open.journal)).ok_or(Error::Control(ControlError::Ended))
    }

    pub(crate) fn ring_path(&self, id: ProcessId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    pub(crate) fn remove_ring(&self, id: ProcessId) {
        // With the sandbox its directory has gone already.
        let _ignored: io::Result<()> = std::fs::remove_file(self.ring_path(id));
        if self.is_relayed() {
            relay::remove(&self.ring_path(id));
        }
    }

    /// Whether the sandbox cannot hand descriptors back.
    pub(crate) fn is_relayed(&self) -> bool {
        self.way == Way::Given
    }

    pub(crate) async fn resize(&self, key: u64, columns: u16, rows: u16) -> Result<(), Error> {
        self.channel()?.resize(key, columns, rows).await.map_err(Error::Control)
    }

    pub(crate) async fn signal(&self, key: u64, signal: i32, target: Target) -> Result<(), Error> {
        self.channel()?.signal(key, signal, target).await.map_err(Error::Control)
    }

    pub(crate) async fn close_input(&self, id: ProcessId) -> Result<(), Error> {
        if self.is_relayed() {
            relay::remove_input(&self.ring_path(id));
        }
        self.channel()?.close_input(id.key()).await.map_err(Error::Control)
    }

    /// Lets `sandbox-init` throw away what it keeps; it has ended if it cannot be told.
    pub(crate) async fn forget(&self, key: u64) {
        let Ok(channel) = self.channel() else { return };
        let _ignored: Result<(), _> = channel.forget(key).await;
    }

    pub(crate) async fn kill(&self, key: u64) {
        let _ignored: Result<(), _> = self.signal(key, libc_kill(), Target::Tree).await;
        self.forget(key).await;
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
