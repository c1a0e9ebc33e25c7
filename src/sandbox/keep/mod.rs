//! Tasks that look after the whole instance.

pub(crate) mod buffers;
pub(crate) mod clock;
pub(crate) mod expiry;
pub(crate) mod fairness;
pub(crate) mod held;
pub(crate) mod reconcile;
pub(crate) mod sweep;
pub(crate) mod watch;
