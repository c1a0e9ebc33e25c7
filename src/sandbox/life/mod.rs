//! What may happen to one sandbox, and the task that does it.

pub(crate) mod adjust;
pub(crate) mod amend;
pub(crate) mod announce;
pub(crate) mod charge;
pub(crate) mod create;
pub(crate) mod driver;
pub(crate) mod end;
pub(crate) mod lives;
pub(crate) mod look;
pub(crate) mod obey;
pub(crate) mod oom;
pub(crate) mod pause;
pub(crate) mod purge;
pub(crate) mod reclaim;
pub(crate) mod relief;
pub(crate) mod revive;
pub(crate) mod rules;
pub(crate) mod start;
pub(crate) mod wake;
