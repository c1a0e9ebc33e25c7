//! Where requests wait for an app that does not listen yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The queues of one sandbox, by port.
#[derive(Debug, Default)]
pub(crate) struct PortQueues(Mutex<HashMap<u16, Arc<PortQueue>>>);

/// Requests that wait for one port: one of them asks the app, for all.
#[derive(Debug, Default)]
pub(crate) struct PortQueue {
    /// Held by the one that asks the app.
    pub(crate) asking: tokio::sync::Mutex<()>,
    /// Tells all the others when it has answered.
    pub(crate) open: Notify,
}

impl PortQueues {
    /// The queue of an exposed port: there are only so many.
    pub(crate) fn of(&self, port: u16) -> Arc<PortQueue> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(port).or_default())
    }
}
