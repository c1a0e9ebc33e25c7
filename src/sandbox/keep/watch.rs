//! The tasks that look after the whole instance, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use super::{buffers, expiry, fairness, held, sweep};
use crate::keep::clock::Clock;
use crate::launch::keeper;
use crate::life::lives::Life;
use crate::life::oom;

/// How often is looked at what; zero: never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looks {
    /// For sandboxes that nobody uses.
    pub(crate) idle: Duration,
    /// For memory pressure.
    pub(crate) pressure: Duration,
    /// At the host, which is compared with the record.
    pub(crate) sweep: Duration,
}

/// Begins all of them.
pub(crate) fn begin(life: &Arc<Life>, clock: Clock, looks: Looks) {
    let (tasks, of) = (&life.ground.tasks, || Arc::clone(life));
    tasks.spawn(keeper::keep(Arc::clone(&life.launching)));
    tasks.spawn(expiry::watch_idle(of(), clock, looks.idle));
    tasks.spawn(expiry::watch_pressure(of(), looks.pressure));
    tasks.spawn(held::watch(of()));
    tasks.spawn(oom::watch(of()));
    tasks.spawn(buffers::watch(of()));
    tasks.spawn(fairness::watch(of()));
    tasks.spawn(expiry::watch_network(of()));
    tasks.spawn(expiry::watch_departed(of()));
    tasks.spawn(sweep::watch(of(), looks.sweep));
}
