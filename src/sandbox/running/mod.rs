//! What one live sandbox has.

pub(crate) mod live;
pub(crate) mod process;
pub(crate) mod queues;
pub(crate) mod throttle;
